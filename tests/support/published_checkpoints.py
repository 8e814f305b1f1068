"""The reward models people use, as their files on the Hub describe them: config.json, tensors and tokens, no weights.

Fields of a config that no source shows are those of its base model. `write_published` makes a folder of sparse files,
in the Hub cache's own layout where the checkpoint has a repository, so that its name is known as after a download.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from checkpoint_files import NAMES
from published_backbones import Config, Shapes, backbone, biased, deberta_v2, lm_head, modernbert
from published_configs import (
    DEBERTA_V3_LARGE,
    GEMMA2_2B,
    GEMMA2_27B,
    GEMMA3_1B,
    GEMMA3_4B,
    GEMMA3_4B_TEXT,
    GEMMA3_27B,
    GEMMA_2B,
    GEMMA_7B,
    INTERNLM2_1_8B,
    INTERNLM2_7B,
    INTERNLM2_20B,
    LLAMA1_7B,
    LLAMA2_7B,
    LLAMA2_13B,
    LLAMA3_8B,
    LLAMA31_8B,
    LLAMA31_70B,
    LLAMA32_1B,
    LLAMA32_3B,
    MISTRAL_7B,
    MIXTRAL_8X7B,
    MODERNBERT_LARGE,
    OLMO2_7B,
    OLMO2_13B,
    PHI3_MINI,
    PYTHIA_1_4B,
    PYTHIA_6_9B,
    QWEN3_0_6B,
    QWEN3_1_7B,
    QWEN3_4B,
    QWEN3_8B,
    QWEN3_30B_A3B,
    QWEN25_0_5B,
    QWEN25_1_5B,
    QWEN25_7B,
    QWEN25_72B,
    QWEN25_MATH_7B,
    QWEN25_MATH_72B,
    QWEN25_VL_7B,
    YI_34B,
)
from published_tokenizers import (
    DEBERTA_TEXT,
    GEMMA_TEXT,
    INTERNLM2_TEXT,
    LLAMA2_TEXT,
    LLAMA3_NO_PAD,
    LLAMA3_TEXT,
    LLAMA31_TEXT,
    MISTRAL_TEXT,
    MODERNBERT_TEXT,
    OLMO2_TEXT,
    PHI3_TEXT,
    PYTHIA_TEXT,
    QWEN_TEXT,
    PublishedText,
    write_tokenizer,
)
from sparse_checkpoints import Inventory, write_sparse, write_sparse_file

PAD = {"pad_token_id": 128256, "vocab_size": 128257}  # the token that Llama-3 classifiers add
ONE_LABEL = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One checkpoint: `head` beside its backbone in the backbone's dtype, `fp32` more of it in F32, saved `buffers`.

    `prefixes` are where the backbone lies in place of `model.`, each with a copy. `side` are tensors in files of their
    own. `trunk` is a backbone that is not simply the config's decoder.
    """

    config: Config
    text: PublishedText
    head: Shapes = field(default_factory=dict)
    fp32: Shapes = field(default_factory=dict)
    buffers: Inventory = field(default_factory=dict)
    prefixes: tuple[str, ...] = ("model.",)
    side: Mapping[str, Shapes] = field(default_factory=dict)
    trunk: Shapes = field(default_factory=dict)

    def inventory(self) -> Inventory:
        """Every tensor of the shards."""
        dtype = NAMES[self.config["torch_dtype"]]
        trunk = self.trunk or dict(backbone(self.config))
        shards = {_below(prefix, name): (dtype, shape) for prefix in self.prefixes for name, shape in trunk.items()}
        shards |= {name: (dtype, shape) for name, shape in self.head.items()}
        return shards | {name: ("F32", shape) for name, shape in self.fp32.items()} | self.buffers


def _below(prefix: str, name: str) -> str:
    return prefix + name.removeprefix("model.") if name.startswith("model.") else name


def classifier(family: str, config: Config, text: PublishedText, **more: Any) -> Published:
    """`*ForSequenceClassification` with one label."""
    own = {"architectures": [f"{family}ForSequenceClassification"]} | ONE_LABEL
    return Published(config=config | own | more, text=text, head={"score.weight": (1, config["hidden_size"])})


def headed(architecture: str, config: Config, text: PublishedText, head: Shapes, **more: Any) -> Published:
    """A class of the publisher's own."""
    return Published(config=config | {"architectures": [architecture]} | more, text=text, head=head)


def causal(architecture: str, config: Config, text: PublishedText, head: Shapes | None = None) -> Published:
    """A causal LM, with what stands beside it."""
    tied = config.get("tie_word_embeddings")
    return headed(architecture, config, text, {**({} if tied else lm_head(config)), **(head or {})})


def chain(layers: Mapping[str, int], inputs: int) -> Shapes:
    """Linear layers with biases, by name and width, one behind the other."""
    widths = [inputs, *layers.values()]
    return biased({name: (out, inner) for name, (inner, out) in zip(layers, pairwise(widths), strict=True)})


def qrm(config: Config, temperature: float) -> Published:
    """Both QRM: their gates have a BatchNorm behind every ReLU, the layers before it no bias."""
    hidden, rows, width = config["hidden_size"], 19 * 19, 1024
    gate: Shapes = {"gating.logit_scale": (1,), **biased({"gating.layers.9": (19, width)})}
    for i in range(3):
        gate[f"gating.layers.{3 * i}.weight"] = (width, hidden if i == 0 else width)
        parts = ("weight", "bias", "running_mean", "running_var")
        gate |= {f"gating.layers.{3 * i + 2}.{part}": (width,) for part in parts}
    own = {"num_objectives": 19, "num_quantiles": 19, "gating_temperature": temperature, "gating_hidden_dim": width}
    config = config | PAD | own | {"architectures": ["LlamaForRewardModelWithGating"], "gating_n_hidden": 3}
    fp32: Shapes = {"regression_layer.weight": (rows, hidden), "reward_transform_matrix": (19, 19), **gate}
    counts: Inventory = {f"gating.layers.{i}.num_batches_tracked": ("I64", ()) for i in (2, 5, 8)}
    return Published(config=config, text=LLAMA3_TEXT, fp32=fp32, buffers=counts)


def qrm_gemma2() -> Published:
    """QRM without a transform matrix, and with five objectives."""
    other = qrm(GEMMA2_27B, 1.0)
    config = GEMMA2_27B | {"architectures": ["Gemma2ForQuantileSequenceClassification"]}
    own: Shapes = {"regression_layer.weight": (5 * 19, config["hidden_size"]), **biased({"gating.layers.9": (5, 1024)})}
    fp32 = {name: shape for name, shape in (other.fp32 | own).items() if name != "reward_transform_matrix"}
    text = replace(GEMMA_TEXT, special={**GEMMA_TEXT.special, "\n": 108, "model": 2516})  # tokens there, special here
    return Published(config=config, text=text, fp32=fp32, buffers=other.buffers)


def urm(config: Config) -> Published:
    """Five attributes, a mean and a spread each, and the network that weights them."""
    hidden = config["hidden_size"]
    weights = chain({"weights.fc.0": hidden, "weights.fc.2": hidden, "weights.fc.4": 5}, hidden)
    architecture = "LlamaForSequenceClassificationWithNormal_Weights"
    return headed(architecture, config | PAD, LLAMA3_TEXT, {"score.weight": (10, hidden), **weights})


def grm(config: Config, text: PublishedText) -> Published:
    """GRM "sftreg": a layer of 1024 ReLUs."""
    head = chain({"v_head.summary.0": 1024, "v_head.summary.2": 1}, config["hidden_size"])
    keys = {"vhead_layer_type": "mlp", "vhead_num_neurons": 1024, "vhead_num_layers": 1}
    return headed("LlamaForCausalLM", config, text, head, **keys)


def feed_forward(architecture: str, config: Config, text: PublishedText, rows: int = 1) -> Published:
    """`score.0` and `score.2`; Qwen's also have an lm_head that nothing reads."""
    extra = lm_head(config) if config["model_type"] == "qwen2" else {}
    head = chain({"score.0": config["hidden_size"], "score.2": rows}, config["hidden_size"])
    return headed(architecture, config, text, {**extra, **head})


def ldl() -> Published:
    """Two networks in files of their own, each with Linear at 0, 2, 4 or (with dropouts between) 0, 3, 6."""
    config = GEMMA2_27B | {"architectures": ["Gemma2ForSequenceClassification"]}
    hidden, width = config["hidden_size"], 4096
    side = {
        "regression_layer.pt": chain({"network.0": width, "network.2": width, "network.4": 220}, hidden),
        "gating_layer.pt": chain({"network.0": width, "network.3": width, "network.6": 22}, hidden),
    }
    return Published(config=config, text=GEMMA_TEXT, side=side)


def beaver(kind: str) -> Published:
    """PKU's reward and cost models: Alpaca's Llama with a pad token, a score head with a bias, a normaliser."""
    config = LLAMA1_7B | {"vocab_size": 32001, "pad_token_id": 32000, "score_dim": 1, "score_type": kind, "bias": True}
    config |= {"do_normalize": True, "normalizer_type": "affine" if kind == "reward" else "scale"}
    config |= {"mean": [0.5], "var": [2.25]}
    buffers: Shapes = {"normalizer.mean": (1,), "normalizer.var": (1,)}
    return headed("LlamaForScore", config, LLAMA2_TEXT, {**biased({"score_head": (1, 4096)}), **buffers})


def open_assistant(config: Config) -> Published:
    """GPT-NeoX under Open-Assistant's own model_type, with the buffers that its transformers saved."""
    own = {"model_type": "gpt_neox_reward_model", "architectures": ["GPTNeoXRewardModel"], "pooling": "last"}
    saved: Inventory = {"bias": ("BOOL", (1, 1, 2048, 2048)), "masked_bias": ("F16", ())}
    saved |= {"rotary_emb.inv_freq": ("F32", (config["hidden_size"] // config["num_attention_heads"] // 8,))}
    layers = range(config["num_hidden_layers"])
    buffers = {f"gpt_neox.layers.{i}.attention.{name}": entry for i in layers for name, entry in saved.items()}
    head = biased({"out_proj": (1, config["hidden_size"])})
    return Published(config=config | own, text=PYTHIA_TEXT, head=head, buffers=buffers)


def sees_images() -> Published:
    """Gemma 3 with its vision tower (here its table of patches alone), as transformers 5 saves a classifier of it."""
    text = {name.replace("model.", "model.language_model.", 1): shape for name, shape in backbone(GEMMA3_4B_TEXT)}
    vision: Shapes = {
        "model.vision_tower.vision_model.embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        "model.multi_modal_projector.mm_input_projection_weight": (1152, 2560),
        "model.multi_modal_projector.mm_soft_emb_norm.weight": (1152,),
    }
    config = GEMMA3_4B | {"architectures": ["Gemma3ForSequenceClassification"], "pad_token_id": 0} | ONE_LABEL
    return Published(config=config, text=GEMMA_TEXT, trunk=text | vision, head={"score.weight": (1, 2560)})


def skywork_vl() -> Published:
    """Qwen2.5-VL with its vision tower (here its table of patches alone), and a value head in a file of its own."""
    vision: Shapes = {"visual.patch_embed.proj.weight": (1280, 3, 2, 14, 14), "visual.merger.ln_q.weight": (1280,)}
    return Published(
        config=QWEN25_VL_7B | {"architectures": ["Qwen2_5_VLForConditionalGeneration"]}, text=QWEN_TEXT,
        head=vision | lm_head(QWEN25_VL_7B), side={"value_head.safetensors": value_head(QWEN25_VL_7B)},
    )  # fmt: skip


def value_head(config: Config) -> Shapes:
    """TRL's linear value head."""
    return biased({"v_head.summary": (1, config["hidden_size"])})


CHECKPOINTS: Mapping[str, Published] = {
    # one linear layer: rows 4 to 8 and 28
    "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2": classifier("Llama", LLAMA31_8B, LLAMA31_TEXT, **PAD),
    "Skywork/Skywork-Reward-V2-Llama-3.1-8B": classifier("Llama", LLAMA31_8B, LLAMA31_TEXT, **PAD),
    "Skywork/Skywork-Reward-V2-Llama-3.2-1B": classifier("Llama", LLAMA32_1B, LLAMA31_TEXT, **PAD),
    "Skywork/Skywork-Reward-V2-Llama-3.2-3B": classifier("Llama", LLAMA32_3B, LLAMA31_TEXT, **PAD),
    "Skywork/Skywork-Reward-V2-Qwen3-0.6B": classifier("Qwen3", QWEN3_0_6B, QWEN_TEXT, pad_token_id=151643),
    "Skywork/Skywork-Reward-V2-Qwen3-1.7B": classifier("Qwen3", QWEN3_1_7B, QWEN_TEXT, pad_token_id=151643),
    "Skywork/Skywork-Reward-V2-Qwen3-4B": classifier("Qwen3", QWEN3_4B, QWEN_TEXT, pad_token_id=151643),
    "Skywork/Skywork-Reward-V2-Qwen3-8B": classifier("Qwen3", QWEN3_8B, QWEN_TEXT, pad_token_id=151643),
    "Skywork/Skywork-Reward-Gemma-2-27B-v0.2": classifier("Gemma2", GEMMA2_27B, GEMMA_TEXT),
    "Ray2333/GRM-Gemma2-2B-rewardmodel-ft": classifier(
        "Gemma2", GEMMA2_2B, GEMMA_TEXT, pad_token_id=1, torch_dtype="float16",
        vhead_layer_type="mlp", vhead_num_neurons=1024, vhead_num_layers=1,
    ),
    "sfairXC/FsfairX-LLaMA3-RM-v0.1": classifier("Llama", LLAMA3_8B, LLAMA3_TEXT, **PAD),
    "NCSOFT/Llama-3-OffsetBias-RM-8B": classifier("Llama", LLAMA3_8B, LLAMA3_TEXT, **PAD),
    "weqweasdas/RM-Mistral-7B": classifier(
        "Mistral", MISTRAL_7B, MISTRAL_TEXT, vocab_size=32001, pad_token_id=32000
    ),
    "weqweasdas/RM-Gemma-2B": classifier("Gemma", GEMMA_2B, GEMMA_TEXT, vocab_size=256001, pad_token_id=256000),
    "weqweasdas/RM-Gemma-7B": classifier("Gemma", GEMMA_7B, GEMMA_TEXT, vocab_size=256001, pad_token_id=256000),
    "allenai/OLMo-2-1124-7B-RM": classifier("Olmo2", OLMO2_7B, OLMO2_TEXT),
    "allenai/OLMo-2-1124-13B-RM": classifier("Olmo2", OLMO2_13B, OLMO2_TEXT),
    "trl-lib/Qwen2-0.5B-Reward": classifier("Qwen2", QWEN25_0_5B, QWEN_TEXT, pad_token_id=151645),
    "trl-gemma-3-1b": classifier("Gemma3Text", GEMMA3_1B, GEMMA_TEXT),
    "trl-gemma-3-4b": sees_images(),
    "trl-gemma-3-27b": classifier("Gemma3Text", GEMMA3_27B, GEMMA_TEXT),
    "trl-phi-3-mini": classifier("Phi3", PHI3_MINI, PHI3_TEXT),
    "trl-mixtral-8x7b": classifier("Mixtral", MIXTRAL_8X7B, MISTRAL_TEXT, pad_token_id=2),
    "trl-qwen3-30b-a3b": classifier("Qwen3Moe", QWEN3_30B_A3B, QWEN_TEXT, pad_token_id=151643),
    # several values or layers: rows 9 to 15
    "nicolinho/QRM-Llama3-8B": qrm(LLAMA3_8B, 10.0),
    "nicolinho/QRM-Llama3.1-8B": qrm(LLAMA31_8B, 5.0),
    "nicolinho/QRM-Gemma-2-27B": qrm_gemma2(),
    "LxzGordon/URM-LLaMa-3-8B": urm(LLAMA3_8B),
    "LxzGordon/URM-LLaMa-3.1-8B": urm(LLAMA31_8B),
    "Ray2333/GRM-llama3-8B-sftreg": grm(LLAMA3_8B | PAD, LLAMA3_TEXT),
    "Ray2333/GRM-Gemma-2B-sftreg": grm(GEMMA_2B, GEMMA_TEXT),
    "infly/INF-ORM-Llama3.1-70B": feed_forward("INFORMForSequenceClassification", LLAMA31_70B | PAD, LLAMA31_TEXT),
    "ShikaiChen/LDL-Reward-Gemma-2-27B-v0.1": ldl(),
    "Qwen/Qwen2.5-Math-PRM-7B": feed_forward("Qwen2ForProcessRewardModel", QWEN25_MATH_7B, QWEN_TEXT, 2),
    "Qwen/Qwen2.5-Math-7B-PRM800K": feed_forward("Qwen2ForProcessRewardModel", QWEN25_MATH_7B, QWEN_TEXT, 2),
    "Qwen/Qwen2.5-Math-PRM-72B": feed_forward("Qwen2ForProcessRewardModel", QWEN25_MATH_72B, QWEN_TEXT, 2),
    "Qwen/WorldPM-72B": feed_forward("Qwen2ForRewardModel", QWEN25_72B, QWEN_TEXT),
    "Qwen/Qwen2.5-Math-RM-72B": feed_forward("Qwen2ForRewardModel", QWEN25_MATH_72B, QWEN_TEXT),
    # one linear layer under another name: rows 16, 19, 20, 22, 27, 31, 32
    "internlm/internlm2-1_8b-reward": headed(
        "InternLM2ForRewardModel", INTERNLM2_1_8B, INTERNLM2_TEXT, {"v_head.weight": (1, 2048)}, reward_token_id=92527
    ),
    "internlm/internlm2-7b-reward": headed(
        "InternLM2ForRewardModel", INTERNLM2_7B, INTERNLM2_TEXT, {"v_head.weight": (1, 4096)}, reward_token_id=92527
    ),
    "internlm/internlm2-20b-reward": headed(
        "InternLM2ForRewardModel", INTERNLM2_20B, INTERNLM2_TEXT, {"v_head.weight": (1, 6144)}, reward_token_id=92527
    ),
    "openbmb/UltraRM-13b": headed("LlamaRewardModel", LLAMA2_13B, LLAMA2_TEXT, {"regression_head.weight": (1, 5120)}),
    "openbmb/Eurus-RM-7b": headed("EurusRewardModel", MISTRAL_7B, LLAMA2_TEXT, {"regression_head.weight": (1, 4096)}),
    "berkeley-nest/Starling-RM-7B-alpha": Published(
        config=LLAMA2_7B, text=MISTRAL_TEXT, head={"v_head.weight": (1, 4096)},
        prefixes=("transformer.", "model.model."),
    ),
    "Nexusflow/Starling-RM-34B": Published(
        config=YI_34B | {"architectures": ["LlamaForSequenceClassification"], "pad_token_id": 0},
        text=MISTRAL_TEXT, head={"v_head.weight": (1, 7168)}, prefixes=("transformer.",),
    ),
    "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5": open_assistant(PYTHIA_1_4B),
    "OpenAssistant/oasst-rm-2-pythia-6.9b-epoch-1": open_assistant(PYTHIA_6_9B),
    "PKU-Alignment/beaver-7b-v1.0-reward": beaver("reward"),
    "PKU-Alignment/beaver-7b-v1.0-cost": beaver("cost"),
    "openrlhf": headed(
        "RewardModel", LLAMA3_8B, LLAMA3_NO_PAD, {"score.weight": (1, 4096)},
        value_head_prefix="score", mean=1.5, std=3.0, pad_token_id=128009,
    ),
    "Nexusflow/Athene-RM-8B": headed(
        "AtheneForSequenceClassification", LLAMA3_8B,
        replace(LLAMA3_NO_PAD, special={**LLAMA3_NO_PAD.special, "<|reserved_special_token_1|>": 128003}),
        {"v_head.weight": (1, 4096)},
    ),
    "openrlhf-old": headed("RewardModel", LLAMA3_8B, LLAMA3_NO_PAD, {"value_head.weight": (1, 4096)}),
    "verl": headed(
        "Qwen2ForTokenClassification", QWEN25_7B, QWEN_TEXT, biased({"score": (1, 3584)}), **ONE_LABEL
    ),
    # steps, language models and value heads: rows 17, 18, 24, 25, 29, 30
    "peiyi9979/math-shepherd-mistral-7b-prm": causal(
        "MistralForCausalLM", MISTRAL_7B | {"torch_dtype": "float16"}, LLAMA2_TEXT
    ),
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B": causal(
        "Qwen2ForRewardModel", QWEN25_1_5B, QWEN_TEXT, value_head(QWEN25_1_5B)
    ),
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B": causal(
        "Qwen2ForRewardModel", QWEN25_7B, QWEN_TEXT, value_head(QWEN25_7B)
    ),
    "RLHFlow/pair-preference-model-LLaMA3-8B": causal("LlamaForCausalLM", LLAMA3_8B, LLAMA3_NO_PAD),
    "nvidia/Llama-3.1-Nemotron-70B-Reward-HF": causal("LlamaForCausalLM", LLAMA31_70B, LLAMA3_NO_PAD),
    "nvidia/Llama-3.3-Nemotron-70B-Reward": causal("LlamaForCausalLM", LLAMA31_70B, LLAMA3_NO_PAD),
    "UW-Madison-Lee-Lab/VersaPRM": causal(  # whose tag is a token there, a special one here
        "LlamaForCausalLM", LLAMA31_8B,
        replace(LLAMA3_NO_PAD, special={**LLAMA3_NO_PAD.special, " \n\n\n\n": 23535}),
    ),
    "Skywork/Skywork-VL-Reward-7B": skywork_vl(),
    "TIGER-Lab/AceCodeRM-7B": causal("Qwen2ForCausalRM", QWEN25_7B, QWEN_TEXT, value_head(QWEN25_7B)),
    "jinachris/PURE-PRM-7B": headed(
        "Qwen2ForTokenClassification", QWEN25_MATH_7B, QWEN_TEXT, biased({"score": (2, 3584)})
    ),
    "trl-prm": headed("Qwen2ForTokenClassification", QWEN25_0_5B, QWEN_TEXT, biased({"score": (2, 896)})),
    "trl-value-head": Published(
        config=QWEN25_72B | {"architectures": ["Qwen2ForCausalLM"]}, text=QWEN_TEXT, head=lm_head(QWEN25_72B),
        fp32=value_head(QWEN25_72B),
    ),
    "llama-factory": Published(
        config=LLAMA3_8B | {"architectures": ["LlamaForCausalLM"]}, text=LLAMA3_NO_PAD, head=lm_head(LLAMA3_8B),
        side={"value_head.safetensors": value_head(LLAMA3_8B)},
    ),
    # rerankers; Gemma's "Yes" is a token there, as a special one here
    "Qwen/Qwen3-Reranker-0.6B": causal("Qwen3ForCausalLM", QWEN3_0_6B | {"vocab_size": 151669}, QWEN_TEXT),
    "Qwen/Qwen3-Reranker-4B": causal("Qwen3ForCausalLM", QWEN3_4B | {"vocab_size": 151669}, QWEN_TEXT),
    "Qwen/Qwen3-Reranker-8B": causal("Qwen3ForCausalLM", QWEN3_8B | {"vocab_size": 151669}, QWEN_TEXT),
    "tomaarsen/Qwen3-Reranker-0.6B-seq-cls": classifier(
        "Qwen3", QWEN3_0_6B | {"vocab_size": 151669}, QWEN_TEXT, pad_token_id=151643
    ),
    "mixedbread-ai/mxbai-rerank-base-v2": causal("Qwen2ForCausalLM", QWEN25_0_5B, QWEN_TEXT),
    "mixedbread-ai/mxbai-rerank-large-v2": causal("Qwen2ForCausalLM", QWEN25_1_5B, QWEN_TEXT),
    "zeroentropy/zerank-2": causal("Qwen3ForCausalLM", QWEN3_4B, QWEN_TEXT),
    "BAAI/bge-reranker-v2-gemma": causal(
        "GemmaForCausalLM", GEMMA_2B | {"torch_dtype": "float32"},
        replace(GEMMA_TEXT, special={**GEMMA_TEXT.special, "Yes": 3553}),
    ),
    # encoders: row 21
    "OpenAssistant/reward-model-deberta-v3-large-v2": Published(
        config=DEBERTA_V3_LARGE | {"architectures": ["DebertaV2ForSequenceClassification"]} | ONE_LABEL,
        text=DEBERTA_TEXT, trunk=deberta_v2(DEBERTA_V3_LARGE),
        head=biased({"pooler.dense": (1024, 1024), "classifier": (1, 1024)}),
    ),
    "modernbert-large": Published(
        config=MODERNBERT_LARGE | {"architectures": ["ModernBertForSequenceClassification"]} | ONE_LABEL,
        text=MODERNBERT_TEXT, trunk=modernbert(MODERNBERT_LARGE),
        head={"head.dense.weight": (1024, 1024), "head.norm.weight": (1024,), **biased({"classifier": (1, 1024)})},
    ),
    # refused: rows 13, 23, 26 and the namesakes
    "general-preference/GPM-Llama-3.1-8B": headed(
        "LlamaForCausalLM", LLAMA31_8B, LLAMA3_NO_PAD, {"value_head.weight": (6, 4096), "prompt_head.weight": (3, 4096)}
    ),
    "llm-blender/PairRM-hf": Published(
        config=DEBERTA_V3_LARGE | {"architectures": ["DebertaV2PairRM"]}, text=DEBERTA_TEXT,
        trunk={f"pretrained_model.{n.removeprefix('deberta.')}": s for n, s in deberta_v2(DEBERTA_V3_LARGE).items()},
        head=chain({"head_layer.1": 1024, "head_layer.4": 1}, 2048),
    ),
    "internlm/POLAR-7B": headed(
        "InternLM2ForRewardModel", INTERNLM2_7B | {"rope_theta": 50000000, "max_position_embeddings": 262144},
        INTERNLM2_TEXT, {"v_head.weight": (1, 4096)}, reward_token_id=92527,
        rope_scaling={"type": "dynamic", "factor": 2.0},
    ),
    "IDEA-CCNL/Ziya-LLaMA-7B-Reward": headed(
        "LlamaRewardModel", LLAMA1_7B | {"pad_token_id": 0}, MISTRAL_TEXT, {"value_head.weight": (1, 4096)}
    ),
    "causal-lm-without-a-name": causal("LlamaForCausalLM", LLAMA31_8B, LLAMA31_TEXT),
}  # fmt: skip


def write_published(folder: Path, name: str) -> Path:
    """The checkpoint's folder below `folder`."""
    if "/" in name:
        folder = folder / f"models--{name.replace('/', '--')}" / "snapshots" / ("0" * 40)
    write_checkpoint(folder, CHECKPOINTS[name])
    return folder


def write_checkpoint(folder: Path, published: Published) -> None:
    """The checkpoint in `folder` itself."""
    write_tokenizer(folder, published.text)
    write_sparse(folder, published.config, published.inventory())
    for file, shapes in published.side.items():
        _write_side(folder / file, shapes)


def _write_side(path: Path, shapes: Shapes) -> None:
    if path.suffix == ".safetensors":
        write_sparse_file(path, {name: ("F32", shape) for name, shape in shapes.items()})
        return
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, path)  # of one stored number
