"""Pages of keys and values that an engine keeps from pass to pass: which are free, and who holds the others."""

import threading
from collections.abc import Callable

from rmruntime.errors import PassTooLarge


class Page:
    """A page of every layer, by its number. It is free again once nobody holds this object."""

    __slots__ = ("_pool", "number")

    def __init__(self, pool: "PagePool", number: int) -> None:
        self._pool, self.number = pool, number

    def __del__(self) -> None:
        self._pool.returned(self.number)


class PagePool:
    """`count` pages of `page_size` keys, of `page_bytes` bytes each in all layers; safe from several threads.

    >>> pool = PagePool(count=2, page_size=128, page_bytes=1 << 20)
    >>> held = pool.take(2, lambda: False)
    >>> [page.number for page in held], pool.free
    ([0, 1], 0)
    >>> del held
    >>> pool.free
    2
    """

    def __init__(self, *, count: int, page_size: int, page_bytes: int) -> None:
        self.count, self.page_size, self.page_bytes = count, page_size, page_bytes
        self._free = list(range(count))[::-1]
        self._running = 0
        self._ended = threading.Condition()

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def begin(self, count: int, release: Callable[[], bool]) -> list[Page]:
        """`take` for a pass, which is followed by one `end`; waits for pages of passes that are running.

        Raises PassTooLarge as `take` does, and is then not followed by `end`.
        """
        with self._ended:
            while True:
                try:
                    pages = self._taken(count, release)
                except PassTooLarge:
                    if not self._running:
                        raise
                    self._ended.wait()
                else:
                    self._running += 1
                    return pages

    def end(self) -> None:
        """A pass that began is over, and holds no pages."""
        with self._ended:
            self._running -= 1
            self._ended.notify_all()

    def take(self, count: int, release: Callable[[], bool]) -> list[Page]:
        """Free pages; `release` is asked to let go of some while there are too few, and says whether it could.

        Raises PassTooLarge where it could not.
        """
        with self._ended:
            return self._taken(count, release)

    def returned(self, number: int) -> None:
        """The page is free; called by `Page` alone, wherever the last reference is dropped, so it waits for no lock."""
        self._free.append(number)

    def _taken(self, count: int, release: Callable[[], bool]) -> list[Page]:
        while len(self._free) < count:
            if not release():
                raise PassTooLarge(
                    f"it needs {count} pages of {self.page_size} keys, of {self.count} there are {len(self._free)} free"
                )
        return [Page(self, self._free.pop()) for _ in range(count)]
