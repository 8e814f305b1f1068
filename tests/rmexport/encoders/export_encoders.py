"""Makes random-weight encoder checkpoints and exports them: run with the transformers that optimum-onnx takes.

usage: export_encoders.py FOLDER < jobs.json. The fields of a job:
- `name`: of the checkpoint's folder in FOLDER, which has the tokenizer; `bundles`: name -> fields of ExportOptions
- `config`: fields of config.json, model_type included, of a checkpoint to make; or `like`: another one to copy, without
  the tensors `without`, with tensors `added`, those of `enlarged` having a value of 1e6; or neither for one that is
  there already
- `bin`: weights as a pickle; `environment`: variables for the time of the export
- `reference`: sequences, each [ids, types], whose scores by dtype go to NAME.reference.json
What goes wrong in an export goes to NAME.BUNDLE.error.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from rmexport import ExportError, ExportOptions, export
from rmexport.checkpoint import open_checkpoint
from rmexport.encoders import read_encoder_spec
from rmexport.verify.encoder_reference import encoder_reference
from rmruntime.sequences import TokenSequence


def make_checkpoint(folder: Path, fields: dict[str, Any], *, pickled: bool) -> None:
    """Random weights, norms and biases included, in the published layout of transformers 4."""
    config = transformers.AutoConfig.for_model(**fields)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                wide = "embed" in name or parameter.shape[0] < 16  # a classifier whose scores differ
                parameter.copy_(noise * (0.5 if wide else parameter.shape[1] ** -0.5))
    model.save_pretrained(folder)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")


def write_reference(checkpoint: Path, sequences: list[list[list[int]]]) -> None:
    source = open_checkpoint(str(checkpoint))
    spec = read_encoder_spec(source, ExportOptions())
    given = [
        TokenSequence(ids=np.array(ids, np.int64), types=np.array(types, np.int64), reads={})
        for ids, types in sequences
    ]
    found = {dtype: encoder_reference(source, spec, given, dtype)["score"].tolist() for dtype in ("fp32", "bf16")}
    result = {"transformers": transformers.__version__, **found}
    checkpoint.with_name(f"{checkpoint.name}.reference.json").write_text(json.dumps(result))


def copy_checkpoint(source: Path, folder: Path, job: dict[str, Any]) -> None:
    shutil.copytree(source, folder)
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if k not in job.get("without", [])}
    for name in job.get("enlarged", []):
        weights[name].view(-1)[0] = 1e6
    weights |= {name: torch.ones(3) for name in job.get("added", [])}
    save_file(weights, folder / "model.safetensors")


def main() -> None:
    folder = Path(sys.argv[1])
    for job in json.load(sys.stdin):
        checkpoint = folder / job["name"]
        if "config" in job:
            make_checkpoint(checkpoint, job["config"], pickled=job.get("bin", False))
        elif "like" in job:
            copy_checkpoint(folder / job["like"], checkpoint, job)
        os.environ.update(job.get("environment", {}))
        for name, options in job["bundles"].items():
            bundle = folder / f"{job['name']}.{name}"
            try:
                export(str(checkpoint), bundle, ExportOptions(**options))
            except ExportError as error:
                bundle.with_name(f"{bundle.name}.error").write_text(f"{type(error).__name__}: {error}")
        for variable in job.get("environment", {}):
            del os.environ[variable]
        if "reference" in job:
            write_reference(checkpoint, job["reference"])


if __name__ == "__main__":
    main()
