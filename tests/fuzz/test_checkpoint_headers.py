"""Fuzzing of what a checkpoint says of itself: a right reading or one of our errors, in little memory.

Seeded (`derandomize`) and bounded, so that it is the same test on every machine.
"""

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from checkpoint_files import file_of, header_of, with_config
from rmexport import ExportOptions
from rmexport.checkpoint import Checkpoint, open_checkpoint
from rmexport.checkpoint.adapter_config import read_adapter_config
from rmexport.checkpoint.label_names import label_names
from rmexport.encoders import is_encoder, read_encoder_spec
from rmexport.errors import CheckpointError, ExportError, UnsupportedModel
from rmexport.families import families
from rmexport.spec import read_spec
from seeded_fuzz import seeded
from tiny_checkpoints import gated, sequence_classifier

FUZZ = settings(seeded(150), suppress_health_check=list(HealthCheck))
MEMORY = 64 << 20  # bytes

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 0.5, 2.0, 1e308, -1e308, 1e-320, float("nan"), float("inf"), -float("inf"),
    10**9, 2**31, 2**63, 2**64, 10**400, "4", "", "silu", [], [1], [None], {}, {"a": 1}, {"0": "x"},
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(ODD), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=3)
)


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "rope_theta": 10000.0,
}  # fmt: skip
FIELDS = [
    *SIZES, "rms_norm_eps", "layer_norm_eps", "rope_scaling", "rope_parameters", "sliding_window", "max_window_layers",
    "use_sliding_window", "layer_types", "hidden_act", "hidden_activation", "attention_bias", "mlp_bias", "bias",
    "num_local_experts", "num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step",
    "mlp_only_layers", "norm_topk_prob", "partial_rotary_factor", "rotary_pct", "rotary_emb_base", "text_config",
    "sliding_window_pattern", "query_pre_attn_scalar", "attn_logit_softcapping", "rope_local_base_freq",
    "original_max_position_embeddings", "use_parallel_residual", "is_causal", "use_bidirectional_attention",
]  # fmt: skip
ROPE_FIELDS = [
    "factor", "rope_theta", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "beta_fast",
    "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate", "short_factor", "long_factor",
    "partial_rotary_factor", "full_attention", "sliding_attention",
]  # fmt: skip
KINDS = ["default", "linear", "dynamic", "yarn", "llama3", "longrope", "su", None, 3]
ROPES = st.fixed_dictionaries({"rope_type": st.sampled_from(KINDS)}, optional=dict.fromkeys(ROPE_FIELDS, VALUES))
CONFIGS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3)


@FUZZ
@given(st.sampled_from(sorted(families())), CONFIGS, st.one_of(st.none(), ROPES), st.booleans())
def test_config_values(model_type: str, fields: dict[str, Any], rope: dict[str, Any] | None, old: bool) -> None:
    raw = {"model_type": model_type, **SIZES, **fields}
    if rope is not None:
        raw["rope_scaling" if old else "rope_parameters"] = rope
    if model_type == "gemma3" and "text_config" not in fields:
        raw = {"model_type": model_type, "text_config": raw}
    family = families()[model_type]
    with little_memory():
        try:
            config: Any = family.read_config(raw)
        except (CheckpointError, UnsupportedModel) as error:
            assert len(str(error)) < 2000
            return
        family.derived(config)
    assert (
        1 <= config.num_hidden_layers <= 1024 and len(config.ropes) == len(config.windows) == config.num_hidden_layers
    )
    assert 0 < config.norm_eps < 1 and np.isfinite(config.attention_scale) and config.head_dim % 2 == 0
    assert all(rope.theta >= 1 and np.isfinite(rope.theta) for rope in config.ropes)


@FUZZ
@given(st.dictionaries(st.sampled_from(["objective_names", "attributes", "id2label"]), VALUES), st.integers(1, 3))
def test_names_of_outputs(config: dict[str, Any], count: int) -> None:
    try:
        assert len(set(label_names(config, count, stem="label"))) == count
    except CheckpointError:
        pass


ADAPTER_FIELDS = [
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "peft_type", "modules_to_save", "use_dora", "revision",
    "use_rslora", "task_type", "init_lora_weights", "base_model_name_or_path",
]  # fmt: skip


@FUZZ
@given(st.dictionaries(st.sampled_from(ADAPTER_FIELDS), VALUES, max_size=3))
def test_adapter_configs(fields: dict[str, Any]) -> None:
    raw = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "x", **fields}
    with TemporaryDirectory() as folder, little_memory():
        (Path(folder) / "adapter_config.json").write_text(json.dumps(raw))
        try:
            config = read_adapter_config(Path(folder))
        except CheckpointError:
            return
        assert np.isfinite(config.scale("model.layers.0.self_attn.q_proj")) and config.r >= 1


def opened(file: str, content: bytes) -> None:
    """Opening a folder with that file gives tensors within it, or an error of ours."""
    with TemporaryDirectory() as name, little_memory():
        folder = with_config(Path(name))
        (folder / file).write_bytes(content)
        try:
            checkpoint = open_checkpoint(str(folder))
            for tensor, info in checkpoint.tensors.items():
                assert info.nbytes <= max(len(content), 1 << 24)
                list(checkpoint.chunks(tensor))
        except CheckpointError as error:
            assert len(str(error)) < 10_000


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I64", "F4", "", 3, None, "F8_E4M3"]),
        "shape": st.one_of(VALUES, st.lists(st.sampled_from([0, 1, 2, 2**31, 2**62, -1, True]), max_size=4)),
        "data_offsets": st.one_of(VALUES, st.lists(st.sampled_from([0, 8, 16, 2**40, -8]), min_size=2, max_size=2)),
        "more": VALUES,
    },
)


@FUZZ
@given(st.dictionaries(st.text(max_size=8), st.one_of(ENTRY, VALUES), max_size=3), st.integers(0, 40))
def test_safetensors_headers(header: dict[str, Any], size: int) -> None:
    opened("model.safetensors", file_of(json.dumps(header).encode(), bytes(size)))


def damaged(content: bytes, changes: list[tuple[int, int]], cut: int | None) -> bytes:
    data = bytearray(content)
    for at, value in changes:
        data[at % len(data)] = value
    return bytes(data[: cut % (len(data) + 1)] if cut is not None else data)


CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4)
CUTS = st.one_of(st.none(), st.integers(0, 1 << 16))


@FUZZ
@given(CHANGES, CUTS)
def test_damaged_safetensors(changes: list[tuple[int, int]], cut: int | None) -> None:
    tensors = {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.int64)}
    opened("model.safetensors", damaged(file_of(header_of(tensors), bytes(56)), changes, cut))


@cache
def archive(old: bool) -> bytes:
    buffer = io.BytesIO()
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(6).view(2, 3).t()}
    torch.save(tensors, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


@FUZZ
@given(st.booleans(), CHANGES, CUTS)
def test_damaged_archives(old: bool, changes: list[tuple[int, int]], cut: int | None) -> None:
    opened("pytorch_model.bin", damaged(archive(old), changes, cut))


def repickled(change: Callable[[bytes], bytes]) -> bytes:
    """The archive with another pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive(False))) as source, zipfile.ZipFile(buffer, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            target.writestr(info.filename, change(data) if info.filename.endswith("data.pkl") else data)
    return buffer.getvalue()


@FUZZ
@given(CHANGES, st.integers(0, 1 << 16), st.binary(max_size=12))
def test_damaged_pickles(changes: list[tuple[int, int]], at: int, inserted: bytes) -> None:
    def change(data: bytes) -> bytes:
        data = damaged(data, changes, None)
        return data[: at % len(data)] + inserted + data[at % len(data) :]

    opened("pytorch_model.bin", repickled(change))


HEAD_FIELDS = [
    "architectures", "id2label", "num_labels", "pad_token_id", "tie_word_embeddings", "text_config", "objective_names",
    "gating_temperature", "num_objectives", "num_quantiles", "value_head_prefix", "normalize_reward", "mean", "std",
    "pooling", "score_type", "do_normalize", "quantization_config", "reward_token_id", "softmax", "temperature",
    "final_logit_softcapping", "model_type", "bos_token_id", "eos_token_id", "vocab_size", "rope_parameters",
]  # fmt: skip


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """A gated model, a classifier, and one whose head is found by its shape."""
    folder = tmp_path_factory.mktemp("fuzz")
    made = [gated(folder / "gated"), sequence_classifier(folder / "plain"), sequence_classifier(folder / "other")]
    path = folder / "other" / "model.safetensors"
    save_file({n.replace("score.", "v_head."): t for n, t in load_file(path).items()}, path)
    return [open_checkpoint(str(checkpoint.folder)) for checkpoint in made]


@settings(FUZZ, max_examples=30)
@given(st.integers(0, 2), st.dictionaries(st.sampled_from(HEAD_FIELDS), VALUES, min_size=1, max_size=3))
def test_config_values_of_heads(readable: list[Checkpoint], which: int, fields: dict[str, Any]) -> None:
    checkpoint = replace(readable[which], config={**readable[which].config, **fields})
    try:
        if is_encoder(checkpoint.config):
            read_encoder_spec(checkpoint, ExportOptions())
        else:
            read_spec(checkpoint, ExportOptions())
    except ExportError as error:
        assert len(str(error)) < 5000
