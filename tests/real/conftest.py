"""What tests on published weights share: bundles, pairs of text, and transformers' scores of these."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from real_models import ENCODER, JUDGE, JUDGE_RECIPE, export_encoder, real_checkpoint, real_pairs
from rmexport import ExportOptions, export
from rmexport.verify.options import VerifyOptions
from rmexport.verify.report import Report, table
from rmexport.verify.run import verify
from rmruntime import RewardModel

PAIRS = 24
MakeOnce = Callable[[str, Callable[[Path], None]], Path]


@dataclass(frozen=True)
class RealModels:
    """Bundles of published weights, and reports on them; what was made or computed once is kept for the whole run."""

    made_once: MakeOnce

    def bundle(self, kind: str, dtype: Any, scheme: Any = None) -> Path:
        """The bundle of a checkpoint."""
        return self.made_once(f"{kind}-{dtype}-{scheme}", lambda folder: _export(kind, folder, dtype, scheme))

    def records(self, kind: str) -> Path:
        """A file of held-out pairs that this model takes."""
        records = real_pairs(PAIRS, single=kind == ENCODER)
        text = "".join(json.dumps(record) + "\n" for record in records)
        return self.made_once(f"pairs-{kind}", lambda folder: _write(folder / "pairs.jsonl", text)) / "pairs.jsonl"

    def verify(self, kind: str, bundle: Path, engine: str, precision: Any, **options: Any) -> Report:
        """The report on the pairs, which is logged too."""
        given = VerifyOptions(
            data=self.records(kind),
            device=engine,
            precision=precision,
            reference_cache=str(self.made_once("references", lambda folder: None)),
            write=False,
            **options,
        )
        report = verify(bundle, str(real_checkpoint(kind)), given)
        logging.getLogger(__name__).info("%s", table(report))  # shown where a test fails
        return report

    def check_parity(self, kind: str, bundle: Path, engine: str, precision: Any) -> None:
        """That the project's own gate passes."""
        report = self.verify(kind, bundle, engine, precision)
        assert (report.backend, report.precision) == (engine, precision)
        assert report.passed, table(report)

    def check_independence(self, kind: str, bundle: Path, engine: str, precision: Any) -> None:
        """That scores are bitwise the same alone and in a batch."""
        records = [json.loads(line) for line in self.records(kind).read_text().splitlines()[:4]]
        with RewardModel.load(bundle, device=engine, precision=precision) as model:
            together = model.score(records)
            assert [model.score([record])[0] for record in records] == together


def _export(kind: str, folder: Path, dtype: Any, scheme: Any) -> None:
    checkpoint = real_checkpoint(kind)
    folder.rmdir()
    if kind == ENCODER:
        export_encoder(checkpoint, folder, dtype)
    else:
        recipe = str(JUDGE_RECIPE) if kind == JUDGE else None
        export(str(checkpoint), folder, ExportOptions(dtype=dtype, quantize=scheme, recipe=recipe))


def _write(file: Path, text: str) -> None:
    file.write_text(text)


@pytest.fixture(scope="session")
def real_models(made_once: MakeOnce) -> RealModels:
    """Bundles and reports."""
    return RealModels(made_once)
