"""Exports Hugging Face reward models to bundles that rmruntime scores without PyTorch."""

from rmexport.errors import (
    CheckpointError,
    ExportError,
    OptionError,
    TargetExists,
    UnsupportedModel,
    VerificationError,
    WriteError,
)
from rmexport.export import export
from rmexport.options import ExportOptions
from rmexport.version import __version__

__all__ = [
    "CheckpointError",
    "ExportError",
    "ExportOptions",
    "OptionError",
    "TargetExists",
    "UnsupportedModel",
    "VerificationError",
    "WriteError",
    "__version__",
    "export",
]
