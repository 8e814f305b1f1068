"""Tiny models behind the application, and clients of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from rmexport import export
from rmruntime import RewardModel
from rmruntime.serve import app
from tiny_checkpoints import sequence_classifier

Made = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def classifier_bundle(made_once: Made) -> Path:
    """A reward model with one number, which takes text, ids and conversations."""

    def make(folder: Path) -> None:
        export(str(sequence_classifier(folder / "c").folder), folder / "b")

    return made_once("served-classifier", make) / "b"


@pytest.fixture(scope="session")
def model(classifier_bundle: Path) -> Iterator[RewardModel]:
    with RewardModel.load(classifier_bundle, device="ort-cpu") as loaded:
        yield loaded


@pytest.fixture
def client(model: RewardModel) -> Iterator[AsgiClient]:
    """Of an application over `model`."""
    made = AsgiClient(app(model))
    yield made
    made.close()
