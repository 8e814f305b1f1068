"""The bundle of most tests of sessions: a language model that is read at a tag after every step."""

from collections.abc import Callable
from pathlib import Path

import pytest

from session_checkpoints import session_bundle

PROMPT = "What is the sum? " * 4


@pytest.fixture(scope="session")
def prm(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    def make(folder: Path) -> None:
        session_bundle(folder, "tagged")

    return made_once("session-tagged-llama", make) / "b"


@pytest.fixture(scope="session")
def orm(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Judges answers, by two tokens of which one is in the prompt."""

    def make(folder: Path) -> None:
        session_bundle(folder, "gated")

    return made_once("session-gated-llama", make) / "b"
