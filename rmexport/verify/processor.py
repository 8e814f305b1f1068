"""Which processor this is, as far as arithmetic goes: two of the same instruction sets round alike."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
# Instruction sets that libraries choose their matrix kernels by; x86 and ARM.
_ARITHMETIC = re.compile(r"(sse4|avx|amx|fma|f16c|asimd|sve|sme|bf16|i8mm)\w*")
# What holds a library to fewer instruction sets than the processor has, or to other kernels.
LIMITS = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")


@dataclass(frozen=True, kw_only=True)
class Processor:
    """The first core's model, vendor and all of its flags, by the names that Linux has for them."""

    model: str
    vendor: str
    flags: frozenset[str]

    @property
    def level(self) -> dict[str, Any]:
        """What libraries choose kernels by: the maker, the instruction sets, and the environment's limits on them."""
        limits = {name: os.environ[name] for name in LIMITS if name in os.environ}
        sets = sorted(flag for flag in self.flags if _ARITHMETIC.fullmatch(flag))
        return {"vendor": self.vendor, "instruction_sets": sets, "limits": limits}


def read_processor() -> Processor:
    """This machine's; without flags where the system does not list them.

    >>> sorted(read_processor().level)
    ['instruction_sets', 'limits', 'vendor']
    """
    values = _first_core(CPUINFO.read_text()) if CPUINFO.is_file() else {}
    return Processor(
        model=values.get("model name", platform.processor() or "unknown"),
        vendor=values.get("vendor_id", values.get("CPU implementer", platform.machine())),
        flags=frozenset(values.get("flags", values.get("Features", "")).split()),
    )


def _first_core(text: str) -> Mapping[str, str]:
    lines = text.split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
