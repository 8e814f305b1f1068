"""The bundle that a quantized one is compared with: the same checkpoint, exported the same way without quantization."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rmexport.errors import OptionError, VerificationError, WriteError
from rmexport.export import export
from rmexport.options import ExportOptions
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class BaselineExport:
    """A quantized `bundle`, its `checkpoint`, and the options that it was `exported` with, without quantization."""

    bundle: Path
    manifest: Manifest
    checkpoint: str
    exported: ExportOptions


@contextmanager
def unquantized_bundle(quantized: BaselineExport, against: str | None) -> Iterator[Path]:
    """The bundle `against`, or else one that lies beside the quantized one until the block ends.

    Raises VerificationError where `against` is no such bundle, and where nothing can be written there.
    """
    if against is not None:
        _check(Path(against), quantized.manifest)
        yield Path(against)
        return
    bundle = quantized.bundle
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{bundle.name}.unquantized-", dir=bundle.resolve().parent)
    except OSError as error:
        raise VerificationError(
            f"the unquantized bundle that scores are compared with cannot be written beside {bundle} "
            f"({error.strerror}): give one with --against, or say --against reference"
        ) from error
    with folder as work:
        _export(quantized, Path(work) / "bundle")
        yield Path(work) / "bundle"


def _check(against: Path, manifest: Manifest) -> None:
    baseline = Bundle.open(against).manifest
    if baseline.quantization is not None:
        raise VerificationError(f"--against {against} is quantized too; expected the bundle without --quantize")
    stated, found = ({f.name: f.size for f in m.source.files} for m in (manifest, baseline))
    if (stated, manifest.dtype) != (found, baseline.dtype):
        raise VerificationError(
            f"--against {against} was made from another checkpoint or in another dtype ({baseline.dtype}); expected "
            f"the same files in {manifest.dtype}: export it again, or leave --against out"
        )


def _export(quantized: BaselineExport, target: Path) -> None:
    """With linked weights where nothing has to be converted or copied to another file system."""
    try:
        export(quantized.checkpoint, target, replace(quantized.exported, weights="link"))
    except (OptionError, WriteError):
        export(quantized.checkpoint, target, replace(quantized.exported, weights="copy"))
