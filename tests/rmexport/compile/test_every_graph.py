"""TensorRT takes the graph of every family: parsed and built for compute capability 8.9 by tensorrt_rtx, without a GPU.

Whether the engines compute what they should can only be seen on a GPU.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from family_checkpoints import family_checkpoint
from internlm2_model import Internlm2ForSequenceClassification, Internlm2Shape
from rmexport import ExportOptions, export
from rmexport.compile import Compiled, CompileOptions, compile_bundle
from rmexport.compile.library import Library
from rmexport.compile.network import parse
from rmexport.compile.tensorrt_rewrites import parser_model
from rmexport.errors import NotCompilable
from rmexport.families import families
from rmruntime.bundle import Bundle
from rmruntime.bundle.engine_record import ENGINE_NAME
from tensorrt_networks import fused_attentions
from tiny_checkpoints import TinyShape, causal_lm, gated, sequence_classifier, shaken
from tiny_tokenizer import build_tokenizer

KERNELS = 64 << 20  # most bytes of an engine beyond its weights
LAYERS = 2
LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
WINDOWS = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "exaone4": LLAMA | WINDOWS,
    "gemma": LLAMA | {"head_dim": 256},
    "gemma2": LLAMA | WINDOWS | {"query_pre_attn_scalar": 5},
    "gemma3_text": LLAMA | WINDOWS | {"query_pre_attn_scalar": 20},
    "gpt_neox": {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"},
    "glm4": LLAMA | {"head_dim": 32},
    "granite": LLAMA | {"residual_multiplier": 0.5, "embedding_multiplier": 2.0},
    "llama": LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "ministral": LLAMA | WINDOWS,
    "ministral3": LLAMA | {"head_dim": 32},
    "mistral": LLAMA | {"sliding_window": 24},
    "mixtral": LLAMA | {"num_local_experts": 8, "num_experts_per_tok": 2},
    "olmo2": LLAMA,
    "olmo3": LLAMA | WINDOWS,
    "phi3": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA | {"head_dim": 32},
    "seed_oss": LLAMA | {"head_dim": 32},
    "smollm3": LLAMA | {"no_rope_layers": [1, 0]},
    "qwen3_moe": LLAMA | {"moe_intermediate_size": 24, "head_dim": 32, "num_experts": 8, "num_experts_per_tok": 2},
}
SAME_GRAPH = {  # other names of a family's checkpoints, and families whose layers are another's
    "gemma3": "gemma3_text",
    "gpt_neox_reward_model": "gpt_neox",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_text": "qwen3",
}
NOT_COMPILED = {"llama_bidirec"}  # engines' passes score few tokens, and it scores all
ALWAYS = ("llama", "gemma2", "mixtral")  # the others are as these to the parser, and in the ladder
CAPPED = {"gemma2"}  # TensorRT's attention has no softcap: written out


def test_no_family_is_forgotten() -> None:
    assert {SAME_GRAPH.get(name, name) for name in families()} == {*FAMILIES, *NOT_COMPILED, "internlm2"}


def compiled(rtx: Library, bundle: Path) -> Compiled:
    options = CompileOptions(library=rtx.name, compute_capability="8.9", max_batch_tokens=2048, max_length=512)
    return compile_bundle(bundle, options)


def check_engine(rtx: Library, bundle: Path, *, fused: int) -> None:
    """Both profiles, a size of weights and kernels, and as many fused attentions as the parser was given."""
    made = compiled(rtx, bundle)
    record, opened = made.record, Bundle.open(bundle)
    graph = next(g for g in opened.manifest.graphs if g.file == record.graph)
    model = parser_model(opened.path(graph.file), graph)
    assert [profile.name for profile in record.profiles] == ["latency", "throughput"]
    assert model.weights <= record.size <= model.weights + KERNELS
    assert (made.folder / ENGINE_NAME).stat().st_size == record.size
    assert record.compute_dtype == graph.compute_dtype
    assert fused_attentions(parse(rtx, model)) == fused


@pytest.mark.parametrize(
    "model_type", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.ladder) for name in FAMILIES]
)
def test_families_in_bf16(rtx: Library, tmp_path: Path, model_type: str) -> None:
    checkpoint = family_checkpoint(tmp_path / "c", model_type, FAMILIES[model_type], dtype=torch.bfloat16)
    export(str(checkpoint.folder), tmp_path / "b", ExportOptions(dtype="bf16"))
    check_engine(rtx, tmp_path / "b", fused=0 if model_type in CAPPED else LAYERS)


@pytest.mark.ladder
def test_internlm2(rtx: Library, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path / "c")
    shape = Internlm2Shape(vocab_size=tokenizer.vocab_size, num_hidden_layers=LAYERS)
    model = shaken(Internlm2ForSequenceClassification(shape), torch.bfloat16)
    save_file(model.state_dict(), tmp_path / "c" / "model.safetensors")
    raw = {"model_type": "internlm2", "architectures": ["InternLM2ForSequenceClassification"], "hidden_act": "silu"}
    fields = {name: value for name, value in asdict(shape).items() if name != "factor"}
    (tmp_path / "c" / "config.json").write_text(json.dumps({**raw, **fields, "pad_token_id": tokenizer.pad_id}))
    export(str(tmp_path / "c"), tmp_path / "b", ExportOptions(dtype="bf16"))
    check_engine(rtx, tmp_path / "b", fused=LAYERS)


@pytest.mark.ladder
@pytest.mark.parametrize(("model_type", "dtype"), [("llama", "fp16"), ("llama", "fp32")])
def test_other_dtypes(rtx: Library, tmp_path: Path, model_type: str, dtype: Any) -> None:
    """There is no fused attention in fp32; the parser is allowed to write it out."""
    checkpoint = family_checkpoint(tmp_path / "c", model_type, FAMILIES[model_type])
    export(str(checkpoint.folder), tmp_path / "b", ExportOptions(dtype=dtype))
    check_engine(rtx, tmp_path / "b", fused=LAYERS)


def test_a_gated_head(rtx: Library, tmp_path: Path) -> None:
    shape = TinyShape(num_hidden_layers=LAYERS)
    export(str(gated(tmp_path / "c", shape).folder), tmp_path / "b", ExportOptions(dtype="bf16"))
    check_engine(rtx, tmp_path / "b", fused=LAYERS)


def test_a_head_that_reads_logits(rtx: Library, tmp_path: Path) -> None:
    checkpoint = causal_lm(tmp_path / "c", TinyShape(num_hidden_layers=LAYERS))
    recipe = tmp_path / "row.json"
    recipe.write_text(json.dumps({"name": "row", "description": "d", "head": "token_logits", "token_ids": [7]}))
    export(str(checkpoint.folder), tmp_path / "b", ExportOptions(dtype="bf16", recipe=str(recipe)))
    check_engine(rtx, tmp_path / "b", fused=LAYERS)


@pytest.mark.parametrize("scheme", ["int8", pytest.param("fp8", marks=pytest.mark.ladder)])
def test_quantized_weights_stay_narrow(rtx: Library, tmp_path: Path, scheme: Any) -> None:
    """Weights alone are quantized: products are bf16, of weights that the engine holds in 8 bits."""
    shape = TinyShape(num_hidden_layers=LAYERS, hidden_size=256, intermediate_size=2048)
    folder = str(sequence_classifier(tmp_path / "c", shape, dtype=torch.bfloat16).folder)
    export(folder, tmp_path / "b", ExportOptions(quantize=scheme))
    check_engine(rtx, tmp_path / "b", fused=LAYERS)
    export(folder, tmp_path / "plain", ExportOptions())
    sizes = [compiled(rtx, tmp_path / "plain").record.size]
    sizes.append(next((tmp_path / "b").rglob(ENGINE_NAME)).stat().st_size)
    quantization = Bundle.open(tmp_path / "b").manifest.quantization
    assert quantization is not None and sizes[0] - sizes[1] > 0.9 * quantization.parameters


def test_int4_is_refused(tmp_path: Path) -> None:
    folder = str(sequence_classifier(tmp_path / "c", TinyShape(num_hidden_layers=1)).folder)
    export(folder, tmp_path / "b", ExportOptions(quantize="int4"))
    with pytest.raises(NotCompilable, match="tensorrt cannot read int4 weights as they are stored"):
        compile_bundle(tmp_path / "b", CompileOptions(library="tensorrt_rtx", compute_capability="8.9"))
