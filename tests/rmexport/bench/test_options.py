"""Options are refused before anything is loaded, with words that name them."""

from typing import Any

import pytest

from rmexport.bench.options import BenchOptions
from rmexport.errors import OptionError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scenarios": ("multi-stream",)}, "--scenario is 'multi-stream'"),
        ({"scenarios": ("offline", "offline")}, "--scenario"),
        ({"scenarios": ()}, "--scenario"),
        ({"profile": "ragged-ish"}, "--profile is 'ragged-ish', expected one of ragged"),
        ({"profile": "tree", "workload": "x.jsonl"}, "both --workload and --profile"),
        ({"rates": (4.0, 0.0)}, "--rate is 0.0"),
        ({"rates": (-1.0,)}, "--rate is -1.0"),
        ({"rates": (float("nan"),)}, "--rate is nan"),
        ({"rates": (float("inf"),)}, "--rate is inf"),
        ({"slo_ms": 0.0}, "--slo-ms is 0.0"),
        ({"duration_s": 0.0}, "--duration is 0.0"),
        ({"timeout_s": -5.0}, "--timeout is -5.0"),
        ({"repeats": 0}, "--repeats is 0"),
        ({"requests": 0}, "--requests is 0"),
        ({"warmup": 0}, "--warmup is 0"),
        ({"peer_batch": 0}, "--peer-batch is 0"),
        ({"precision": "fp8"}, "--precision is 'fp8'"),
        ({"threads": -1}, "--threads is -1"),
        ({"peers": ("vllm", "vllm")}, "--peer"),
    ],
)
def test_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        BenchOptions(**given)
