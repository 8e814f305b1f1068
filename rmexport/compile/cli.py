"""`rmexport compile`: reads its arguments and prints its result; decides nothing else."""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from rmexport.compile.compiled import compile_bundle
from rmexport.compile.options import LIBRARIES, TARGETS, CompileOptions
from rmruntime.commands.command import say
from rmruntime.commands.progress_bars import DELAY

REFRESH = 0.1  # seconds between two states of the bar


def add_compile_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `compile`.

    >>> parser = argparse.ArgumentParser()
    >>> add_compile_arguments(parser)
    >>> parser.parse_args(["bundle", "--target", "tensorrt"]).max_sequences
    512
    """
    defaults = CompileOptions()
    parser.add_argument("bundle", help="folder written by rmexport export")
    parser.add_argument("--target", choices=TARGETS, required=True, help="the kind of engine to compile")
    parser.add_argument(
        "--library", choices=("auto", *LIBRARIES), default=defaults.library,
        help="the package that compiles (default: auto, tensorrt where it is installed, else tensorrt_rtx)",
    )  # fmt: skip
    parser.add_argument(
        "--compute-capability", metavar="X.Y",
        help="compute capability of the GPU to compile for, with tensorrt_rtx (default: that of this machine's GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--max-batch-tokens", type=int, default=defaults.max_batch_tokens,
        help=f"most tokens in one pass (default: {defaults.max_batch_tokens})",
    )  # fmt: skip
    parser.add_argument(
        "--max-length", type=int,
        help="most tokens in one sequence (default: the model's limit, or less where the GPU's memory is small)",
    )  # fmt: skip
    parser.add_argument(
        "--max-sequences", type=int, default=defaults.max_sequences,
        help=f"most sequences in one pass (default: {defaults.max_sequences})",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the engine of the same name")
    parser.set_defaults(run=run_compile_command)


def run_compile_command(arguments: argparse.Namespace) -> int:
    """Compile, and print a summary of the engine. Returns the exit status."""
    known = {name: value for name, value in vars(arguments).items() if name in CompileOptions.__dataclass_fields__}
    with _phase_bar() as progress:
        made = compile_bundle(arguments.bundle, CompileOptions(**known), progress)
    record = made.record
    say(
        f"{made.folder}: {record.compute_dtype} engine of {record.size / 1e6:.1f} MB for {record.gpu} (compute "
        f"capability {record.compute_capability}), by {record.library} {record.version}; passes of up to "
        f"{record.batch_tokens} tokens, sequences of up to {made.max_length}"
    )
    if made.max_length < made.model_length:
        say(
            f"note: the model takes sequences of up to {made.model_length} tokens; this engine refuses those beyond "
            f"{made.max_length}"
        )
    return 0


@contextmanager
def _phase_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for the compiler's current phase; call it with (phase, steps done, steps in total)."""
    begin = shown = time.monotonic()
    with tqdm(unit=" steps", disable=None, delay=DELAY, leave=False) as bar:

        def show(phase: str, done: int, total: int) -> None:
            nonlocal shown
            bar.set_description_str(phase, refresh=False)
            bar.total, bar.n = total, done
            now = time.monotonic()
            if now - begin >= DELAY and now - shown >= REFRESH:  # phases begin again at 0: the bar does not see that
                shown = now
                bar.refresh()

        yield show
