"""Scores are bitwise the same whatever a prefix cache holds, and as those of the graph that takes no past."""

import importlib.util
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from backbone_shapes import BACKBONES
from cached_calls import ROPE_LENGTH, calls, checkpoint_in, outputs, sequence
from rmexport import ExportOptions, export
from rmruntime import RewardModel, ScoreOptions
from rmruntime.backends import backends
from rmruntime.records import parse_record

QUICK = ("gemma2", "gpt_neox", "llama_dynamic", "mixtral", "qwen3")
FEW_BYTES, MANY_BYTES = 60_000, 20_000_000  # evicts all the time, and never


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.ladder) for n in BACKBONES])
@pytest.mark.parametrize(
    "dtype", ["fp32", *(pytest.param(dtype, marks=pytest.mark.ladder) for dtype in ("bf16", "int8", "int4"))]
)
def test_scores_do_not_depend_on_what_is_cached(tmp_path: Path, name: str, dtype: str) -> None:
    quantize: Any = dtype if dtype in ("int8", "int4") else None
    stored: Literal["bf16", "fp32"] = "bf16" if dtype == "bf16" else "fp32"
    options = ExportOptions(dtype=stored, quantize=quantize)
    export(str(checkpoint_in(tmp_path / "c", name)), tmp_path / "b", options)
    longest = ROPE_LENGTH if name == "llama_dynamic" else 200
    made = calls(sum(map(ord, name)), longest)
    flat = [s for call in made for s in call]
    for device in ("ort-cpu", "openvino"):
        if importlib.util.find_spec(backends()[device].PACKAGE) is None:
            continue
        with RewardModel.load(tmp_path / "b", device=device) as model:
            expected = outputs(model, flat)
        for limit in (FEW_BYTES, MANY_BYTES):
            with RewardModel.load(tmp_path / "b", device=device, prefix_cache=limit) as model:
                found = [output for call in made for output in outputs(model, call)]
                again = outputs(model, flat, budget=64)
            assert found == expected, (device, limit)
            assert again == expected, (device, limit, "in one call, of small passes")


def test_lengths_whose_frequencies_differ_share_nothing(tmp_path: Path) -> None:
    export(str(checkpoint_in(tmp_path / "c", "llama_dynamic")), tmp_path / "b")
    rng = random.Random(3)
    ids = np.array(rng.choices(range(3, 90), k=3 * ROPE_LENGTH))
    whole = [sequence(ids[:length], rng) for length in (40, 64, 65, 66, 65, 190, 192, 192, 60)]
    with RewardModel.load(tmp_path / "b", device="ort-cpu") as model:
        expected = outputs(model, whole)
    with RewardModel.load(tmp_path / "b", device="ort-cpu", prefix_cache=MANY_BYTES) as model:
        assert [outputs(model, [one])[0] for one in whole] == expected


def test_what_begins_alike_is_computed_once(tmp_path: Path) -> None:
    export(str(checkpoint_in(tmp_path / "c", "llama")), tmp_path / "b")
    prompt, steps = "the answer is " * 20, ["good number", "bad number", "1 + 2", "helpful"]
    with RewardModel.load(tmp_path / "b", device="ort-cpu", prefix_cache="auto") as model:
        assert model.prefix_cache.startswith("of ")
        runs = [
            model.run([parse_record({"prompt": prompt, "response": " ".join(steps[: n + 1])})], ScoreOptions())
            for n in (0, 1, 2, 3, 3)
        ]
    first, *others = [run.statistics for run in runs]
    assert first.cached == 0
    assert all(one.computed < 20 and one.computed + one.cached == one.given for one in others)
    assert others[-1].computed == 1  # the scored token, whose hidden state is not kept


def test_a_pass_reads_what_the_one_before_it_brought(tmp_path: Path) -> None:
    """Passes of one call, each planned while the one before is computed."""
    export(str(checkpoint_in(tmp_path / "c", "llama")), tmp_path / "b")
    prompt = "the answer is " * 20
    record = parse_record(
        {"prompt": prompt, "responses": [f"number {n} good bad sum honest step - 1" for n in range(12)]}
    )
    options = ScoreOptions(max_batch_tokens=100)
    with RewardModel.load(tmp_path / "b", device="ort-cpu") as model:
        plain = model.run([record], options)
    with RewardModel.load(tmp_path / "b", device="ort-cpu", prefix_cache="auto") as model:
        cached = model.run([record], options)
    assert plain.results == cached.results
    assert cached.statistics.passes == plain.statistics.passes > 3
    once = plain.statistics.computed / plain.statistics.passes
    assert cached.statistics.computed < 2.5 * once
    assert cached.statistics.computed + cached.statistics.cached == plain.statistics.computed


def test_threads_share_one_cache(tmp_path: Path) -> None:
    export(str(checkpoint_in(tmp_path / "c", "qwen2")), tmp_path / "b")
    made = calls(5, 120)
    flat = [s for call in made for s in call]
    with RewardModel.load(tmp_path / "b", device="ort-cpu") as model:
        expected = outputs(model, flat)
    with (
        RewardModel.load(tmp_path / "b", device="ort-cpu", prefix_cache=FEW_BYTES) as model,
        ThreadPoolExecutor(max_workers=4) as pool,
    ):
        found = pool.map(lambda _: [output for call in made for output in outputs(model, call)], range(4))
        assert all(one == expected for one in found)
