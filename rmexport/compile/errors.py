"""What compiling raises on purpose."""

from rmexport.errors import ExportError


class CompilerNotInstalled(ExportError):
    """The compiler's package is missing or too old; the message names the extra to install."""


class NotCompilable(ExportError):
    """The bundle, the GPU or this machine is not what the compiler needs; the message says what it needs."""


class CompilationFailed(ExportError):
    """The compiler refused the graph or failed; the message quotes it."""
