"""Pages: who holds them, when they are free again, and who waits for whom."""

import threading

import pytest

from rmruntime.errors import PassTooLarge
from rmruntime.executors.page_pool import Page, PagePool


def pool_of(count: int) -> PagePool:
    return PagePool(count=count, page_size=16, page_bytes=1000)


def never() -> bool:
    return False


def test_a_page_is_free_once_nobody_holds_it() -> None:
    pool = pool_of(3)
    first, second = pool.take(2, never), pool.take(1, never)
    assert sorted(page.number for page in (*first, *second)) == [0, 1, 2]
    shared = first[0]
    del first
    assert pool.free == 1
    del shared
    assert pool.free == 2 and len(second) == 1


def test_others_are_let_go_of_while_there_are_too_few() -> None:
    pool = pool_of(4)
    cached = [pool.take(1, never) for _ in range(4)]

    def forget() -> bool:
        return bool(cached) and bool(cached.pop())

    assert len(pool.take(2, forget)) == 2
    assert len(cached) == 2
    with pytest.raises(PassTooLarge, match="it needs 5 pages of 16 keys, of 4 there are 4 free"):
        pool.take(5, forget)
    assert not cached


def test_a_pass_waits_for_those_that_are_running() -> None:
    pool = pool_of(2)
    held = pool.begin(2, never)
    found: list[Page] = []
    waiting = threading.Thread(target=lambda: found.extend(pool.begin(1, never)))
    waiting.start()
    held.clear()
    pool.end()
    waiting.join(60)
    assert len(found) == 1
    with pytest.raises(PassTooLarge):
        pool.take(2, never)
    found.clear()
    pool.end()
    with pytest.raises(PassTooLarge):  # nothing runs, so nothing is waited for
        pool.begin(3, never)
