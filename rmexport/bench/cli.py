"""`rmexport bench`: reads its arguments and prints its result; decides nothing else."""

import argparse
from datetime import datetime
from pathlib import Path

from rmexport.bench.options import DEFAULT_PROFILE, SCENARIOS, BenchOptions
from rmexport.bench.peers import peers
from rmexport.bench.profiles import PROFILES
from rmexport.errors import OptionError
from rmruntime.commands.command import note, say


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `bench`.

    >>> parser = argparse.ArgumentParser()
    >>> add_bench_arguments(parser)
    >>> read_options(parser.parse_args(["bundle", "--profile", "best-of-8", "--rate", "2"])).rates
    (2.0,)
    """
    parser.add_argument("bundle", nargs="?", help="folder written by rmexport export")
    parser.add_argument(
        "--from-json", metavar="FILE", help="measure nothing: draw page and plots again from an earlier report.json"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="folder for report.json, report.html and plots (default: bench-DATE-TIME)"
    )
    _add_workload_arguments(parser)
    _add_contestant_arguments(parser)
    _add_measuring_arguments(parser)
    parser.set_defaults(run=run_bench_command)


def _add_workload_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is scored")
    group.add_argument("--workload", metavar="FILE", type=Path, help="file of records, as `score` reads them")
    group.add_argument(
        "--profile", help=f"made-up conversations instead: {', '.join(PROFILES)} (default: {DEFAULT_PROFILE})"
    )
    group.add_argument("--seed", type=int, default=0, help="random seed of profiles and arrivals (default: 0)")


def _add_contestant_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who takes part, besides the bundle")
    names = ", ".join(sorted({*peers()} - {"bundle"}))
    group.add_argument(
        "--peer", action="append", default=[], metavar="NAME", dest="peers",
        help=f"what to compare with: {names}, each also as NAME:dtype; bundle:PATH, another bundle; or the path of a "
        "peer module (repeatable)",
    )  # fmt: skip
    group.add_argument(
        "--peer-python", action="append", default=[], metavar="NAME=PATH",
        help="the Python interpreter in which the peer NAME is installed (repeatable; default: this one)",
    )  # fmt: skip
    group.add_argument("--peer-batch", type=int, default=8, help="most sequences in a peer's batch (default: 8)")
    group.add_argument(
        "--peer-cache", metavar="FOLDER", type=Path,
        help="folder that keeps the checkpoints that peers convert (default: converted anew in each run)",
    )  # fmt: skip
    group.add_argument(
        "--checkpoint", metavar="FOLDER", help="the Hugging Face checkpoint of the bundle, which peers load"
    )
    group.add_argument(
        "--peer-folder", metavar="FOLDER", type=Path, default=Path(".peers"),
        help="where scripts/peers made the environments of peers (default: .peers)",
    )  # fmt: skip


def _add_measuring_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is measured")
    group.add_argument(
        "--scenario", action="append", dest="scenarios", metavar="NAME",
        help=f"{', '.join(SCENARIOS)} (repeatable; default: single-stream and offline)",
    )  # fmt: skip
    group.add_argument("--device", default="auto", help="device of the bundle, as for score (default: auto)")
    group.add_argument(
        "--precision", default="auto", help="the bundle's arithmetic: auto, fp32, bf16 or fp16 (default: auto)"
    )
    group.add_argument(
        "--threads", type=int, default=0, help="threads of every contestant (default: 0, the engines decide)"
    )
    group.add_argument(
        "--max-batch-tokens", type=int, help="most tokens in one pass of the bundle (default: its engine's choice)"
    )
    group.add_argument("--warmup", type=int, default=5, help="requests in a warm-up window (default: 5)")
    group.add_argument(
        "--repeats", type=int, default=3, help="how often single-stream and offline are measured (default: 3)"
    )
    group.add_argument("--requests", type=int, default=64, help="requests in a single-stream repeat (default: 64)")
    group.add_argument(
        "--duration", type=float, default=30.0, help="most seconds for a single-stream repeat or a rate (default: 30)"
    )
    group.add_argument(
        "--rate", action="append", type=float, default=[], dest="rates",
        help="requests per second in the server scenario (repeatable; default: rates up to the knee, the highest that "
        "a contestant keeps up with)",
    )  # fmt: skip
    group.add_argument(
        "--slo-ms", type=float,
        help="latency objective of the server scenario, in ms: later answers do not count as goodput",
    )  # fmt: skip
    group.add_argument("--timeout", type=float, default=1800.0, help="seconds to wait for one answer (default: 1800)")


def run_bench_command(arguments: argparse.Namespace) -> int:
    """Measure, or read an earlier report; write page and plots and print the table. Returns the exit status."""
    from rmexport.bench.report import read_report, table, write_report
    from rmexport.bench.run import exit_status, run_bench

    if arguments.from_json is not None:
        source = Path(arguments.from_json)
        report = read_report(source)
        folder = Path(arguments.output) if arguments.output else source.parent
        status = 0
    else:
        options = read_options(arguments)
        folder = Path(arguments.output or datetime.now().strftime("bench-%Y%m%d-%H%M%S"))
        report = run_bench(arguments.bundle, options, folder, note)
        status = exit_status(report)
    say(table(report))
    write_report(report, folder)
    note(str(folder / "report.html"))
    return status


def read_options(arguments: argparse.Namespace) -> BenchOptions:
    """The BenchOptions that parsed arguments of `bench` ask for. Raises OptionError.

    >>> parser = argparse.ArgumentParser()
    >>> add_bench_arguments(parser)
    >>> read_options(parser.parse_args(["bundle", "--peer", "transformers:fp32"])).peers
    ('transformers:fp32',)
    """
    if arguments.bundle is None:
        raise OptionError("found no BUNDLE, expected the folder to measure; name it, or give --from-json FILE")
    renamed = {"duration": "duration_s", "timeout": "timeout_s"}
    given = {renamed.get(name, name): value for name, value in vars(arguments).items()}
    known = {name: value for name, value in given.items() if name in BenchOptions.__dataclass_fields__}
    known |= {"peers": tuple(arguments.peers), "rates": tuple(arguments.rates)}
    known["peer_python"] = dict(_peer_python(item) for item in arguments.peer_python)
    known["scenarios"] = tuple(arguments.scenarios or BenchOptions.scenarios)
    return BenchOptions(**known)


def _peer_python(item: str) -> tuple[str, str]:
    name, equals, path = item.rpartition("=")
    if not (name and equals and path):
        raise OptionError(f"--peer-python is {item!r}, expected NAME=PATH, such as vllm=/opt/vllm/bin/python")
    return name, path
