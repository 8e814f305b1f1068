"""Work one item ahead: the next is prepared on a thread while the engine, which frees Python's lock, has this one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

RECORDS_AHEAD = (
    2048  # records planned together: enough to find shared prefixes and like lengths, little enough to stream
)
THREAD_NAME = "rmruntime-encode"

Item = TypeVar("Item")
Result = TypeVar("Result")


def cut_windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Runs of RECORDS_AHEAD items in their order, the last one shorter; nothing for no items.

    >>> [len(window) for window in cut_windows(range(5000))]
    [2048, 2048, 904]
    """
    source = iter(items)
    while window := list(islice(source, RECORDS_AHEAD)):
        yield window


def in_windows(items: Iterable[Item]) -> Sequence[list[Item]] | Iterator[list[Item]]:
    """`cut_windows`, as a sequence where the items are one, so that `one_ahead` knows when there is nothing ahead.

    >>> in_windows([1, 2, 3])
    [[1, 2, 3]]
    """
    windows = cut_windows(items)
    return list(windows) if isinstance(items, Sequence) else windows


@contextmanager
def one_ahead(work: Callable[[Item], Result], items: Iterable[Item | None]) -> Iterator[Iterator[Result]]:
    """Results of `work` on every item, in order; the next item's is computed while the caller is busy with one.

    Items are drawn on the caller's thread, because a read that waits for input cannot be ended from outside. None among
    them says that no item is ready yet: all results so far come before the next item is asked for. What drawing or
    `work` raises comes after the results before it. Leaving the context, in whatever way, waits for the thread.

    >>> with one_ahead(str.upper, ["a", "b"]) as results:
    ...     list(results)
    ['A', 'B']
    """
    if isinstance(items, Sequence) and len(items) < 2:  # a thread is not worth its start
        yield (work(item) for item in items if item is not None)
        return
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=THREAD_NAME)
    try:
        yield _in_order(pool, work, iter(items))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], source: Iterator[Item | None]
) -> Iterator[Result]:
    begun: deque[Future[Result]] = deque()
    failure: Exception | None = None
    while failure is None:
        ahead = 1
        try:
            item = next(source)
            if item is None:
                ahead = 0
            else:
                begun.append(pool.submit(work, item))
        except StopIteration:
            break
        except Exception as error:  # of any type: it is only held back until its turn
            failure = error
        while len(begun) > ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
    if failure is not None:
        raise failure
