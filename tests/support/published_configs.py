"""config.json of the base models that reward models are trained from, in the spelling of their release."""

from published_backbones import Config

LLAMA2_7B: Config = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "max_position_embeddings": 4096, "rope_scaling": None, "tie_word_embeddings": False, "vocab_size": 32000,
    "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA1_7B = LLAMA2_7B | {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048}
LLAMA2_13B = LLAMA2_7B | {
    "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 40,
}  # fmt: skip
YI_34B = LLAMA2_7B | {
    "hidden_size": 7168, "intermediate_size": 20480, "num_hidden_layers": 60, "num_attention_heads": 56,
    "num_key_value_heads": 8, "rope_theta": 5000000.0, "vocab_size": 64000,
}  # fmt: skip
LLAMA3_8B = LLAMA2_7B | {
    "intermediate_size": 14336, "num_key_value_heads": 8, "rope_theta": 500000.0, "attention_bias": False,
    "mlp_bias": False, "max_position_embeddings": 8192, "vocab_size": 128256, "bos_token_id": 128000,
    "eos_token_id": 128009,
}  # fmt: skip
LLAMA31_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
LLAMA31_8B = LLAMA3_8B | {
    "max_position_embeddings": 131072, "rope_scaling": LLAMA31_ROPE, "eos_token_id": [128001, 128008, 128009],
}  # fmt: skip
LLAMA31_70B = LLAMA31_8B | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
}  # fmt: skip
LLAMA32_3B = LLAMA31_8B | {
    "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
    "head_dim": 128, "tie_word_embeddings": True, "rope_scaling": LLAMA31_ROPE | {"factor": 32.0},
}  # fmt: skip
LLAMA32_1B = LLAMA32_3B | {
    "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "head_dim": 64,
}  # fmt: skip
MISTRAL_7B: Config = {
    "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "sliding_window": 4096, "hidden_act": "silu", "max_position_embeddings": 32768, "tie_word_embeddings": False,
    "vocab_size": 32000, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
}  # fmt: skip
MIXTRAL_8X7B = MISTRAL_7B | {
    "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1000000.0,
    "sliding_window": None, "output_router_logits": False, "router_aux_loss_coef": 0.02,
}  # fmt: skip
QWEN25_7B: Config = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "sliding_window": 131072, "use_sliding_window": False, "max_window_layers": 28, "hidden_act": "silu",
    "max_position_embeddings": 32768, "tie_word_embeddings": False, "vocab_size": 152064, "bos_token_id": 151643,
    "eos_token_id": 151645, "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN25_MATH_7B = QWEN25_7B | {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096}
QWEN25_72B = QWEN25_7B | {
    "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "max_window_layers": 80,
}  # fmt: skip
QWEN25_MATH_72B = QWEN25_72B | {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096}
QWEN25_1_5B = QWEN25_7B | {
    "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2,
    "tie_word_embeddings": True, "vocab_size": 151936,
}  # fmt: skip
QWEN25_0_5B = QWEN25_1_5B | {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "max_window_layers": 24,
}  # fmt: skip
QWEN25_VL_7B = QWEN25_7B | {  # text and images side by side, as released; of the vision tower no more than is read here
    "model_type": "qwen2_5_vl", "max_position_embeddings": 128000, "sliding_window": 32768,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "image_token_id": 151655,
    "vision_config": {"model_type": "qwen2_5_vl", "hidden_size": 1280, "out_hidden_size": 3584, "patch_size": 14},
}  # fmt: skip
QWEN3_8B: Config = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-6,
    "rope_theta": 1000000, "rope_scaling": None, "attention_bias": False, "sliding_window": None,
    "use_sliding_window": False, "max_window_layers": 36, "hidden_act": "silu", "max_position_embeddings": 40960,
    "tie_word_embeddings": False, "vocab_size": 151936, "bos_token_id": 151643, "eos_token_id": 151645,
    "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN3_4B = QWEN3_8B | {"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}
QWEN3_1_7B = QWEN3_4B | {
    "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
    "max_window_layers": 28,
}  # fmt: skip
QWEN3_0_6B = QWEN3_1_7B | {"hidden_size": 1024, "intermediate_size": 3072}
QWEN3_30B_A3B = QWEN3_8B | {
    "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_hidden_layers": 48, "num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8,
    "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "max_window_layers": 48,
    "output_router_logits": False, "router_aux_loss_coef": 0.001,
}  # fmt: skip
GEMMA_2B: Config = {
    "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
    "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "rope_scaling": None, "attention_bias": False, "hidden_act": "gelu", "max_position_embeddings": 8192,
    "vocab_size": 256000, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "bfloat16",
}  # fmt: skip
GEMMA_7B = GEMMA_2B | {
    "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 16,
}  # fmt: skip
GEMMA2_2B: Config = {
    "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096, "cache_implementation":
    "hybrid", "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "attention_bias": False, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "vocab_size": 256000,
    "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "bfloat16",
}  # fmt: skip
GEMMA2_27B = GEMMA2_2B | {
    "hidden_size": 4608, "intermediate_size": 36864, "num_hidden_layers": 46, "num_attention_heads": 32,
    "num_key_value_heads": 16, "head_dim": 128, "query_pre_attn_scalar": 144,
}  # fmt: skip
GEMMA3_1B: Config = {
    "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": 512,
    "sliding_window_pattern": 6, "cache_implementation": "hybrid", "rms_norm_eps": 1e-6, "rope_theta": 1000000,
    "rope_local_base_freq": 10000, "rope_scaling": None, "attention_bias": False,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 32768, "vocab_size": 262144,
    "bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0, "torch_dtype": "bfloat16",
}  # fmt: skip
GEMMA3_27B = GEMMA3_1B | {  # the text half
    "hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62, "num_attention_heads": 32,
    "num_key_value_heads": 16, "head_dim": 128, "query_pre_attn_scalar": 168, "sliding_window": 1024,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "max_position_embeddings": 131072, "vocab_size": 262208,
}  # fmt: skip
GEMMA3_4B_TEXT = GEMMA3_1B | {  # the text half
    "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "num_attention_heads": 8,
    "num_key_value_heads": 4, "sliding_window": 1024, "vocab_size": 262208,
}  # fmt: skip
GEMMA3_4B: Config = {  # as released: what is not said is as in transformers' classes
    "model_type": "gemma3", "boi_token_index": 255999, "eoi_token_index": 256000, "eos_token_id": [1, 106],
    "image_token_index": 262144, "mm_tokens_per_image": 256, "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    },
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
        "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False,
    },
}  # fmt: skip
PHI3_MINI: Config = {
    "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "rope_scaling": None, "sliding_window": 2047, "hidden_act": "silu", "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096, "tie_word_embeddings": False, "vocab_size": 32064, "bos_token_id": 1,
    "eos_token_id": 32000, "pad_token_id": 32000, "torch_dtype": "bfloat16",
}  # fmt: skip
OLMO2_7B: Config = {
    "model_type": "olmo2", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-6, "rope_theta": 500000,
    "rope_scaling": None, "attention_bias": False, "hidden_act": "silu", "max_position_embeddings": 4096,
    "tie_word_embeddings": False, "vocab_size": 100352, "eos_token_id": 100257, "pad_token_id": 100277,
    "torch_dtype": "bfloat16",
}  # fmt: skip
OLMO2_13B = OLMO2_7B | {
    "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 40,
}  # fmt: skip
INTERNLM2_7B: Config = {
    "model_type": "internlm2", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1000000,
    "rope_scaling": None, "bias": False, "hidden_act": "silu", "attn_implementation": "eager",
    "max_position_embeddings": 32768, "tie_word_embeddings": False, "vocab_size": 92544, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 2, "torch_dtype": "float16",
}  # fmt: skip
INTERNLM2_1_8B = INTERNLM2_7B | {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 16,
}  # fmt: skip
INTERNLM2_20B = INTERNLM2_7B | {
    "hidden_size": 6144, "intermediate_size": 16384, "num_hidden_layers": 48, "num_attention_heads": 48,
}  # fmt: skip
PYTHIA_6_9B: Config = {
    "model_type": "gpt_neox", "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32,
    "num_attention_heads": 32, "layer_norm_eps": 1e-5, "rotary_pct": 0.25, "rotary_emb_base": 10000,
    "use_parallel_residual": True, "hidden_act": "gelu", "max_position_embeddings": 2048,
    "tie_word_embeddings": False, "vocab_size": 50288, "bos_token_id": 0, "eos_token_id": 0,
    "torch_dtype": "float16",
}  # fmt: skip
PYTHIA_1_4B = PYTHIA_6_9B | {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 16,
}  # fmt: skip
DEBERTA_V3_LARGE: Config = {
    "model_type": "deberta-v2", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-7, "max_position_embeddings": 512,
    "max_relative_positions": -1, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "relative_attention": True, "type_vocab_size": 0,
    "pooler_hidden_size": 1024, "pooler_hidden_act": "gelu", "pooler_dropout": 0, "pad_token_id": 0,
    "vocab_size": 128100, "torch_dtype": "float32",
}  # fmt: skip
MODERNBERT_LARGE: Config = {
    "model_type": "modernbert", "hidden_size": 1024, "intermediate_size": 2624, "num_hidden_layers": 28,
    "num_attention_heads": 16, "hidden_activation": "gelu", "norm_eps": 1e-5, "norm_bias": False,
    "attention_bias": False, "mlp_bias": False, "classifier_bias": False, "classifier_pooling": "mean",
    "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_attention": 128,
    "local_rope_theta": 10000.0, "max_position_embeddings": 8192, "vocab_size": 50368, "bos_token_id": 50281,
    "cls_token_id": 50281, "eos_token_id": 50282, "sep_token_id": 50282, "pad_token_id": 50283,
    "torch_dtype": "float32",
}  # fmt: skip
