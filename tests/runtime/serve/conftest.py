"""Tiny models behind the application, and clients of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from rmexport import export
from rmruntime import RewardModel
from rmruntime.serve import app
from session_checkpoints import session_bundle
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


@pytest.fixture(scope="session")
def step_model(made_once: Made) -> Iterator[RewardModel]:
    """A process reward model, which scores every step."""

    def make(folder: Path) -> None:
        session_bundle(folder, "tagged")

    with RewardModel.load(made_once("served-steps", make) / "b", device="ort-cpu") as loaded:
        yield loaded


@pytest.fixture(scope="session")
def label_model(made_once: Made) -> Iterator[RewardModel]:
    """A classifier of three labels, none of which is the score."""

    def make(folder: Path) -> None:
        export(str(sequence_classifier(folder / "c", labels=3).folder), folder / "b")

    with RewardModel.load(made_once("served-labels", make) / "b", device="ort-cpu") as loaded:
        yield loaded


@pytest.fixture
def client(model: RewardModel) -> Iterator[AsgiClient]:
    """Of an application over `model`."""
    made = AsgiClient(app(model))
    yield made
    made.close()


@pytest.fixture
def steps_client(step_model: RewardModel) -> Iterator[AsgiClient]:
    """Of an application over `step_model`."""
    made = AsgiClient(app(step_model))
    yield made
    made.close()


@pytest.fixture
def labels_client(label_model: RewardModel) -> Iterator[AsgiClient]:
    """Of an application over `label_model`."""
    made = AsgiClient(app(label_model))
    yield made
    made.close()
