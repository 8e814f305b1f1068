"""LoRA adapters as peft saves them, with random weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = Mapping[str, torch.Tensor]

PREFIX = "base_model.model."
RANK = 4


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def adapter_of(folder: Path, base: str | Path, tensors: Tensors, **config: Any) -> Path:
    """An adapter's folder as peft saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    stated = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": RANK, "lora_alpha": 6}
    (folder / "adapter_config.json").write_text(json.dumps(stated | {"target_modules": ["q_proj"]} | config))
    named = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder
