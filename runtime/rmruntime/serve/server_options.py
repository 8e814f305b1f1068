"""The options of the server, beside those of the engine: limits, keys, and where it listens."""

from dataclasses import dataclass

from rmruntime.errors import OptionError
from rmruntime.option_checks import COUNT, Limit, check_fields

SECONDS = Limit(0.001, 1e9, "a number of seconds above 0 and at most 1e9")
_BYTES = Limit(1024, 1 << 40, "a number of bytes, at least 1,024")
_PORT = Limit(0, 65535, "a port, 0 to 65535")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of the application, wherever it is mounted.

    - `api_keys`: keys of which requests must have one, in Authorization: Bearer or X-Api-Key; none for no check.
    - `deadline`: seconds within which the scoring of a request must begin, where the request states none.
    - `body_timeout`: seconds within which a request's body must have come.
    - `max_body`: the most bytes of a request's body. `max_depth`: the deepest nesting of its JSON.
    - `cors`: origins whose web pages may call the server; "*" for any.
    - `session_ttl`: seconds after which a session that nobody uses ends. `max_sessions`: the most that are open; one
      more ends the one that was not used for longest.

    >>> ServerOptions(max_depth=0)
    Traceback (most recent call last):
    rmruntime.errors.OptionError: max_depth is 0, expected at least 1
    """

    api_keys: tuple[str, ...] = ()
    deadline: float | None = None
    body_timeout: float = 120.0
    max_body: int = 64 << 20
    max_depth: int = 64
    cors: tuple[str, ...] = ()
    session_ttl: float = 300.0
    max_sessions: int = 10_000

    def __post_init__(self) -> None:
        """Raises OptionError for a value of another type, or out of range."""
        limits = {"deadline": SECONDS, "session_ttl": SECONDS, "body_timeout": SECONDS, "max_body": _BYTES}
        check_fields(self, {**limits, "max_depth": COUNT, "max_sessions": COUNT})
        if any(not key.strip() for key in self.api_keys):
            raise OptionError("api_keys has an empty key, expected keys of at least one character; take it out")


@dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """Where the server listens, and how it ends.

    `uds` is the path of a Unix socket, in place of host and port. `tls_certificate` and `tls_key` are files in PEM;
    `tls_client_ca` names the authorities of clients' certificates, which are then required. On SIGTERM, `/ready` says
    no at once, requests are taken for `drain_delay` seconds more, and those that were taken have `drain_timeout`
    seconds to end.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    drain_delay: float = 0.0
    drain_timeout: float = 60.0

    def __post_init__(self) -> None:
        """Raises OptionError for a value of another type, or out of range."""
        seconds = Limit(0, 1e9, "a number of seconds")
        check_fields(self, {"port": _PORT, "drain_delay": seconds, "drain_timeout": seconds})
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise OptionError("found one of the TLS certificate and its key, expected both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise OptionError("found authorities for clients' certificates without a TLS certificate, expected one too")
