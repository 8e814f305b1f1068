"""Exports 70B- and 8B-shaped checkpoints and prints peak memory, rates, and whether every tensor arrived in its place.

Steps: `sparse` makes a 70B checkpoint (139 GB, next to nothing on disk) in both formats, links the safetensors, and of
the .bin shards looks at every tensor's place and streams `--shards` whole shards through the export's own code. `bin`
exports an 8B shape of random .bin shards beside a plain copy of the same bytes, `--repeats` times, interrupts one
export half-way and continues it. `diff` compares the bundle with itself, by hashes, and with the checkpoint, by reading
both. `bin` and `diff` need twice the size of the .bin shards of disk (16 GB each with all layers).
"""

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
from bench_checkpoints import EXAMPLE, LLAMA3_8B, _llama_tensors
from bench_export import plain_copy
from machine import banner
from measured_process import Measured, measure

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
from rmexport import ExportOptions  # noqa: E402
from rmexport.checkpoint import Checkpoint, open_checkpoint  # noqa: E402
from rmexport.spec import read_spec  # noqa: E402
from rmexport.weights.shard_plan import Plan, Shard, plan_weights  # noqa: E402
from rmexport.weights.stream import Monitor, stream_shard  # noqa: E402
from rmruntime.bundle import Bundle  # noqa: E402
from rmruntime.bundle.safetensors_header import read_header  # noqa: E402
from sparse_checkpoints import disk_usage, has_marks, marks, write_seed, write_seed_as_bin  # noqa: E402
from torch_archives import write_archive  # noqa: E402

STEPS = ("sparse", "bin", "diff")
SHARD_BYTES = 5_000_000_000
NOISE = 1 << 26  # bytes of random weights, reused from another offset for each tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder on the disk to measure")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--layers", type=int, default=32, help="of the 8B shape")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--shards", type=int, default=1, help="of the 70B shape that are streamed")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it, and so would their children
    print(banner(), flush=True)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for step in arguments.steps:
        globals()[f"run_{step}"](arguments)


def rmexport(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "rmexport", *map(str, arguments)]


def report(name: str, m: Measured, size: int | None = None) -> None:
    rate = f", {size / m.seconds / 1e9:.2f} GB/s" if size else ""
    print(f"{name}: {m.seconds:.2f} s, {m.anonymous / 1e6:.0f} MB anonymous peak{rate}", flush=True)


def run_sparse(arguments: argparse.Namespace) -> None:
    work: Path = arguments.work
    for folder in ("70b", "70b-bin", "70b-link"):
        shutil.rmtree(work / folder, ignore_errors=True)
    checkpoint = write_seed(work / "70b", "tulu-70b")
    print(f"70B safetensors: {weight_bytes(checkpoint) / 1e9:.1f} GB, {disk_usage(checkpoint) / 1e6:.1f} MB on disk")
    link = rmexport("export", checkpoint, work / "70b-link", "--weights", "link", "--recipe", "rewardbench2")
    report("export --weights link", measure(link))
    bundle = Bundle.open(work / "70b-link")
    found = [check_file(work / "70b-link" / f.name) for f in bundle.manifest.files if f.role == "weights"]
    print(f"tensors found at both ends in the bundle: {sum(found)}")
    checkpoint = write_seed_as_bin(work / "70b-bin", "tulu-70b")
    print(f"70B .bin: {weight_bytes(checkpoint) / 1e9:.1f} GB, {disk_usage(checkpoint) / 1e6:.1f} MB on disk")
    report("inspect", measure([*rmexport("inspect", checkpoint, "--recipe", "rewardbench2"), "--json"]))
    opened = open_checkpoint(str(checkpoint))
    options = ExportOptions(recipe="rewardbench2")
    plan = plan_weights(opened, read_spec(opened, options).weights, options)
    print(f"plan: {len(plan.shards)} shards; tensors found at both ends in the source: {check_source(opened, plan)}")
    for shard in plan.shards[: arguments.shards]:
        check_shard(opened, shard, work / "shard.safetensors")
    for folder in ("70b", "70b-bin", "70b-link"):
        shutil.rmtree(work / folder)


def weight_bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.iterdir() if f.suffix in (".safetensors", ".bin"))


def check_file(path: Path) -> int:
    entries = read_header(path)
    wrong = [name for name, e in entries.items() if not has_marks(path, name, e.begin, e.nbytes)]
    assert not wrong, wrong
    return len(entries)


def check_source(checkpoint: Checkpoint, plan: Plan) -> int:
    pieces = [piece for shard in plan.shards for piece in shard.pieces]
    for piece in pieces:
        for offset, expected in marks(piece.weight.name, piece.weight.nbytes).items():
            out = np.empty(len(expected), np.uint8)
            checkpoint.read_into(piece.weight.name, offset // 2, out.view(np.uint16))
            assert out.tobytes() == expected, piece.weight.name
    return len(pieces)


def check_shard(checkpoint: Checkpoint, shard: Shard, path: Path) -> None:
    """Stream a whole shard, and compare its hash with that of what must be in it, computed in another way."""
    begin = time.perf_counter()
    sha256 = stream_shard(checkpoint, shard, path, Monitor())
    seconds = time.perf_counter() - begin
    expected = hashlib.sha256(shard.header)
    for piece in shard.pieces:
        found = marks(piece.weight.name, piece.weight.nbytes)
        last = max(found)
        expected.update(found[0])
        zeros = bytes(1 << 20)
        rest = last - len(found[0]) if last else 0
        for at in range(0, rest, len(zeros)):
            expected.update(zeros[: rest - at])
        expected.update(found[last] if last else b"")
    assert sha256 == expected.hexdigest(), shard.name
    found = f"{check_file(path)} tensors in place, hash as computed"
    print(f"{shard.name}: {shard.size / 1e9:.2f} GB streamed in {seconds:.1f} s, {found}", flush=True)
    path.unlink()


def write_bin_8b(folder: Path, layers: int) -> Path:
    """A classifier of Llama 3's 8B shape in .bin shards of at most 5 GB, with random weights."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = LLAMA3_8B | {
        "architectures": ["LlamaForSequenceClassification"],
        "num_hidden_layers": layers,
        "num_labels": 1,
    }
    tensors = [*_llama_tensors(config), ("score.weight", (1, 4096))]
    shards: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    size = 0
    for name, shape in tensors:
        nbytes = 2 * int(np.prod(shape))
        if size + nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = ("BF16", shape)
        size += nbytes
    noise = (np.random.default_rng(0).integers(0, 0x3FFF, NOISE, np.uint16)).view(np.uint8)
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"pytorch_model-{i + 1:05}-of-{len(shards):05}.bin"
        write_archive(folder / file, shard, lambda f, n, shard=shard: fill(f, n, shard[n][1], noise))
        weight_map |= dict.fromkeys(shard, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(EXAMPLE / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def fill(file: BinaryIO, name: str, shape: tuple[int, ...], noise: "np.ndarray") -> None:
    nbytes = 2 * int(np.prod(shape))
    at = 2 * (int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") % (NOISE // 4))
    while nbytes:
        part = noise[at : at + nbytes]
        file.write(part.data)
        nbytes, at = nbytes - part.size, 0


def run_bin(arguments: argparse.Namespace) -> None:
    work: Path = arguments.work
    checkpoint = write_bin_8b(work / "8b-bin", arguments.layers)
    size = weight_bytes(checkpoint)
    print(
        f"8B .bin with {arguments.layers} layers: {size / 1e9:.2f} GB in {len(list(checkpoint.glob('*.bin')))} shards"
    )
    target = work / "bundle"
    for _ in range(arguments.repeats):
        shutil.rmtree(target, ignore_errors=True)
        copied = plain_copy(checkpoint, work / "plain-copy", "*.bin")
        print(f"cp and fsync of the same bytes: {copied:.2f} s, {size / copied / 1e9:.2f} GB/s", flush=True)
        m = measure(rmexport("export", checkpoint, target))
        report("export", m, size)
        print(f"export runs at {copied / m.seconds:.2f} of the speed of cp", flush=True)
    print(f"tensors that are as in the source: {compare(checkpoint, target)}")
    whole = {f.name: f.sha256 for f in Bundle.open(target).manifest.files}
    shutil.rmtree(target)
    interrupt(rmexport("export", checkpoint, target), target, size)
    kept = weight_bytes(next(work.glob(".bundle.partial-*")))
    report(
        f"the interrupted export, continued where {kept / 1e9:.2f} GB were kept",
        measure(rmexport("export", checkpoint, target)),
        size - kept,
    )
    assert {f.name: f.sha256 for f in Bundle.open(target).manifest.files} == whole
    print("its files have the hashes of the export in one go")


def compare(checkpoint: Path, bundle: Path) -> int:
    """How many tensors have the bytes of the checkpoint's, by their hashes."""
    opened, same = open_checkpoint(str(checkpoint)), 0
    for path in bundle.glob("*.safetensors"):
        raw = np.memmap(path, np.uint8, "r")
        for name, entry in read_header(path).items():
            expected, found = hashlib.sha256(), hashlib.sha256(raw[entry.begin : entry.end])
            for chunk in opened.chunks(name):
                expected.update(chunk.view(np.uint8))
            assert expected.digest() == found.digest(), name
            same += 1
    return same


def interrupt(command: list[str], target: Path, size: int) -> None:
    """Ctrl-C when about half of the bytes are there."""
    process = subprocess.Popen(command)
    while process.poll() is None:
        partial = [f for folder in target.parent.glob(".bundle.partial-*") for f in folder.glob("*.safetensors")]
        if sum(f.stat().st_size for f in partial) > 0.6 * size:
            process.send_signal(signal.SIGINT)
            process.wait()
        time.sleep(0.05)
    print(f"interrupted: exit status {process.returncode}", flush=True)


def run_diff(arguments: argparse.Namespace) -> None:
    """Against itself, which recorded hashes settle, and against the checkpoint, which is read."""
    work: Path = arguments.work
    target, checkpoint = work / "bundle", work / "8b-bin"
    report("diff, by hashes", measure(rmexport("diff", target, target)))
    report("diff, read", measure(rmexport("diff", target, checkpoint)), 2 * weight_bytes(target))


if __name__ == "__main__":
    main()
