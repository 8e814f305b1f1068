"""`verify` computes some conversations after cached prefixes, and tells where that changes their scores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmexport import export
from rmexport.output.progress import Watcher
from rmexport.verify.cached_run import CONVERSATIONS, ROUNDING, CachedRun, cached_checks, run_cached
from rmexport.verify.conversations import read_conversations
from rmexport.verify.engine_run import EngineRun, run_engine
from rmexport.verify.options import VerifyOptions
from rmexport.verify.run import verify
from rmruntime import RewardModel
from rmruntime.backends import backends
from rmruntime.batching.past import PastLayout
from rmruntime.sequences import TokenSequence
from tiny_checkpoints import gated

OPTIONS = VerifyOptions(conversations=20, reference_cache="off", write=False, device="ort-cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gated checkpoint, which reads two tokens, and its bundle."""
    made = tmp_path_factory.mktemp("cached-run")
    export(str(gated(made / "c").folder), made / "b")
    return made


def computed(folder: Path) -> tuple[EngineRun, list[TokenSequence]]:
    with RewardModel.load(folder / "b", OPTIONS.engine) as model:
        sequences = list(read_conversations(model, OPTIONS).sequences)
        return run_engine(model, sequences, OPTIONS, Watcher()), sequences


def test_scores_after_cached_prefixes_are_the_same(folder: Path) -> None:
    engine, sequences = computed(folder)
    assert run_cached(folder / "b", engine, sequences, OPTIONS) == CachedRun(conversations=CONVERSATIONS, different=0)
    in_turn = VerifyOptions(conversations=20, engine=OPTIONS.engine.__class__(stage_memory="auto"))
    assert run_cached(folder / "b", engine, sequences, in_turn) is None


def test_a_past_that_is_not_what_was_computed_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = PastLayout.copied

    def halved(self: PastLayout, *given: Any) -> Any:
        return empty(self, *given) * np.float32(0.5)

    monkeypatch.setattr(PastLayout, "copied", halved)
    report = verify(folder / "b", str(folder / "c"), OPTIONS)
    told = {check.name: check.measured for check in report.checks if not check.passed}
    assert told == {"scores after cached prefixes": f"{CONVERSATIONS} of {CONVERSATIONS} conversations differ"}
    assert not report.passed


def test_on_gpus_they_are_the_same_up_to_rounding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, sequences = computed(folder)
    monkeypatch.setattr(backends()["ort-cpu"], "DEVICES", ("cuda",))
    for change, different in ((0.5 * ROUNDING["fp32"], 0), (3 * ROUNDING["fp32"], CONVERSATIONS)):
        changed = {name: values + change * np.maximum(1, np.abs(values)) for name, values in engine.outputs.items()}
        found = run_cached(folder / "b", replace(engine, outputs=changed), sequences, OPTIONS)
        assert found == CachedRun(conversations=CONVERSATIONS, different=different, rounding=ROUNDING["fp32"])
    assert [check.required for check in cached_checks(found)] == ["the same up to 1e-04"]
