"""`rmruntime score` and `rank`, which `rmexport` shares, and `serve`; reads arguments and decides nothing else.

Everything else is imported in the functions, so that `main` handles Ctrl-C before the slow imports.
"""

from __future__ import annotations

from rmruntime.commands.stop_signals import install_stop_signals

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Literal

    from rmruntime.commands.command import Work
    from rmruntime.options import ScoreOptions


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `score`, for both command lines.

    >>> import argparse
    >>> parser = argparse.ArgumentParser()
    >>> add_score_arguments(parser)
    >>> arguments = parser.parse_args(["bundle", "records.jsonl", "--truncate", "left"])
    >>> arguments.input, arguments.truncate, arguments.on_error
    ('records.jsonl', 'left', 'stop')
    """
    from rmruntime.cluster.cli import add_cluster_arguments

    _add_file_arguments(parser, "file for the scores, .jsonl or .parquet; a folder with --engine ray (default: stdout)")
    parser.add_argument(
        "--aggregate",
        choices=("mean", "min", "last", "prod"),
        default="mean",
        help="how the scores of an answer's steps become one score (default: mean)",
    )
    add_cluster_arguments(parser)


def add_rank_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rank`, for both command lines.

    >>> import argparse
    >>> parser = argparse.ArgumentParser()
    >>> add_rank_arguments(parser)
    >>> parser.parse_args(["bundle", "queries.jsonl", "--top", "3"]).top
    3
    """
    _add_file_arguments(parser, "file for the ranked documents, .jsonl or .parquet (default: stdout)")
    parser.add_argument("--top", type=int, help="write the best documents of each query only (default: all)")
    parser.add_argument(
        "--no-documents",
        action="store_true",
        help="write the documents' places, and their ids where they have some, without their text",
    )


def _add_file_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    from rmruntime.commands.engine_arguments import add_engine_arguments

    parser.add_argument("bundle", help="folder written by rmexport export")
    parser.add_argument("input", help="file of records: JSON lines (.jsonl, - for stdin), a JSON array, or Parquet")
    parser.add_argument("-o", "--output", help=output)
    add_engine_arguments(parser)
    parser.add_argument(
        "--max-batch-tokens", type=int, help="most tokens computed in one pass (default: the engine's choice)"
    )
    parser.add_argument("--max-length", type=int, help="limit of one sequence, in tokens (default: the bundle's)")
    parser.add_argument(
        "--truncate", choices=("left", "right"), help="cut over-long sequences on this side (default: an error)"
    )
    parser.add_argument("--strict-content", action="store_true", help="refuse messages that spell a special token")
    parser.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="whether a record that cannot be scored ends the run, or gets an error in the output (default: stop)",
    )


def run_score(arguments: argparse.Namespace) -> int:
    """Score a file and print the summary to stderr. Returns 0, also where records were skipped, as the user asked."""
    from rmruntime.cluster.cli import cluster_options, run_on_cluster
    from rmruntime.commands.command import note
    from rmruntime.commands.engine_arguments import engine_options
    from rmruntime.commands.progress_bars import sequence_bar
    from rmruntime.score_file import FileOptions, score_file

    options = _score_options(arguments, arguments.aggregate)
    files = FileOptions(
        input=arguments.input,
        output=arguments.output,
        engine=engine_options(arguments),
        on_error=arguments.on_error,
    )
    cluster = cluster_options(arguments)
    if cluster is None:
        with sequence_bar() as advance:
            text = score_file(arguments.bundle, files, options, advance).text()
    else:
        text = run_on_cluster(arguments.bundle, files, options, cluster)
    note(text)
    return 0


def run_rank(arguments: argparse.Namespace) -> int:
    """Rank the documents of a file's records and print the summary to stderr. Returns 0 as `run_score` does."""
    from rmruntime.commands.command import note
    from rmruntime.commands.engine_arguments import engine_options
    from rmruntime.commands.progress_bars import sequence_bar
    from rmruntime.score_file import FileOptions, RankOptions, score_file

    files = FileOptions(
        input=arguments.input,
        output=arguments.output,
        engine=engine_options(arguments),
        on_error=arguments.on_error,
        rank=RankOptions(top=arguments.top, documents=not arguments.no_documents),
    )
    with sequence_bar() as advance:
        note(score_file(arguments.bundle, files, _score_options(arguments), advance).text())
    return 0


def _score_options(
    arguments: argparse.Namespace, aggregate: Literal["mean", "min", "last", "prod"] = "mean"
) -> ScoreOptions:
    from rmruntime.options import ScoreOptions

    return ScoreOptions(
        truncate=arguments.truncate,
        max_length=arguments.max_length,
        aggregate=aggregate,
        strict_content=arguments.strict_content,
        max_batch_tokens=arguments.max_batch_tokens,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `rmruntime` command; returns its exit status: 0, 2 for errors, 130 for Ctrl-C."""
    stops = install_stop_signals(argv)
    from rmruntime.commands.command import run_command
    from rmruntime.errors import RewardModelError

    return run_command(_prepare, argv, (RewardModelError,), stops)


def _prepare(argv: Sequence[str] | None) -> Work:
    from functools import partial

    from rmruntime import score_file  # noqa: F401 # imported before there is work that could be interrupted
    from rmruntime.commands import progress_bars  # noqa: F401 # for the same reason
    from rmruntime.commands.command import CommandParser
    from rmruntime.serve.arguments import add_serve_arguments, run_serve
    from rmruntime.version import __version__

    parser = CommandParser(prog="rmruntime", description="Score conversations with a reward-model bundle.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser("score", help="score a file of records")
    add_score_arguments(score)
    score.set_defaults(run=run_score)
    rank = commands.add_parser("rank", help="put each query's documents in the order of their scores")
    add_rank_arguments(rank)
    rank.set_defaults(run=run_rank)
    serve = commands.add_parser("serve", help="answer requests over HTTP")
    add_serve_arguments(serve)
    serve.set_defaults(run=run_serve)
    arguments = parser.parse_args(argv)
    return partial(arguments.run, arguments)
