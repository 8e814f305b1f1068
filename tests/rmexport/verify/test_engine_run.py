"""The engine outputs that `verify` compares: the same to the byte in windows; an error where memory is too small."""

import json
from pathlib import Path

import numpy as np
import pytest

from conversations import ragged_records
from rmexport import VerificationError, export
from rmexport.output.progress import Watcher
from rmexport.verify.engine_run import run_engine
from rmexport.verify.options import VerifyOptions
from rmexport.verify.run import verify
from rmruntime import DeviceMemoryError, InputError, RewardModel, ScoreOptions
from rmruntime.backends import load_backend
from rmruntime.backends.base import Feeds, Outputs
from rmruntime.batching import prefetch
from rmruntime.bundle import Bundle
from rmruntime.options import EngineOptions
from rmruntime.records import parse_record
from rmruntime.sequences import TokenSequence
from tiny_checkpoints import gated

WRITTEN = ("parity.json", "golden.jsonl")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    export(str(gated(folder / "c").folder), folder / "b")
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in ragged_records(9)))
    return folder


def encoded(model: RewardModel, count: int) -> list[TokenSequence]:
    found = model.encode([parse_record(record) for record in ragged_records(count)], ScoreOptions())
    return [sequence for item in found if not isinstance(item, InputError) for sequence in item]


@pytest.mark.parametrize("device", ["ort-cpu", "openvino"])
def test_windows_change_no_byte_of_what_is_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    options = VerifyOptions(data=place / "data.jsonl", device=device, reference_cache=str(tmp_path))
    written = []
    for ahead in (2048, 4):
        monkeypatch.setattr(prefetch, "RECORDS_AHEAD", ahead)
        verify(place / "b", str(place / "c"), options)
        written.append([(place / "b" / name).read_bytes() for name in WRITTEN])
    assert written[0] == written[1]


def test_outputs_are_rows_of_all_sequences_in_order(place: Path) -> None:
    with RewardModel.load(place / "b", device="ort-cpu") as model:
        run = run_engine(model, encoded(model, 5), VerifyOptions(), Watcher())
        scores = model.score(ragged_records(5))
    assert (run.backend, run.precision, run.reason) == ("ort-cpu", "fp32", "it was asked for by name")
    assert {name: len(values) for name, values in run.outputs.items()} == {"score": 5, "rewards": 5, "gating": 5}
    np.testing.assert_array_equal(run.outputs["score"], [score.value for score in scores])  # type: ignore[union-attr]


class FullBackend:
    """An engine without memory for a pass."""

    def __init__(self, bundle: Bundle) -> None:
        engine = load_backend(bundle, EngineOptions(device="ort-cpu"))
        self.name, self.precision, self.graph = engine.name, engine.precision, engine.graph
        self.batch_tokens = engine.batch_tokens
        self.close = engine.close

    def run(self, feeds: Feeds) -> Outputs:
        raise DeviceMemoryError("too few bytes")


def test_a_sequence_that_does_not_fit_into_the_device_is_an_error(place: Path) -> None:
    opened = Bundle.open(place / "b")
    with RewardModel(opened, FullBackend(opened)) as model:
        with pytest.raises(VerificationError, match="does not fit into the device"):
            run_engine(model, encoded(model, 3), VerifyOptions(), Watcher())
