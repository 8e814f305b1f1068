"""Builds stubs of CUDA's libraries with the system's C compiler: `python build.py PROVIDER.so HEADERS OUT`.

The CUDA provider of onnxruntime-gpu says which libraries and functions it needs. Functions that the C files beside this
one do not have return 0, which is success everywhere in CUDA. HEADERS holds `driver_types.h` of CUDA's runtime.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
DRIVER = "libcuda.so.1"  # found by functions that name no library's version
# What the headers ask of the compiler of CUDA, whose own headers are in no small package.
DEFINITIONS = """
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define CUDARTAPI
#define CUDARTAPI_CDECL
#define __host__
#define __device__
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))
"""


def build(provider: Path, headers: Path, out: Path) -> list[Path]:
    """The stubs that `provider` loads, and the driver's, in the folder `out`.

    Raises RuntimeError, with what the tool wrote, where the compiler or `nm` fails or is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    functions = needed_functions(provider)
    runtime = next(name for name in functions if name.startswith("libcudart"))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "crt").mkdir()
        (work / "crt" / "host_defines.h").write_text(DEFINITIONS)
        names = [runtime, *(name for name in functions if name != runtime)]
        return [_library(name, functions[name], out, runtime, (work, headers)) for name in names]


def needed_functions(provider: Path) -> dict[str, list[str]]:
    """By the library that must have them: CUDA's libraries that the provider loads, and the driver's."""
    loaded = re.findall(r"\(NEEDED\).*\[(lib(?:cu|nv)\S+)\]", _output("readelf", "-d", "-W", str(provider)))
    found: dict[str, list[str]] = {name: [] for name in (*loaded, DRIVER)}
    for name, version in re.findall(r" U (\w+)(?:@+(\S+))?", _output("nm", "-D", "--undefined-only", str(provider))):
        if version in found:
            found[version].append(name)
        elif not version and re.match(r"cu[A-Z]", name):
            found[DRIVER].append(name)
    return found


def _library(name: str, functions: list[str], out: Path, runtime: str, include: tuple[Path, ...]) -> Path:
    stem = name.removeprefix("lib").split(".")[0]
    written = SOURCES / f"{stem}.c"
    source = written.read_text() if written.exists() else ""
    known = set(re.findall(r"^[\w \*]*?(\w+)\(", source, re.MULTILINE))
    work = include[0]
    generated, versions, target = work / f"{stem}.c", work / f"{stem}.map", out / name
    rest = (f"int {function}(void) {{ return 0; }}" for function in functions if function not in known)
    generated.write_text("\n".join([source, *rest]) + "\n")
    versions.write_text(f"{name} {{ global: *; }};\n")
    command = [os.environ.get("CC", "cc"), "-w", "-O1", "-fPIC", "-shared", f"-Wl,-soname,{name}", "-o", str(target)]
    command += [f"-I{folder}" for folder in include] + [str(generated)]
    command += [] if name == DRIVER else [f"-Wl,--version-script={versions}"]
    command += [str(out / runtime)] if "stub_product" in source and name != runtime else []
    _output(*command)
    return target


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{command[0]} cannot be run ({error}); install a C compiler and binutils") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
