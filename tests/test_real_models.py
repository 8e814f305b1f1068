"""Making checkpoints of published weights: the permutation keeps the function, and the cache nothing half made."""

import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import real_models
from permuted_llama import HeadShape, permuted_llama
from tiny_checkpoints import shaken

CONFIG = LlamaConfig(
    vocab_size=100,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
HEADS = HeadShape(query_heads=4, value_heads=2, head_dim=16)


def test_a_permuted_llama_is_the_same_function() -> None:
    """fp32 sums in another order; every matrix has other neighbours in its rows."""
    model = shaken(LlamaForCausalLM(CONFIG), torch.float32).eval()
    tensors = permuted_llama(model.state_dict(), HEADS)
    other = LlamaForCausalLM(CONFIG).eval()
    other.load_state_dict(tensors)
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        found, expected = other(ids).logits, model(ids).logits
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
    for name, tensor in model.state_dict().items():
        assert not torch.equal(tensors[name], tensor), name
        assert torch.equal(tensors[name].flatten().sort().values, tensor.flatten().sort().values), name


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RMEXPORT_REAL_MODELS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_could_not_be_made_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kind: str, folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as failing, pytest.raises(RuntimeError, match="the disk is full"):
        failing.setattr(real_models, "_make", fail)
        real_models.real_checkpoint("smollm2-judge")
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    monkeypatch.setattr(real_models, "_make", lambda kind, folder: (folder / "config.json").write_text(kind))
    made = real_models.real_checkpoint("smollm2-judge")
    assert (made / "config.json").read_text() == "smollm2-judge" and made.parent == cache


def test_it_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(kind: str, folder: Path) -> None:
        made.append(kind)
        time.sleep(0.1)  # the others wait for the lock

    monkeypatch.setattr(real_models, "_make", make)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(real_models.real_checkpoint("minilm-classifier")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["minilm-classifier"] and len(set(found)) == 1 and len(found) == 4


def test_missing_packages_are_told(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_models, "PACKAGES", tmp_path / "none")
    with pytest.raises(real_models.RealModelsMissing, match=r"\./scripts/install --real"):
        real_models.real_checkpoint("smollm2-judge")
