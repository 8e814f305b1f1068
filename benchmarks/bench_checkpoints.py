"""Checkpoints of real size with random weights, written tensor by tensor in the published layouts."""

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np

EXAMPLE = Path(__file__).parent.parent / "examples" / "armorm-tiny"
SHARD_BYTES = 5 << 30
LLAMA3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128257,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": None,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "pad_token_id": 128256,
    "torch_dtype": "float32",
}
ARMORM = {
    "architectures": ["LlamaForRewardModelWithGating"],
    "num_objectives": 19,
    "gating_temperature": 10,
    "gating_hidden_dim": 1024,
    "gating_n_hidden": 3,
}
Shape = tuple[int, ...]


def write_armorm_8b(folder: Path, layers: int = 32) -> Path:
    """RLHFlow/ArmoRM-Llama3-8B-v0.1's tensors, dtypes and config (14 GiB), with the example's tokenizer."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = LLAMA3_8B | ARMORM | {"num_hidden_layers": layers}
    trunk = [(name, "BF16", shape) for name, shape in _llama_tensors(config)]
    head = [(name, "F32", shape) for name, shape in _armorm_head(config)]
    _write_shards(folder, [*trunk, *head])
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(EXAMPLE / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def write_classifier(folder: Path, shape: dict[str, object]) -> Path:
    """A Llama classifier with one label of this shape, in bf16 and with the example's tokenizer."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = LLAMA3_8B | {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1} | shape
    tensors = [(name, "BF16", size) for name, size in _llama_tensors(config)]
    _write_shards(folder, [*tensors, ("score.weight", "BF16", (1, int(str(config["hidden_size"]))))])
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(EXAMPLE / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def _llama_tensors(c: dict[str, object]) -> Iterator[tuple[str, Shape]]:
    hidden, mlp, vocab = (int(str(c[k])) for k in ("hidden_size", "intermediate_size", "vocab_size"))
    kv = hidden * int(str(c["num_key_value_heads"])) // int(str(c["num_attention_heads"]))
    yield "model.embed_tokens.weight", (vocab, hidden)
    for i in range(int(str(c["num_hidden_layers"]))):
        p = f"model.layers.{i}"
        yield from ((f"{p}.{n}.weight", (hidden,)) for n in ("input_layernorm", "post_attention_layernorm"))
        for name, out in (("q_proj", hidden), ("k_proj", kv), ("v_proj", kv), ("o_proj", hidden)):
            yield f"{p}.self_attn.{name}.weight", (out, hidden)
        yield from ((f"{p}.mlp.{n}.weight", (mlp, hidden)) for n in ("gate_proj", "up_proj"))
        yield f"{p}.mlp.down_proj.weight", (hidden, mlp)
    yield "model.norm.weight", (hidden,)


def _armorm_head(c: dict[str, object]) -> Iterator[tuple[str, Shape]]:
    hidden, objectives = int(str(c["hidden_size"])), int(str(c["num_objectives"]))
    yield "regression_layer.weight", (objectives, hidden)
    yield "reward_transform_matrix", (objectives, objectives)
    yield "gating.logit_scale", (1,)
    sizes = [hidden, 1024, 1024, 1024, objectives]
    for i, (inner, out) in enumerate(pairwise(sizes)):
        yield f"gating.layers.{i}.weight", (out, inner)
        yield f"gating.layers.{i}.bias", (out,)


def _write_shards(folder: Path, tensors: list[tuple[str, str, Shape]]) -> None:
    shards: list[list[tuple[str, str, Shape]]] = [[]]
    size = 0
    for tensor in tensors:
        nbytes = _nbytes(tensor)
        if size and size + nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += nbytes
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / name, shard, seed=i)
        weight_map |= {tensor[0]: name for tensor in shard}
    total = sum(map(_nbytes, tensors))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _nbytes(tensor: tuple[str, str, Shape]) -> int:
    return int(np.prod(tensor[2])) * (2 if tensor[1] == "BF16" else 4)


def _write_shard(path: Path, tensors: list[tuple[str, str, Shape]], seed: int) -> None:
    header: dict[str, object] = {}
    offset = 0
    for tensor in tensors:
        end = offset + _nbytes(tensor)
        header[tensor[0]] = {"dtype": tensor[1], "shape": list(tensor[2]), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(1 << 24, dtype=np.float32)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name, dtype, shape in tensors:
            file.write(_values(name, dtype, shape, noise, rng))


def _values(name: str, dtype: str, shape: Shape, noise: "np.ndarray", rng: np.random.Generator) -> bytes:
    """Matrices scaled so that activations keep their size; norms one. Noise is reused from a random offset."""
    count = int(np.prod(shape))
    if "norm" in name or name == "gating.logit_scale":
        values = np.ones(count, np.float32)
    else:
        scale = np.float32(0.02 if "embed" in name else (shape[-1] or 1) ** -0.5)
        values = np.resize(np.roll(noise, int(rng.integers(1 << 20))), count) * scale
    return values.astype(ml_dtypes.bfloat16 if dtype == "BF16" else np.float32).tobytes()
