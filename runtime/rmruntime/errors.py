"""Every error the runtime raises on purpose.

RewardModelError
├── BundleError            the bundle is damaged, incomplete, or newer than this runtime
├── OptionError            an option has a value that it cannot have
├── ModuleError            a file among backends or other choices lacks what each must have, or has another's name
├── OutputError            records cannot be written: a full disk, a closed pipe
├── ClusterError           the cluster cannot be reached, or a worker cannot do its part
├── QueueFull              too many tokens wait for the engine; a submitted record was not taken
├── DeadlineExceeded       a submitted record had not begun by its deadline, and was not computed
├── Refused                a request to the server has no result (rmruntime.serve.problems)
├── BackendError           the engine cannot run what was asked of it
│   ├── EngineNotInstalled the engine's package is missing; the message names the extra
│   ├── EngineUnusable     the engine is installed and cannot run here: no driver, no GPU, no compiled engine
│   ├── DeviceMemoryError  the device's memory does not hold the weights, or a pass
│   └── PassTooLarge       a pass has more tokens or rows than a compiled engine takes
└── InputError             a record cannot be scored; the other records can
    ├── RecordError        it is not a record: malformed JSON, unknown keys, wrong types
    ├── InputTooLong       it has more tokens than the limit and truncation was not asked for
    ├── DeviceLimit        its pass did not fit into the device, nor did a smaller one
    └── NonFiniteScore     its score, or another output of it, is NaN or infinite
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # every command imports this before it handles Ctrl-C
    from collections.abc import Sequence


class RewardModelError(Exception):
    """Base of all runtime errors."""


class BundleError(RewardModelError):
    """The bundle is damaged, incomplete, or newer than this runtime."""


class OptionError(RewardModelError):
    """An option has a value that it cannot have."""


class ModuleError(RewardModelError):
    """A file among the backends or other choices lacks what each of them must have, or has the name of another."""


class OutputError(RewardModelError):
    """Records cannot be written: the disk is full, or the reader of a pipe has gone."""


class ClusterError(RewardModelError):
    """The cluster cannot be reached, or a worker cannot do its part."""


class QueueFull(RewardModelError):
    """Too many tokens wait for the engine: the record was not taken, and may be submitted again later."""


class DeadlineExceeded(RewardModelError, TimeoutError):
    """A submitted record had not begun by its deadline, and was not computed. It is a TimeoutError too."""


class BackendError(RewardModelError):
    """The engine cannot run what was asked of it."""


class EngineNotInstalled(BackendError):
    """The engine's package is missing; the message names the extra to install."""


class EngineUnusable(BackendError):
    """The engine is installed and cannot run here: no driver, no GPU, no compiled engine for this one."""


class DeviceMemoryError(BackendError):
    """The device's memory does not hold the weights, or a pass."""


class PassTooLarge(BackendError):
    """A pass has more tokens, rows or keys than a compiled engine takes."""


class InputError(RewardModelError):
    """A record cannot be scored; the other records can.

    `record_id` is the record's own id where it had one, `record_index` its place among several where that is known.
    """

    record_id: str | int | float | None = None
    record_index: int | None = None


class RecordError(InputError):
    """Not a record: malformed JSON, unknown keys, wrong types."""


class InputTooLong(InputError):
    """More tokens than the limit, and truncation was not asked for."""


class DeviceLimit(InputError):
    """Its pass did not fit into the device, nor did a smaller one; the other records can be scored."""


class NonFiniteScore(InputError, BackendError):
    """A score, or another output of its record, is NaN or infinite; the other records can be scored.

    It is a BackendError too, because the engine computed it: callers that catch these see it.
    """


def listing(items: Sequence[str], most: int = 20, separator: str = ", ") -> str:
    """Names or faults for a message: the first few, and how many more.

    >>> listing(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f"{separator.rstrip(', ')} and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more
