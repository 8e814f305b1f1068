"""Small checkpoints with random weights of what the large ones lack: `python -m gpu.small_models KIND FOLDER`.

Routed experts, whose loops read sizes from the device, and a rope whose frequencies depend on the length. They have
the example's tokenizer, and one label.
"""

import shutil
import sys
from pathlib import Path

import torch
from bench_checkpoints import EXAMPLE

from gpu.make_checkpoint import TOKENIZER_FILES
from gpu.plan import RANDOM_MODELS


def main() -> None:
    write(sys.argv[1], Path(sys.argv[2]))
    print("{}")


def write(kind: str, folder: Path) -> None:
    """The checkpoint `kind` in fp32, whole or not at all; norms and biases are random too."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    model_type, fields = RANDOM_MODELS[kind]
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(model_type, **fields))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.5 if "embed" in name else parameter.shape[-1] ** -0.5
            parameter.add_(0.2 * noise) if parameter.ndim == 1 else parameter.copy_(noise * scale)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    for name in TOKENIZER_FILES:
        shutil.copy(EXAMPLE / name, partial / name)
    partial.rename(folder)


if __name__ == "__main__":
    main()
