"""The torch device of the `device` parameter."""

import torch

from sklearn_hscl.runtime.threads import worker_index


def resolve_device(device: str | torch.device) -> torch.device:
    """Resolve the device: "auto" is the GPU if there is one, otherwise the CPU.

    If there are several GPUs, each worker process of joblib uses one.

    Raises
    ------
    ValueError
        If the name is not a torch device, or the device is not available.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", worker_index() % torch.cuda.device_count())
    try:
        resolved = torch.device(device)
        torch.ones(1, device=resolved).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={device!r} cannot be used: {error}. Pass 'auto', 'cpu', or a "
            f"device that torch finds on this machine, such as 'cuda' or 'cuda:1'."
        ) from error
    return resolved
