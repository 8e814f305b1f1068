"""`rmexport inspect`: its arguments, and what is printed; no decisions beyond reading them."""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    import argparse


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `inspect`."""
    from rmexport.arguments import add_checkpoint_arguments

    parser.add_argument("path", help="checkpoint folder, Hub id, or bundle folder")
    parser.add_argument("--json", action="store_true", help="print the description as JSON")
    parser.add_argument(
        "--check",
        choices=("fast", "full"),
        default="fast",
        help="how to check the files: full also reads all weights (default: fast)",
    )
    add_checkpoint_arguments(parser)
    parser.set_defaults(run=run_inspect_command)


def run_inspect_command(arguments: argparse.Namespace) -> int:
    """Inspect, and print the facts; 1 where weights hold NaN or Inf, else 0."""
    import json

    from rmexport.arguments import export_options
    from rmexport.inspection.facts import inspect, text
    from rmruntime.commands.command import say

    facts = inspect(arguments.path, export_options(arguments), full=arguments.check == "full")
    say(json.dumps(facts, indent=1, ensure_ascii=False) if arguments.json else text(facts))
    return 1 if facts.get("not_finite") else 0
