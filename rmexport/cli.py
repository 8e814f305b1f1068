"""The `rmexport` command: reads arguments, calls the library, prints; no decisions.

Everything else is imported in the functions: `main` heeds signals first.
"""

from __future__ import annotations

from rmruntime.stop_signals import heeded

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rmexport.options import ExportOptions
    from rmruntime.command import Work


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0 for success, 1 for a failed verification or a difference, 2 for errors, 130 for Ctrl-C."""
    stops = heeded(argv)
    from rmexport.errors import ExportError
    from rmruntime.command import run_command
    from rmruntime.errors import RewardModelError

    return run_command(_prepare, argv, (ExportError, RewardModelError), stops)


def _prepare(argv: Sequence[str] | None) -> Work:
    from functools import partial

    arguments = _parser().parse_args(argv)
    return partial(arguments.run, arguments)


def _parser() -> argparse.ArgumentParser:
    from rmexport.bench.cli import add_bench_arguments
    from rmexport.compile.cli import add_compile_arguments
    from rmexport.difference.cli import add_diff_arguments
    from rmexport.version import __version__
    from rmruntime.cli import add_score_arguments, run_score
    from rmruntime.command import CommandParser

    parser = CommandParser(
        prog="rmexport", description="Export Hugging Face reward models to bundles that score without PyTorch."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_inspect(commands.add_parser("inspect", help="what a checkpoint or bundle is"))
    _add_export(commands.add_parser("export", help="turn a checkpoint into a bundle"))
    add_compile_arguments(commands.add_parser("compile", help="compile a bundle's graph for a GPU"))
    add_diff_arguments(commands.add_parser("diff", help="what differs between two bundles or checkpoints"))
    _add_verify(commands.add_parser("verify", help="measure a bundle against transformers"))
    score = commands.add_parser("score", help="score a file of records with a bundle")
    add_score_arguments(score)
    score.set_defaults(run=run_score)
    add_bench_arguments(commands.add_parser("bench", help="compare a bundle's speed with what else there is"))
    commands.add_parser("recipes", help="list the built-in recipes").set_defaults(run=_recipes)
    return parser


def _add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    from rmexport.options import ExportOptions

    parser.add_argument("--recipe", help="a built-in recipe's name or a path to a .json recipe")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp16", "fp32"), default="auto")
    parser.add_argument("--bos", choices=("one", "zero", "as-is"), help="BOS policy (default: as apply_chat_template)")
    parser.add_argument("--step-joiner", help="text between steps that a sequence head scores as partial answers")
    parser.add_argument("--score-label", help="which label of a classifier with several is the score")
    parser.add_argument("--pinned-date", default=ExportOptions.pinned_date, help="today, for templates that ask")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="checkpoint folder, Hub id, or bundle folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", choices=("fast", "full"), default="fast", help="full reads all weights")
    _add_checkpoint_arguments(parser)
    parser.set_defaults(run=_inspect)


def _add_export(parser: argparse.ArgumentParser) -> None:
    from typing import get_args

    from rmruntime.manifest import Scheme

    parser.add_argument("checkpoint", help="local folder or Hub id")
    parser.add_argument("bundle", help="folder to write")
    _add_checkpoint_arguments(parser)
    parser.add_argument("--weights", choices=("copy", "link"), default="copy", help="link hard-links the shards")
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        help="most bytes of a weight file, such as 5GB; larger ones are split",
    )
    parser.add_argument("--quantize", choices=get_args(Scheme), help="store linear layers in 8 or 4 bits")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    parser.add_argument("--restart", action="store_true", help="start over instead of continuing an interrupted export")
    parser.add_argument("--stages", type=int, default=1, help="also write each graph in so many parts, by layers")
    parser.add_argument(
        "--stage-layers", metavar="0-39,40-79", help="the layers of each part, where they are not alike"
    )
    parser.add_argument("--hash", action="store_true", help="hash weights even where nothing else reads them")
    parser.set_defaults(run=_export)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    from rmruntime.backends.base import PRECISIONS
    from rmruntime.cli import DEVICE_HELP, STAGE_MEMORY_HELP

    parser.add_argument("bundle")
    parser.add_argument("--checkpoint", required=True, help="the checkpoint the bundle was made from")
    parser.add_argument("--data", help="file of records (default: a built-in seeded set)")
    parser.add_argument("--conversations", type=int, default=256, help="size of the built-in set (default: 256)")
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument("--stage-memory", help=STAGE_MEMORY_HELP)
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the engine's arithmetic")
    parser.add_argument("--recipe", help="the recipe file, where the export used one that has moved")
    parser.add_argument("--max-batch-tokens", type=int, help="tokens of one pass (default: the engine's choice)")
    parser.add_argument("--dialect", help="the graph to run, where the engine reads several (default: its best)")
    parser.add_argument("--reference-device", default="cpu", help="of the reference: cpu, cuda, cuda:N (default: cpu)")
    parser.add_argument(
        "--reference-cache",
        metavar="DIR|off",
        help="folder that keeps what transformers computed, so that it is computed once; remove it to empty it "
        "(default: rmexport/reference in $XDG_CACHE_HOME, else in ~/.cache)",
    )
    parser.add_argument(
        "--quality", help="what quantization may cost: strict, normal (default), loose, or error=,spearman=,flips="
    )
    parser.add_argument("--against", help="unquantized bundle, or 'reference' (default: one exported meanwhile)")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_verify)


def _options(arguments: argparse.Namespace) -> ExportOptions:
    from rmexport.options import ExportOptions

    known = {name: value for name, value in vars(arguments).items() if name in ExportOptions.__dataclass_fields__}
    return ExportOptions(**known)


def _inspect(arguments: argparse.Namespace) -> int:
    import json

    from rmexport.inspection import inspect, text
    from rmruntime.command import say

    facts = inspect(arguments.path, _options(arguments), full=arguments.check == "full")
    say(json.dumps(facts, indent=1, ensure_ascii=False) if arguments.json else text(facts))
    return 1 if facts.get("not_finite") else 0


def _export(arguments: argparse.Namespace) -> int:
    from rmexport.export import export
    from rmexport.progress import byte_bar, notify
    from rmruntime.command import say

    with byte_bar("weights") as progress:
        manifest = export(arguments.checkpoint, arguments.bundle, _options(arguments), progress, notify)
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


def _verify(arguments: argparse.Namespace) -> int:
    from rmexport.errors import VerificationError
    from rmexport.progress import Watcher, count_bar, notify
    from rmruntime.cli import stage_memory
    from rmruntime.command import say

    try:
        from rmexport.verify import VerifyOptions, report_json, table, verify  # brings torch and transformers
    except ModuleNotFoundError as error:
        raise VerificationError(
            f"verify computes its reference with transformers and torch ({error.name} is missing): "
            "pip install 'rmexport[verify]'"
        ) from error
    options = VerifyOptions(
        data=arguments.data,
        device=arguments.device,
        precision=arguments.precision,
        conversations=arguments.conversations,
        recipe=arguments.recipe,
        max_batch_tokens=arguments.max_batch_tokens,
        dialect=arguments.dialect,
        stage_memory=stage_memory(arguments.stage_memory),
        reference_device=arguments.reference_device,
        quality=arguments.quality,
        against=arguments.against,
        reference_cache=arguments.reference_cache,
    )
    watcher = Watcher(notify=notify, bars=count_bar)
    report = verify(arguments.bundle, arguments.checkpoint, options, watcher)
    say(report_json(report) if arguments.json else table(report))
    return 0 if report.passed else 1


def _recipes(arguments: argparse.Namespace) -> int:
    from rmexport.recipe import recipes
    from rmruntime.command import say

    for recipe in recipes().values():
        say(f"{recipe.name:<22} {recipe.description}")
        for repo in recipe.repos:
            say(f"{'':<22} - {repo}")
    return 0


def _count(number: int) -> str:
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"
