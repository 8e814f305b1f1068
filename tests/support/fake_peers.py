"""Peer modules written to files: what a contestant can do well or badly."""

from pathlib import Path

MODULE = """
import os, signal, sys, time
from rmexport.bench.worker.scorer import Scores

NAME, PACKAGES, DISTRIBUTIONS, DTYPES, HEADS = {name!r}, {packages!r}, (), ("fp32",), ()


def load(folder, dtype, threads, options):
    os.write(1, b"an engine's chatter\\n")
    print("more of it")
    return Scorer()


class Scorer:
    precision, settings, budget = "fp32", "fake", 4

    def weight(self, request):
        return len(request.sequences)

    def reset(self):
        pass

    def score(self, requests):
        values = [float(sum(ids)) for request in requests for ids in request.sequences]
        {action}
        return Scores(values, 1)
"""
ACTIONS = {
    "sums": "pass",
    "crash": "sys.stderr.write('a last word\\n'); sys.stderr.flush(); os._exit(3)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "hang": "time.sleep(600)",
    "nan": "values[0] = float('nan')",
    "refuse": "raise RuntimeError('no more')",
    "interrupt": "os.kill(os.getppid(), signal.SIGINT); time.sleep(60)",
}


def fake_peer(folder: Path, action: str, packages: tuple[str, ...] = ()) -> Path:
    """The file of a peer that scores the sum of the ids, and does `action` on the way."""
    path = folder / f"{action}.py"
    path.write_text(MODULE.format(name=action, packages=packages, action=ACTIONS[action]))
    return path
