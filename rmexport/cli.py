"""The `rmexport` command: reads arguments, calls the library and prints; decides nothing else.

Everything else is imported in the functions, so that `main` handles Ctrl-C before the slow imports.
"""

from __future__ import annotations

from rmruntime.commands.stop_signals import install_stop_signals

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rmruntime.commands.command import Work


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `rmexport` command; returns its exit status.

    0 for success, 1 for a failed verification or a difference, 2 for errors, 130 for Ctrl-C.
    """
    stops = install_stop_signals(argv)
    from rmexport.errors import ExportError
    from rmruntime.commands.command import run_command
    from rmruntime.errors import RewardModelError

    return run_command(_prepare, argv, (ExportError, RewardModelError), stops)


def _prepare(argv: Sequence[str] | None) -> Work:
    from functools import partial

    arguments = _parser().parse_args(argv)
    return partial(arguments.run, arguments)


def _parser() -> argparse.ArgumentParser:
    from rmexport.bench.cli import add_bench_arguments
    from rmexport.compile.cli import add_compile_arguments
    from rmexport.diff.cli import add_diff_arguments
    from rmexport.inspection.cli import add_inspect_arguments
    from rmexport.verify.cli import add_verify_arguments
    from rmexport.version import __version__
    from rmruntime.cli import add_rank_arguments, add_score_arguments, run_rank, run_score
    from rmruntime.commands.command import CommandParser

    parser = CommandParser(
        prog="rmexport", description="Export Hugging Face reward models to bundles that score without PyTorch."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    add_inspect_arguments(commands.add_parser("inspect", help="describe a checkpoint or a bundle"))
    _add_export(commands.add_parser("export", help="turn a checkpoint into a bundle"))
    add_compile_arguments(commands.add_parser("compile", help="compile a bundle's graph for a GPU"))
    add_diff_arguments(commands.add_parser("diff", help="show the differences between two bundles or checkpoints"))
    add_verify_arguments(commands.add_parser("verify", help="compare a bundle's scores with transformers'"))
    score = commands.add_parser("score", help="score a file of records with a bundle")
    add_score_arguments(score)
    score.set_defaults(run=run_score)
    rank = commands.add_parser("rank", help="put each query's documents in the order of a bundle's scores")
    add_rank_arguments(rank)
    rank.set_defaults(run=run_rank)
    add_bench_arguments(commands.add_parser("bench", help="compare a bundle's speed with other programs'"))
    commands.add_parser("recipes", help="list the built-in recipes").set_defaults(run=_recipes)
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    from typing import get_args

    from rmexport.arguments import add_checkpoint_arguments
    from rmruntime.bundle.manifest import Scheme

    parser.add_argument("checkpoint", help="checkpoint: a local folder or a Hub id")
    parser.add_argument("bundle", help="folder to write")
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--weights",
        choices=("copy", "link"),
        default="copy",
        help="copy the checkpoint's weight files, or hard-link them, which takes no disk space (default: copy)",
    )
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        help="largest size of a weight file, such as 5GB; larger ones are split (default: 5GB for new files)",
    )
    parser.add_argument(
        "--quantize", choices=get_args(Scheme), help="store linear layers in 8 or 4 bits (default: in --dtype)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    parser.add_argument("--restart", action="store_true", help="start over instead of continuing an interrupted export")
    parser.add_argument(
        "--stages",
        type=int,
        default=1,
        help="also write each graph in this number of parts, by layers, for several devices or one with little memory "
        "(default: 1, not split)",
    )
    parser.add_argument(
        "--stage-layers", metavar="0-39,40-79", help="the layers of each part, instead of --stages parts of equal size"
    )
    parser.add_argument(
        "--hash", action="store_true", help="hash all weights, also files that are linked or cloned without being read"
    )
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from rmexport.arguments import export_options
    from rmexport.export import export
    from rmexport.output.progress import byte_bar, notify
    from rmruntime.commands.command import say

    with byte_bar("weights") as progress:
        manifest = export(arguments.checkpoint, arguments.bundle, export_options(arguments), progress, notify)
    size = sum(f.size for f in manifest.files)
    backbone = manifest.backbone
    stored = manifest.dtype + (f" with {manifest.quantization.scheme} layers" if manifest.quantization else "")
    say(
        f"{arguments.bundle}: {backbone.model_type} backbone of {_count(backbone.parameters)} parameters, "
        f"{manifest.head} head, {stored}, {size / 1e6:.1f} MB"
    )
    for note in manifest.notes:
        say(f"note: {note}")
    return 0


def _recipes(arguments: argparse.Namespace) -> int:
    from rmexport.prompt.recipe import recipes
    from rmruntime.commands.command import say

    for recipe in recipes().values():
        say(f"{recipe.name:<22} {recipe.description}")
        for repo in recipe.repos:
            say(f"{'':<22} - {repo}")
    return 0


def _count(number: int) -> str:
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"
