"""Open sessions of clients by their ids: found, used by one call at a time, ended when nobody uses them."""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from rmruntime.serve.problems import Refused
from rmruntime.serve.served_model import Generation, ServedModel
from rmruntime.sessions.session import Session

Result = TypeVar("Result")
THREADS = 16  # calls that wait for the engine at the same time


@dataclass(eq=False, kw_only=True)
class OpenSession:
    """A client's session. It ends `ttl` seconds after it was last used, or when its bundle is replaced."""

    id: str
    session: Session
    generation: Generation
    ttl: float
    used: float = field(default_factory=time.monotonic)
    busy: bool = False

    @property
    def idle(self) -> float:
        """Seconds since it was last used."""
        return time.monotonic() - self.used

    @property
    def has_ended(self) -> bool:
        """Whether its time is over, or its bundle was replaced."""
        return self.generation.retired or (not self.busy and self.idle > self.ttl)


class SessionStore:
    """The sessions of all models. For the event loop's thread alone, but for what `use` runs.

    `affinity` names this process: sessions are its own, so a balancer must send their calls here.
    """

    def __init__(self, most: int) -> None:
        self.affinity = secrets.token_hex(8)
        self._most = most
        self._open: OrderedDict[str, OpenSession] = OrderedDict()  # those used last at the end
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="rmruntime-session")

    def __len__(self) -> int:
        return len(self._open)

    def add(self, session: Session, generation: Generation, ttl: float) -> OpenSession:
        """Keep a session. Where there are too many, the one that was not used for longest ends."""
        while self._open and (len(self._open) >= self._most or self._oldest.has_ended):
            self.end(self._oldest)
        entry = OpenSession(id=f"s_{secrets.token_hex(12)}", session=session, generation=generation, ttl=ttl)
        self._open[entry.id] = entry
        return entry

    @property
    def _oldest(self) -> OpenSession:
        return next(iter(self._open.values()))

    def find(self, identity: str) -> OpenSession:
        """The session of that id. Raises Refused: "unknown_session", or "conflict" while another call uses it."""
        entry = self._open.get(identity)
        if entry is not None and entry.has_ended:
            self.end(entry)
            entry = None
        if entry is None:
            raise Refused(
                "unknown_session",
                f"the session {identity[:60]!r} is not open here: it was ended, was not used for too long, is another "
                "process's, or its bundle was replaced; open one with the prompt and the steps so far",
            )
        if entry.busy:
            raise Refused("conflict", f"another call uses the session {identity!r}; wait for its answer, or fork it")
        return entry

    def end(self, entry: OpenSession) -> None:
        """Forget a session; a call that uses it now ends as it would."""
        self._open.pop(entry.id, None)

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, which runs on a thread."""
        return await asyncio.wrap_future(self._pool.submit(work))

    async def use(self, entries: Sequence[OpenSession], work: Callable[[], Result]) -> Result:
        """What `work` returns, which runs on a thread and has these sessions for itself."""
        loop = asyncio.get_running_loop()
        for entry in entries:
            entry.busy = True
            entry.generation.users += 1
        future = self._pool.submit(work)
        # Not when the caller stops waiting, whose client may have gone, but when the work is done.
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._release, entries))
        return await asyncio.wrap_future(future)

    def _release(self, entries: Sequence[OpenSession]) -> None:
        for entry in entries:
            entry.busy, entry.used = False, time.monotonic()
            entry.generation.users -= 1
            ServedModel.close_unused(entry.generation)
            if entry.id in self._open:
                self._open.move_to_end(entry.id)
