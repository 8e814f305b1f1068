"""LoRA adapters: merged weights against peft's formulas, and exported scores against transformers' merged model."""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from checkpoint_files import as_hub_snapshot, with_config
from lora_adapters import PREFIX, RANK, Tensors, adapter_of, random
from rmexport.checkpoint import Checkpoint, open_checkpoint
from rmexport.errors import CheckpointError
from tiny_tokenizer import build_tokenizer

Q, DOWN, EMBED = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj", "model.embed_tokens"
OUT, IN, VOCAB = 10, 14, 9


def base_of(
    folder: Path, dtype: torch.dtype = torch.float32, config: Mapping[str, Any] | None = None, rows: int = OUT
) -> Path:
    """A base with two linear weights, an embedding and a bias."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{Q}.weight": random(rows, IN, seed=1, dtype=dtype),
        f"{Q}.bias": random(OUT, seed=2, dtype=dtype),
        f"{DOWN}.weight": random(IN, OUT, seed=3, dtype=dtype),
        f"{EMBED}.weight": random(VOCAB, IN, seed=4, dtype=dtype),
    }
    save_file(tensors, folder / "model.safetensors")
    return with_config(folder, config)


def pair(module: str, rows: int, columns: int, rank: int = RANK, dtype: torch.dtype = torch.float32) -> Tensors:
    return {
        f"{module}.lora_A.weight": random(rank, columns, seed=5, dtype=dtype),
        f"{module}.lora_B.weight": random(rows, rank, seed=6, dtype=dtype),
    }


def product(tensors: Tensors, module: str, a: str = "lora_A.weight", b: str = "lora_B.weight") -> torch.Tensor:
    return tensors[f"{module}.{b}"].double() @ tensors[f"{module}.{a}"].double()


def read(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    return torch.from_numpy(checkpoint.read(name).astype(np.float64))


def weight(base: Path, name: str) -> torch.Tensor:
    return read(open_checkpoint(str(base)), name)


def assert_merged(adapter: Path, base: Path, expected: Tensors) -> Checkpoint:
    """`expected` are all tensors that differ from the base's, in fp64; tolerances are fp32's."""
    merged, plain = open_checkpoint(str(adapter)), open_checkpoint(str(base))
    assert set(merged.tensors) == set(plain.tensors)
    for name, info in merged.tensors.items():
        wanted = expected.get(name, read(plain, name))
        torch.testing.assert_close(read(merged, name), wanted, rtol=1e-6, atol=1e-5)
        assert (info.dtype, info.shape) == (plain.tensors[name].dtype, plain.tensors[name].shape)
        assert info.offset is None
    return merged


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 6 / 4),
        ({"use_rslora": True}, 6 / 4**0.5),
        ({"lora_alpha": 1.5}, 1.5 / 4),
        ({"r": 8, "rank_pattern": {"q_proj": 4}}, 6 / 4),
        ({"r": 8, "rank_pattern": {r"layers\.\d+\.self_attn\.q_proj": 4}, "use_rslora": True}, 6 / 4**0.5),
        ({"alpha_pattern": {"proj": 99, "self_attn.q_proj": 12}}, 12 / 4),
        ({"alpha_pattern": {"up_proj": 99}, "rank_pattern": None, "fan_in_fan_out": True}, 6 / 4),
    ],
    ids=["alpha/r", "rslora", "fraction", "rank", "rank regex", "alpha", "no match"],
)
def test_scale(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    base, tensors = base_of(tmp_path / "base"), pair(Q, OUT, IN)
    expected = weight(base, f"{Q}.weight") + scale * product(tensors, Q)
    merged = assert_merged(adapter_of(tmp_path / "a", base, tensors, **config), base, {f"{Q}.weight": expected})
    assert merged.notes == ("LoRA adapter on base: 1 weights merged",)


@pytest.mark.parametrize("spelling", ["lora_A.default.weight", "lora_A.weight"])
@pytest.mark.parametrize("prefix", ["model.", ""], ids=["classifier", "bare backbone"])
def test_names(tmp_path: Path, spelling: str, prefix: str) -> None:
    base, tensors = base_of(tmp_path / "base"), pair(Q, OUT, IN)
    expected = weight(base, f"{Q}.weight") + 6 / 4 * product(tensors, Q)
    renamed = {
        name.replace("model.", prefix, 1).replace("lora_A.weight", spelling): tensor for name, tensor in tensors.items()
    }
    assert_merged(adapter_of(tmp_path / "a", base, renamed), base, {f"{Q}.weight": expected})


def test_embeddings(tmp_path: Path) -> None:
    """peft keeps A and B of an embedding as [r, vocabulary] and [width, r]."""
    base = base_of(tmp_path / "base")
    tensors = {
        f"{EMBED}.lora_embedding_A": random(RANK, VOCAB, seed=5),
        f"{EMBED}.lora_embedding_B": random(IN, RANK, seed=6),
    }
    update = product(tensors, EMBED, "lora_embedding_A", "lora_embedding_B").T
    expected = {f"{EMBED}.weight": weight(base, f"{EMBED}.weight") + 6 / 4 * update}
    tied = assert_merged(adapter_of(tmp_path / "a", base, tensors), base, expected)
    assert any("where the language model's head is tied to it" in note for note in tied.notes)
    untied = {**tensors, "lm_head.weight": random(VOCAB, IN, seed=8)}
    assert not any("tied" in note for note in open_checkpoint(str(adapter_of(tmp_path / "c", base, untied))).notes)
    saved = {f"{EMBED}.base_layer.weight": random(VOCAB, IN, seed=7)}  # peft saves a targeted embedding too
    expected = {f"{EMBED}.weight": saved[f"{EMBED}.base_layer.weight"].double() + 6 / 4 * update}
    assert_merged(adapter_of(tmp_path / "b", base, {**tensors, **saved}), base, expected)


@pytest.mark.parametrize("rows", [OUT, IN], ids=["oblong", "square"])
def test_fan_in_fan_out(tmp_path: Path, rows: int) -> None:
    """GPT-2 keeps its weights as [in, out]; where `nn.Linear` does not, peft disregards the flag."""
    base = with_config(base_of(tmp_path / "base"), {"model_type": "gpt2"})
    save_file({"h.0.c_fc.weight": random(IN, rows, seed=1)}, base / "model.safetensors")
    tensors = pair("h.0.c_fc", rows, IN)
    expected = {"h.0.c_fc.weight": weight(base, "h.0.c_fc.weight") + 6 / 4 * product(tensors, "h.0.c_fc").T}
    assert_merged(adapter_of(tmp_path / "a", base, tensors, fan_in_fan_out=True), base, expected)


@pytest.mark.parametrize("spelling", ["", ".default.weight", ".weight"])
def test_dora(tmp_path: Path, spelling: str) -> None:
    base = base_of(tmp_path / "base")
    magnitude = random(OUT, seed=8).abs()
    tensors = {**pair(Q, OUT, IN), f"{Q}.lora_magnitude_vector{spelling}": magnitude}
    summed = weight(base, f"{Q}.weight") + 6 / 4 * product(tensors, Q)
    expected = {f"{Q}.weight": magnitude.double()[:, None] * summed / torch.linalg.norm(summed, dim=1, keepdim=True)}
    adapter = adapter_of(tmp_path / "a", base, tensors, use_dora=True)
    checkpoint = assert_merged(adapter, base, expected)
    for size in (4, 20, 100):  # bytes: rows are computed whole, whatever part of them is read
        parts = np.concatenate(list(checkpoint.chunks(f"{Q}.weight", size)))
        np.testing.assert_allclose(parts, checkpoint.read(f"{Q}.weight").ravel(), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 6, 28, 30, 100, 2000, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_chunks_across_rows(tmp_path: Path, size: int, dtype: torch.dtype) -> None:
    """A weight has the same bits in whatever pieces it is read."""
    base, tensors = base_of(tmp_path / "base", dtype, rows=50), pair(Q, 50, IN)
    checkpoint = open_checkpoint(str(adapter_of(tmp_path / "a", base, tensors)))
    whole = checkpoint.read(f"{Q}.weight")
    parts = np.concatenate(list(checkpoint.chunks(f"{Q}.weight", size)))
    assert parts.tobytes() == whole.tobytes()
    expected = weight(base, f"{Q}.weight") + 6 / 4 * product(tensors, Q)
    eps = torch.finfo(dtype).eps  # half a unit in the last place from rounding, and a few of fp32 from the sums
    np.testing.assert_allclose(whole.astype(np.float64), expected, rtol=eps, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=["bf16", "fp16", "fp64"])
def test_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    """The sum is taken in fp32 and rounded once; the base's dtype stays."""
    base = base_of(tmp_path / "base", dtype)
    tensors = pair(Q, OUT, IN, dtype=torch.bfloat16)
    checkpoint = open_checkpoint(str(adapter_of(tmp_path / "a", base, tensors)))
    exact = weight(base, f"{Q}.weight") + 6 / 4 * product(tensors, Q)
    found = read(checkpoint, f"{Q}.weight")
    half_unit = torch.finfo(dtype).eps / 2 + torch.finfo(torch.float32).eps * 4
    assert checkpoint.tensors[f"{Q}.weight"].dtype == open_checkpoint(str(base)).tensors[f"{Q}.weight"].dtype
    assert ((found - exact).abs() <= half_unit * exact.abs() + 1e-6).all()


def test_several_threads_read_several_weights(tmp_path: Path) -> None:
    base, tensors = base_of(tmp_path / "base"), {**pair(Q, OUT, IN), **pair(DOWN, IN, OUT)}
    checkpoint = open_checkpoint(str(adapter_of(tmp_path / "a", base, tensors)))
    names = [f"{Q}.weight", f"{DOWN}.weight"]
    expected = {name: checkpoint.read(name).ravel() for name in names}

    def interleaved(_: int) -> None:
        for parts in zip(*(checkpoint.chunks(name, 16) for name in names), strict=True):
            assert all(len(part) for part in parts)
        for name in names:
            np.testing.assert_array_equal(np.concatenate(list(checkpoint.chunks(name, 56))), expected[name])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(interleaved, range(16)))


def test_whole_tensors(tmp_path: Path) -> None:
    """modules_to_save, in old and new spelling, biases, and an embedding that was enlarged."""
    base = base_of(tmp_path / "base", config={"model_type": "llama", "vocab_size": VOCAB})
    tensors = {
        "score.modules_to_save.default.weight": random(3, IN, seed=5, dtype=torch.bfloat16),
        f"{Q}.base_layer.bias": random(OUT, seed=6),
        f"{EMBED}.weight": random(VOCAB + 2, IN, seed=7),
    }
    checkpoint = open_checkpoint(str(adapter_of(tmp_path / "a", base, tensors, bias="all")))
    expected = dict(zip(("score.weight", f"{Q}.bias", f"{EMBED}.weight"), tensors.values(), strict=True))
    for name, tensor in expected.items():
        torch.testing.assert_close(read(checkpoint, name), tensor.double(), rtol=0, atol=0)
    assert checkpoint.tensors["score.weight"].dtype == "bf16"
    assert checkpoint.config["vocab_size"] == VOCAB + 2
    torch.testing.assert_close(read(checkpoint, f"{DOWN}.weight"), weight(base, f"{DOWN}.weight"))


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "TOKEN_CLS", None])
def test_a_classifier_on_a_language_model_has_no_lm_head(tmp_path: Path, task_type: str | None) -> None:
    base = base_of(tmp_path / "base", config={"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    tensors = {
        name: torch.from_numpy(open_checkpoint(str(base)).read(name)) for name in open_checkpoint(str(base)).tensors
    }
    save_file({**tensors, "lm_head.weight": random(VOCAB, IN, seed=9)}, base / "model.safetensors")
    adapter = adapter_of(tmp_path / "a", base, {"score.weight": random(1, IN, seed=5)}, task_type=task_type)
    checkpoint = open_checkpoint(str(adapter))
    assert "lm_head.weight" not in checkpoint.tensors and "score.weight" in checkpoint.tensors
    assert any("lm_head.weight of the base is left out" in note for note in checkpoint.notes)
    architectures = {"SEQ_CLS": "LlamaForSequenceClassification", "TOKEN_CLS": "LlamaForTokenClassification"}
    assert checkpoint.config["architectures"] == [architectures.get(task_type or "", "LlamaForCausalLM")]
    if task_type:
        adapter_of(tmp_path / "headless", base, pair(Q, OUT, IN), task_type=task_type)
        with pytest.raises(CheckpointError, match="modules_to_save lacked it"):
            open_checkpoint(str(tmp_path / "headless"))
    plain = adapter_of(tmp_path / "lm", base, pair(Q, OUT, IN), task_type="CAUSAL_LM")
    assert "lm_head.weight" in open_checkpoint(str(plain)).tensors


def test_a_trained_head_that_was_not_saved(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    adapter = adapter_of(tmp_path / "a", base, pair(Q, 64, 64), modules_to_save=["classifier", "score"])
    with pytest.raises(CheckpointError, match="names classifier or score as trained"):
        open_checkpoint(str(adapter))


def test_torch_files(tmp_path: Path) -> None:
    """Adapter and base as pickles."""
    base, tensors = base_of(tmp_path / "base"), pair(Q, OUT, IN)
    expected = weight(base, f"{Q}.weight") + 6 / 4 * product(tensors, Q)
    held = {
        name: torch.from_numpy(open_checkpoint(str(base)).read(name)) for name in open_checkpoint(str(base)).tensors
    }
    torch.save(held, base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    adapter = adapter_of(tmp_path / "a", base, tensors)
    torch.save({f"{PREFIX}{name}": tensor for name, tensor in tensors.items()}, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    checkpoint = assert_merged(adapter, base, {f"{Q}.weight": expected})
    names = {record.name for record in checkpoint.source_files}
    assert names == {"adapter_config.json", "adapter_model.bin", "base/config.json", "base/pytorch_model.bin"}


@pytest.mark.parametrize("stated", ["../base", "base"])
def test_a_base_beside_the_adapter(tmp_path: Path, stated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative base is relative to the current folder, or else to the adapter's."""
    base = base_of(tmp_path / "base")
    monkeypatch.chdir(tmp_path if stated == "base" else "/")
    checkpoint = open_checkpoint(str(adapter_of(tmp_path / "a", stated, pair(Q, OUT, IN))))
    assert checkpoint.base is not None and checkpoint.base.folder.resolve() == base.resolve()


def test_a_base_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter's `revision` is its base's; hashes that the cache states are kept, in the base's files too."""
    import huggingface_hub

    snapshot = as_hub_snapshot(base_of(tmp_path / "plain"), tmp_path / "cache")
    asked: list[tuple[str, str | None]] = []

    def fake(repo: str, *, revision: str | None, **_: object) -> str:
        asked.append((repo, revision))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    adapter = adapter_of(tmp_path / "a", "someone/rm", pair(Q, OUT, IN), revision="v1")
    checkpoint = open_checkpoint(str(adapter))
    assert asked == [("someone/rm", "v1")]
    assert (checkpoint.repo, checkpoint.base and checkpoint.base.repo) == (None, "someone/rm")
    records = {record.name: record for record in checkpoint.source_files}
    assert set(records) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base/config.json",
        "base/model.safetensors",
    }
    assert records["base/model.safetensors"].sha256 and records["adapter_model.safetensors"].sha256 is None
    for name, record in records.items():
        assert checkpoint.path(name).stat().st_size == record.size


def test_a_missing_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for stated in ("/root/training/base", "someone/who-is-not-there"):
        adapter = adapter_of(tmp_path / "a", stated, pair(Q, OUT, IN))
        with pytest.raises(CheckpointError, match=rf"(?s){stated}.*put the folder or Hub id of the base there"):
            open_checkpoint(str(adapter))


def test_an_adapter_on_an_adapter(tmp_path: Path) -> None:
    base, tensors = base_of(tmp_path / "base"), pair(Q, OUT, IN)
    first = adapter_of(tmp_path / "first", base, tensors)
    second = adapter_of(tmp_path / "second", first, tensors, lora_alpha=2)
    expected = weight(base, f"{Q}.weight") + (6 / 4 + 2 / 4) * product(tensors, Q)
    merged = assert_merged(second, base, {f"{Q}.weight": expected})
    assert {record.name for record in merged.source_files} >= {
        "base/adapter_config.json",
        "base/base/model.safetensors",
    }
    adapter_of(first, second, tensors)
    with pytest.raises(CheckpointError, match="adapter of itself"):
        open_checkpoint(str(second))


def test_an_adapter_beside_a_whole_model(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    both = adapter_of(base_of(tmp_path / "both"), base, pair(Q, OUT, IN))
    with pytest.raises(CheckpointError, match="adapter and a whole model"):
        open_checkpoint(str(both))
    (both / "adapter_model.safetensors").unlink()  # a merged model that kept its adapter_config.json
    assert open_checkpoint(str(both)).base is None
    (both / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"none of adapter_model\.safetensors, adapter_model\.bin"):
        open_checkpoint(str(both))


def with_lora(**changes: Any) -> dict[str, Any]:
    return {"tensors": pair(Q, OUT, IN)} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (with_lora(peft_type="PROMPT_TUNING"), "peft_type is 'PROMPT_TUNING'"),
        (with_lora(peft_type=None), "peft_type is None"),
        (with_lora(base_model_name_or_path=None), "base_model_name_or_path is missing"),
        (with_lora(base_model_name_or_path=3), "base_model_name_or_path is 3"),
        (with_lora(r=0), "r is 0, expected a positive integer"),
        (with_lora(lora_alpha="6"), "lora_alpha is '6', expected a number"),
        (with_lora(use_rslora="yes"), "use_rslora is 'yes'"),
        (with_lora(rank_pattern={"q_proj": 0}), "rank_pattern gives 'q_proj' the value 0"),
        (with_lora(alpha_pattern={"(": 1}), "alpha_pattern: '(' is not a regular expression"),
        (with_lora(alpha_pattern=[1]), "alpha_pattern is [1], expected an object"),
        (with_lora(target_parameters=["experts.gate_up_proj"]), "target_parameters cannot be merged"),
        (with_lora(layer_replication=[[0, 2]]), "layer_replication cannot be merged"),
        (with_lora(use_qalora=True), "use_qalora cannot be merged"),
        (with_lora(alora_invocation_tokens=[5]), "alora_invocation_tokens cannot be merged"),
        (with_lora(init_lora_weights="pissa"), "init_lora_weights is 'pissa', which changes the base's own weights"),
        (with_lora(r=8), "A is [4, 14] and B [10, 4], expected rank 8"),
        (with_lora(tensors=pair(Q, OUT, IN + 1)), f"{Q}.weight is [10, 14] and its update [10, 15]"),
        (with_lora(tensors=pair(Q, IN, OUT)), f"{Q}.weight is [10, 14] and its update [14, 10]"),
        (with_lora(tensors=pair("model.layers.7.up_proj", OUT, IN)), "the base has no model.layers.7.up_proj.weight"),
        (with_lora(tensors={f"{Q}.lora_A.weight": random(RANK, IN, seed=1)}), "expected one pair of A and B"),
        (with_lora(tensors={**pair(Q, OUT, IN), f"{Q}.lora_B.bias": random(OUT, seed=1)}), f"{Q}.lora_B.bias"),
        (
            with_lora(tensors={**pair(Q, OUT, IN), f"{Q}.lora_A.other.weight": random(RANK, IN, seed=1)}),
            "there twice",
        ),
        (
            with_lora(tensors={f"{EMBED}.token_adapter.trainable_tokens_delta": random(2, IN, seed=1)}),
            "token_adapter.trainable_tokens_delta",
        ),
        (with_lora(tensors={f"{Q}.weight": random(OUT, IN + 1, seed=1)}), "is [10, 15] in the adapter"),
        (with_lora(use_dora=True), "has no lora_magnitude_vector and use_dora is true"),
        (
            with_lora(tensors={**pair(Q, OUT, IN), f"{Q}.lora_magnitude_vector": random(OUT, seed=1)}),
            "has a lora_magnitude_vector and use_dora is false",
        ),
        (
            with_lora(use_dora=True, tensors={**pair(Q, OUT, IN), f"{Q}.lora_magnitude_vector": random(3, seed=1)}),
            "lora_magnitude_vector is [3], expected 10 elements",
        ),
        (with_lora(tensors={**pair(Q, OUT, IN), f"{Q}.base_layer.weight": torch.ones(OUT, IN).to(torch.int8)}), "int8"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    base = base_of(tmp_path / "base")
    config = {name: value for name, value in changes.items() if name != "tensors"}
    adapter = adapter_of(tmp_path / "a", base, changes["tensors"], **config)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        open_checkpoint(str(adapter))


def test_dora_of_an_embedding(tmp_path: Path) -> None:
    tensors = {
        f"{EMBED}.lora_embedding_A": random(RANK, VOCAB, seed=5),
        f"{EMBED}.lora_embedding_B": random(IN, RANK, seed=6),
        f"{EMBED}.lora_magnitude_vector": random(IN, seed=7),
    }
    adapter = adapter_of(tmp_path / "a", base_of(tmp_path / "base"), tensors, use_dora=True)
    with pytest.raises(CheckpointError, match="DoRA of an embedding"):
        open_checkpoint(str(adapter))


def test_tokenizer_and_chat_template(tmp_path: Path) -> None:
    """Each is the adapter's own where it has one, else the base's."""
    base = base_of(tmp_path / "base")
    build_tokenizer(base, "llama3")
    adapter = adapter_of(tmp_path / "a", base, pair(Q, OUT, IN))
    inherited = open_checkpoint(str(base)).read_tokenizer()
    assert open_checkpoint(str(adapter)).read_tokenizer() == inherited
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    own_template = open_checkpoint(str(adapter)).read_tokenizer()
    assert (own_template.template, own_template.tokenizer_json) == ("{{ messages }}", inherited.tokenizer_json)
    (adapter / "chat_template.jinja").unlink()
    build_tokenizer(adapter, "tulu", pad=None)
    assert "pad_token" not in open_checkpoint(str(adapter)).read_tokenizer().special_tokens
    (adapter / "chat_template.jinja").unlink()
    config = json.loads((adapter / "tokenizer_config.json").read_text())
    (adapter / "tokenizer_config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k != "chat_template"})
    )
    without = open_checkpoint(str(adapter)).read_tokenizer()
    assert without.template == inherited.template and "pad_token" not in without.special_tokens
    assert any("its base's is used" in note for note in without.notes)
    second = adapter_of(tmp_path / "second", adapter, pair(Q, OUT, IN))
    assert "pad_token" not in open_checkpoint(str(second)).read_tokenizer().special_tokens


def test_config(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", config={"model_type": "llama", "vocab_size": VOCAB, "pad_token_id": 1})
    adapter = adapter_of(tmp_path / "a", base, pair(Q, OUT, IN))
    assert open_checkpoint(str(adapter)).config == {"model_type": "llama", "vocab_size": VOCAB, "pad_token_id": 1}
    with_config(adapter, {"pad_token_id": 7, "num_labels": 1})
    checkpoint = open_checkpoint(str(adapter))
    assert checkpoint.config == {"model_type": "llama", "vocab_size": VOCAB, "pad_token_id": 7, "num_labels": 1}
    assert "config.json" in {record.name for record in checkpoint.source_files}
