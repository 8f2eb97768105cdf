"""Settings of the whole process that are changed temporarily, also across forks."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Generic, TypeVar

import numpy as np
import sklearn
import torch

Value = TypeVar("Value")
Lock = TypeVar("Lock")


def renewed_in_children(lock: Lock) -> Lock:
    """Return a lock that is free in forked children, whoever held it in the parent.

    Its owner may be a thread that does not exist in the child.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]
    return lock


class GlobalSetting(Generic[Value]):
    """A setting of the process with any number of concurrent users.

    The first user sets it and the last one restores it, whatever the order of their
    threads.

    Parameters
    ----------
    read : callable
        Returns the current value.
    write : callable
        Sets the value.
    strictest : optional
        Value that replaces the one in use, until the last user ends.
    """

    def __init__(
        self,
        read: Callable[[], Value],
        write: Callable[[Value], None],
        strictest: Value | None = None,
    ) -> None:
        self._read = read
        self._write = write
        self._strictest = strictest
        self._lock = threading.Lock()
        self._users: list[int] = []  # their threads
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_other_threads)

    @contextmanager
    def set_to(self, value: Value) -> Iterator[None]:
        """Set `value` inside the block; later users keep that of the first, or stricter."""
        with self._lock:
            if not self._users:
                self._before, self._value = self._read(), value
                self._change(self._before, value)
            elif self._strictest is not None and value == self._strictest:
                self._change(self._value, value)
                self._value = value
            self._users.append(threading.get_ident())
        try:
            yield
        finally:
            with self._lock:
                self._users.remove(threading.get_ident())
                if not self._users:
                    self._change(self._value, self._before)

    def _forget_other_threads(self) -> None:
        """Restore the setting in a forked child if only threads of the parent use it."""
        self._lock = threading.Lock()
        was_in_use = bool(self._users)
        self._users = [user for user in self._users if user == threading.get_ident()]
        if was_in_use and not self._users:
            self._change(self._value, self._before)

    def _change(self, old: Value, new: Value) -> None:
        if old != new:
            self._write(new)


# Settings of the caller --------------------------------------------------------------


def read_cpu_products() -> str:
    """Return how torch may round float32 products on the CPU; "missing" in an old torch."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    return str(getattr(matmul, "fp32_precision", "missing"))


def write_cpu_products(value: str) -> None:
    """Set how torch may round float32 products on the CPU."""
    if value != "missing":
        torch.backends.mkldnn.matmul.fp32_precision = value  # type: ignore[attr-defined]


_DTYPE = GlobalSetting(torch.get_default_dtype, torch.set_default_dtype)
_CPU_PRODUCTS = GlobalSetting(read_cpu_products, write_cpu_products)
# All arrays are numpy's: transformers return no frames, and checks no tensors. Infinite
# values are always refused: a loss that is NaN costs more than the check.
_SKLEARN = {
    "transform_output": "default",
    "array_api_dispatch": False,
    "assume_finite": False,
}


@contextmanager
def default_settings(*, keeps_frames: bool = False) -> Iterator[None]:
    """Compute inside the block as if the caller had changed no setting of the process.

    Results must not depend on gradients that are switched off, on another default dtype or
    device, on autocast, or on frames as output of transformers. Use it as a decorator of
    public functions, which then leave the settings as they are.

    Parameters
    ----------
    keeps_frames : bool, default=False
        Whether transformers return what the caller has chosen: the steps of a pipeline
        must pass on what they passed on in fit.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        config = _SKLEARN if not keeps_frames else {"assume_finite": False}
        if config.items() - sklearn.get_config().items():
            stack.enter_context(sklearn.config_context(**config))
        stack.enter_context(np.errstate(all="warn", under="ignore"))
        stack.enter_context(_DTYPE.set_to(torch.float32))
        stack.enter_context(_CPU_PRODUCTS.set_to(_free(read_cpu_products())))
        yield


def _free(setting: str) -> str:
    return setting if setting == "missing" else "none"
