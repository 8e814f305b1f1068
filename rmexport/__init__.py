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
from rmexport.version import __version__
from rmruntime.modules import lazy_names

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    from rmexport.export import export
    from rmexport.options import ExportOptions

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

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__, {"ExportOptions": "options", "export": "export"})
