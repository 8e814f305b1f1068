"""Loads bundles while the server already answers probes, and again when they are to be replaced."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from rmruntime.errors import InputError, RewardModelError
from rmruntime.reward_model import RewardModel
from rmruntime.serve.service import Service

LOG = logging.getLogger("rmruntime.serve")
Load = Callable[[str], RewardModel]
_WARM_UP = {"prompt": "Hello", "response": "Hello"}


class BundleLoader:
    """Loads the bundles of a service, by their names and folders, one after another on a thread.

    `load` opens one folder. `failed` is told on the event loop why the first loading ended; a bundle that cannot be
    loaded again leaves the earlier one in place.
    """

    def __init__(
        self,
        service: Service,
        folders: Mapping[str, str],
        load: Load,
        *,
        say: Callable[[str], object],
        failed: Callable[[Exception], object],
    ) -> None:
        self._service, self._folders, self._load, self._say, self._failed = service, folders, load, say, failed
        self._loop = asyncio.get_running_loop()
        self._turn = threading.Lock()  # one loading at a time

    @property
    def is_loading(self) -> bool:
        """Whether a bundle is being loaded now."""
        return self._turn.locked()

    def start(self) -> None:
        """Load everything for the first time; returns at once."""
        threading.Thread(target=self._load_first, name="rmruntime-load", daemon=True).start()

    def reload(self) -> None:
        """Load everything again, and have it answer in place of what does now; returns at once."""
        threading.Thread(target=self._load_again, name="rmruntime-load", daemon=True).start()

    def _load_first(self) -> None:
        try:
            for name in self._folders:
                self._load_one(name)
        except Exception as error:  # of any type: the command reports it
            self._tell(self._failed, error)

    def _load_again(self) -> None:
        for name in self._folders:
            try:
                self._load_one(name)
            except RewardModelError as error:
                LOG.error("%s stays as it is: %s", name, error)

    def _load_one(self, name: str) -> None:
        with self._turn:
            begun = time.monotonic()
            model = self._load(self._folders[name])
            with suppress(InputError):  # whatever the model makes of it, the engine has run
                model.score([_WARM_UP])
            reason = f", because {model.backend_reason}" if model.backend_reason else ""
            seconds = time.monotonic() - begun
            self._tell(self._service.models[name].replace, model)
            self._say(f"{name} is ready after {seconds:.1f} s, on {model.backend} in {model.precision}{reason}")

    def _tell(self, call: Callable[..., object], *given: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *given)


def named_folders(texts: list[str]) -> dict[str, str]:
    """Bundles by name, from BUNDLE or NAME=BUNDLE; without a name it is the folder's own.

    Raises RewardModelError for a name that two have.

    >>> named_folders(["a/bundle", "judge=b/bundle"])
    {'bundle': 'a/bundle', 'judge': 'b/bundle'}
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or "/" in name or Path(text).exists():
            name, folder = Path(text).resolve().name, text
        if name in found:
            raise RewardModelError(f"found two bundles named {name!r}, expected different names; write NAME={folder}")
        found[name] = folder
    return found
