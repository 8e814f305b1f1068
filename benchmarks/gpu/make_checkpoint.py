"""Checkpoints of real size with seeded random weights, made by torch on the device: `python -m gpu.make_checkpoint`.

The trunk's shards are written once; the classifier of the same decoder links to them, so that a 16 GB model with two
heads takes 16 GB. Prints {"seconds", "bytes"}.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bench_checkpoints import EXAMPLE, SHARD_BYTES, _armorm_head
from safetensors.torch import save_file

from gpu.plan import FULL, PLANS, Config, Shape, armorm_config, classifier_config

Sizes = tuple[int, ...]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=("big", "small"), required=True)
    parser.add_argument("--plan", choices=PLANS, default=FULL.name)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    plan = PLANS[arguments.plan]
    begin = time.perf_counter()
    shape = plan.big if arguments.shape == "big" else plan.small
    folders = write_checkpoints(arguments.work, shape, plan.torch_device)
    nbytes = sum(file.stat().st_size for file in folders[0].glob("*.safetensors"))
    print(json.dumps({"seconds": time.perf_counter() - begin, "bytes": nbytes}))


def write_checkpoints(work: Path, shape: Shape, device: str) -> list[Path]:
    """A classifier, and with a Llama also an ArmoRM over the same trunk: folders {shape}-{head} below `work`."""
    configs = {"classifier": classifier_config(shape)}
    if shape.config["model_type"] == "llama":
        configs["armorm"] = armorm_config(shape)
    generator = torch.Generator(device).manual_seed(0)
    trunk: dict[str, str] = {}
    folders: list[Path] = []
    for head, config in configs.items():
        folder = work / f"{shape.name}-{head}"
        if folder.exists():  # a run that was ended has left it
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        if folders:
            for name in sorted(set(trunk.values())):
                os.link(folders[0] / name, folder / name)
        else:
            trunk = _write_trunk(folder, config, generator)
        tensors = dict(_head_tensors(head, config, generator))
        save_file(tensors, folder / "model-head.safetensors", metadata={"format": "pt"})
        places = trunk | dict.fromkeys(tensors, "model-head.safetensors")
        index = {"metadata": {"total_size": _nbytes(folder)}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        for name in TOKENIZER_FILES:
            shutil.copy(EXAMPLE / name, folder / name)
        (folder / "config.json").write_text(json.dumps(config, indent=1))  # last: what is there is whole
        folders.append(folder)
    return folders


def trunk_shapes(c: Config) -> Iterator[tuple[str, Sizes]]:
    """Names and shapes of a Llama's or a Qwen3's tensors, as published."""
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    head_dim = c.get("head_dim") or hidden // c["num_attention_heads"]
    query, key = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    yield "model.embed_tokens.weight", (c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}"
        yield from ((f"{p}.{n}.weight", (hidden,)) for n in ("input_layernorm", "post_attention_layernorm"))
        projections = {
            "q_proj": (query, hidden),
            "k_proj": (key, hidden),
            "v_proj": (key, hidden),
            "o_proj": (hidden, query),
        }
        for name, sizes in projections.items():
            yield f"{p}.self_attn.{name}.weight", sizes
        if c["model_type"] == "qwen3":
            yield from ((f"{p}.self_attn.{n}_norm.weight", (head_dim,)) for n in ("q", "k"))
        yield from ((f"{p}.mlp.{n}.weight", (inner, hidden)) for n in ("gate_proj", "up_proj"))
        yield f"{p}.mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)


def _write_trunk(folder: Path, config: Config, generator: torch.Generator) -> dict[str, str]:
    """Shards of at most SHARD_BYTES; the file of every tensor."""
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    number = size = 0
    for name, sizes in trunk_shapes(config):
        tensor = _random(name, sizes, generator).to(torch.bfloat16).cpu()
        if shard and size + tensor.nbytes > SHARD_BYTES:
            save_file(shard, folder / f"model-trunk-{number:05}.safetensors", metadata={"format": "pt"})
            shard, number, size = {}, number + 1, 0
        shard[name] = tensor
        size += tensor.nbytes
        places[name] = f"model-trunk-{number:05}.safetensors"
    save_file(shard, folder / f"model-trunk-{number:05}.safetensors", metadata={"format": "pt"})
    return places


def _head_tensors(head: str, config: dict[str, Any], generator: torch.Generator) -> Iterator[tuple[str, torch.Tensor]]:
    """ArmoRM's in fp32, as published; a classifier's in bf16."""
    if head == "classifier":
        yield "score.weight", _random("score", (1, config["hidden_size"]), generator).to(torch.bfloat16).cpu()
        return
    for name, sizes in _armorm_head(config):
        yield name, _random(name, sizes, generator).cpu()


def _random(name: str, sizes: Sizes, generator: torch.Generator) -> torch.Tensor:
    """Matrices scaled so that activations keep their size, norms and the gate's scale one, biases small."""
    if "norm" in name or name == "gating.logit_scale":
        return torch.ones(sizes, device=generator.device)
    scale = 0.5 if "embed" in name else 0.1 if len(sizes) == 1 else sizes[-1] ** -0.5
    return torch.randn(sizes, generator=generator, device=generator.device) * scale


def _nbytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


if __name__ == "__main__":
    main()
