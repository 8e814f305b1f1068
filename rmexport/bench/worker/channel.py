"""JSON lines between the benchmark and a contestant, kept apart from whatever an engine prints."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass(frozen=True)
class Channel:
    """Commands in, replies out."""

    commands: TextIO
    replies: TextIO

    @classmethod
    def take_over(cls) -> "Channel":
        """Standard input and output for ourselves; what engines write to file descriptor 1 goes to standard error."""
        replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return cls(sys.stdin, replies)

    def read(self) -> Iterator[dict[str, Any]]:
        """Commands until the benchmark closes its end."""
        for line in self.commands:
            yield json.loads(line)

    def write(self, reply: dict[str, Any]) -> None:
        """One reply. Raises ValueError for a number that JSON cannot hold."""
        self.replies.write(json.dumps(reply, allow_nan=False) + "\n")
        self.replies.flush()
