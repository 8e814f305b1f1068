"""Starts a contestant: `PYTHON rmexport/bench/worker FILE`, where FILE is a peer module such as those in bench/peers.

Run as a folder, so that the contestant's Python needs no rmexport: the packages that contain this one are replaced by
empty ones, because their own `__init__` needs rmexport's dependencies.
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
