"""`rmruntime serve`: its arguments, and how they become options; decides nothing else."""

import argparse
import logging
import os
import sys

from rmruntime.commands.engine_arguments import add_engine_arguments, engine_options
from rmruntime.errors import OptionError
from rmruntime.options import parse_bytes
from rmruntime.serve.server_options import ListenOptions, ServerOptions


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`.

    >>> parser = argparse.ArgumentParser()
    >>> add_serve_arguments(parser)
    >>> listen_options(parser.parse_args(["bundle", "--port", "9000"])).port
    9000
    """
    parser.add_argument(
        "bundles", nargs="+", metavar="BUNDLE", help="folders written by rmexport export, as BUNDLE or NAME=BUNDLE"
    )
    add_engine_arguments(parser)
    _add_listening(parser.add_argument_group("where it listens"))
    _add_limits(parser.add_argument_group("limits and access"))


def _add_listening(group: argparse._ArgumentGroup) -> None:
    listen = ListenOptions()
    group.add_argument("--host", default=listen.host, help=f"address to listen on (default: {listen.host})")
    group.add_argument("--port", type=int, default=listen.port, help=f"port, 0 for any (default: {listen.port})")
    group.add_argument("--uds", metavar="PATH", help="listen on this Unix socket in place of host and port")
    group.add_argument("--tls-certificate", metavar="FILE", help="certificate chain in PEM, for HTTPS")
    group.add_argument("--tls-key", metavar="FILE", help="the certificate's key in PEM")
    group.add_argument("--tls-client-ca", metavar="FILE", help="require clients' certificates of these authorities")
    group.add_argument(
        "--drain-delay", type=float, default=listen.drain_delay, metavar="SECONDS",
        help="after SIGTERM, time for which requests are still taken while /ready says no (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--drain-timeout", type=float, default=listen.drain_timeout, metavar="SECONDS",
        help=f"time that requests then have to be answered (default: {listen.drain_timeout:g})",
    )  # fmt: skip


def _add_limits(group: argparse._ArgumentGroup) -> None:
    options = ServerOptions()
    group.add_argument(
        "--api-key-file", metavar="FILE",
        help="keys, one per line, of which requests must have one (default: those in RMRUNTIME_API_KEY, or no check)",
    )  # fmt: skip
    group.add_argument("--max-queue-tokens", type=int, metavar="N", help="tokens that may wait (default: 1048576)")
    group.add_argument(
        "--deadline", type=float, metavar="SECONDS",
        help="time within which scoring must begin, where a request states none (default: no such time)",
    )  # fmt: skip
    group.add_argument(
        "--max-body", default="64MiB", metavar="SIZE", help="the largest body of a request (default: 64MiB)"
    )
    group.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN",
        help="let web pages of this origin call the server, * for any; several times for several (default: none)",
    )  # fmt: skip
    group.add_argument(
        "--session-ttl", type=float, default=options.session_ttl, metavar="SECONDS",
        help=f"time after which an unused session ends (default: {options.session_ttl:g})",
    )  # fmt: skip
    group.add_argument("--no-request-log", action="store_true", help="write no line to stderr for each request")


def listen_options(arguments: argparse.Namespace) -> ListenOptions:
    """Where the arguments say to listen. Raises OptionError."""
    names = ListenOptions.__dataclass_fields__
    return ListenOptions(**{name: getattr(arguments, name) for name in names})


def server_options(arguments: argparse.Namespace) -> ServerOptions:
    """The limits and keys that the arguments say. Raises OptionError."""
    from rmruntime.serve.api_keys import read_keys

    try:
        max_body = parse_bytes(arguments.max_body)
    except ValueError as error:
        raise OptionError(f"--max-body: {error}") from error
    return ServerOptions(
        api_keys=read_keys(arguments.api_key_file, os.environ),
        deadline=arguments.deadline,
        max_body=max_body,
        cors=tuple(arguments.cors),
        session_ttl=arguments.session_ttl,
    )


def run_serve(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it. Returns the exit status."""
    from functools import partial

    from rmruntime.batching.submitter import QUEUE_TOKENS
    from rmruntime.commands.command import note
    from rmruntime.reward_model import RewardModel
    from rmruntime.serve.http_server import run_server
    from rmruntime.serve.loader import named_folders

    options, listen = server_options(arguments), listen_options(arguments)
    tokens = QUEUE_TOKENS if arguments.max_queue_tokens is None else arguments.max_queue_tokens
    load = partial(RewardModel.load, engine=engine_options(arguments), queue_tokens=tokens)
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("rmruntime.serve").setLevel(logging.WARNING if arguments.no_request_log else logging.INFO)
    if listen.uds is None and listen.host not in ("127.0.0.1", "::1", "localhost") and not options.api_keys:
        note(f"warning: {listen.host} may be reached by others, and no API key is asked for (--api-key-file)")
    return run_server(named_folders(arguments.bundles), load, options, listen, note)
