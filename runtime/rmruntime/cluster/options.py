"""The options of scoring on a cluster, besides those of scoring a file."""

from dataclasses import dataclass
from typing import Literal

from rmruntime.errors import OptionError
from rmruntime.option_checks import COUNT, Limit, check_fields

Shards = Literal["jsonl", "parquet"]
WORKERS = Limit(1, 100_000, why="more than Ray runs on any cluster")


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Which cluster, how many scorers on it, and what is written.

    `address` is "local" (a cluster started on this machine for this run), "auto" (the one that runs here) or HOST:PORT.
    `workers` None is one per GPU, or one per machine. `block_records` None lets the size of the input decide. `merge`
    is a file that gets all records at the end, the same as a run without a cluster writes. `overwrite` removes an
    earlier run's shards and begins anew.

    >>> ClusterOptions(workers=0)
    Traceback (most recent call last):
    rmruntime.errors.OptionError: workers is 0, expected at least 1 or None
    """

    address: str = "local"
    workers: int | None = None
    block_records: int | None = None
    shards: Shards = "jsonl"
    merge: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices, of another type, or out of range."""
        check_fields(self, {"workers": WORKERS, "block_records": COUNT})
        if self.merge is not None and self.shards == "parquet":
            raise OptionError("merge reads shards of JSON lines, found shards 'parquet'; leave one of the two out")
