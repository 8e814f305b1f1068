"""What one run of bench_gpu.py measures: the full plan for a GPU, and tiny ones that run the same code without one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench_checkpoints import ARMORM, LLAMA3_8B
from bench_families import SHAPES

Config = Mapping[str, Any]
KINDS = ("linear", "fused", "attention", "packed", "fp8")  # of operator probes


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder by its config.json; checkpoints of it have random weights in bf16."""

    name: str
    config: Config

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        size: int = self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"]
        return size

    @property
    def matmul_parameters(self) -> int:
        """Weights that every token is multiplied with: the layers' matrices, without embedding, head and norms."""
        c = self.config
        hidden, query = c["hidden_size"], c["num_attention_heads"] * self.head_dim
        key = c["num_key_value_heads"] * self.head_dim
        layer: int = 2 * hidden * query + 2 * hidden * key + 3 * hidden * c["intermediate_size"]
        return layer * int(c["num_hidden_layers"])

    @property
    def flops_per_token(self) -> int:
        """Of the layers' matrix products: a multiplication and an addition a weight."""
        return 2 * self.matmul_parameters


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A way to run a bundle: `device` and `dialect` as RewardModel.load takes them."""

    name: str
    device: str
    dialect: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every size of a run.

    `torch_device` is where the peers, the reference and the ceilings compute, `engine_device` where the operator probes
    run: "cuda" with torch on "cpu" is a rehearsal over a stub of CUDA, whose device memory is the host's. Lengths are
    in tokens. `best_of` is (prompts, answers to each, tokens of a prompt, tokens of an answer). `peer_batches` and
    `pass_tokens` are the batch sizes of peers (sequences) and of ours (tokens) that are tried before the best one is
    measured. `gemm_square` is n of an n x n x n product, `gemm_tokens` the rows of the products of the big shape's
    layers.
    """

    name: str
    torch_device: str
    engine_device: str
    engines: tuple[Engine, ...]
    big: Shape
    small: Shape
    ragged: tuple[int, int]
    ragged_count: int
    best_of: tuple[int, int, int, int]
    single: int
    single_samples: int
    warm_up: int
    peer_batches: tuple[int, ...]
    pass_tokens: tuple[int, ...]
    repeats: int
    gemm_square: int
    gemm_tokens: int
    copy_bytes: int
    attention_rows: int
    conversations: int

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The small one first: it is quick to fail."""
        return self.small, self.big


LLAMA_8B = Shape(name="8b", config=LLAMA3_8B)
QWEN3_06B = Shape(
    name="0.6b",
    config={
        **SHAPES["qwen3"], "model_type": "qwen3", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_scaling": None,
        "pad_token_id": 151643, "bos_token_id": None, "eos_token_id": 151645, "torch_dtype": "bfloat16",
        "use_sliding_window": False,
    },
)  # fmt: skip
FULL = Plan(
    name="full",
    torch_device="cuda",
    engine_device="cuda",
    engines=(
        Engine(name="ort-cuda-paged", device="ort-cuda", dialect="ort-cuda-paged"),
        Engine(name="ort-cuda", device="ort-cuda", dialect="ort-cuda"),
    ),
    big=LLAMA_8B,
    small=QWEN3_06B,
    ragged=(64, 2048),
    ragged_count=96,
    best_of=(4, 16, 1100, 128),  # 1024 would end with a page, and hide the tokens that are fed again
    single=512,
    single_samples=200,
    warm_up=20,
    peer_batches=(8, 16, 32),
    pass_tokens=(8192, 16384, 32768),
    repeats=3,
    gemm_square=8192,
    gemm_tokens=8192,
    copy_bytes=4 << 30,
    attention_rows=16,
    conversations=128,
)
_TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_TINY |= {"num_key_value_heads": 2, "vocab_size": 1886, "max_position_embeddings": 2048, "pad_token_id": 1885}
SMOKE = replace(
    FULL,
    name="smoke",
    torch_device="cpu",
    engine_device="cpu",
    engines=(Engine(name="ort-cpu", device="ort-cpu", dialect="ort-cpu"),),
    big=Shape(name="8b", config={**LLAMA3_8B, **_TINY, "bos_token_id": 1880, "eos_token_id": 1881}),
    small=Shape(name="0.6b", config={**QWEN3_06B.config, **_TINY, "head_dim": 32, "eos_token_id": 1881}),
    ragged=(8, 48),
    ragged_count=6,
    best_of=(2, 3, 24, 6),
    single=16,
    single_samples=4,
    warm_up=1,
    peer_batches=(2, 4),
    pass_tokens=(64, 4096),
    repeats=1,
    gemm_square=128,
    gemm_tokens=16,
    copy_bytes=1 << 20,
    attention_rows=3,
    conversations=100,
)
REHEARSAL = replace(SMOKE, name="rehearsal", engine_device="cuda", engines=FULL.engines)
# Small ones with random weights, of what the large ones lack: routed experts, whose loops read sizes from the device,
# and a rope whose frequencies depend on the length, which is more than the original one for many conversations.
_SMALL: Config = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "head_dim": 64,
    "num_key_value_heads": 2, "vocab_size": 1886, "pad_token_id": 1885, "bos_token_id": 1880, "eos_token_id": 1881,
    "num_labels": 1, "max_position_embeddings": 2048,
}  # fmt: skip
_EXPERTS: Config = {"moe_intermediate_size": 128, "num_experts": 16, "num_experts_per_tok": 4}
_DYNAMIC: Config = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
RANDOM_MODELS: Mapping[str, tuple[str, Config]] = {
    "experts": ("qwen3_moe", {**_SMALL, **_EXPERTS}),
    "dynamic rope": ("llama", {**_SMALL, "max_position_embeddings": 96, "rope_scaling": _DYNAMIC}),
}
PLANS = {plan.name: plan for plan in (FULL, SMOKE, REHEARSAL)}  # as child processes are told which


def armorm_config(shape: Shape) -> dict[str, Any]:
    """config.json of a Llama of this shape with ArmoRM's head."""
    return {**shape.config, **ARMORM}


def classifier_config(shape: Shape) -> dict[str, Any]:
    """config.json of the same decoder with one label."""
    kind = {"llama": "Llama", "qwen3": "Qwen3"}[shape.config["model_type"]]
    return {
        **shape.config, "architectures": [f"{kind}ForSequenceClassification"], "tie_word_embeddings": False,
        "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
    }  # fmt: skip
