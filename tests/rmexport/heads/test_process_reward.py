"""Qwen2.5-Math-PRM: softmax class 1 at the tag behind every step, in the published chat."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conversations import step_records
from rmexport import export
from rmexport.errors import CheckpointError
from rmruntime import RewardModel, Score

CONFIG = {"architectures": ["Qwen2ForProcessRewardModel"]}
TAG = "<extra_0>"
SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."


def with_tag(folder: Path) -> None:
    """The tokenizer's last special token becomes the tag: Qwen's has one of its own."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace("[PAD]", TAG))


def prm(folder: Path, headed: Any, linear: Any, **trunk: Any) -> Any:
    head = linear("score.0", 64, 64, 0) | linear("score.2", 2, 64, 1)
    checkpoint = headed(folder, head, CONFIG, beside={"lm_head.weight": torch.zeros(8, 64)}, **trunk)
    with_tag(folder)
    return checkpoint


def test_found_by_its_two_rows_with_the_published_format(tmp_path: Path, headed: Any, linear: Any) -> None:
    spec = prm(tmp_path / "c", headed, linear).spec()
    assert spec.head_name == "process_reward"
    assert spec.recipe is not None and spec.recipe.name == "qwen2.5-math-prm"
    assert (spec.format.layout, spec.format.unit, spec.format.step_tag) == ("tagged_steps", "step", TAG)
    assert (spec.format.system, spec.format.step_separators) == (SYSTEM, ("\n\n",))
    assert spec.head.positions["score"].rule == "marker"


def test_steps_follow_the_published_forward(tmp_path: Path, headed: Any, linear: Any, qwen2: Any) -> None:
    checkpoint = prm(tmp_path / "c", headed, linear, trunk=qwen2)
    export(str(checkpoint.folder), tmp_path / "bundle")
    records, w, spec = step_records(17), checkpoint.head, checkpoint.spec()
    tag_id = checkpoint.tokenizer.convert_tokens_to_ids(TAG)
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        for count in (1, 3, 8, 17):
            for record, score in zip(records[:count], model.score(records[:count]), strict=True):
                answer = TAG.join(record["steps"]) + TAG
                turns = [("system", SYSTEM), ("user", record["prompt"]), ("assistant", answer)]
                ids = checkpoint.ids([{"role": role, "content": content} for role, content in turns])
                states = checkpoint.hidden(ids)[torch.tensor(ids) == tag_id]
                inner = torch.relu(torch.nn.functional.linear(states, w["score.0.weight"], w["score.0.bias"]))
                logits = torch.nn.functional.linear(inner, w["score.2.weight"], w["score.2.bias"])
                probabilities = torch.softmax(logits, dim=-1)[:, 1]
                assert isinstance(score, Score) and score.steps is not None and score.step_logits is not None
                np.testing.assert_allclose(score.steps, probabilities, atol=1e-4)
                np.testing.assert_allclose(score.step_logits, logits[:, 1] - logits[:, 0], atol=1e-4)
                own = checkpoint.reference(spec, {"score": states})
                torch.testing.assert_close(own["score"], probabilities)
                torch.testing.assert_close(own["logit"], logits[:, 1] - logits[:, 0])


def test_a_tag_that_is_not_one_token(tmp_path: Path, headed: Any, linear: Any) -> None:
    """Read by its last token alone, it would be found wherever a text holds that token."""
    head = linear("score.0", 64, 64, 0) | linear("score.2", 2, 64, 1)
    with pytest.raises(CheckpointError, match="'<extra_0>' must be one token"):
        headed(tmp_path / "c", head, CONFIG).spec()


def test_a_plain_response_is_split_at_blank_lines(tmp_path: Path, headed: Any, linear: Any) -> None:
    checkpoint = prm(tmp_path / "c", headed, linear)
    export(str(checkpoint.folder), tmp_path / "bundle")
    record = step_records(3)[2]
    plain = {"prompt": record["prompt"], "response": "\n\n".join(record["steps"])}
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        whole, split = model.score([plain, record])
    assert isinstance(whole, Score) and isinstance(split, Score)
    assert whole.steps == split.steps


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_passes_the_parity_gate(tmp_path: Path, headed: Any, linear: Any, dtype: str) -> None:
    checkpoint = prm(tmp_path / "checkpoint", headed, linear)
    checkpoint.assert_gate_passes(tmp_path / "bundle", dtype)


def test_qwen_prm_reference_reshape(tmp_path: Path, headed: Any, linear: Any) -> None:
    """The published script drops probabilities that are exactly 0, and all behind them move up; here none does."""
    head = linear("score.0", 64, 64, 0) | linear("score.2", 2, 64, 1)
    head |= {name: 400 * value for name, value in head.items() if name.startswith("score.2")}
    checkpoint = headed(tmp_path / "c", head, CONFIG, beside={"lm_head.weight": torch.zeros(8, 64)})
    with_tag(checkpoint.folder)
    export(str(checkpoint.folder), tmp_path / "bundle")
    records = step_records(17)
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        scores = model.score(records)
    steps = [score.steps for score in scores if isinstance(score, Score) and score.steps is not None]
    assert [len(found) for found in steps] == [len(record["steps"]) for record in records]
    assert any(0.0 in found and max(found) > 0.0 for found in steps)
