"""The run's checkpoints and bundles, made when they are first asked for and kept in the work folder."""

from pathlib import Path
from typing import Any

from gpu.children import Budget, run_json
from gpu.plan import Plan, Shape
from rmexport import ExportOptions, export

READ_BYTES = 16 << 20


class Models:
    """`shape` is big or small, `head` armorm or classifier; small ones have a classifier only."""

    def __init__(self, work: Path, plan: Plan, budget: Budget) -> None:
        self.work, self._plan, self._budget = work, plan, budget
        self.made: dict[str, Any] = {}

    def checkpoint(self, shape: str, head: str) -> Path:
        """The folder of a checkpoint. Raises ChildFailed, OutOfTime."""
        folder = self.work / f"{self._shape(shape).name}-{head}"
        if not (folder / "config.json").exists():
            arguments = ["--shape", shape, "--work", str(self.work), "--plan", self._plan.name]
            self.made[shape] = run_json("gpu.make_checkpoint", arguments, self._budget)
        return folder

    def bundle(self, shape: str, head: str) -> Path:
        """The folder of its bundle, whose weights are links to the checkpoint's."""
        checkpoint = self.checkpoint(shape, head)
        folder = checkpoint.with_name(f"{checkpoint.name}.bundle")
        if not folder.exists():
            export(str(checkpoint), folder, ExportOptions(weights="link"))
        return folder

    def _shape(self, name: str) -> Shape:
        return self._plan.big if name == "big" else self._plan.small


def warm_page_cache(folder: Path) -> int:
    """Read every file of a folder once; their bytes together."""
    total = 0
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while block := file.read(READ_BYTES):
                    total += len(block)
    return total
