"""The report on disk: complete, valid JSON after every finished part of a run, even where the run is stopped."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rmexport.errors import BenchmarkError
from rmruntime.records.pending_file import partial_path

REPORT_NAME = "report.json"


class ReportFile:
    """`report.json` in the folder `folder`, which is created. Raises BenchmarkError where it cannot be.

    >>> ReportFile(Path("bench")).save({"seconds": 1.5})
    >>> json.loads(Path("bench/report.json").read_text())
    {'seconds': 1.5}
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BenchmarkError(f"{folder} cannot be made ({error.strerror}): choose another --output") from error

    def save(self, report: Mapping[str, Any]) -> None:
        """Replace the file; a reader sees the old report or the new one. Raises BenchmarkError."""
        body = json.dumps(finite(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        partial = partial_path(self.folder / REPORT_NAME)
        try:
            with partial.open("xb") as file:
                file.write(body.encode(errors="backslashreplace"))
            partial.replace(self.folder / REPORT_NAME)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise BenchmarkError(
                f"{self.folder / REPORT_NAME} cannot be written ({error.strerror}): make room, or choose another "
                "--output"
            ) from error


def finite(value: Any) -> Any:
    """`value` with None in place of every NaN and infinity, which JSON cannot hold.

    >>> finite({"ms": [1.5, float("nan")]})
    {'ms': [1.5, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
