"""The one openvino.Core of a process, which lives as long as the process.

Its CPU plugin gives the thread that loads it another stack for signal handlers, and frees that stack when the last
Core, or model that one compiled, is destroyed, on whatever thread that happens. The first thread is then left with a
stack that is gone, and the next signal, such as Ctrl-C, is a segmentation fault (seen with OpenVINO 2026.4).
"""

import importlib
from functools import cache
from typing import Any


@cache
def openvino_core() -> Any:
    """The Core. Raises ImportError without openvino."""
    return importlib.import_module("openvino").Core()
