"""Where a stored embedder comes to lie, and with which types of numbers."""

import warnings
from typing import Any

import torch

from sklearn_hscl.persistence.errors import BundleError
from sklearn_hscl.runtime.device import resolve_device
from sklearn_hscl.runtime.precision import Precision, resolve_precision


def restored_device(device: str | torch.device) -> torch.device:
    """Return where the embedder shall lie: on the host where its device is not there."""
    try:
        return resolve_device(device)
    except ValueError:
        warnings.warn(
            f"device={str(device)!r} is not there: the embedder lies on the CPU. Set "
            f"device='auto' to take a GPU where there is one.",
            UserWarning,
            stacklevel=2,
        )
        return torch.device("cpu")


def restored_precision(facts: dict[str, Any], device: torch.device, ndim: int) -> Precision:
    """Return types of numbers: those of the fit, or on another device exact ones."""
    name = facts["precision"]
    if name != "float64" and device.type != facts["device_type"]:
        name = "float32"
    if name == "auto":
        raise BundleError("the precision is 'auto'")
    return resolve_precision(name, device, ndim)
