"""Scoring on the CPU against what a user would pick instead: same model, same token ids, one run per workload.

A Llama classifier of 426M parameters with random weights. Every workload is one `rmexport bench --scenario offline`:
each contestant runs in a process of its own, they take turns, the best repeat counts, and scores are compared in the
same run. A peer whose environment is not given (--peer-python) is reported as not installed.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import banner, describe

SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
    "rope_theta": 500000.0,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Case:
    """One workload, and the ratio that the project wants over each peer."""

    profile: str
    targets: dict[str, float]


HALF = (  # bf16, through OpenVINO
    Case("ragged", {"transformers": 2.2, "optimum-intel": 2.2}),
    Case("best-of-8", {"transformers": 5.5, "transformers-kv": 1.3, "optimum-intel": 5.5}),
    Case("pairs", {"transformers": 2.0, "optimum-intel": 2.0}),
    Case("tree", {"transformers": 3.5, "optimum-intel": 3.5}),
)
FULL = (  # fp32, through ONNX Runtime
    Case("ragged", {"optimum-onnx": 1.8}),
    Case("best-of-8", {"optimum-onnx": 7.0}),
    Case("pairs", {"optimum-onnx": 2.0}),
    Case("tree", {"optimum-onnx": 4.0}),
)
SHARES = {"ragged": 0.70, "best-of-8": 0.65}  # of the Gemm peak, bf16


def write_checkpoint(folder: Path, shape: Mapping[str, float] = SHAPE, *, steps: bool = False) -> Path:
    """A classifier in bf16, seeded, with the example's tokenizer: of conversations, or with `steps` of tokens."""
    import torch
    import transformers
    from bench_checkpoints import EXAMPLE

    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        kind = transformers.LlamaForTokenClassification if steps else transformers.LlamaForSequenceClassification
        config = transformers.LlamaConfig(num_labels=2 if steps else 1, **shape)
        kind(config).to(torch.bfloat16).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EXAMPLE / name, folder / name)
        # transformers 4 reads the angle's base from here only; transformers 5 no longer writes it.
        written = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(written | {"rope_theta": shape["rope_theta"]}, indent=1))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with 6 GB free")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--only", action="append", help="a workload (repeatable; default: all)")
    parser.add_argument("--peer-python", action="append", default=[], help="NAME=PATH, as for rmexport bench")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    print(banner())
    checkpoint = write_checkpoint(arguments.work / "llama-426m")
    bundle = exported(checkpoint, arguments.work / f"llama-426m-{arguments.dtype}.bundle", arguments.dtype)
    rows = []
    for case in HALF if arguments.dtype == "bf16" else FULL:
        if not arguments.only or case.profile in arguments.only:
            rows += measured(case, bundle, checkpoint, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")


def exported(checkpoint: Path, bundle: Path, dtype: str) -> Path:
    from rmexport import ExportOptions, export

    if not bundle.exists():
        export(str(checkpoint), bundle, ExportOptions(dtype=dtype))  # type: ignore[arg-type] # one of its choices
    return bundle


def measured(case: Case, bundle: Path, checkpoint: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    output = arguments.work / "reports" / f"{case.profile}-{arguments.dtype}"
    command = [sys.executable, "-m", "rmexport", "bench", bundle, "--scenario", "offline", "--profile", case.profile]
    command += ["--checkpoint", checkpoint, "--repeats", str(arguments.repeats), "--output", output]
    command += ["--peer-cache", arguments.work / "peers"]
    command += ["--device", "openvino" if arguments.dtype == "bf16" else "ort-cpu"]
    for peer in case.targets:
        command += ["--peer", peer]
    for python in arguments.peer_python:
        if python.partition("=")[0] in case.targets:
            command += ["--peer-python", python]
    subprocess.run(list(map(str, command)), check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [row(case, peer, json.loads((output / "report.json").read_text())) for peer in case.targets]


def row(case: Case, peer: str, report: dict[str, Any]) -> dict[str, Any]:
    """One line of the table, printed as it is known."""
    found = {c["name"]: c for c in report["contestants"]}
    if found[peer]["status"] != "ok":
        print(f"{case.profile} against {peer}: {found[peer]['status']} ({found[peer]['message']})", flush=True)
        return {"case": case.profile, "peer": peer, "status": found[peer]["status"]}
    ours, theirs = (found[name]["scenarios"][0] for name in ("rmexport", peer))
    ratio, parity = theirs["seconds"] / ours["seconds"], found[peer]["parity"]
    scores = "same scores" if parity["same"] else "WRONG SCORES"
    share = f", {ours['gemm_share']:.1%} of the Gemm peak" if ours["gemm_share"] else ""
    wanted = f" (wanted {SHARES[case.profile]:.0%})" if share and case in HALF and case.profile in SHARES else ""
    print(
        f"{case.profile} against {peer}: {theirs['seconds']:.3f} s to {ours['seconds']:.3f} s, {ratio:.2f}x "
        f"(wanted {case.targets[peer]}){share}{wanted}; {scores} (largest difference {parity['max_abs']:.1e})",
        flush=True,
    )
    return {
        "case": case.profile,
        "peer": peer,
        "ratio": ratio,
        "target": case.targets[peer],
        "seconds": {
            name: [r["seconds"] for r in found[name]["scenarios"][0]["repeats"]] for name in ("rmexport", peer)
        },
        "gemm_share": ours["gemm_share"],
        "parity": parity,
        "versions": found[peer]["versions"],
    }


if __name__ == "__main__":
    main()
