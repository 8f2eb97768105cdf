"""A module is tried on a few rows before it is trained."""

import torch
from torch import Tensor, nn

from sklearn_hscl.encoders.features import as_float


def output_width(
    module: nn.Module, encoder: object, sample: Tensor, n_components: int | None
) -> int:
    """Try the module on a few rows; return the width of its embedding.

    Parameters
    ----------
    module : nn.Module
        The encoder.
    encoder : object
        What the user asked for, which messages name.
    sample : Tensor of shape (n, ...)
        Some training rows.
    n_components : int or None
        The width that is asked for.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it fails on the rows, or does not return finite float32 embeddings of that
        width, with a gradient, each from its row alone.
    """
    name = encoder if isinstance(encoder, str) else type(module).__name__
    sample = as_float(sample).float()
    try:
        output = module.eval()(sample)  # also gives lazy modules their shapes
        fewer = module(sample[:2])
    except Exception as error:
        raise ValueError(
            f"encoder={name} failed on a batch of shape {tuple(sample.shape)} and dtype "
            f"{sample.dtype}: {error}"
        ) from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != len(sample):
        raise ValueError(
            f"encoder={name} must return one embedding per row, shape "
            f"({len(sample)}, n_components) for a batch of {len(sample)} rows, got "
            f"{shape}. Flatten or pool the output."
        )
    if n_components not in (None, shape[1]):
        raise ValueError(
            f"encoder={name} returns embeddings of width {shape[1]}, but "
            f"n_components={n_components}. Leave n_components=None to take the "
            f"module's width."
        )
    _check_embedding(name, output, fewer)
    return shape[1]


def _check_embedding(name: object, output: Tensor, fewer: Tensor) -> None:
    problem = None
    if output.dtype != torch.float32 or output.shape[1] == 0:
        problem = f"{output.dtype} of width {output.shape[1]}: return float32 embeddings"
    elif not output.requires_grad:
        problem = "embeddings without a gradient: it must have trainable parameters"
    elif not output.isfinite().all():
        problem = "NaN or infinity on training rows: scale X, or check its weights"
    elif not torch.allclose(output[:2], fewer, rtol=1e-3, atol=1e-5):
        problem = (
            "different embeddings of a row in different batches, in eval mode: use "
            "layers that treat rows one by one, or keep running statistics"
        )
    if problem is not None:
        raise ValueError(f"encoder={name} returns {problem}.")
