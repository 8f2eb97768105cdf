"""Threads: blocks of rows on all cores, and items computed ahead of their use."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise
from typing import TypeVar

import torch

from sklearn_hscl.runtime.matmul import uses_fast_gemm
from sklearn_hscl.runtime.threads import choose_threads, torch_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

_BLOCK_ROWS = 256
_PREFETCH_DEPTH = 2  # items that are ready or in progress while one is used


def map_blocks(
    function: Callable[[slice], Result], n_rows: int, block_rows: int = _BLOCK_ROWS
) -> list[Result]:
    """Call a function with consecutive slices of rows, in threads.

    Each thread computes whole blocks, which is cheaper than sharing every small product
    among all threads.
    """
    return in_threads(function, even_slices(n_rows, block_rows))


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Call a function with each item, in as many threads as there are cores.

    Inside the calls, torch uses one thread and records no gradients.
    """
    uses_fast_gemm()  # probes, if it has to, while the machine is quiet

    def call(item: Item) -> Result:
        with torch_threads(1), torch.inference_mode():
            return function(item)

    n_workers = min(choose_threads(None, small_steps=False), len(items))
    if n_workers <= 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(n_workers) as pool:
        return list(pool.map(call, items))


def even_slices(n_rows: int, max_rows: int) -> list[slice]:
    """Cut rows into slices of nearly the same size, as a short last one would be slow.

    A short slice may also be multiplied by another kernel, with other rounding errors.
    """
    n_slices = -(-n_rows // max_rows)
    bounds = [n_rows * i // n_slices for i in range(n_slices + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def prefetched(
    items: Iterator[Item], depth: int = _PREFETCH_DEPTH
) -> Generator[Item, None, None]:
    """Yield the same items in the same order, computed ahead in a background thread.

    Exceptions of the thread are raised here. The thread ends with this generator: after
    the last item, at an exception, and when the generator is closed.

    Parameters
    ----------
    items : iterator
        Advanced only by the thread.
    depth : int
        Number of items to compute ahead.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="sklearn_hscl-prefetch")
    try:
        ahead: deque[Future[list[Item]]] = deque()
        ahead.extend(pool.submit(_next, items) for _ in range(depth))
        while item := ahead.popleft().result():
            ahead.append(pool.submit(_next, items))
            yield item.pop()
    finally:
        pool.shutdown(cancel_futures=True)


def _next(items: Iterator[Item]) -> list[Item]:
    """Return the next item in a list, and an empty list after the last one."""
    return list(islice(items, 1))
