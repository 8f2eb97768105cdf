"""Random state of one fit, which leaves the global generators unchanged.

A fit draws from a generator of its own. Only modules of users draw from torch's global
generators, which are then seeded for the time of the fit.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from math import prod
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sklearn_hscl.runtime.device import CPU, accelerator
from sklearn_hscl.runtime.global_setting import renewed_in_children

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


# Generator of a fit ------------------------------------------------------------------


class _Thread(threading.local):
    """Sources of random numbers of the fit in the calling thread."""

    generator: torch.Generator | None = None
    uses_torch = True
    """Whether modules of users may draw from torch's global generators."""
    rows: tuple[slice, int] | None = None
    """Which rows of a batch this process embeds, and the number of all."""


_THREAD = _Thread()


@contextmanager
def fit_generator(
    seed: int, device: torch.device, *, uses_torch: bool = False
) -> Iterator[None]:
    """Draw from a generator of its own inside the block.

    Neither do draws of other threads change a fit, nor does the fit change theirs.

    Parameters
    ----------
    seed : int
        Seed of the generator.
    device : torch.device
        Device of what is drawn.
    uses_torch : bool, default=False
        Whether to seed torch's global generators as well, see :func:`scoped_torch_seed`.
        Modules of users draw from these, for example in ``torch.nn.Dropout``.
    """
    generator = torch.Generator(device).manual_seed(seed)
    seeded = scoped_torch_seed(seed, device) if uses_torch else nullcontext()
    with seeded, _sources(generator, uses_torch=uses_torch):
        yield


@contextmanager
def _sources(generator: torch.Generator | None, *, uses_torch: bool) -> Iterator[None]:
    """Set what the calling thread draws from inside the block."""
    before = _THREAD.generator, _THREAD.uses_torch
    _THREAD.generator, _THREAD.uses_torch = generator, uses_torch
    try:
        yield
    finally:
        _THREAD.generator, _THREAD.uses_torch = before


def generator_of_fit(device: torch.device) -> torch.Generator | None:
    """Return the generator of the fit in this thread; None outside of fits."""
    generator = _THREAD.generator
    return generator if generator is None or generator.device == device else None


class BuiltInDraws(TorchFunctionMode):
    """Draw the weights of built-in modules from a generator of their own.

    ``torch.nn.Linear`` and others take no generator. They draw what they would draw from
    torch's global generator after ``torch.manual_seed(seed)``.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Add the generator to calls that draw."""
        kwargs = kwargs or {}
        # torch.nn.init passes a generator on, which is None.
        draws = func in _DRAWS or "generator" in kwargs
        if draws and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self._generator}
        return func(*args, **kwargs)


_DRAWS = frozenset(
    (
        *(torch.rand, torch.randn, torch.randint, torch.normal),
        *(torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.random_),
    )
)


# Dropout -----------------------------------------------------------------------------


class Dropout(nn.Dropout):
    """``torch.nn.Dropout`` with the same masks, drawn from the generator of the fit."""

    def forward(self, rows: Tensor) -> Tensor:
        """Drop values of a tensor of any shape, in training; scale the others up."""
        return rows * dropout_mask(rows, self.p) if self.training and self.p else rows


def _one_node(draw: Callable[..., Tensor], empty: Callable[..., Tensor]) -> Any:
    """Make a function that draws a mask one node of compiled networks.

    A compiler splits a network where a generator is used. The node takes the values that
    are dropped, so that layers draw one after the other; `empty` is a mask of them.
    """
    node = torch.library.custom_op(
        f"sklearn_hscl::{draw.__name__}",
        draw,
        mutates_args=(),
        tags=(torch.Tag.nondeterministic_seeded,),
    )
    node.register_fake(lambda like, fraction: empty(like))

    @wraps(draw)
    def call(like: Tensor, fraction: float) -> Tensor:
        if torch.compiler.is_compiling():
            return node(like.detach(), fraction)
        return draw(like, fraction)

    return call


@contextmanager
def draws_of_rows(own: slice, n_rows: int) -> Iterator[None]:
    """Draw masks of a whole batch inside the block, of which its own rows get theirs.

    Parameters
    ----------
    own : slice
        The rows (..., B, F) that are embedded, all at once; parts of them have their own
        draws.
    n_rows : int
        Number of rows of the batch.
    """
    before, _THREAD.rows = _THREAD.rows, (own, n_rows)
    try:
        yield
    finally:
        _THREAD.rows = before


def _own_rows(like: Tensor, draw: Callable[[Sequence[int]], Tensor]) -> Tensor:
    """Draw for all rows (..., B, F) of the batch; return the draws of those at hand."""
    if _THREAD.rows is None:
        return draw(like.shape)
    own, n_rows = _THREAD.rows
    if like.shape[-2] != own.stop - own.start:
        return draw(like.shape)
    # Compiled networks expect it as :func:`_one_node` describes it.
    return draw((*like.shape[:-2], n_rows, like.shape[-1]))[..., own, :].contiguous()


def _dropout_mask(like: Tensor, p: float) -> Tensor:
    """Draw a tensor of zeros, a fraction `p` of it, and of 1 / (1 - p)."""
    generator = generator_of_fit(like.device)

    def draw(shape: Sequence[int]) -> Tensor:
        mask = like.new_empty(shape, requires_grad=False)
        return mask.bernoulli_(1 - p, generator=generator).div_(1 - p)

    return _own_rows(like, draw)


def _byte_mask(like: Tensor, n_retained: int) -> Tensor:
    """Draw a mask that is True for `n_retained` of 256 values."""
    generator = generator_of_fit(like.device)

    def draw(shape: Sequence[int]) -> Tensor:
        n_values = prod(shape)
        words = torch.empty(-(-n_values // 8), dtype=torch.long, device=like.device)
        words.random_(-(2**63), None, generator=generator)
        return words.view(torch.uint8)[:n_values].view(*shape) < n_retained

    return _own_rows(like, draw)


dropout_mask = _one_node(_dropout_mask, torch.empty_like)
_byte_mask_node = _one_node(
    _byte_mask, lambda like: like.new_empty(like.shape, dtype=torch.bool)
)


class ByteDropout(nn.Module):
    """Dropout whose masks are random bytes, which a CPU draws several times faster.

    Parameters
    ----------
    p : float in [0, 1)
        Fraction of the values that are set to 0, rounded to 1/256.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.n_retained = min(max(round(256 * (1 - p)), 1), 256)  # of the 256 byte values

    @property
    def drops(self) -> bool:
        """Whether any value is dropped."""
        return self.n_retained < 256

    def forward(self, rows: Tensor) -> Tensor:
        """Drop values of a tensor of any shape, in training; scale the others up."""
        if not (self.training and self.drops):
            return rows
        mask = _byte_mask_node(rows, self.n_retained)
        return rows * (mask * (256 / self.n_retained))


# torch's generators ------------------------------------------------------------------


# torch's generators are global: one fit at a time may use them.
_TORCH_GENERATORS = renewed_in_children(RLock())


@contextmanager
def scoped_torch_seed(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch inside the block; restore its global generators afterwards.

    Only the generators of the CPU and of `device` are touched: to ask for those of a GPU
    would take memory there, and would break child processes that are forked later. Fits
    in several threads of one process run here one after the other.
    """
    with _TORCH_GENERATORS:
        # Also inside of a fit that does not draw from them.
        host, on_device = torch.get_rng_state(), accelerator(device).random_state()
        try:
            seed_torch(seed, device)
            yield
        finally:
            torch.set_rng_state(host)
            if on_device is not None:
                accelerator(device).set_random_state(on_device)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's global generators, on CPU and on `device`, and no others."""
    torch.default_generator.manual_seed(seed)
    accelerator(device).seed(seed)


class RandomState(NamedTuple):
    """States of the generators that a fit may draw from; None for others."""

    host: Tensor | None
    device: Tensor | None
    fit: Tensor | None = None


def torch_random_state(device: torch.device) -> RandomState:
    """Return the states of the fit's generator, and of torch's on CPU and on `device`."""
    own = _THREAD.generator
    fit = None if own is None else own.get_state()
    if not _THREAD.uses_torch:
        return RandomState(None, None, fit)
    return RandomState(torch.get_rng_state(), accelerator(device).random_state(), fit)


def set_torch_random_state(device: torch.device, state: Sequence[Tensor | None]) -> None:
    """Set what :func:`torch_random_state` has read."""
    host, on_device, fit = RandomState(*state)
    if _THREAD.uses_torch and host is not None:
        torch.set_rng_state(host)
    if _THREAD.uses_torch and on_device is not None:
        accelerator(device).set_random_state(on_device)
    # Earlier versions had no generator of the fit: it draws what torch's did.
    fit = fit if fit is not None else (host if on_device is None else on_device)
    if _THREAD.generator is not None and fit is not None:
        _THREAD.generator.set_state(fit)


class Draws(NamedTuple):
    """The generators of a thread, and their states."""

    generator: torch.Generator | None
    uses_torch: bool
    state: RandomState


def next_draws(device: torch.device) -> Draws:
    """Return what :func:`repeated` needs to draw the same once more."""
    return Draws(_THREAD.generator, _THREAD.uses_torch, torch_random_state(device))


@contextmanager
def repeated(draws: Draws, device: torch.device) -> Iterator[None]:
    """Draw inside the block what followed :func:`next_draws`; restore all afterwards.

    The thread may be another one: that of the backward pass of a GPU knows no fit.
    """
    with _sources(draws.generator, uses_torch=draws.uses_torch):
        present = torch_random_state(device)
        try:
            set_torch_random_state(device, draws.state)
            yield
        finally:
            set_torch_random_state(device, present)


@contextmanager
def apart(
    rank: int, device: torch.device, *, of_fit: bool
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Draw other numbers in each process inside the block, and equal ones after it.

    Where nothing is drawn, those after it are the ones of a process that trains alone.

    Parameters
    ----------
    rank : int
        Index of this process.
    device : torch.device
        Device of what is drawn.
    of_fit : bool
        Whether the generator of the fit differs as well, and not only torch's, from which
        modules of users draw.

    Yields
    ------
    callable
        Returns a context in which draws are equal again.
    """
    own = generator_of_fit(device) if of_fit else None
    if own is None and not _THREAD.uses_torch:
        yield nullcontext
        return
    streams = _Apart(rank, device, own)
    try:
        yield streams.together
    finally:
        streams.end()


class _Apart:
    """Random states while processes draw different numbers.

    Parameters
    ----------
    rank, device
        As in :func:`apart`.
    own : torch.Generator or None
        The generator of the fit, if it differs as well.
    """

    def __init__(
        self, rank: int, device: torch.device, own: torch.Generator | None
    ) -> None:
        self.device, self.of_fit = device, own is not None
        alone = torch_random_state(device)
        seed = int(torch.randint(MAX_SEED, (), generator=own, device=device)) + rank
        drawn = torch_random_state(device)
        if _THREAD.uses_torch:
            seed_torch(seed, device)
        if own is not None:
            own.manual_seed(seed)
        self.start: RandomState | None = torch_random_state(device)
        self.if_drawn, self.common = drawn, alone

    @contextmanager
    def together(self) -> Iterator[None]:
        """Draw equal numbers in all processes inside the block."""
        present = self.end()
        try:
            yield
        finally:
            self.common = torch_random_state(self.device)
            self._set(present)

    def end(self) -> RandomState:
        """Return to the common state; return that of this process."""
        present = torch_random_state(self.device)
        if self.start is not None and not _equal(present, self._with_fit(self.start)):
            self.common = self.if_drawn
        self.start = None
        self._set(self.common)
        return present

    def _set(self, state: RandomState) -> None:
        set_torch_random_state(self.device, self._with_fit(state))

    def _with_fit(self, state: RandomState) -> RandomState:
        """Return a state with the fit's present one, unless that differs as well."""
        if self.of_fit:
            return state
        return state._replace(fit=torch_random_state(self.device).fit)


def _equal(state: RandomState, other: RandomState) -> bool:
    """Compare two states of the same generators."""
    pairs = zip(state, other, strict=True)
    return all(torch.equal(a, b) for a, b in pairs if a is not None and b is not None)
