"""Runs the application in uvicorn: listens, loads, answers, reloads on SIGHUP, and drains on SIGTERM."""

import asyncio
import importlib
import os
import signal
import socket
import ssl
import stat
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from rmruntime.errors import EngineNotInstalled, OptionError
from rmruntime.serve.application import Application
from rmruntime.serve.bounded_head import bounded_protocol
from rmruntime.serve.loader import BundleLoader, Load
from rmruntime.serve.served_model import ServedModel
from rmruntime.serve.server_options import ListenOptions, ServerOptions
from rmruntime.serve.service import Service

KEEP_ALIVE = 75  # seconds that an idle connection stays open, more than the usual 60 of load balancers
BACKLOG = 2048  # connections that wait to be accepted: clients in reinforcement learning open one per sample
_SOCKET_MODE = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP


def run_server(
    folders: Mapping[str, str],
    load: Load,
    options: ServerOptions,
    listen: ListenOptions,
    say: Callable[[str], object],
) -> int:
    """Serve until a signal ends it; returns the exit status: 0 once all that was taken is answered, else 128 and the
    number of the second signal.

    `load` opens one bundle's folder, `say` prints a line. Raises the error of a bundle that cannot be loaded at first,
    OptionError where the server cannot listen, and EngineNotInstalled without uvicorn.
    """
    uvicorn = import_uvicorn()
    listener = bound_socket(listen)
    try:
        server = HttpServer(uvicorn, listener, options, listen, say)
        return asyncio.run(server.run(folders, load))
    finally:
        listener.close()
        remove_socket(listen)


def import_uvicorn() -> Any:
    """The module uvicorn; raises EngineNotInstalled that names the extra."""
    try:
        importlib.import_module("httptools")
        return importlib.import_module("uvicorn")
    except ImportError as error:
        raise EngineNotInstalled(f"{error.name} is not installed; run pip install 'rmruntime[serve]'") from error


class HttpServer:
    """One run of the server."""

    def __init__(
        self,
        uvicorn: Any,
        listener: socket.socket,
        options: ServerOptions,
        listen: ListenOptions,
        say: Callable[[str], object],
    ) -> None:
        self._uvicorn, self._listener, self._options, self._listen, self._say = uvicorn, listener, options, listen, say
        self._error: Exception | None = None
        self._status = 0
        self._ending: asyncio.Task[None] | None = None

    async def run(self, folders: Mapping[str, str], load: Load) -> int:
        """See `run_server`."""
        self._service = Service([ServedModel(name) for name in folders], self._options)
        self._server = self._uvicorn.Server(self._config(Application(self._service)))
        self._server.capture_signals = nullcontext  # signals are handled here
        loader = BundleLoader(self._service, folders, load, say=self._say, failed=self._fail)
        self._handle_signals(loader)
        self._say(f"listening on {address_of(self._listener, self._listen)}")
        loader.start()
        await self._server.serve(sockets=[self._listener])
        if self._error is not None:
            raise self._error
        if self._status:  # asked a second time: nobody waits for what runs on threads
            self._leave(self._status)
        await asyncio.to_thread(self._close_models)
        if loader.is_loading:  # engines abort where the interpreter ends while they are being made
            self._leave(0)
        return 0

    def _config(self, application: Application) -> Any:
        listen = self._listen
        return self._uvicorn.Config(
            application,
            http=bounded_protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(listen.drain_timeout)),
            ssl_certfile=listen.tls_certificate,
            ssl_keyfile=listen.tls_key,
            ssl_ca_certs=listen.tls_client_ca,
            ssl_cert_reqs=ssl.CERT_NONE if listen.tls_client_ca is None else ssl.CERT_REQUIRED,
        )

    def _handle_signals(self, loader: BundleLoader) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, partial(self._end, number))
        loop.add_signal_handler(signal.SIGHUP, loader.reload)

    def _end(self, number: int) -> None:
        """Drain; asked a second time, end at once."""
        if self._ending is not None:
            self._status = 128 + number
            self._server.force_exit = self._server.should_exit = True
            return
        self._service.draining = True
        self._say("draining: requests that were taken are answered")
        self._ending = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        await asyncio.sleep(self._listen.drain_delay)
        self._server.should_exit = True

    def _fail(self, error: Exception) -> None:
        self._error, self._server.should_exit = error, True

    def _leave(self, status: int) -> None:
        """End the process without waiting for its threads."""
        remove_socket(self._listen)
        os._exit(status)

    def _close_models(self) -> None:
        for served in self._service.models.values():
            if served.is_loaded:
                served.model.drain(self._listen.drain_timeout)
                served.model.close()


def bound_socket(listen: ListenOptions) -> socket.socket:
    """A socket at the address. Raises OptionError where there can be none, such as for a port that is in use."""
    try:
        return _unix_socket(listen.uds) if listen.uds is not None else _tcp_socket(listen.host, listen.port)
    except OSError as error:
        where = listen.uds if listen.uds is not None else f"{listen.host}:{listen.port}"
        raise OptionError(f"cannot listen on {where}: {error.strerror or error}; choose another address") from error


def remove_socket(listen: ListenOptions) -> None:
    """Remove the file of a Unix socket."""
    if listen.uds is not None:
        with suppress(OSError):
            os.unlink(listen.uds)


def address_of(listener: socket.socket, listen: ListenOptions) -> str:
    """The address for people, with the port that the system chose where 0 was asked for."""
    if listen.uds is not None:
        return f"unix:{listen.uds}"
    host, port = listener.getsockname()[:2]
    scheme = "http" if listen.tls_certificate is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _tcp_socket(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    # Of a socket without its protocol asyncio does not know that it is TCP, and leaves Nagle's algorithm on: answers,
    # which are written in two parts, then wait 40 ms for the client's acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        return listener
    except OSError:
        listener.close()
        raise


def _unix_socket(path: str) -> socket.socket:
    """A socket that this user and group may use; one that an earlier server left there is removed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if stat.S_ISSOCK(_mode(path)) and listener.connect_ex(path):
            os.unlink(path)
        listener.close()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        os.chmod(path, _SOCKET_MODE)
        listener.listen(BACKLOG)
        return listener
    except OSError:
        listener.close()
        raise


def _mode(path: str) -> int:
    try:
        return Path(path).lstat().st_mode
    except FileNotFoundError:
        return 0
