"""Families other than Llama against transformers: same model, same token ids, random weights in bf16.

Qwen3 has the shape of Qwen3-0.6B; the others are cut to fewer or smaller layers. Every workload is one
`rmexport bench --scenario offline`, as in bench_scoring.py. What an expert's rows cost depends on what the router
chooses, and a router of random weights chooses evenly; scores of such a model move where rounding changes a choice.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import banner, describe

GROUPED = {"num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 4096, "vocab_size": 32000}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
    },
    "gemma2": {
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 32000, "max_position_embeddings": 8192,
    },
    "mixtral": GROUPED | {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 6},
    "qwen3_moe": GROUPED | {
        "hidden_size": 1024, "intermediate_size": 2048, "moe_intermediate_size": 384, "num_hidden_layers": 6,
        "head_dim": 64, "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": True,
    },
}  # fmt: skip


def write_checkpoint(folder: Path, family: str) -> Path:
    """The classifier in bf16, seeded, with the example's tokenizer."""
    import torch
    from bench_checkpoints import EXAMPLE
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, num_labels=1, pad_token_id=0, **SHAPES[family])
        model = AutoModelForSequenceClassification.from_config(config).to(torch.bfloat16)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:  # scores of magnitude about 1, and experts that differ
                    parameter.normal_(0, 0.5 if "embed" in name else parameter.shape[-1] ** -0.5)
        model.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EXAMPLE / name, folder / name)
    return folder


def measured(family: str, profile: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One comparison, printed as it is known."""
    work = arguments.work
    output, bundle = work / "reports" / f"{family}-{profile}", work / f"{family}.bundle"
    command = [sys.executable, "-m", "rmexport", "bench", bundle, "--checkpoint", work / family]
    command += ["--scenario", "offline", "--profile", profile, "--peer", "transformers", "--output", output]
    command += ["--repeats", str(arguments.repeats), "--device", "openvino"]
    subprocess.run(list(map(str, command)), check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = {c["name"]: c for c in json.loads((output / "report.json").read_text())["contestants"]}
    ours, theirs = (found[name]["scenarios"][0] for name in ("rmexport", "transformers"))
    parity = found["transformers"]["parity"]
    row = {
        "family": family,
        "profile": profile,
        "seconds": {"rmexport": ours["seconds"], "transformers": theirs["seconds"]},
        "ratio": theirs["seconds"] / ours["seconds"],
        "parity": parity,
    }
    scores = "same scores" if parity["same"] else "scores differ by more than bf16 does"
    print(
        f"{family}, {profile}: {theirs['seconds']:.3f} s to {ours['seconds']:.3f} s, {row['ratio']:.2f}x; "
        f"{scores} (largest difference {parity['max_abs']:.1e})",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with 8 GB free")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", action="append", choices=SHAPES, help="a family (repeatable; default: all)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    print(banner())
    rows = []
    for family in arguments.only or SHAPES:
        from rmexport import export

        checkpoint, bundle = write_checkpoint(arguments.work / family, family), arguments.work / f"{family}.bundle"
        if not bundle.exists():
            export(str(checkpoint), bundle)
        rows += [measured(family, profile, arguments) for profile in ("ragged", "best-of-8")]
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
