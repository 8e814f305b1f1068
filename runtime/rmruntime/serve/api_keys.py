"""API keys: read from a file or a variable, and compared in constant time."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from rmruntime.errors import OptionError
from rmruntime.serve.problems import Refused

KEY_VARIABLE = "RMRUNTIME_API_KEY"
_FILE_LIMIT = 1 << 20


class ApiKeys:
    """The keys of which a request must have one; none for no check. Only their digests are kept.

    >>> ApiKeys(["secret"]).check({"authorization": "Bearer secret"})
    >>> ApiKeys(["secret"]).check({"x-api-key": "guess"})
    Traceback (most recent call last):
    rmruntime.serve.problems.Refused: found no valid API key; send Authorization: Bearer KEY, or X-Api-Key: KEY
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises Refused ("unauthorized") for headers without a valid key. Takes as long for any key that is wrong."""
        if not self._digests:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = _digest(bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", ""))
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]  # all of them, whichever fits
        if not any(matches):
            raise Refused("unauthorized", "found no valid API key; send Authorization: Bearer KEY, or X-Api-Key: KEY")


def read_keys(path: str | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys in a file, one per line, where a path is given; else those in RMRUNTIME_API_KEY, separated by commas.

    Raises OptionError for a file that cannot be read or has none.

    >>> read_keys(None, {"RMRUNTIME_API_KEY": "one, two"})
    ('one', 'two')
    """
    if path is None:
        return tuple(filter(None, (key.strip() for key in environment.get(KEY_VARIABLE, "").split(","))))
    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = file.read(_FILE_LIMIT).splitlines()
    except (OSError, ValueError) as error:
        raise OptionError(
            f"--api-key-file: {path} cannot be read ({error}); give a file with one key per line"
        ) from error
    keys = tuple(filter(None, (line.strip() for line in lines)))
    if not keys:
        raise OptionError(f"--api-key-file: found no key in {path}, expected one per line")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
