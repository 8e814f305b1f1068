"""What dtypes, schemes and engines do to the scores of published weights, beside transformers' own 16-bit errors.

SmolLM2-135M-Instruct as a classifier and as a judge, and MiniLM as a classifier, on 50 of the example's held-out pairs.
Errors are of scores (of log-odds, where the score is a probability) against transformers in fp32 on the checkpoint.
Needs `./scripts/install --real`.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from machine import banner, describe
from performance_tables import quality_table, quality_tables

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from real_models import (  # noqa: E402
    DTYPES,
    ENCODER,
    JUDGE,
    JUDGE_RECIPE,
    KINDS,
    RUNS,
    export_encoder,
    real_checkpoint,
    real_pairs,
    runs_here,
)
from rmexport import ExportOptions, export  # noqa: E402
from rmexport.checkpoint import open_checkpoint  # noqa: E402
from rmexport.verify.quality import Quality, measure_quality  # noqa: E402
from rmexport.verify.reference import reference_of  # noqa: E402
from rmexport.verify.reference_pass import Meter  # noqa: E402
from rmruntime import RewardModel, ScoreOptions  # noqa: E402
from rmruntime.records import parse_record  # noqa: E402
from rmruntime.sequences import TokenSequence  # noqa: E402

SCHEMES = ("none", "int8", "int4")


@dataclass(frozen=True)
class Row:
    """One way to score: `engine` transformers has no bundle, and no bytes."""

    model: str
    weights: str
    layers: str
    engine: str
    precision: str
    quality: Quality
    megabytes: float | None = None


class Model:
    """A checkpoint, its pairs, and transformers' scores of them."""

    def __init__(self, kind: str, work: Path, pairs: int) -> None:
        self.kind, self.work, self.encoder = kind, work, kind == ENCODER
        self.folder = real_checkpoint(kind)
        self.options = ExportOptions(recipe=str(JUDGE_RECIPE) if kind == JUDGE else None)
        self.records = real_pairs(pairs, single=self.encoder)

    def bundle(self, dtype: Any, scheme: Any = "none") -> Path:
        """Exported once."""
        folder = self.work / f"{self.kind}-{dtype}-{scheme}"
        if not folder.exists():
            if self.encoder:
                export_encoder(self.folder, folder, dtype)
            else:
                export(
                    str(self.folder),
                    folder,
                    replace(self.options, dtype=dtype, quantize=None if scheme == "none" else scheme),
                )
        return folder

    @cached_property
    def sequences(self) -> list[TokenSequence]:
        """Two of each pair, the chosen answer first."""
        with RewardModel.load(self.bundle("bf16"), device="ort-cpu") as model:
            requests = [parse_record(record) for record in self.records]
            return [sequence for pair in model.encode(requests, ScoreOptions()) for sequence in pair]

    def transformers(self, dtype: str) -> np.ndarray:
        """The scores in `dtype`, computed by the reference of `verify`."""
        reference = reference_of(open_checkpoint(str(self.folder)), self.options)
        states = reference.states(self.sequences, dtype, Meter())
        return column(reference.scores(states, dtype).outputs)

    def engine(self, bundle: Path, device: str, precision: Any) -> np.ndarray:
        """A bundle's scores."""
        with RewardModel.load(bundle, device=device, precision=precision) as model:
            outcomes = model.stream_outputs(self.sequences, ScoreOptions())
            return np.concatenate([column(outcome) for outcome in outcomes])

    def quality(self, found: np.ndarray, exact: np.ndarray) -> Quality:
        """Against transformers in fp32."""
        pairs = [(i, i + 1) for i in range(0, len(exact), 2)]
        return measure_quality("score", found, exact, exact, pairs)


def column(outputs: Any) -> np.ndarray:
    """Log-odds of a probability, else the score, in double precision."""
    return np.asarray(outputs.get("logit", outputs["score"]), np.float64).ravel()


def rows(model: Model, dtypes: Sequence[str], schemes: Sequence[str]) -> Iterator[Row]:
    """transformers first, then every bundle on every engine that has the arithmetic on this machine."""
    exact = model.transformers("fp32")
    right = f"{accuracy(exact):.0%} of {len(model.records)} pairs in fp32"
    print(f"\n{model.kind}: {right}, scores deviate by {exact.std():.3g}", flush=True)
    for dtype in dtypes if "none" in schemes else ():
        if dtype != "fp32":
            quality = model.quality(model.transformers(dtype), exact)
            yield Row(model.kind, dtype, "none", "transformers", dtype, quality)
    for scheme in schemes:
        for dtype, engine, precision in RUNS:
            if dtype in dtypes and runs_here(engine, precision) and not (model.encoder and scheme != "none"):
                bundle = model.bundle(dtype, scheme)
                quality = model.quality(model.engine(bundle, engine, precision), exact)
                size = sum(file.stat().st_size for file in bundle.rglob("*.safetensors"))
                yield Row(model.kind, dtype, scheme, engine, precision, quality, size / 1e6)


def accuracy(scores: np.ndarray) -> float:
    """The share of pairs whose chosen answer has the larger score."""
    return float(np.mean(scores[::2] > scores[1::2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder with 8 GB free for bundles (default: one that is removed)")
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--only", action="append", choices=KINDS, help="a model (repeatable; default: all)")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="of bundles (repeatable; default: all)")
    parser.add_argument("--scheme", action="append", choices=SCHEMES, help="of layers (repeatable; default: all)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    dtypes, schemes = arguments.dtype or DTYPES, arguments.scheme or SCHEMES
    print(banner(), flush=True)
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for kind in arguments.only or KINDS:
            for row in rows(Model(kind, work, arguments.pairs), dtypes, schemes):
                found.append(asdict(row))
                print(quality_table(found[-1:]).splitlines()[-1], flush=True)
                if arguments.json:  # whole after every row: the run is long
                    arguments.json.write_text(json.dumps({"machine": describe(), "rows": found}, indent=1) + "\n")
    print("\n" + quality_tables([{"rows": found}]))


if __name__ == "__main__":
    main()
