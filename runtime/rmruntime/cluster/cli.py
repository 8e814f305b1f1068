"""The arguments of `score` that concern a cluster; no decisions beyond reading them."""

import argparse
from typing import get_args

from rmruntime.cluster.options import ClusterOptions, Shards
from rmruntime.errors import OptionError
from rmruntime.options import ScoreOptions
from rmruntime.score_file import FileOptions

ENGINES = ("process", "ray")
_NAMES = {"address": "ray_address"}  # options whose argument is called otherwise


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """The engine, and the options that only `ray` uses."""
    defaults = ClusterOptions()
    group = parser.add_argument_group("on a Ray cluster")
    group.add_argument(
        "--engine", choices=ENGINES, default=ENGINES[0],
        help="what runs the scorers: this process, or Ray on one or more machines (default: process)",
    )  # fmt: skip
    group.add_argument("--ray-address", metavar="ADDRESS", help="local, auto or HOST:PORT (default: local)")
    group.add_argument("--workers", type=int, help="scorers on the cluster (default: one a GPU, or one a machine)")
    group.add_argument("--block-records", type=int, help="records of a shard (default: 128 to 2048, by the input)")
    group.add_argument("--shards", choices=get_args(Shards), help=f"format of shards (default: {defaults.shards})")
    group.add_argument("--merge", metavar="FILE", help="write all records to one file too, in the end")
    group.add_argument("--overwrite", action="store_true", help="begin anew, without the shards of an earlier run")


def cluster_options(arguments: argparse.Namespace) -> ClusterOptions | None:
    """The options, or None for a run in this process; raises OptionError for options that such a run has no use for."""
    given = {}
    for name in ClusterOptions.__dataclass_fields__:
        value = getattr(arguments, _NAMES.get(name, name))
        if value is not None and value is not False:
            given[name] = value
    if arguments.engine == "ray":
        return ClusterOptions(**given)
    if given:
        names = ", ".join("--" + _NAMES.get(name, name).replace("_", "-") for name in given)
        raise OptionError(f"{names}: only --engine ray heeds this; found --engine {arguments.engine}")
    return None


def run_on_cluster(bundle: str, files: FileOptions, options: ScoreOptions, cluster: ClusterOptions) -> str:
    """Score on a cluster; the summary's text."""
    from rmruntime.cluster.run import score_on_cluster
    from rmruntime.commands.progress_bars import record_bar

    with record_bar() as show:
        return score_on_cluster(bundle, files, options, cluster, show).text()
