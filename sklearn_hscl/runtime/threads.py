"""Number of CPU threads, and work that is spread over them."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import TypeVar

import torch
from joblib.parallel import get_active_backend
from threadpoolctl import ThreadpoolController

from sklearn_hscl.runtime.matmul import uses_fast_gemm

# Number of threads -------------------------------------------------------------------


# Up to this many rows a step on a table consists of operations of microseconds. Threads do
# not speed these up, and on a busy machine slow them down: each ends at a barrier.
_MAX_SMALL_BATCH = 1024


def choose_threads(n_threads: int | None, *, small_steps: bool) -> int:
    """Choose the number of threads.

    Parameters
    ----------
    n_threads : int or None
        As given by the user; None decides by the work and the environment.
    small_steps : bool
        Whether the steps are too small for several threads.

    Returns
    -------
    int
        1 for small steps and in workers, else the setting of torch; at most the number
        of cores available to this process. 1 in a forked child whose threads of OpenMP
        are lost.
    """
    if _pools_are_lost:
        return 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    wanted = n_threads
    if wanted is None:
        wanted = 1 if small_steps or in_worker() else torch.get_num_threads()
    return max(1, min(int(wanted), allowed or os.cpu_count() or 1))


def has_small_steps(n_rows: int, ndim: int) -> bool:
    """Return whether steps on batches of `n_rows` rows with `ndim` dimensions are small."""
    return ndim == 2 and n_rows <= _MAX_SMALL_BATCH


def in_worker() -> bool:
    """Return whether this is a task of joblib among others, or a child process."""
    backend, _ = get_active_backend()
    return backend.nesting_level > 0 or multiprocessing.parent_process() is not None


def worker_index() -> int:
    """Return the index of this worker process among its siblings, 0 in the main one."""
    identity = multiprocessing.current_process()._identity
    return identity[-1] - 1 if identity else 0


@contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """Let torch use `n_threads` threads inside the block.

    OpenMP stores this number per calling thread, so that threads do not affect each
    other here.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Forks -------------------------------------------------------------------------------


# Whether this is a forked child without the threads of OpenMP that its memory names.
_pools_are_lost = False
_could_end_pools = True
_SOFT_PAUSE = 1  # omp_pause_soft of OpenMP 5.0


def _end_pools() -> None:
    """End the idle threads of GNU OpenMP before a fork; they start again when needed.

    A forked child has only the thread that called fork. The first parallel loop in it
    would wait forever for the threads of the pool, of which its memory holds a copy.
    Other implementations of OpenMP take care of forks themselves.
    """
    global _could_end_pools
    libraries = ThreadpoolController().select(internal_api="openmp").lib_controllers
    results = [
        library.dynlib.omp_pause_resource_all(_SOFT_PAUSE)
        if hasattr(library.dynlib, "omp_pause_resource_all")
        else -1
        for library in libraries
        if library.prefix == "libgomp"
    ]
    _could_end_pools = not any(results)


def _avoid_lost_pools() -> None:
    """Use one thread in a forked child if the threads could not be ended."""
    global _pools_are_lost
    if not _could_end_pools:
        _pools_are_lost = True
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_end_pools, after_in_child=_avoid_lost_pools)


# Work in threads ---------------------------------------------------------------------


_BLOCK_ROWS = 256
_PREFETCH_DEPTH = 2  # items that are ready or in progress while one is used
Item = TypeVar("Item")
Result = TypeVar("Result")


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
