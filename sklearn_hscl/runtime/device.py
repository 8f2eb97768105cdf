"""The torch device of the `device` parameter, and what the package asks of it.

Whatever depends on the type of a device is asked of :class:`Accelerator`. Tests replace
the class by one that records the calls.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sklearn_hscl.runtime.threads import worker_index

CPU = torch.device("cpu")


def resolve_device(device: str | torch.device) -> torch.device:
    """Resolve the device: "auto" is the GPU if there is one, otherwise the CPU.

    If there are several GPUs, each worker process of joblib uses one.

    Returns
    -------
    torch.device
        With an index, unless it is the CPU.

    Raises
    ------
    ValueError
        If the name is not a torch device, or the device is not available.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            return CPU
        return torch.device("cuda", worker_index() % torch.cuda.device_count())
    try:
        found = torch.ones(1, device=torch.device(device))
        found.cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={device!r} cannot be used: {error}. Pass 'auto', 'cpu', or a "
            f"device that torch finds on this machine, such as 'cuda' or 'cuda:1'."
        ) from error
    return found.device


def runs_on_cpu(device: str | torch.device) -> bool:
    """Return whether a fit with `device` runs on the CPU, without a call to any other.

    A process that has called a GPU cannot be forked any more. Values that no fit accepts
    count as the CPU.
    """
    if device == "auto":
        return not torch.cuda.is_available()
    try:
        return torch.device(device).type == "cpu"
    except (RuntimeError, TypeError):
        return True


class Accelerator:
    """Random state, memory and transfers of one device.

    Parameters
    ----------
    device : torch.device
        The device; the CPU is one, too.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def _module(self) -> ModuleType:
        """The module of torch for this type of device, such as ``torch.cuda``."""
        return torch.get_device_module(self.device)

    @property
    def _index(self) -> tuple[torch.device, ...]:
        """The device as an argument; mps has one device, and takes none."""
        return () if self.device.type == "mps" else (self.device,)

    def _current(self) -> AbstractContextManager[object]:
        """Make this the current device of the calling thread."""
        if self.device.type in ("cpu", "mps"):
            return nullcontext()
        context: AbstractContextManager[object] = self._module.device(self.device)
        return context

    # Random state ---------------------------------------------------------------------

    def seed(self, seed: int) -> None:
        """Seed the device's own generator; those of other devices stay as they are."""
        if self.device.type != "cpu":
            with self._current():
                self._module.manual_seed(seed)

    def random_state(self) -> Tensor | None:
        """Return the state of the device's own generator, in host memory."""
        if self.device.type == "cpu":
            return None
        state: Tensor = self._module.get_rng_state(*self._index)
        return state

    def set_random_state(self, state: Tensor) -> None:
        """Set the state of the device's own generator."""
        self._module.set_rng_state(state, *self._index)

    # Memory ---------------------------------------------------------------------------

    def free_memory(self) -> int | None:
        """Return the bytes that torch can still allocate; None if it cannot tell."""
        if self.device.type == "cpu" or not hasattr(self._module, "mem_get_info"):
            return None
        module, device = self._module, self.device
        unused = module.memory_reserved(device) - module.memory_allocated(device)
        try:
            return int(module.mem_get_info(device)[0] + unused)
        except RuntimeError:
            if self.device.type == "cuda":
                raise
            return None  # drivers of some Intel GPUs cannot tell

    def release_memory(self) -> None:
        """Give memory that torch keeps, but does not use, back to the device."""
        if self.device.type != "cpu" and hasattr(self._module, "empty_cache"):
            self._module.empty_cache()

    # Transfers ------------------------------------------------------------------------

    def pin(self, rows: Tensor) -> Tensor:
        """Return the same rows in host memory from which copies need not wait.

        Memory is pinned by the driver in the context of this device, in any thread.
        """
        if self.device.type in ("cpu", "mps") or rows.is_pinned():
            return rows
        with self._current():
            return rows.pin_memory()

    def send(self, rows: Tensor) -> Tensor:
        """Copy rows to the device, without waiting for what it still computes."""
        if self.device.type in ("cpu", "mps") or rows.device.type != "cpu":
            return rows.to(self.device)
        return self.pin(rows).to(self.device, non_blocking=True)

    # Numbers --------------------------------------------------------------------------

    @property
    def widest_float(self) -> torch.dtype:
        """The most exact type of numbers that the device has."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def supports_bf16(self) -> bool:
        """Return whether bf16 has units of its own, as opposed to an emulation."""
        if self.device.type != "cuda":
            return False
        with self._current():
            return bool(self._module.is_bf16_supported(including_emulation=False))


def accelerator(device: torch.device) -> Accelerator:
    """Return the interface of a device."""
    return Accelerator(device)


def warn_of_transfer(X: Tensor, device: str | torch.device, name: str) -> None:
    """Say that rows on an accelerator will be copied to another device."""
    if X.device.type == "cpu":
        return
    asked = resolve_device(device)
    if X.device != asked:
        given = str(device) if isinstance(device, torch.device) else device
        warnings.warn(
            f"{name} lies on {str(X.device)!r}, but device={given!r} computes on "
            f"{str(asked)!r}, so that it is copied. Pass device={str(X.device)!r}, or "
            f"{name}.cpu().",
            UserWarning,
            stacklevel=2,
        )


def to_device(rows: Tensor, device: torch.device) -> Tensor:
    """Copy rows to a device, without waiting for what it still computes."""
    return accelerator(device).send(rows)


def to_host(*tensors: Tensor) -> list[Tensor]:
    """Copy small tensors of one device to host memory, at the cost of one wait."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return [tensor.detach() for tensor in tensors]
    parts = [tensor.detach().contiguous() for tensor in tensors]
    flat = [part.view(-1).view(torch.uint8) for part in parts]
    on_host = torch.cat(flat).cpu().split([len(part) for part in flat])
    return [
        values.clone().view(part.dtype).view(part.shape)
        for values, part in zip(on_host, parts, strict=True)
    ]


# Products of float32 -----------------------------------------------------------------


_BACKENDS: Any = torch.backends  # whose types lack most settings


class ProductSettings(NamedTuple):
    """Settings of torch for products of float32, in its old and in its new interface."""

    old: str
    """``torch.get_float32_matmul_precision()``."""
    old_cudnn: bool
    """``torch.backends.cudnn.allow_tf32``."""
    matmul: str
    conv: str
    rnn: str
    cpu: str


def product_settings() -> ProductSettings:
    """Read the settings, also where a user has mixed the interfaces.

    The getters of the old one then raise: its value is the one that disagrees.
    """
    cuda, cudnn = _BACKENDS.cuda.matmul, _BACKENDS.cudnn
    matmul, conv = cuda.fp32_precision, cudnn.conv.fp32_precision
    try:
        old = torch.get_float32_matmul_precision()
    except RuntimeError:
        old = "high" if _allows_tf32(cuda, matmul) else "highest"
    cpu = _BACKENDS.mkldnn.matmul.fp32_precision
    rnn = cudnn.rnn.fp32_precision
    return ProductSettings(old, _allows_tf32(cudnn, conv), matmul, conv, rnn, cpu)


def _allows_tf32(backend: Any, precision: str) -> bool:
    try:
        return bool(backend.allow_tf32)
    except RuntimeError:
        return precision != "tf32"


def set_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 in all products on NVIDIA GPUs, such that no getter raises."""
    cuda, cudnn = _BACKENDS.cuda.matmul, _BACKENDS.cudnn
    # The old interface sets the new one, too, but not where that has a common setting.
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    cudnn.allow_tf32 = allowed
    for products in (cuda, cudnn.conv, cudnn.rnn):
        products.fp32_precision = "tf32" if allowed else "ieee"


def restore_products(settings: ProductSettings) -> None:
    """Set what :func:`product_settings` has read."""
    cuda, cudnn = _BACKENDS.cuda.matmul, _BACKENDS.cudnn
    torch.set_float32_matmul_precision(settings.old)
    cudnn.allow_tf32 = settings.old_cudnn
    _restore(cuda, settings.matmul)
    cudnn.conv.fp32_precision = settings.conv  # which torch sets when it starts
    cudnn.rnn.fp32_precision = settings.rnn
    _restore(_BACKENDS.mkldnn.matmul, settings.cpu)


def _restore(products: Any, precision: str) -> None:
    """Set a precision, unless the common setting of all products gives the same."""
    products.fp32_precision = "none"
    if products.fp32_precision != precision:
        products.fp32_precision = precision
