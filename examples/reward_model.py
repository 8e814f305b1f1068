"""ArmoRM's scoring formula in plain PyTorch: a Llama trunk, objective rewards, and a gate that reads the prompt."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The part of ``config.json`` that describes the heads, under its published names."""

    num_objectives: int
    gating_temperature: float = 10
    gating_hidden_dim: int
    gating_n_hidden: int = 3


@dataclass(frozen=True)
class Scores:
    """What the model says about a batch of conversations."""

    rewards: Tensor  # (batch, objective), before the transform
    gates: Tensor  # (batch, objective)
    score: Tensor  # (batch,)


class GatingNetwork(nn.Module):
    """An MLP from the prompt's last state to non-negative objective weights that sum to ``logit_scale``."""

    def __init__(self, hidden_size: int, config: HeadConfig) -> None:
        super().__init__()
        sizes = [hidden_size, *[config.gating_hidden_dim] * config.gating_n_hidden, config.num_objectives]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature = config.gating_temperature

    def forward(self, prompt_state: Tensor) -> Tensor:
        state = prompt_state  # (batch, hidden)
        for layer in self.layers[:-1]:
            state = torch.relu(layer(state))
        logits: Tensor = self.layers[-1](state)
        return torch.softmax(logits / self.temperature, dim=-1) * self.logit_scale[0]


class RewardModel(nn.Module):
    """Attributes are named as in the published checkpoint, so that a state dict is a checkpoint."""

    def __init__(self, trunk: LlamaModel, config: HeadConfig) -> None:
        super().__init__()
        hidden = trunk.config.hidden_size
        self.model = trunk
        self.regression_layer = nn.Linear(hidden, config.num_objectives, bias=False)
        self.gating = GatingNetwork(hidden, config)
        self.reward_transform_matrix = nn.Parameter(torch.eye(config.num_objectives), requires_grad=False)

    def combine(self, rewards: Tensor, gates: Tensor) -> Tensor:
        """Weight the transformed rewards: ``sum_j gate_j * (rewards @ T)_j``, shapes (..., objective) to (...)."""
        return (gates * (rewards @ self.reward_transform_matrix)).sum(-1)

    def forward(self, input_ids: Tensor, gate_at: Tensor, last_at: Tensor) -> Scores:
        """Score right-padded conversations, reading the gate at ``gate_at`` and the rewards at ``last_at``.

        Attention is causal and padding comes last, so no mask is needed.
        """
        states = self.model(input_ids=input_ids).last_hidden_state.float()
        rows = torch.arange(len(input_ids))
        rewards = self.regression_layer(states[rows, last_at])
        gates = self.gating(states[rows, gate_at])
        return Scores(rewards, gates, self.combine(rewards, gates))


def header_start(ids: Sequence[int], header: Sequence[int]) -> int:
    """Index of the first token of the last assistant header: the end of the turn that asks."""
    for start in range(len(ids) - len(header), -1, -1):
        if list(ids[start : start + len(header)]) == list(header):
            return start
    raise ValueError(f"the conversation holds no assistant header {list(header)}: nothing to gate on")


def save_checkpoint(model: RewardModel, heads: HeadConfig, objective_names: Sequence[str], folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``: the trunk in BF16, the heads in F32."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.to(torch.bfloat16 if name.startswith("model.") else torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**published_config(model.model.config), **asdict(heads), "objective_names": list(objective_names)}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def published_config(config: LlamaConfig) -> dict[str, object]:
    """The trunk's settings as the published ``config.json`` spells them, which is older than today's spelling."""
    names = (
        "attention_bias", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "initializer_range",
        "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
        "num_key_value_heads", "pad_token_id", "rms_norm_eps", "vocab_size",
    )  # fmt: skip
    return {
        "architectures": ["LlamaForRewardModelWithGating"],
        "model_type": "llama",
        **{name: getattr(config, name) for name in names},
        "attention_dropout": 0.0,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "pretraining_tp": 1,
        "rope_scaling": None,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.40.0",
        "use_cache": False,
    }


def load_checkpoint(folder: Path, trunk_dtype: torch.dtype = torch.float32) -> RewardModel:
    """Read a checkpoint strictly: every tensor is used, none is missing. The heads always compute in F32."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads = HeadConfig(**{name: config[name] for name in HeadConfig.__dataclass_fields__})
    model = RewardModel(LlamaModel(LlamaConfig.from_pretrained(folder)), heads)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    model.float().eval()
    model.model.to(trunk_dtype)
    return model
