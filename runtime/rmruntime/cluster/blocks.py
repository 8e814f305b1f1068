"""Blocks of consecutive records (lines, rows or items): cut without parsing them, read again where they are scored.

A block is part of one file. It has a digest of the bytes that it is read from, so that a worker notices when the input
changed after it was planned.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path

from rmruntime.batching.prefetch import RECORDS_AHEAD
from rmruntime.errors import ClusterError, RewardModelError
from rmruntime.records.json_arrays import BOM, array_items, first_item, is_array
from rmruntime.records.reader import Place, Record, import_pyarrow, read_items, read_lines, read_rows

SMALLEST, AT_LEAST = 128, 256  # records per block, and blocks per run where the input is small
_CHUNK = 1 << 24
_FOOTER = 8  # a Parquet file ends with the length of its footer and four letters


@dataclass(frozen=True, kw_only=True)
class Block:
    """`count` lines, items or rows of the input file with the number `file`, from the `first` one on.

    `record` is the number of its first record in the whole input. `start` and `end` are the bytes of lines or items.
    `sha256` is that of those bytes, or of the footer of a Parquet file.
    """

    index: int
    file: int
    first: int
    count: int
    record: int
    start: int = 0
    end: int = 0
    sha256: str

    @property
    def records(self) -> str:
        """The block's records, named for messages."""
        return f"records {self.record} to {self.record + self.count - 1}"


def block_size(files: Sequence[Path]) -> int:
    """Records per block: RECORDS_AHEAD for large inputs, fewer for small ones, so that every worker gets some block.

    >>> _ = Path("one.jsonl").write_text('{"text": "a"}')
    >>> block_size([Path("one.jsonl")])
    128
    """
    total = sum(_count(path) for path in files)
    return min(RECORDS_AHEAD, max(SMALLEST, total // AT_LEAST))


def cut_blocks(files: Sequence[Path], size: int) -> Iterator[Block]:
    """Blocks of `size` records in the order of the files; at least one per file.

    >>> _ = Path("three.jsonl").write_text('{"text": "a"}\\n' * 3)
    >>> [(block.first, block.count) for block in cut_blocks([Path("three.jsonl")], 2)]
    [(0, 2), (2, 1)]
    """
    index, record = 0, 0
    for number, path in enumerate(files):
        first = 0
        for count, start, end, sha256 in _cuts(path, size):
            yield Block(
                index=index, file=number, first=first, count=count, record=record, start=start, end=end, sha256=sha256
            )
            index, first, record = index + 1, first + count, record + count


def read_block(block: Block, path: Path) -> Iterator[Record]:
    """The records of a block of the file `path`, by number.

    Raises RewardModelError when the file cannot be read, or is not what was planned.

    >>> _ = Path("three.jsonl").write_text('{"text": "a"}\\n' * 3)
    >>> last = list(cut_blocks([Path("three.jsonl")], 2))[-1]
    >>> [number for number, _ in read_block(last, Path("three.jsonl"))]
    [2]
    """
    place = Place(name=path.name, first=block.first, record=block.record)
    try:
        found = _footer_digest(path) if path.suffix == ".parquet" else None
        data = b"" if found else _bytes(path, block.start, block.end)
    except OSError as error:
        raise ClusterError(
            f"{path}: the input cannot be read here ({error.strerror}); every machine must see it under this path"
        ) from error
    if (found or hashlib.sha256(data).hexdigest()) != block.sha256:
        raise ClusterError(
            f"{path}: {block.records} are no longer what they were when the run began; "
            "restore the file, or score it anew with --overwrite"
        )
    if found:
        return _parquet_records(block, path, place)
    if _holds_array(path):
        return read_items(data, 0, place, block.count)
    return read_lines(BytesIO(data), place)


def _cuts(path: Path, size: int) -> Iterator[tuple[int, int, int, str]]:
    """Count, first byte, end and digest of every block of a file."""
    try:
        if path.suffix == ".parquet":
            yield from _row_cuts(path, size)
        else:
            yield from _item_cuts(path, size) if _holds_array(path) else _line_cuts(path, size)
    except OSError as error:
        raise RewardModelError(f"{path}: cannot be read ({error.strerror}); see to its permissions or disk") from error


def _line_cuts(path: Path, size: int) -> Iterator[tuple[int, int, int, str]]:
    start = 0
    with path.open("rb") as file:
        while (lines := list(islice(file, size))) or not start:
            data = b"".join(lines)
            yield len(lines), start, start + len(data), hashlib.sha256(data).hexdigest()
            if not lines:
                return
            start += len(data)


def _item_cuts(path: Path, size: int) -> Iterator[tuple[int, int, int, str]]:
    """`_line_cuts` of a JSON array, cut at items; faults of the array itself are in the last block."""
    data = path.read_bytes()
    starts = [item.start for item in array_items(data, first_item(data))]
    edges = [*starts[::size], len(data)] if starts else [len(data), len(data)]
    for number, (start, end) in enumerate(pairwise(edges)):
        count = min(size, len(starts) - number * size)
        yield count, start, end, hashlib.sha256(data[start:end]).hexdigest()


def _holds_array(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.readline()
        while start and not start.removeprefix(BOM).strip():
            start = file.readline()
        if not start.removeprefix(BOM).lstrip().startswith(b"["):
            return False
        file.seek(0)
        return is_array(file.read(), json_file=path.suffix == ".json")


def _row_cuts(path: Path, size: int) -> Iterator[tuple[int, int, int, str]]:
    sha256, rows = _footer_digest(path), _count(path)
    for first in range(0, max(rows, 1), size):
        yield min(size, rows - first), 0, 0, sha256


def _count(path: Path) -> int:
    """How many lines, items or rows a file has."""
    if path.suffix == ".parquet":
        return sum(_group_rows(path))
    try:
        if _holds_array(path):
            data = path.read_bytes()
            return sum(1 for _ in array_items(data, first_item(data)))
        with path.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK), b""))
    except OSError as error:
        raise RewardModelError(f"{path}: cannot be read ({error.strerror}); see to its permissions or disk") from error


def _group_rows(path: Path) -> list[int]:
    """How many rows each row group of a Parquet file has."""
    pyarrow, parquet = import_pyarrow(path)
    try:
        with path.open("rb") as file:
            metadata = parquet.read_metadata(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise RewardModelError(f"{path}: found no readable Parquet table ({error}); write the file again") from error
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def _parquet_records(block: Block, path: Path, place: Place) -> Iterator[Record]:
    """The records of a block of a Parquet file, read from the row groups that the block overlaps."""
    groups, skip, seen = [], block.first, 0
    for group, rows in enumerate(_group_rows(path)):
        if seen + rows <= block.first:
            skip -= rows
        elif seen < block.first + block.count:
            groups.append(group)
        seen += rows
    return read_rows(path, place, groups=groups, skip=skip, count=block.count)


def _footer_digest(path: Path) -> str:
    """sha256 of a Parquet file's footer, which has the size and the place of every column chunk."""
    size = os.path.getsize(path)
    tail = _bytes(path, max(0, size - _FOOTER), size)
    return hashlib.sha256(_bytes(path, max(0, size - _FOOTER - int.from_bytes(tail[:4], "little")), size)).hexdigest()


def _bytes(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)
