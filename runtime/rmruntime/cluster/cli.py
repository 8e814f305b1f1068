"""The arguments of `score` that concern a cluster; reads them and decides nothing else."""

import argparse
from typing import get_args

from rmruntime.cluster.options import ClusterOptions, Shards
from rmruntime.errors import OptionError
from rmruntime.options import ScoreOptions
from rmruntime.score_file import FileOptions

ENGINES = ("process", "ray")
_NAMES = {"address": "ray_address"}  # options whose argument is called otherwise


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --engine, and the arguments that only `--engine ray` uses.

    >>> parser = argparse.ArgumentParser()
    >>> add_cluster_arguments(parser)
    >>> cluster_options(parser.parse_args(["--engine", "ray", "--workers", "4"])).workers
    4
    """
    defaults = ClusterOptions()
    group = parser.add_argument_group("on a Ray cluster")
    group.add_argument(
        "--engine", choices=ENGINES, default=ENGINES[0],
        help="what runs the scorers: this process, or Ray on one or more machines (default: process)",
    )  # fmt: skip
    group.add_argument("--ray-address", metavar="ADDRESS", help="local, auto or HOST:PORT (default: local)")
    group.add_argument("--workers", type=int, help="scorers on the cluster (default: one per GPU, or one per machine)")
    group.add_argument(
        "--block-records", type=int, help="records per shard (default: 128 to 2048, more for larger inputs)"
    )
    group.add_argument("--shards", choices=get_args(Shards), help=f"format of the shards (default: {defaults.shards})")
    group.add_argument("--merge", metavar="FILE", help="at the end, also write all records to this one file")
    group.add_argument("--overwrite", action="store_true", help="remove an earlier run's shards and begin anew")


def cluster_options(arguments: argparse.Namespace) -> ClusterOptions | None:
    """The cluster options, or None for a run in this process. Raises OptionError for options that only Ray uses.

    >>> parser = argparse.ArgumentParser()
    >>> add_cluster_arguments(parser)
    >>> cluster_options(parser.parse_args([])) is None
    True
    """
    given = {}
    for name in ClusterOptions.__dataclass_fields__:
        value = getattr(arguments, _NAMES.get(name, name))
        if value is not None and value is not False:
            given[name] = value
    if arguments.engine == "ray":
        return ClusterOptions(**given)
    if given:
        names = ", ".join("--" + _NAMES.get(name, name).replace("_", "-") for name in given)
        raise OptionError(
            f"{names}: found with --engine {arguments.engine}, only --engine ray uses this; add --engine ray, or leave "
            "this out"
        )
    return None


def run_on_cluster(bundle: str, files: FileOptions, options: ScoreOptions, cluster: ClusterOptions) -> str:
    """Score on a cluster, with a progress bar; returns the text of the summary."""
    from rmruntime.cluster.run import score_on_cluster
    from rmruntime.commands.progress_bars import record_bar

    with record_bar() as show:
        return score_on_cluster(bundle, files, options, cluster, show).text()
