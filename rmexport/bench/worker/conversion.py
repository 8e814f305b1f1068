"""Checkpoints converted for an engine, kept in a folder so that a second benchmark need not convert again."""

import hashlib
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from rmexport.bench.worker.scorer import LoadOptions


def converted(folder: str, name: str, options: LoadOptions, convert: Callable[[Path], None]) -> str:
    """The folder that `convert` has filled, now or in an earlier run; it is there whole or not at all."""
    if options.cache is None:
        raise ValueError("a converted checkpoint needs a cache folder")
    target = Path(options.cache) / f"{name}-{_identity(Path(folder))}"
    if not target.is_dir():
        partial = target.with_name(f"{target.name}.partial-{secrets.token_hex(8)}")
        try:
            convert(partial)
            partial.rename(target)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not (isinstance(error, OSError) and target.is_dir()):  # else another process has converted it too
                raise
    return str(target)


def _identity(folder: Path) -> str:
    """Of names, sizes and times: another checkpoint at the same place is another one."""
    facts = [str(folder.resolve())]
    for path in sorted(folder.iterdir()):
        found = path.stat()
        facts.append(f"{path.name} {found.st_size} {found.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
