"""How many threads torch may use, and for how long."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from joblib.parallel import get_active_backend

# Up to this many rows a step on a table is a row of operations of microseconds, which
# threads make no faster, and on a busy machine far slower: each ends at a barrier.
_SMALL_BATCH = 1024


def choose_threads(n_threads: int | None, *, small_steps: bool) -> int:
    """Settle the number of threads.

    Parameters
    ----------
    n_threads : int or None
        As given by the user; None decides by the work and the surroundings.
    small_steps : bool
        Whether the work comes in pieces too small to be shared.

    Returns
    -------
    int
        1 for small pieces and in workers, else what torch is set to; never more
        than this process may use cores.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    wanted = n_threads
    if wanted is None:
        wanted = 1 if small_steps or in_worker() else torch.get_num_threads()
    return max(1, min(int(wanted), allowed or os.cpu_count() or 1))


def has_small_steps(n_rows: int, ndim: int) -> bool:
    """Whether a batch of `n_rows` rows of `ndim` dimensions makes small pieces of work."""
    return ndim == 2 and n_rows <= _SMALL_BATCH


def in_worker() -> bool:
    """Whether this is one of several tasks of joblib, or a child process."""
    backend, _ = get_active_backend()
    return backend.nesting_level > 0 or multiprocessing.parent_process() is not None


def worker_index() -> int:
    """Return the number of this worker process among its siblings, 0 in the main one."""
    identity = multiprocessing.current_process()._identity
    return identity[-1] - 1 if identity else 0


@contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """Let torch use `n_threads` threads inside the block.

    OpenMP keeps this number for each calling thread, so that threads do not disturb
    each other here.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
