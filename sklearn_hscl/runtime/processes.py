"""Processes that one launcher started, such as torchrun, and that train one model together.

Each of them runs the same program. A fit begins with a group of its own, which ends with
it, so that an error in one process ends the fit in all.
"""

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from itertools import count
from multiprocessing import parent_process
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_TIMEOUT = timedelta(minutes=10)  # for one answer, such as after a checkpoint is written
_NUMBERS = count()  # of fits; equal in all processes, which fit in the same order
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class ProcessError(RuntimeError):
    """Another process of the same launch has left a fit."""


@dataclass(frozen=True)
class Processes:
    """The processes that train one model.

    Parameters
    ----------
    rank : int
        Index of this process.
    size : int
        Number of processes, at least 2.
    group : torch.distributed.ProcessGroup
        Their group.
    """

    rank: int
    size: int
    group: "dist.ProcessGroup"

    def sizes(self, n_rows: int) -> list[int]:
        """Return the number of rows of each process, as ``torch.tensor_split`` cuts."""
        return [n_rows // self.size + (k < n_rows % self.size) for k in range(self.size)]

    def own(self, n_rows: int) -> slice:
        """Return which rows of a batch belong to this process."""
        sizes = self.sizes(n_rows)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def gather(self, own: Tensor, n_rows: int) -> Tensor:
        """Join the rows (..., b, D) of all processes: (..., n_rows, D)."""
        sizes = self.sizes(n_rows)
        shape = [*own.shape[:-2], sizes[0], own.shape[-1]]
        mine = own.new_zeros(shape)  # all processes send equally many
        mine[..., : own.shape[-2], :] = own
        parts = [torch.empty_like(mine) for _ in sizes]
        dist.all_gather(parts, mine, group=self.group)
        cut = [part[..., :size, :] for part, size in zip(parts, sizes, strict=True)]
        return torch.cat(cut, -2)

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their sums over all processes."""
        parts = list(tensors)
        for dtype in dict.fromkeys(part.dtype for part in parts):  # in one order
            alike = [part for part in parts if part.dtype == dtype]
            joined = torch.cat([part.flatten() for part in alike])
            dist.all_reduce(joined, group=self.group)
            sums = joined.split([part.numel() for part in alike])
            for part, total in zip(alike, sums, strict=True):
                part.copy_(total.view_as(part))

    def gather_objects(self, value: _Result) -> list[_Result]:
        """Return the values of all processes, by rank."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def from_first(self, value: _Result) -> _Result:
        """Return the value of process 0."""
        return self.gather_objects(value)[0]

    def any(self, value: bool) -> bool:
        """Return whether a value is true in one of the processes."""
        return any(self.gather_objects(value))

    def check_equal(self, description: Mapping[str, str], remedy: str) -> None:
        """Raise where processes do not agree.

        Parameters
        ----------
        description : mapping of str to str
            What has to be equal, by name.
        remedy : str
            What to do, for the message.

        Raises
        ------
        ValueError
            In all processes, naming the first one that differs from process 0, and in what.
        """
        first, *others = self.gather_objects(dict(description))
        for rank, other in enumerate(others, 1):
            names = [n for n in first.keys() | other.keys() if first.get(n) != other.get(n)]
            if names:
                raise ValueError(
                    f"Expected equal {', '.join(sorted(names))} in all {self.size} "
                    f"processes, got others in process {rank} than in process 0. {remedy}"
                )


class _Thread(threading.local):
    processes: Processes | None = None
    shares_pairs = False


_THREAD = _Thread()


def processes_of_fit() -> Processes | None:
    """Return the processes that train the model in this thread; None if alone."""
    return _THREAD.processes


@contextmanager
def sharing_pairs(shares: bool = True) -> Iterator[None]:
    """Let the processes of the fit share the pairs of a loss inside the block, or not.

    All of them compute the loss of the same embeddings there.
    """
    before, _THREAD.shares_pairs = _THREAD.shares_pairs, shares
    try:
        yield
    finally:
        _THREAD.shares_pairs = before


def sharers_of_pairs() -> Processes | None:
    """Return the processes that share the pairs of the loss in this thread; else None."""
    return _THREAD.processes if _THREAD.shares_pairs else None


def is_first() -> bool:
    """Return whether this process writes files and messages of the fit in this thread."""
    return _THREAD.processes is None or _THREAD.processes.rank == 0


def training_together(
    fit: Callable[_Arguments, _Result],
) -> Callable[_Arguments, _Result]:
    """Make a fit that trains one model in all processes of a launch.

    It trains alone where nothing was launched, in child processes and threads, such as
    those of joblib, and inside another fit.
    """

    @wraps(fit)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if _THREAD.processes is not None or not is_launched():
            return fit(*args, **kwargs)
        with _group() as processes, nullcontext() if processes.rank == 0 else _quiet():
            return fit(*args, **kwargs)

    return call


def is_launched() -> bool:
    """Return whether this is one of several processes of a launch, which fits in all."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or parent_process() is not None:
        return False
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size() > 1
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave warnings to process 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _group() -> Iterator[Processes]:
    """Form a group for one fit; an error of one process ends the block in all.

    Raises
    ------
    ProcessError
        If another process has left the block by an error, or does not answer.
    """
    _connect()
    rank, size = dist.get_rank(), dist.get_world_size()
    group = _new_group(rank)
    key = f"sklearn_hscl/fit/{next(_NUMBERS)}"
    _THREAD.processes = Processes(rank, size, group)
    try:
        yield _THREAD.processes
        _meet(group)  # none leaves while another may still fail
    except BaseException as error:
        cause = _cause(key, rank, error)
        if cause is None:
            raise
        raise ProcessError(cause) from error
    finally:
        _THREAD.processes = None
        # Whoever waits for this process gets an error at once.
        dist.destroy_process_group(group)


def _new_group(rank: int) -> "dist.ProcessGroup":
    # For all devices that a fit may use.
    backend = "cpu:gloo,cuda:nccl" if dist.get_backend() == "nccl" else None
    try:
        return dist.new_group(timeout=_TIMEOUT, backend=backend)
    except RuntimeError as error:
        raise ProcessError(
            f"Process {rank} got no answer from another process at the start of a fit. "
            f"Call `fit` in all processes, equally often, and see the output of the others."
        ) from error


def _meet(group: "dist.ProcessGroup") -> None:
    dist.all_gather_object([None] * dist.get_world_size(), None, group=group)


def _connect() -> None:
    """Connect the processes of a launch, unless that was done."""
    if dist.is_initialized():
        return
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError(
            f"{os.environ['WORLD_SIZE']} processes were launched to train one model, which "
            f"needs accelerate. Run pip install sklearn-hscl[distributed], or start one "
            f"process."
        ) from error
    # Without `cpu` it takes each process on a CPU for the only one.
    PartialState(cpu=not torch.accelerator.is_available(), timeout=_TIMEOUT)


def _cause(key: str, rank: int, error: BaseException) -> str | None:
    """Tell the others why this process leaves; return why it has to, if by another one."""
    store = dist.distributed_c10d._get_default_store()
    own = f"{rank}|{type(error).__name__}: {error}"
    try:
        first = store.compare_set(key, "", own).decode()
    except RuntimeError:  # the process that holds the store is gone
        first = own
    failed, _, message = first.partition("|")
    is_lost = isinstance(error, RuntimeError) and _is_of_connection(error)
    if failed != str(rank):
        if message == own.partition("|")[2]:
            return None  # all fail alike
        return f"Process {failed} has ended the fit of all processes: {message}"
    if is_lost:
        return (
            f"Process {rank} got no answer from another process, which was ended or hangs. "
            f"See the output of the other processes, and start all of them again; "
            f"`checkpoint_dir` continues after the last epoch."
        )
    return None


def _is_of_connection(error: RuntimeError) -> bool:
    message = str(error).lower()
    return any(word in message for word in ("gloo", "nccl", "connection", "timed out"))
