"""Numbers of config.json that no model has are errors that name the key, the value and the range (2.8)."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from config_files import rewrite_config
from rmexport import CheckpointError, ExportOptions, export
from rmexport.checkpoint import open_checkpoint
from rmexport.encoders.config_numbers import check_encoder_numbers
from rmexport.families import families
from rmexport.spec import read_spec
from tiny_checkpoints import TinyCheckpoint, gated, sequence_classifier

NAN, INF = float("nan"), float("inf")
SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
EVERYWHERE = [name for name in SIZES if name not in ("num_key_value_heads", "head_dim")]
OWN = {  # further fields of a family
    "exaone4": ["sliding_window", "sliding_window_pattern"],
    "gemma2": ["sliding_window"],
    "gemma3_text": ["sliding_window", "sliding_window_pattern"],
    "ministral": ["sliding_window"],
    "ministral3": ["sliding_window"],
    "mistral": ["sliding_window"],
    "mixtral": ["sliding_window", "num_local_experts", "num_experts_per_tok"],
    "olmo3": ["sliding_window"],
    "phi3": ["sliding_window", "original_max_position_embeddings"],
    "qwen2": ["num_key_value_heads"],
    "qwen3_moe": ["num_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step"],
    "smollm3": ["no_rope_layer_interval"],
}
FLAT = sorted(set(families()) - {"gemma3", "qwen3_vl"})  # which have their text in a text_config
NO_SIZES = (0, -1, 2.0, "2", True, [2], {}, 1e9, 10**9, 2**63, 2**70, 10**400, NAN, INF)
NO_FACTORS = (-1, -0.5, "1", True, [1], 1e308, -1e308, NAN, INF, -INF, 10**400)
EPSILONS = dict.fromkeys(("gpt_neox", "gpt_neox_reward_model"), "layer_norm_eps")


def refused(model_type: str, *words: str, **fields: Any) -> None:
    """`read_config` names the field and takes little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            families()[model_type].read_config({"model_type": model_type, **SIZES, **fields})
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert all(word in str(caught.value) for word in words) and len(str(caught.value)) < 1000, str(caught.value)


@pytest.mark.parametrize("model_type", FLAT)
def test_sizes_of_every_family(model_type: str) -> None:
    for name in EVERYWHERE + OWN.get(model_type, []):
        for value in NO_SIZES:
            refused(model_type, name, "expected", **{name: value})


@pytest.mark.parametrize("model_type", FLAT)
def test_factors_of_every_family(model_type: str) -> None:
    epsilon = EPSILONS.get(model_type, "rms_norm_eps")
    for value in (*NO_FACTORS, None, 0):
        refused(model_type, epsilon, "expected a number from", **{epsilon: value})
    theta = "rotary_emb_base" if model_type.startswith("gpt_neox") else "rope_theta"
    for value in NO_FACTORS:
        refused(model_type, "rope_theta", "expected a number from", **{theta: value})


KINDS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 256, "beta_fast": 32, "attention_factor": 1.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
    "longrope": {"factor": 2.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_rotary_factors(kind: str, spelling: str) -> None:
    given = {"rope_type": kind, **KINDS[kind]}
    families()["llama"].read_config({"model_type": "llama", **SIZES, spelling: given})
    for name, value in KINDS[kind].items():
        for wrong in NO_FACTORS:
            refused(
                "llama",
                name,
                "expected",
                **{spelling: given | {name: [wrong] * 8 if isinstance(value, list) else wrong}},
            )


def test_llama3_needs_two_different_frequencies() -> None:
    given = {"rope_type": "llama3", **KINDS["llama3"]}
    refused("llama", "high_freq_factor is 1.0", rope_scaling=given | {"high_freq_factor": 1.0})


def test_parts_of_heads_that_cannot_be_rotated() -> None:
    for share in (0, -1, 1.5, NAN, INF, True, "1"):
        refused("gpt_neox", "partial_rotary_factor", rotary_pct=share)
    refused("gpt_neox", "rotated", rotary_pct=0.05)
    refused("llama", "head_dim", head_dim=15)
    refused("llama", "features in all", num_attention_heads=1024, num_key_value_heads=1, head_dim=4096)
    refused("llama", "hidden_size", head_dim=None, num_attention_heads=128, num_key_value_heads=2)
    refused("llama", "rotated", head_dim=2, rope_scaling={"rope_type": "dynamic", "factor": 2.0})


@pytest.mark.parametrize("name", ["attn_logit_softcapping", "query_pre_attn_scalar"])
def test_gemmas_numbers(name: str) -> None:
    for value in (*NO_FACTORS, 0):
        refused("gemma2", name, **{name: value})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return sequence_classifier(tmp_path_factory.mktemp("classifier") / "c")


@pytest.fixture
def changed(classifier: TinyCheckpoint, tmp_path: Path) -> Any:
    """The error of a copy of the classifier whose config.json has other fields."""

    def run(**fields: Any) -> str:
        folder = tmp_path / "c"
        folder.mkdir(exist_ok=True)
        for file in classifier.folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        rewrite_config(TinyCheckpoint(folder, classifier.tokenizer, None), fields)
        with pytest.raises(CheckpointError) as caught:
            export(str(folder), tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()
        return str(caught.value)

    return run


@pytest.mark.parametrize("layers", [20, 1000, 10**9])
def test_layers_that_no_tensor_is_of_are_told_before_anything_is_built(changed: Any, layers: int) -> None:
    assert f"num_hidden_layers is {layers}" in changed(num_hidden_layers=layers)


@pytest.mark.parametrize("pad", ["1", True, 1.0, -2, 10**9, [1]])
def test_pad_ids(changed: Any, pad: object) -> None:
    """They were passed over, and another token was read."""
    assert "pad_token_id" in changed(pad_token_id=pad)


def test_other_fields_of_a_wrong_type(changed: Any) -> None:
    for fields in ({"tie_word_embeddings": "false"}, {"architectures": "LlamaModel"}, {"num_labels": "1"}):
        assert next(iter(fields)) in changed(**fields)
    assert "id2label" in changed(id2label=[1, 2])


@pytest.mark.parametrize("value", [0, -1, NAN, INF, 1e308, "10", True, None, 10**400])
def test_gating_temperature(tmp_path: Path, value: object) -> None:
    """0 and NaN exported, and scored NaN."""
    checkpoint = gated(tmp_path / "c")
    path = checkpoint.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gating_temperature": value}))
    with pytest.raises(CheckpointError, match=r"gating_temperature is .*expected a number from 0\.001"):
        read_spec(open_checkpoint(str(checkpoint.folder)), ExportOptions())


@pytest.mark.parametrize(
    "fields",
    [
        {"layer_norm_eps": 1e308},
        {"layer_norm_eps": NAN},
        {"num_attention_heads": 10**9},
        {"intermediate_size": 2.0},
        {"global_rope_theta": INF},
        {"local_attention": 0},
        {"rope_parameters": {"full_attention": {"rope_theta": 0.0}}},
    ],
)
def test_numbers_of_encoders(fields: dict[str, Any]) -> None:
    check_encoder_numbers({"layer_norm_eps": 1e-12, "num_attention_heads": 12, "position_buckets": -1})
    with pytest.raises(CheckpointError, match="expected"):
        check_encoder_numbers(fields)


def test_a_config_with_a_key_twice(classifier: TinyCheckpoint, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "rms_norm_eps": 1e-5, "rms_norm_eps": 1e-6}')
    with pytest.raises(CheckpointError, match=r"'rms_norm_eps' twice"):
        open_checkpoint(str(tmp_path))
