"""Converts checkpoints for peers that need it, and keeps the result so that a second benchmark can use it."""

import hashlib
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from rmexport.bench.worker.scorer import LoadOptions


def converted(folder: str, name: str, options: LoadOptions, convert: Callable[[Path], None]) -> str:
    """The folder with the checkpoint `folder` as the peer `name` needs it.

    `convert(target)` makes it, unless an earlier run did; a conversion that fails leaves no folder. Raises ValueError
    where the options have no cache folder.

    >>> Path("checkpoint").mkdir()
    >>> made = converted("checkpoint", "optimum-onnx", LoadOptions(cache="."), lambda target: target.mkdir())
    >>> Path(made).name.startswith("optimum-onnx-")
    True
    """
    if options.cache is None:
        raise ValueError("found no cache folder for the converted checkpoint, expected one; set LoadOptions.cache")
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
    """A digest of the folder's path and its files' names, sizes and times, which changes with the checkpoint."""
    facts = [str(folder.resolve())]
    for path in sorted(folder.iterdir()):
        found = path.stat()
        facts.append(f"{path.name} {found.st_size} {found.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
