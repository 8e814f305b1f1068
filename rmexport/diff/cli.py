"""`rmexport diff`: reads its arguments and prints its result; decides nothing else."""

import argparse
import json

from rmexport.diff.comparison import DiffOptions, diff
from rmexport.diff.report import facts, text
from rmexport.output.progress import byte_bar
from rmruntime.commands.command import say


def add_diff_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diff`.

    >>> parser = argparse.ArgumentParser()
    >>> add_diff_arguments(parser)
    >>> parser.parse_args(["old", "new"]).b
    'new'
    """
    parser.add_argument("a", metavar="A", help="bundle folder, or a checkpoint's folder or Hub id")
    parser.add_argument("b", metavar="B", help="the bundle or checkpoint to compare it with")
    parser.add_argument("--revision-a", metavar="REVISION", help="branch, tag or commit of the checkpoint A")
    parser.add_argument("--revision-b", metavar="REVISION", help="branch, tag or commit of the checkpoint B")
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")
    parser.set_defaults(run=run_diff_command)


def run_diff_command(arguments: argparse.Namespace) -> int:
    """Compare, and print the differences. Returns the exit status: 0 for none, 1 for some."""
    options = DiffOptions(revision_a=arguments.revision_a, revision_b=arguments.revision_b)
    with byte_bar("tensors") as progress:
        found = diff(arguments.a, arguments.b, options, progress)
    say(json.dumps(facts(found), indent=1, ensure_ascii=False) if arguments.json else text(found))
    return 1 if found.differs else 0
