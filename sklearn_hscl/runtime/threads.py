"""The number of threads of torch, for the duration of a block."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from joblib.parallel import get_active_backend

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
        of cores available to this process.
    """
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
