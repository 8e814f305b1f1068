"""`rmexport verify`: its arguments, and what is printed; no decisions beyond reading them."""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    import argparse


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `verify`."""
    from rmruntime.commands.engine_arguments import add_engine_arguments

    parser.add_argument("bundle")
    parser.add_argument("--checkpoint", help="the checkpoint the bundle was made from; not needed with --golden")
    parser.add_argument(
        "--golden",
        nargs="?",
        const="",
        metavar="REPO",
        help="compare with scores that are published of a Hub repository, without the checkpoint (default: of the one "
        "the bundle was made from)",
    )
    parser.add_argument("--data", help="file of records (default: a built-in seeded set)")
    parser.add_argument("--conversations", type=int, default=256, help="size of the built-in set (default: 256)")
    add_engine_arguments(parser, without=("threads", "check", "prefix_cache"))
    parser.add_argument("--recipe", help="the recipe file, where the export used one that has moved")
    parser.add_argument(
        "--max-batch-tokens", type=int, help="most tokens computed in one pass (default: the engine's choice)"
    )
    parser.add_argument(
        "--reference-device", default="cpu", help="device of transformers: cpu, cuda or cuda:N (default: cpu)"
    )
    parser.add_argument(
        "--reference-cache",
        metavar="DIR|off",
        help="folder that keeps the scores of transformers for later runs; remove it to compute them anew "
        "(default: rmexport/reference in $XDG_CACHE_HOME, else in ~/.cache)",
    )
    parser.add_argument(
        "--quality",
        help="how much quantization may change the scores: strict, normal or loose (default: normal), or limits of "
        "your own as error=,spearman=,flips=",
    )
    parser.add_argument(
        "--against",
        help="what a quantized bundle is compared with: an unquantized bundle, or 'reference' for transformers "
        "(default: an unquantized bundle that is exported for the run)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run_verify_command)


def run_verify_command(arguments: argparse.Namespace) -> int:
    """Verify, and print what was measured; 0 where the bundle passes, else 1."""
    from rmexport.errors import OptionError, VerificationError
    from rmexport.output.progress import Watcher, count_bar, notify
    from rmruntime.commands.command import say
    from rmruntime.commands.engine_arguments import engine_options

    if arguments.golden is not None:
        return _run_golden(arguments)
    if arguments.checkpoint is None:
        raise OptionError("verify needs --checkpoint, the checkpoint that the bundle was made from (or --golden)")
    try:
        from rmexport.verify.options import VerifyOptions
        from rmexport.verify.report import report_json, table
        from rmexport.verify.run import verify  # brings torch and transformers
    except ModuleNotFoundError as error:
        raise VerificationError(
            f"verify computes its reference with transformers and torch ({error.name} is missing): "
            "pip install 'rmexport[verify]'"
        ) from error
    options = VerifyOptions(
        data=arguments.data,
        engine=engine_options(arguments),
        conversations=arguments.conversations,
        recipe=arguments.recipe,
        max_batch_tokens=arguments.max_batch_tokens,
        reference_device=arguments.reference_device,
        quality=arguments.quality,
        against=arguments.against,
        reference_cache=arguments.reference_cache,
    )
    watcher = Watcher(notify=notify, bars=count_bar)
    report = verify(arguments.bundle, arguments.checkpoint, options, watcher)
    say(report_json(report) if arguments.json else table(report))
    return 0 if report.passed else 1


def _run_golden(arguments: argparse.Namespace) -> int:
    from rmexport.errors import OptionError
    from rmexport.verify.published_scores import compare_published
    from rmruntime.commands.command import say
    from rmruntime.commands.engine_arguments import engine_options

    if beside := [name for name in ("checkpoint", "data", "recipe") if getattr(arguments, name) is not None]:
        raise OptionError(
            f"found --golden and --{beside[0]}, expected one of them: published scores need no checkpoint"
        )
    report = compare_published(arguments.bundle, arguments.golden, engine_options(arguments))
    say(report.json() if arguments.json else report.text())
    return 0 if report.passed else 1
