"""Tensor names and shapes of published backbones as a function of their config.json.

Names are those of transformers' classes (InternLM2: the publisher's), as checkpoints on the Hub have them: mixtures
of experts keep a tensor for every expert.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names outside the layers (`layers` is their beginning), and what one layer holds below it."""

    layer: Callable[[Config], Shapes]
    embedding: str = "model.embed_tokens.weight"
    layers: str = "model.layers"
    final: tuple[str, ...] = ("model.norm.weight",)
    lm_head: str = "lm_head.weight"


def backbone(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of a decoder without a head."""
    layout, inside = LAYOUTS[config["model_type"]], LAYOUTS[config["model_type"]].layer(config)
    yield layout.embedding, (config["vocab_size"], config["hidden_size"])
    for i in range(config["num_hidden_layers"]):
        yield from ((f"{layout.layers}.{i}.{name}", shape) for name, shape in inside.items())
    yield from ((name, (config["hidden_size"],)) for name in layout.final)


def lm_head(config: Config) -> Shapes:
    """The output layer of a causal LM."""
    return {LAYOUTS[config["model_type"]].lm_head: (config["vocab_size"], config["hidden_size"])}


def _widths(c: Config) -> tuple[int, int]:
    """Features of all query heads and of all key heads."""
    head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    return head_dim * c["num_attention_heads"], head_dim * (c.get("num_key_value_heads") or c["num_attention_heads"])


def _attention(c: Config) -> Shapes:
    hidden, (query, key) = c["hidden_size"], _widths(c)
    return {
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key, hidden),
        "self_attn.v_proj.weight": (key, hidden),
        "self_attn.o_proj.weight": (hidden, query),
    }


def _mlp(c: Config, name: str = "mlp", width: str = "intermediate_size") -> Shapes:
    hidden, inner = c["hidden_size"], c[width]
    return {
        f"{name}.gate_proj.weight": (inner, hidden),
        f"{name}.up_proj.weight": (inner, hidden),
        f"{name}.down_proj.weight": (hidden, inner),
    }


def _norms(c: Config, *names: str) -> Shapes:
    return {f"{name}.weight": (c["hidden_size"],) for name in names}


def _llama(c: Config) -> Shapes:
    return _attention(c) | _mlp(c) | _norms(c, "input_layernorm", "post_attention_layernorm")


def _qwen2(c: Config) -> Shapes:
    query, key = _widths(c)
    return _llama(c) | {f"self_attn.{n}_proj.bias": (w,) for n, w in (("q", query), ("k", key), ("v", key))}


def _head_norms(c: Config) -> Shapes:
    return {f"self_attn.{name}_norm.weight": (c["head_dim"],) for name in "qk"}


def _gemma2(c: Config) -> Shapes:
    return _llama(c) | _norms(c, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def _olmo2(c: Config) -> Shapes:
    query, key = _widths(c)
    wide = {"self_attn.q_norm.weight": (query,), "self_attn.k_norm.weight": (key,)}
    return _attention(c) | wide | _mlp(c) | _norms(c, "post_attention_layernorm", "post_feedforward_layernorm")


def _phi3(c: Config) -> Shapes:
    hidden, inner, (query, key) = c["hidden_size"], c["intermediate_size"], _widths(c)
    return {
        "self_attn.qkv_proj.weight": (query + 2 * key, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "mlp.gate_up_proj.weight": (2 * inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        **_norms(c, "input_layernorm", "post_attention_layernorm"),
    }


def _internlm2(c: Config) -> Shapes:
    hidden, inner, (query, key) = c["hidden_size"], c["intermediate_size"], _widths(c)
    return {
        "attention.wqkv.weight": (query + 2 * key, hidden),
        "attention.wo.weight": (hidden, query),
        "feed_forward.w1.weight": (inner, hidden),
        "feed_forward.w3.weight": (inner, hidden),
        "feed_forward.w2.weight": (hidden, inner),
        **_norms(c, "attention_norm", "ffn_norm"),
    }


def _gpt_neox(c: Config) -> Shapes:
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    named: Shapes = {
        "attention.query_key_value": (3 * hidden, hidden),
        "attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (inner, hidden),
        "mlp.dense_4h_to_h": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    return biased(named)


def _mixtral(c: Config) -> Shapes:
    hidden, inner, name = c["hidden_size"], c["intermediate_size"], "block_sparse_moe"
    experts: Shapes = {f"{name}.gate.weight": (c["num_local_experts"], hidden)}
    for i in range(c["num_local_experts"]):
        experts |= {f"{name}.experts.{i}.{w}.weight": (inner, hidden) for w in ("w1", "w3")}
        experts[f"{name}.experts.{i}.w2.weight"] = (hidden, inner)
    return _attention(c) | experts | _norms(c, "input_layernorm", "post_attention_layernorm")


def _qwen3_moe(c: Config) -> Shapes:
    experts: Shapes = {"mlp.gate.weight": (c["num_experts"], c["hidden_size"])}
    for i in range(c["num_experts"]):
        experts |= _mlp(c, f"mlp.experts.{i}", "moe_intermediate_size")
    return _attention(c) | _head_norms(c) | experts | _norms(c, "input_layernorm", "post_attention_layernorm")


LAYOUTS: Mapping[str, Layout] = {
    "llama": Layout(layer=_llama),
    "mistral": Layout(layer=_llama),
    "qwen2": Layout(layer=_qwen2),
    "qwen2_5_vl": Layout(layer=_qwen2),
    "qwen3": Layout(layer=lambda c: _llama(c) | _head_norms(c)),
    "gemma": Layout(layer=_llama),
    "gemma2": Layout(layer=_gemma2),
    "gemma3_text": Layout(layer=lambda c: _gemma2(c) | _head_norms(c)),
    "olmo2": Layout(layer=_olmo2),
    "phi3": Layout(layer=_phi3),
    "mixtral": Layout(layer=_mixtral),
    "qwen3_moe": Layout(layer=_qwen3_moe),
    "internlm2": Layout(layer=_internlm2, embedding="model.tok_embeddings.weight", lm_head="output.weight"),
    "gpt_neox": Layout(
        layer=_gpt_neox,
        embedding="gpt_neox.embed_in.weight",
        layers="gpt_neox.layers",
        final=("gpt_neox.final_layer_norm.weight", "gpt_neox.final_layer_norm.bias"),
        lm_head="embed_out.weight",
    ),
}
LAYOUTS = {**LAYOUTS, "gpt_neox_reward_model": LAYOUTS["gpt_neox"]}  # Open-Assistant's name for the same


def deberta_v2(c: Config) -> Shapes:
    """DeBERTa-v3: `deberta.` of a classifier, positions in a table of 2 x position_buckets."""
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    linear = {
        **{f"attention.self.{n}_proj": (hidden, hidden) for n in ("query", "key", "value")},
        "attention.output.dense": (hidden, hidden),
        "intermediate.dense": (inner, hidden),
        "output.dense": (hidden, inner),
    }
    layer = {**linear, "attention.output.LayerNorm": (hidden,), "output.LayerNorm": (hidden,)}
    named: Shapes = {"embeddings.LayerNorm": (hidden,), "encoder.LayerNorm": (hidden,)}
    for i in range(c["num_hidden_layers"]):
        named |= {f"encoder.layer.{i}.{name}": shape for name, shape in layer.items()}
    tables: Shapes = {
        "deberta.embeddings.word_embeddings.weight": (c["vocab_size"], hidden),
        "deberta.encoder.rel_embeddings.weight": (2 * c["position_buckets"], hidden),
    }
    return tables | biased({f"deberta.{name}": shape for name, shape in named.items()})


def modernbert(c: Config) -> Shapes:
    """ModernBERT, `model.` of a classifier: no biases, no norm before the first attention."""
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    layer = {
        "attn_norm": (hidden,),
        "attn.Wqkv": (3 * hidden, hidden),
        "attn.Wo": (hidden, hidden),
        "mlp_norm": (hidden,),
        "mlp.Wi": (2 * inner, hidden),
        "mlp.Wo": (hidden, inner),
    }
    named: Shapes = {"embeddings.tok_embeddings": (c["vocab_size"], hidden), "embeddings.norm": (hidden,)}
    for i in range(c["num_hidden_layers"]):
        named |= {f"layers.{i}.{name}": shape for name, shape in layer.items() if i > 0 or name != "attn_norm"}
    return {f"model.{name}.weight": shape for name, shape in {**named, "final_norm": (hidden,)}.items()}


def biased(named: Shapes) -> Shapes:
    """Linear layers and norms with a bias each."""
    weights: Shapes = {f"{name}.weight": shape for name, shape in named.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in named.items()}
