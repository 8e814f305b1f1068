"""Exported adapters against transformers' merged model, verified and inspected."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForSequenceClassification

from conversations import messages_of, ragged_records
from lora_adapters import RANK, adapter_of, random
from rmexport import ExportOptions, export
from rmexport.cli import main
from rmexport.errors import OptionError
from rmexport.verify.options import VerifyOptions
from rmexport.verify.report import table
from rmexport.verify.run import verify
from rmruntime import RewardModel, Score
from tiny_checkpoints import TinyShape, causal_lm, sequence_classifier


def trained(base: Path, folder: Path, **config: Any) -> Any:
    """An adapter on all projections of a tiny Llama, with a head; gives transformers' merged classifier."""
    model = LlamaForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32).eval()
    tensors: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for seed, (name, module) in enumerate(model.named_modules()):
            if not isinstance(module, torch.nn.Linear) or name == "score":
                continue
            a = random(RANK, module.in_features, seed=seed) * 0.1
            b = random(module.out_features, RANK, seed=seed + 500) * 0.1
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
            module.weight += 6 / RANK**0.5 * (b @ a)
        model.score.weight.copy_(random(1, model.config.hidden_size, seed=1000) * 0.1)
    tensors["score.weight"] = model.score.weight.detach().clone()
    adapter_of(folder, base, tensors, use_rslora=True, task_type="SEQ_CLS", modules_to_save=["score"], **config)
    return model


def expected_scores(model: Any, tokenizer: Path, records: list[dict[str, Any]]) -> list[float]:
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    scores = []
    with torch.no_grad():
        for record in records:
            found: Any = loaded.apply_chat_template(messages_of(record), return_tensors="pt")
            scores.append(model(found if isinstance(found, torch.Tensor) else found["input_ids"]).logits.item())
    return scores


@pytest.mark.parametrize("kind", ["language model", "reward model"])
def test_exported_scores_are_those_of_the_merged_model(tmp_path: Path, kind: str) -> None:
    make = causal_lm if kind == "language model" else sequence_classifier
    base = make(tmp_path / "base").folder
    model = trained(base, tmp_path / "adapter")
    records = ragged_records(8)
    manifest = export(str(tmp_path / "adapter"), tmp_path / "bundle")
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as runtime:
        scores = runtime.score(records)
    expected = expected_scores(model, base, records)
    found = [score.value for score in scores if isinstance(score, Score)]
    np.testing.assert_allclose(np.array(found, float), expected, atol=1e-4)  # the parity gate's fp32 rule
    assert np.std(expected) > 0.05
    plain = LlamaForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32).eval()
    plain.score = model.score
    assert np.abs(np.array(expected_scores(plain, base, records)) - expected).max() > 0.05  # the adapter matters
    assert {file.name for file in manifest.source.files} >= {"adapter_model.safetensors", "base/model.safetensors"}


def test_verify_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = causal_lm(tmp_path / "base", TinyShape(max_position_embeddings=2048)).folder
    trained(base, tmp_path / "adapter")
    adapter, bundle = str(tmp_path / "adapter"), tmp_path / "bundle"
    export(adapter, bundle)
    report = verify(bundle, adapter, VerifyOptions(conversations=24))
    assert report.passed, table(report)
    assert main(["inspect", adapter]) == 0
    assert "sequence_classification" in capsys.readouterr().out
    with pytest.raises(OptionError, match="--weights copy"):
        export(adapter, tmp_path / "linked", ExportOptions(weights="link"))
