"""Settings of fuzz tests: seeded and bounded, so that they are the same test on every machine."""

from hypothesis import HealthCheck, settings


def seeded(examples: int) -> settings:
    """`examples` inputs, always the same, however long each takes."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
