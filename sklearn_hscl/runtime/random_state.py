"""Random state of one fit, which leaves the global generators unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from sklearn_hscl.runtime.device import CPU, accelerator

MAX_SEED = np.iinfo(np.int32).max


class Seeds(NamedTuple):
    """Seeds of a fit, one for each source of randomness."""

    split: int
    weights: int
    batches: int
    views: int


def draw_seeds(random_state: int | np.random.RandomState | None) -> Seeds:
    """Draw the seeds of one fit.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        None draws from the operating system, and leaves numpy's global generator
        unchanged.

    Returns
    -------
    Seeds
    """
    if random_state is None:
        random_state = np.random.RandomState(np.random.MT19937())
    generator = check_random_state(random_state)
    return Seeds(*generator.randint(MAX_SEED, size=len(Seeds._fields)).tolist())


# torch's generators are global: one fit at a time may use them.
_TORCH_GENERATORS = RLock()


@contextmanager
def scoped_torch_seed(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch inside the block; restore its global generators afterwards.

    Only the generators of the CPU and of `device` are touched: to ask for those of a GPU
    would take memory there, and would break child processes that are forked later. Fits
    in several threads of one process run here one after the other.
    """
    with _TORCH_GENERATORS, preserved_torch_random_state(device):
        seed_torch(seed, device)
        yield


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's global generators, on CPU and on `device`, and no others."""
    torch.default_generator.manual_seed(seed)
    accelerator(device).seed(seed)


@contextmanager
def preserved_torch_random_state(device: torch.device) -> Iterator[None]:
    """Restore torch's global generators, on CPU and on `device`, after the block."""
    state = torch_random_state(device)
    try:
        yield
    finally:
        set_torch_random_state(device, state)


RandomState = tuple[Tensor, Tensor | None]


def torch_random_state(device: torch.device) -> RandomState:
    """Return the state of torch's global generators, on CPU and on `device`."""
    return torch.get_rng_state(), accelerator(device).random_state()


def set_torch_random_state(device: torch.device, state: RandomState) -> None:
    """Set the state of torch's global generators, on CPU and on `device`."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        accelerator(device).set_random_state(state[1])
