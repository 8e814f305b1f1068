"""Memory of a process and its children, from /proc."""

from pathlib import Path


class PeakMemory:
    """The peak memory of a process and its children, in bytes.

    `anonymous` is the largest sample of it; `resident` is the kernel's own high-water mark.
    """

    def __init__(self) -> None:
        self.anonymous = self.resident = 0

    def sample(self, pid: int) -> None:
        """Take a sample of the process `pid` and its children."""
        family = [_status(one) for one in _family(pid)]
        self.anonymous = max(self.anonymous, sum(status.get("RssAnon", 0) for status in family))
        self.resident = max(self.resident, sum(status.get("VmHWM", 0) for status in family))

    def record(self) -> dict[str, int]:
        """The report's record, in bytes."""
        return {"anonymous": self.anonymous, "resident": self.resident}


def _family(pid: int) -> list[int]:
    family = [pid]
    for one in family:  # grows as children are found
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            family += [int(child) for child in _read(children).split()]
    return family


def _status(pid: int) -> dict[str, int]:
    fields = (line.split() for line in _read(Path(f"/proc/{pid}/status")).splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if len(words) == 3 and words[2] == "kB"}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has just ended
        return ""
