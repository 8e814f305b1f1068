"""The errors of compiling."""

from rmexport.errors import ExportError


class CompilerNotInstalled(ExportError):
    """The compiler's package is missing or too old; the message names the extra to install."""


class NotCompilable(ExportError):
    """The bundle cannot be compiled for this GPU, or not on this machine; the message says what is needed."""


class CompilationFailed(ExportError):
    """The compiler refused the graph or failed; the message quotes it."""
