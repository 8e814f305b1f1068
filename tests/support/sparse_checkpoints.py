"""Checkpoints in the exact published shapes, as sparse files: full size to every reader, next to nothing on disk.

Every tensor has a few bytes at its begin and end that no other has, so that one can tell where it arrived.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rmruntime.bundle.safetensors_header import DTYPES
from tiny_tokenizer import build_tokenizer
from torch_archives import write_archive

Inventory = dict[str, tuple[str, tuple[int, ...]]]
MARK = 32  # bytes
MOST_MARKED = 500  # tensors of a file: two marks of each take 4 KB of the disk or more
BYTES = {name: size for name, (_, size) in DTYPES.items()}
LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
}  # fmt: skip
LLAMA31_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """One of the four checkpoints: config.json and what stands beside the backbone."""

    config: dict[str, Any]
    head: Inventory


def _gate(hidden: int = 4096, objectives: int = 19) -> Inventory:
    head: Inventory = {
        "regression_layer.weight": ("F32", (objectives, hidden)),
        "reward_transform_matrix": ("F32", (objectives, objectives)),
        "gating.logit_scale": ("F32", (1,)),
    }
    for i, (inner, out) in enumerate(pairwise((hidden, 1024, 1024, 1024, objectives))):
        head |= {f"gating.layers.{i}.weight": ("F32", (out, inner)), f"gating.layers.{i}.bias": ("F32", (out,))}
    return head


SEEDS = {
    "truth-rm": Seed(
        LLAMA_8B
        | {
            "architectures": ["LlamaForSequenceClassification"], "vocab_size": 128257, "pad_token_id": 128256,
            "max_position_embeddings": 131072, "rope_scaling": LLAMA31_ROPE, "id2label": {"0": "LABEL_0"},
            "torch_dtype": "bfloat16",
        },
        {"score.weight": ("BF16", (1, 4096))},
    ),
    "armorm": Seed(
        LLAMA_8B
        | {
            "architectures": ["LlamaForRewardModelWithGating"], "vocab_size": 128257, "pad_token_id": 128256,
            "max_position_embeddings": 8192, "rope_scaling": None, "torch_dtype": "float32", "num_objectives": 19,
            "gating_temperature": 10, "gating_hidden_dim": 1024, "gating_n_hidden": 3,
        },
        _gate(),
    ),
    "orm": Seed(
        LLAMA_8B
        | {
            "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "max_position_embeddings": 131072,
            "rope_scaling": LLAMA31_ROPE, "torch_dtype": "bfloat16",
        },
        {"lm_head.weight": ("BF16", (128256, 4096))},
    ),
    "tulu-70b": Seed(
        LLAMA_70B
        | {
            "architectures": ["LlamaForSequenceClassification"], "vocab_size": 128264,
            "max_position_embeddings": 131072, "rope_scaling": LLAMA31_ROPE, "torch_dtype": "bfloat16",
        },
        {"score.weight": ("BF16", (1, 8192))},
    ),
}  # fmt: skip


def write_seed(folder: Path, name: str) -> Path:
    """The seed's folder: config, index, sparse shards of at most 5 GB, the tiny tokenizer."""
    seed = SEEDS[name]
    build_tokenizer(folder)
    write_sparse(folder, seed.config, dict(_trunk(seed.config)) | seed.head)
    return folder


def write_seed_as_bin(folder: Path, name: str) -> Path:
    """The same in torch's .bin shards, as the 70B seed is published."""
    seed = SEEDS[name]
    build_tokenizer(folder)
    weight_map: dict[str, str] = {}
    shards = list(_shards(dict(_trunk(seed.config)) | seed.head))
    for i, shard in enumerate(shards):
        file = f"pytorch_model-{i + 1:05}-of-{len(shards):05}.bin"
        for tensor, offset in write_archive(folder / file, shard).items():
            write_marks(folder / file, tensor, offset, _nbytes(*shard[tensor]))
        weight_map |= dict.fromkeys(shard, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(seed.config))
    return folder


def write_sparse(folder: Path, config: dict[str, Any], inventory: Inventory) -> None:
    """config.json, and the tensors in sparse shards of at most 5 GB with their index."""
    weight_map: dict[str, str] = {}
    shards = list(_shards(inventory))
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_sparse_file(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))


def marks(tensor: str, nbytes: int) -> dict[int, bytes]:
    """What stands at a tensor's begin and end, which no other has: small bf16 numbers, by the offset inside it."""
    size = min(MARK, nbytes)
    found = {}
    for offset in {0, nbytes - size}:
        raw = np.frombuffer(hashlib.sha256(f"{tensor} {offset}".encode()).digest(), np.uint16)[: size // 2]
        found[offset] = (raw & 0x3FFF).tobytes()
    return found


def write_marks(path: Path, tensor: str, begin: int, nbytes: int) -> None:
    """Put a tensor's marks into a file in which it begins at `begin`."""
    with path.open("r+b") as file:
        for offset, raw in marks(tensor, nbytes).items():
            file.seek(begin + offset)
            file.write(raw)


def has_marks(path: Path, tensor: str, begin: int, nbytes: int) -> bool:
    """Whether the tensor that begins at `begin` is this one."""
    with path.open("rb") as file:
        for offset, raw in marks(tensor, nbytes).items():
            file.seek(begin + offset)
            if file.read(len(raw)) != raw:
                return False
    return True


def disk_usage(folder: Path) -> int:
    """Bytes that are really allocated."""
    return sum(os.stat(path).st_blocks * 512 for path in folder.iterdir())


def free_of_sparse_files(folder: Path) -> bool:
    """Whether the file system under `folder` pretends: some allocate what is only seeked over."""
    probe = folder / "probe"
    with probe.open("wb") as file:
        file.truncate(1 << 30)
    allocated = os.stat(probe).st_blocks * 512
    probe.unlink()
    return allocated > (1 << 20) or shutil.disk_usage(folder).free < (1 << 30)


def _trunk(c: dict[str, Any]) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    hidden, mlp = c["hidden_size"], c["intermediate_size"]
    kv = hidden // c["num_attention_heads"] * c["num_key_value_heads"]
    yield "model.embed_tokens.weight", ("BF16", (c["vocab_size"], hidden))
    shapes = {
        "input_layernorm": (hidden,), "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden), "mlp.down_proj": (hidden, mlp), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    for i in range(c["num_hidden_layers"]):
        yield from ((f"model.layers.{i}.{name}.weight", ("BF16", shape)) for name, shape in shapes.items())
    yield "model.norm.weight", ("BF16", (hidden,))


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    size = BYTES[dtype]
    for extent in shape:
        size *= extent
    return size


def _shards(inventory: Inventory) -> Iterator[Inventory]:
    shard: Inventory = {}
    size = 0
    for name, (dtype, shape) in inventory.items():
        if size + _nbytes(dtype, shape) > 5_000_000_000:
            yield shard
            shard, size = {}, 0
        shard[name] = (dtype, shape)
        size += _nbytes(dtype, shape)
    yield shard


def write_sparse_file(path: Path, shard: Inventory) -> None:
    """One safetensors file whose tensors take no room but for their marks, which those of many experts do without."""
    header: dict[str, dict[str, Any]] = {}
    offset = 0
    for name, (dtype, shape) in shard.items():
        end = offset + _nbytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + offset)
    for name, (dtype, shape) in shard.items() if len(shard) <= MOST_MARKED else ():
        write_marks(path, name, 8 + len(raw) + header[name]["data_offsets"][0], _nbytes(dtype, shape))
