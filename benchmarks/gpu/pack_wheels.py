"""Wheels for a GPU machine without a network, cut to what it needs: `python benchmarks/gpu/pack_wheels.py --out DIR`.

Run where there is a network. It takes onnxruntime-gpu and cuDNN's frontend for the machine's Python from the package
index, leaves out what nothing here imports and the code of other GPUs, and writes parts, which `first_run.py store`
takes. A second set, `restore`, holds the code that was cut out, in case that the driver refuses the library without it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu import cut_architectures, parts

WHEELS = ("onnxruntime-gpu==1.31.1", "nvidia-cudnn-frontend==1.32.0")
PLATFORMS = ("manylinux_2_27_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64")
LIBRARY = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
# Of onnxruntime: what C programs link to, another provider, and tools that convert models.
UNUSED = (
    "onnxruntime/capi/libonnxruntime.so*", "onnxruntime/capi/libonnxruntime_providers_tensorrt.so",
    "onnxruntime/transformers", "onnxruntime/quantization", "onnxruntime/tools", "onnxruntime/datasets",
)  # fmt: skip
CODE, PLACES = "code.bin", "places.json"  # of the set `restore`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts; one that git ignores")
    parser.add_argument("--python", default="3.12", help="the machine's Python (default: 3.12)")
    parser.add_argument("--capability", default="9.0", help="compute capability of its GPU (default: 9.0)")
    parser.add_argument("--part-mb", type=float, default=45.0, help="largest part, in MB (default: 45)")
    parser.add_argument("--wheels", type=Path, help="folder with the wheels, which are then not downloaded")
    arguments = parser.parse_args()
    major, minor = map(int, arguments.capability.split("."))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        wheels = arguments.wheels or _download(Path(folder) / "wheels", arguments.python)
        found = pack(wheels, Path(folder), arguments.out, (major, minor), int(arguments.part_mb * 1e6))
    print(json.dumps(found, indent=1))


def pack(wheels: Path, work: Path, out: Path, capability: tuple[int, int], most: int) -> dict[str, object]:
    """Parts of the sets `site` and `restore` in `out`; returns their sizes, and the code by architecture."""
    site, code = work / "site", work / "restore"
    for wheel in sorted(wheels.glob("*.whl")):
        zipfile.ZipFile(wheel).extractall(site)
    for pattern in UNUSED:
        for path in site.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = cut_architectures.sizes(site / LIBRARY)
    save_code(cut_architectures.cut(site / LIBRARY, capability), code)
    made = [*parts.pack(site, "site", out, most), *parts.pack(code, "restore", out, most)]
    return {"code_bytes": before, "parts": {path.name: path.stat().st_size for path in made}}


def save_code(taken: list[tuple[int, bytes]], folder: Path) -> None:
    """What `cut` returned, as two files."""
    folder.mkdir()
    (folder / CODE).write_bytes(b"".join(code for _, code in taken))
    (folder / PLACES).write_text(json.dumps([[offset, len(code)] for offset, code in taken]))


def restore(folder: Path, site: Path) -> None:
    """Put the code of an unpacked set `restore` back into the library below `site`."""
    taken, at, code = [], 0, (folder / CODE).read_bytes()
    for offset, size in json.loads((folder / PLACES).read_text()):
        taken.append((offset, code[at : at + size]))
        at += size
    cut_architectures.restore(site / LIBRARY, taken)


def _download(folder: Path, python: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--python-version", python, "--implementation", "cp", "--abi", f"cp{python.replace('.', '')}"]
    command += ["--abi", "abi3", "--abi", "none"]
    command += [part for platform in PLATFORMS for part in ("--platform", platform)]
    subprocess.run([*command, *WHEELS], check=True)
    return folder


if __name__ == "__main__":
    main()
