"""Every error the runtime raises on purpose.

RewardModelError
├── BundleError            the bundle is damaged, incomplete, or newer than this runtime
├── OptionError            an option has a value that it cannot have
├── BackendError           the engine cannot run what was asked of it
│   └── EngineNotInstalled the engine's package is missing; the message names the extra
└── InputError             a record cannot be scored; the other records can
    ├── RecordError        it is not a record: malformed JSON, unknown keys, wrong types
    └── InputTooLong       it has more tokens than the limit and truncation was not asked for
"""


class RewardModelError(Exception):
    """Base of all runtime errors."""


class BundleError(RewardModelError):
    """The bundle is damaged, incomplete, or newer than this runtime."""


class OptionError(RewardModelError):
    """An option has a value that it cannot have."""


class BackendError(RewardModelError):
    """The engine cannot run what was asked of it."""


class EngineNotInstalled(BackendError):
    """The engine's package is missing; the message names the extra to install."""


class InputError(RewardModelError):
    """A record cannot be scored; the other records can. `record_id` is the record's own id where it had one."""

    record_id: str | int | None = None


class RecordError(InputError):
    """Not a record: malformed JSON, unknown keys, wrong types."""


class InputTooLong(InputError):
    """More tokens than the limit, and truncation was not asked for."""
