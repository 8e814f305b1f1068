"""The report on disk: whole and valid JSON after every finished piece, whenever the run is stopped."""

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
    """`report.json` in a folder, which is made at once. Raises BenchmarkError when it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BenchmarkError(f"{folder} cannot be made ({error.strerror}): choose another --output") from error

    def save(self, report: Mapping[str, Any]) -> None:
        """Replace the file; a reader sees the old report or the new one."""
        body = json.dumps(finite(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        partial = partial_path(self.folder / REPORT_NAME)
        try:
            with partial.open("xb") as file:
                file.write(body.encode(errors="backslashreplace"))
            partial.replace(self.folder / REPORT_NAME)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise BenchmarkError(f"{self.folder / REPORT_NAME} cannot be written ({error.strerror})") from error


def finite(value: Any) -> Any:
    """`value` with null for every number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
