"""Matrix products in float32 by oneDNN, where it is faster and as accurate.

On some processors torch's default float32 product reaches less than half of the speed
of the oneDNN that torch ships too. There are two ways to it, each used after a probe,
once per process, has found it clearly faster than the default and no less accurate:

- :func:`mm` and :func:`mm_t` call one oneDNN operator, which needs no global setting;
  in all other cases (float64, CUDA, autograd, other builds of torch) they are
  ``torch.mm``;
- :func:`fast_gemm` changes a setting of torch while a network runs, with autograd. The
  setting allows oneDNN to round to bfloat16, which it does only on processors with
  matrix units for it: there the probe finds the error and keeps the setting.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

from sklearn_hscl.runtime.global_setting import (
    GlobalSetting,
    read_cpu_products,
    renewed_in_children,
    write_cpu_products,
)

# Below this many multiplications the call costs more than the product.
_MIN_SIZE = 2**20
# (m, k, n) of a tile of similarities, of its gradient, and of a layer of a network.
_PROBED_SHAPES = ((256, 128, 1024), (128, 256, 1024), (512, 256, 256))
# A close race could end differently in each process, and with it the last bits of
# results; a clear one does not.
_CLEARLY_FASTER = 1.25
_lock = renewed_in_children(threading.Lock())
_allowed = os.environ.get("SKLEARN_HSCL_FAST_GEMM", "1") != "0"
# None: not probed yet.
_found_better: bool | None = None
_setting_found_better: bool | None = None


def mm(a: Tensor, b: Tensor) -> Tensor:
    """Compute the matrix product a b.

    Parameters
    ----------
    a : Tensor of shape (..., m, k)
        Left factor; any strides.
    b : Tensor of shape (..., k, n)
        Right factor, of the same type.

    Returns
    -------
    Tensor of shape (..., m, n)

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.runtime.matmul import mm
    >>> mm(torch.ones(2, 3), torch.ones(3, 2))
    tensor([[3., 3.],
            [3., 3.]])
    """
    return mm_t(a, b.mT)


def mm_t(a: Tensor, b: Tensor) -> Tensor:
    """Compute the matrix product a bᵀ.

    Parameters
    ----------
    a : Tensor of shape (..., m, k)
        Left factor; any strides.
    b : Tensor of shape (..., n, k)
        Right factor before transposition, of the same type.

    Returns
    -------
    Tensor of shape (..., m, n)
    """
    if _fits(a, b) and uses_fast_gemm():
        return _onednn(a, b)
    return a @ b.mT


def use_fast_gemm(enabled: bool = True) -> None:
    """Allow or forbid oneDNN products in this process.

    The environment variable ``SKLEARN_HSCL_FAST_GEMM=0`` forbids them from the start.

    Parameters
    ----------
    enabled : bool, default=True
        False: always ``torch.mm``. True: oneDNN where the probe finds it better.
    """
    global _allowed
    _allowed = enabled


def uses_fast_gemm() -> bool:
    """Return whether large float32 CPU products use oneDNN (probes at first use)."""
    global _found_better
    if _allowed and _found_better is None:
        with _lock:
            if _found_better is None:
                _found_better = _probe(_onednn)
    return bool(_allowed and _found_better)


def fast_gemm() -> AbstractContextManager[None]:
    """Return a context in which torch's own float32 products on the CPU use oneDNN.

    The setting is that of the process: products of other threads use oneDNN meanwhile,
    at equal accuracy. The last context to end restores it.
    """
    uses_fast_gemm()  # probes, if necessary, before the setting changes
    return _SETTING.set_to("bf16") if _setting_is_better() else nullcontext()


def chosen_products() -> str:
    """Return which ways large float32 CPU products take (probes at first use)."""
    by_operator = "operator" if uses_fast_gemm() else "default"
    return f"{by_operator}, {'switch' if _setting_is_better() else 'default'}"


@cache
def bfloat16_is_faster() -> bool:
    """Return whether bfloat16 products are clearly faster here (probes at first use).

    No result may depend on the answer, as one fast run of several decides it.
    """
    m, k, n = _PROBED_SHAPES[0]
    a, b = torch.ones(m, k), torch.ones(n, k)

    def is_faster() -> bool:
        rounded = _seconds(_default, a.bfloat16(), b.bfloat16())
        return _CLEARLY_FASTER * rounded < _seconds(mm_t, a, b)

    with torch.no_grad():
        return any(is_faster() for _ in range(3))


def _setting_is_better() -> bool:
    global _setting_found_better
    if _allowed and _setting_found_better is None:
        with _lock:
            if _setting_found_better is None:
                is_free = read_cpu_products() == "none"
                _setting_found_better = is_free and _probe(_multiply_with_setting)
    return bool(_allowed and _setting_found_better)


_SETTING = GlobalSetting(read_cpu_products, write_cpu_products)


def _fits(a: Tensor, b: Tensor) -> bool:
    return (
        a.ndim == b.ndim == 2  # batched products have no such operator
        and a.dtype == b.dtype == torch.float32
        and a.device.type == b.device.type == "cpu"
        and a.shape[0] * a.shape[1] * b.shape[0] >= _MIN_SIZE
        and not (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad))
    )


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def _multiply_with_setting(a: Tensor, b: Tensor) -> Tensor:
    with _SETTING.set_to("bf16"):
        return torch.mm(a, b.mT)


def _default(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b.mT)


Product = Callable[[Tensor, Tensor], Tensor]


def _probe(product: Product) -> bool:
    with torch.no_grad():
        try:
            return all(_is_better(product, *shape) for shape in _PROBED_SHAPES)
        except (AttributeError, NotImplementedError, RuntimeError):
            return False  # this build of torch has no such operator


def _is_better(product: Product, m: int, k: int, n: int) -> bool:
    generator = torch.Generator().manual_seed(0)  # the global one stays as it is
    a = torch.randn(m, k, generator=generator, dtype=torch.float32)
    b = torch.randn(n, k, generator=generator, dtype=torch.float32)
    exact = a.double() @ b.double().mT  # (m, n)
    accurate = _error(product(a, b), exact) <= 2 * _error(_default(a, b), exact)
    return accurate and _CLEARLY_FASTER * _seconds(product, a, b) < _seconds(_default, a, b)


def _error(product: Tensor, exact: Tensor) -> float:
    return float((product.double() - exact).norm() / exact.norm())


def _seconds(product: Product, a: Tensor, b: Tensor) -> float:
    """Return the shortest of some runs, in CPU time of this thread."""

    def once() -> float:
        start = time.thread_time()
        product(a, b)
        return time.thread_time() - start

    return min(once() for _ in range(5))
