"""The checkpoint that a bundle was made from, opened with the choices of the export."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmexport.checkpoint import Checkpoint, open_checkpoint
from rmexport.errors import OptionError, VerificationError
from rmexport.options import ExportOptions
from rmexport.verify.options import VerifyOptions
from rmruntime.bundle.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class BundleSource:
    """The checkpoint, and the options that it was exported with, without quantization."""

    checkpoint: Checkpoint
    export_options: ExportOptions


def open_source(manifest: Manifest, checkpoint: str, options: VerifyOptions) -> BundleSource:
    """Open the checkpoint of the bundle with this manifest; a recipe file that has moved is in the `options`.

    Raises OptionError for options about quantization where there is none, VerificationError where bundle and
    checkpoint do not belong together, and CheckpointError for a checkpoint that cannot be read.
    """
    _check_options(manifest, options)
    # A folder has no revisions, be it a copy of the Hub's.
    revision = None if Path(checkpoint).is_dir() else manifest.source.revision
    opened = open_checkpoint(checkpoint, revision=revision)
    _check_same_source(manifest, opened)
    exported: dict[str, Any] = {name: value for name, value in manifest.options.items() if name != "quantize"}
    if options.recipe is not None:
        exported["recipe"] = options.recipe
    return BundleSource(checkpoint=opened, export_options=replace(ExportOptions(**exported), revision=revision))


def _check_options(manifest: Manifest, options: VerifyOptions) -> None:
    if manifest.quantization is None and (options.quality or options.against):
        option = "--quality" if options.quality else "--against"
        raise OptionError(f"{option} is about quantized bundles; this one is not, and passes or fails the parity gate")


def _check_same_source(manifest: Manifest, checkpoint: Checkpoint) -> None:
    stated = {f.name: f.size for f in manifest.source.files}
    found = {f.name: f.size for f in checkpoint.source_files}
    if stated != found:
        differing = sorted(name for name in stated.keys() | found.keys() if stated.get(name) != found.get(name))
        raise VerificationError(
            f"{checkpoint.folder} is not the checkpoint this bundle was made from: {', '.join(differing)} "
            "differ; give the original with --checkpoint, or export the bundle again"
        )
