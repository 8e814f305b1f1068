"""Starts a contestant: `PYTHON rmexport/bench/worker FILE`, FILE being a module of rmexport/bench/peers or like one.

Run as a folder, so that the contestant's Python needs no rmexport: the packages on the way here are stood in for by
empty ones, whose own `__init__` (which needs rmexport's dependencies) never runs.
"""

import sys
import types
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
sys.path.pop(0)  # this folder: its modules must not hide those of the engines

for _name, _folder in (
    ("rmexport", BENCH.parent),
    ("rmexport.bench", BENCH),
    ("rmexport.bench.worker", BENCH / "worker"),
    ("rmexport.bench.peers", BENCH / "peers"),
):
    _package = types.ModuleType(_name)
    _package.__path__ = [str(_folder)]
    sys.modules[_name] = _package

from rmexport.bench.worker.channel import Channel  # noqa: E402 # found through the packages above
from rmexport.bench.worker.loop import serve_commands  # noqa: E402

if __name__ == "__main__":
    serve_commands(Channel.take_over(), Path(sys.argv[1]))
