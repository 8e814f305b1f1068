"""Every error rmexport raises on purpose.

ExportError
├── CheckpointError      the checkpoint is missing, damaged or not what its config says
├── UnsupportedModel     the family, head or format is unknown; the message names the nearest known one
├── OptionError          the options contradict each other or the checkpoint
├── TargetExists         the bundle's folder is there already and --overwrite was not given
├── WriteError           the bundle could not be written (full disk, other file system, ...)
├── VerificationError    the parity gate could not be evaluated
├── CompilerNotInstalled the compiler's package is missing or too old; the message names the extra to install
├── NotCompilable        the bundle, the GPU or this machine is not what the compiler needs
├── CompilationFailed    the compiler refused the graph or failed; the message quotes it
├── BenchmarkError       a benchmark as a whole cannot run or write its report
├── ContestantError      a contestant of a benchmark crashed, hung or refused; the others go on
│   └── ContestantMissing    a contestant's packages are not installed in its Python
└── ReportError          a benchmark's report cannot be read, or its pages cannot be drawn or written
"""


class ExportError(Exception):
    """Base of all export errors."""


class CheckpointError(ExportError):
    """The checkpoint is missing, damaged or not what its config says."""


class UnsupportedModel(ExportError):
    """The family, head or format is unknown; the message names the nearest known one."""


class OptionError(ExportError):
    """The options contradict each other or the checkpoint."""


class TargetExists(ExportError):
    """The bundle's folder is there already and --overwrite was not given."""


class WriteError(ExportError):
    """The bundle could not be written."""


class VerificationError(ExportError):
    """The parity gate could not be evaluated."""


class CompilerNotInstalled(ExportError):
    """The compiler's package is missing or too old; the message names the extra to install."""


class NotCompilable(ExportError):
    """The bundle, the GPU or this machine is not what the compiler needs; the message says what it needs."""


class CompilationFailed(ExportError):
    """The compiler refused the graph or failed; the message quotes it."""


class BenchmarkError(ExportError):
    """A benchmark as a whole cannot run or write its report."""


class ContestantError(ExportError):
    """A contestant of a benchmark crashed, hung or refused: it is reported as failed and the others go on."""


class ContestantMissing(ContestantError):
    """A contestant's packages are not installed in its Python."""


class ReportError(ExportError):
    """A benchmark's report cannot be read, or its pages cannot be drawn or written."""
