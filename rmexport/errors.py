"""Every error rmexport raises on purpose.

ExportError
├── CheckpointError      the checkpoint is missing, damaged or not what its config says
├── UnsupportedModel     the family, head or format is unknown; the message names the nearest known one
├── OptionError          the options contradict each other or the checkpoint
├── TargetExists         the bundle's folder is there already and --overwrite was not given
├── WriteError           the bundle could not be written (full disk, other file system, ...)
└── VerificationError    the parity gate could not be evaluated
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
