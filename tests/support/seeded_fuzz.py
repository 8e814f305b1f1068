"""Settings of fuzz tests: seeded and bounded, so that they are the same test on every machine."""

from hypothesis import settings


def seeded(examples: int) -> settings:
    """`examples` inputs, always the same, however long each takes (the profile in tests/conftest.py)."""
    return settings(max_examples=examples, derandomize=True, database=None)
