"""What scoring on a cluster needs to know beyond what scoring a file does."""

from dataclasses import dataclass
from typing import Literal, get_args

from rmruntime.errors import OptionError

Shards = Literal["jsonl", "parquet"]


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Which cluster, how many scorers on it, and what is written.

    `address` is "local" (a cluster of this machine's own, for this run), "auto" (the one that runs here) or HOST:PORT.
    `workers` None is one a GPU, or one a machine. `block_records` None lets the size of the input decide. `merge` names
    a file that gets all records in the end, as a run without a cluster writes it. `overwrite` begins anew.
    """

    address: str = "local"
    workers: int | None = None
    block_records: int | None = None
    shards: Shards = "jsonl"
    merge: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices or too small."""
        for name, value in (("workers", self.workers), ("block_records", self.block_records)):
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}, expected at least 1")
        if self.shards not in get_args(Shards):
            raise OptionError(f"shards is {self.shards!r}, expected one of {', '.join(get_args(Shards))}")
        if self.merge is not None and self.shards == "parquet":
            raise OptionError("merge reads shards of JSON lines, found shards 'parquet'; leave one of the two out")
