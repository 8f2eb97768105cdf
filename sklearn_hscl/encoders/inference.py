"""Embedding rows with a trained encoder, each row on its own."""

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor, nn

from sklearn_hscl.encoders.features import Preparation, as_float
from sklearn_hscl.losses.unit import unit_rows
from sklearn_hscl.precision import Precision

# Rows per forward pass: enough to keep the cores busy, little enough for the cache.
CHUNK_ROWS = 2048
# Matrix kernels treat the last rows of a batch differently; up to this multiple, none
# is last, and the bits of an embedding do not depend on its neighbours.
ROW_MULTIPLE = 32


def embed_tensor(encoder: nn.Module, rows: Tensor, precision: Precision) -> Tensor:
    """Embed rows (n, ...) in chunks, in eval mode and without gradients: (n, D)."""
    encoder.eval()
    with torch.inference_mode(), precision.products(), precision.autocast():
        chunks = rows.split(CHUNK_ROWS)
        return torch.cat([_embed_padded(encoder, c, precision) for c in chunks])


def embed_array(
    encoder: nn.Module,
    prepare: Preparation,
    rows: NDArray[Any],
    *,
    device: torch.device,
    normalize: bool,
    precision: Precision,
    dtype: DTypeLike,
) -> NDArray[Any]:
    """Embed validated rows, of any number in constant extra memory.

    Parameters
    ----------
    encoder : nn.Module
        Trained encoder on `device`.
    prepare : Preparation
        Maps an array of rows to the encoder's input.
    rows : ndarray of shape (n_samples, ...)
        Validated rows.
    device : torch.device
        Where to compute.
    normalize : bool
        Whether to scale embeddings to unit length.
    precision : Precision
        Types of numbers inside.
    dtype : dtype
        Type of the result.

    Returns
    -------
    ndarray of shape (n_samples, n_components)
    """
    chunks = []
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = prepare(rows[start : start + CHUNK_ROWS])
        if chunk.is_floating_point():
            chunk = chunk.to(precision.dtype)
        embedding = embed_tensor(encoder, chunk.to(device), precision)
        embedding = unit_rows(embedding) if normalize else embedding
        chunks.append(embedding.cpu().numpy().astype(dtype, copy=False))
    return np.concatenate(chunks)


def _embed_padded(encoder: nn.Module, rows: Tensor, precision: Precision) -> Tensor:
    n_missing = -len(rows) % ROW_MULTIPLE
    padding = rows.new_zeros(n_missing, *rows.shape[1:])
    rows_and_padding = as_float(torch.cat([rows, padding]), precision.dtype)
    return encoder(rows_and_padding)[: len(rows)].to(precision.dtype)
