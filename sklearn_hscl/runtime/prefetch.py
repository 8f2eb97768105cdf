"""Work that is done ahead, in a background thread."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

DEPTH = 2  # items that are ready or in work while one is used


def prefetched(items: Iterator[T], depth: int = DEPTH) -> Generator[T, None, None]:
    """Yield the same items in the same order, computed up to `depth` ahead of time.

    Exceptions in the thread come out here. The thread ends with this generator: at the
    last item, at an exception, and when the generator is closed.

    Parameters
    ----------
    items : iterator
        It is advanced in the thread alone.
    depth : int
        How many items are computed ahead.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="sklearn_hscl-prefetch")
    try:
        ahead: deque[Future[list[T]]] = deque()
        ahead.extend(pool.submit(_next, items) for _ in range(depth))
        while item := ahead.popleft().result():
            ahead.append(pool.submit(_next, items))
            yield item.pop()
    finally:
        pool.shutdown(cancel_futures=True)


def _next(items: Iterator[T]) -> list[T]:
    """Return the next item in a list, and an empty list after the last one."""
    return list(islice(items, 1))
