"""JSON lines between the benchmark and a contestant's process, kept apart from whatever an engine prints."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass(frozen=True)
class Channel:
    """The two ends of a contestant's process: commands come in, replies go out, each as one line of JSON.

    >>> import io
    >>> channel = Channel(commands=io.StringIO('{"do": "hello"}\\n'), replies=io.StringIO())
    >>> list(channel.read())
    [{'do': 'hello'}]
    """

    commands: TextIO
    replies: TextIO

    @classmethod
    def take_over(cls) -> "Channel":
        """A channel over standard input and output; what engines print goes to standard error from now on."""
        replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return cls(sys.stdin, replies)

    def read(self) -> Iterator[dict[str, Any]]:
        """Every command, until the benchmark closes its end."""
        for line in self.commands:
            yield json.loads(line)

    def write(self, reply: dict[str, Any]) -> None:
        """Send one reply. Raises ValueError for NaN and infinity, which JSON cannot hold."""
        self.replies.write(json.dumps(reply, allow_nan=False) + "\n")
        self.replies.flush()
