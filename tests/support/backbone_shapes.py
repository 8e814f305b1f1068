"""Small checkpoints of backbones that differ in their attention, norms and MLPs, as fields for `family_checkpoint`."""

from typing import Any

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2}
_GEMMA2 = _GROUPED | {"head_dim": 32, "query_pre_attn_scalar": 5, "sliding_window": 24}
_MIXED = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_SHORT_YARN = {  # of a few tokens, so that conversations are longer
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 64.0,
    "original_max_position_embeddings": 32,
    "llama_4_scaling_beta": 0.5,
}
_MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.4,
    "residual_multiplier": 0.6,
    "logits_scaling": 8.0,
}

BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _GROUPED | {"attention_bias": True, "mlp_bias": True}),
    "llama_odd_heads": ("llama", _GROUPED | {"head_dim": 20}),
    "llama_dynamic": (
        "llama",
        _GROUPED | {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "gemma": ("gemma", _GROUPED | {"head_dim": 32}),
    "gemma2": ("gemma2", _GEMMA2 | {"attn_logit_softcapping": 2.0}),
    "gemma3": ("gemma3_text", _GEMMA2 | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "mistral": ("mistral", _GROUPED | {"sliding_window": 24}),
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", _GROUPED | {"head_dim": 32}),
    "olmo2": ("olmo2", _GROUPED),
    "olmo3": ("olmo3", _GROUPED | _MIXED),
    "smollm3": ("smollm3", _GROUPED | {"no_rope_layers": [1, 0, 1]}),
    "smollm3_last": ("smollm3", _GROUPED | {"no_rope_layers": [0, 1, 0]}),
    "ministral": ("ministral", _GROUPED | _MIXED | {"head_dim": 16}),
    "ministral3": ("ministral3", _GROUPED | {"head_dim": 16, "rope_parameters": _SHORT_YARN}),
    "granite": ("granite", _GROUPED | _MULTIPLIERS),
    "exaone4": ("exaone4", _GROUPED | _MIXED),
    "glm4": ("glm4", _GROUPED | {"head_dim": 16}),
    "seed_oss": ("seed_oss", _GROUPED | {"head_dim": 32, "attention_out_bias": True}),
    "phi3": ("phi3", _GROUPED | {"partial_rotary_factor": 0.5}),
    "gpt_neox": ("gpt_neox", _SIZES),
    "gpt_neox_sequential": ("gpt_neox", _SIZES | {"use_parallel_residual": False}),
    "mixtral": ("mixtral", _GROUPED | {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "qwen3_moe": ("qwen3_moe", _GROUPED | {"head_dim": 32, "moe_intermediate_size": 24, "num_experts": 16}),
}
ROUTED = ("mixtral", "qwen3_moe")
# To an engine as others above: in the ladder where a test asks one engine for all backbones.
ALIKE = ("olmo3", "smollm3_last", "ministral", "granite", "exaone4", "glm4", "seed_oss")
