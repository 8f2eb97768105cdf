"""The dtypes of the `precision` parameter."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from sklearn_hscl.runtime.device import (
    ProductSettings,
    accelerator,
    product_settings,
    restore_products,
    set_tf32,
)
from sklearn_hscl.runtime.global_setting import GlobalSetting
from sklearn_hscl.runtime.matmul import fast_gemm

PRECISIONS = ("float64", "float32", "tf32", "bf16")


def _write_products(value: ProductSettings | bool) -> None:
    if isinstance(value, bool):
        set_tf32(value)
    else:
        restore_products(value)


_PRODUCTS: GlobalSetting[ProductSettings | bool]
# A fit in float32 beside one in TF32, in another thread, keeps its precision.
_PRODUCTS = GlobalSetting(product_settings, _write_products, strictest=False)


@dataclass(frozen=True)
class Precision:
    """Dtypes and matrix products in training and embedding.

    Parameters
    ----------
    name : {"float64", "float32", "tf32", "bf16"}
        ``"tf32"`` and ``"bf16"`` keep weights in float32 and multiply in lower precision;
        what bf16 leaves in float32 is multiplied in TF32.
    device : torch.device
        Device of the computation.
    """

    name: str
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and rows."""
        return torch.float64 if self.name == "float64" else torch.float32

    @contextmanager
    def products(self) -> Iterator[None]:
        """Use the fastest matrix products of this precision inside the block.

        The settings are those of the process; the last block to end restores them.
        """
        with ExitStack() as stack:
            if self.device.type == "cuda":
                # Whatever torch allows elsewhere, float32 means float32.
                allows_tf32 = self.name in ("tf32", "bf16")
                stack.enter_context(_PRODUCTS.set_to(allows_tf32))
            if self.name == "float32" and self.device.type == "cpu":
                stack.enter_context(fast_gemm())
            yield

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass.

        It casts weights anew each time: inside autocast of the caller, those in the cache
        of torch would outlive the steps of training that change them.
        """
        if self.name == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)
        return nullcontext()


def resolve_precision(precision: str, device: torch.device, ndim: int) -> Precision:
    """Resolve the precision.

    Parameters
    ----------
    precision : {"auto", "float64", "float32", "tf32", "bf16"}
        As given by the user. ``"auto"`` is float32 except on NVIDIA GPUs: there it is
        bf16 for images and texts, whose networks are large enough to benefit, and tf32
        for tables.
    device : torch.device
        Device of the computation.
    ndim : int
        Number of dimensions of the rows' array: 1 for texts, 2 for tables, 4 for images.

    Raises
    ------
    ValueError
        If the device does not support this precision.
    """
    if precision == "auto":
        precision = "float32"
        if device.type == "cuda":
            precision = (
                "bf16" if ndim != 2 and accelerator(device).supports_bf16() else "tf32"
            )
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(
            f"precision='tf32' needs an NVIDIA GPU, but device is {str(device)!r}. Use "
            f"precision='float32' or 'auto'."
        )
    if precision == "float64" and device.type == "mps":
        raise ValueError(
            "precision='float64' is not available on device='mps', which has no float64. "
            "Use precision='float32', or device='cpu'."
        )
    return Precision(precision, device)
