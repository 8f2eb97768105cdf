"""From the `device` parameter to a torch device."""

import torch


def resolve_device(device: str | torch.device) -> torch.device:
    """Settle the device: "auto" is the GPU when there is one, otherwise the CPU.

    Raises
    ------
    ValueError
        If the name is not a torch device, or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.ones(1, device=resolved).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={device!r} cannot be used: {error}. Pass 'auto', 'cpu', or a "
            f"device that torch finds on this machine, such as 'cuda' or 'cuda:1'."
        ) from error
    return resolved
