"""Embedding rows with a trained encoder, each row on its own."""

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import issparse
from torch import Tensor, nn

from sklearn_hscl.encoders.preprocessing import Preparation, as_float
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.precision import Precision

# Rows per forward pass: enough to keep the cores busy, little enough for the cache.
CHUNK_ROWS = 2048
# Matrix kernels treat the last rows of a batch differently; up to this multiple, none
# is last, and the bits of an embedding do not depend on its neighbours.
ROW_MULTIPLE = 32
# Multiplications from which torch leaves a product to oneDNN: 16³.
_SMALLEST_ONEDNN = 4096


def embed_tensor(encoder: nn.Module, rows: Any, precision: Precision) -> Tensor:
    """Embed rows (n, ...) in chunks, in eval mode and without gradients: (n, D).

    Rows are a tensor, or what else can be split into tensors.
    """
    encoder.eval()
    multiple = _row_multiple(encoder)
    with torch.inference_mode(), precision.products(), precision.autocast():
        chunks = rows.split(CHUNK_ROWS)
        return torch.cat([_embed_padded(encoder, c, precision, multiple) for c in chunks])


def _row_multiple(encoder: nn.Module) -> int:
    """Return the multiple of rows up to which batches are filled.

    torch leaves very small products to its default kernel and others to oneDNN: with so
    many rows, it decides for each layer as it would for a whole chunk.
    """
    sizes = [
        weight.numel()
        for name, weight in encoder.named_parameters()
        if weight.ndim > 1 and weight.numel() and not name.endswith("bias")
    ]
    enough = _SMALLEST_ONEDNN // min(sizes, default=_SMALLEST_ONEDNN) + 1
    return min(CHUNK_ROWS, ROW_MULTIPLE * -(-enough // ROW_MULTIPLE))


def embed_array(
    encoder: nn.Module,
    prepare: Preparation,
    rows: Any,
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
    rows : ndarray or StoredRows of shape (n_samples, ...), or CSR array
        Validated rows; sparse ones are made dense, and stored ones read, chunk by chunk.
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

    Raises
    ------
    ValueError
        If the encoder makes something infinite, or NaN, of a row.
    """
    embeddings = None
    for start in range(0, rows.shape[0], CHUNK_ROWS):
        values = _dense_floats(rows[start : start + CHUNK_ROWS])
        chunk = prepare(values, precision.dtype)
        embedding = embed_tensor(encoder, chunk.to(device), precision)
        _check_finite(embedding, start)
        embedding = l2_normalize(embedding) if normalize else embedding
        if embeddings is None:
            embeddings = np.empty((rows.shape[0], embedding.shape[1]), dtype=dtype)
        embeddings[start : start + CHUNK_ROWS] = embedding.cpu().numpy()
    assert embeddings is not None  # validation refuses tables of no rows
    return embeddings


def _check_finite(embedding: Tensor, first: int) -> None:
    finite = embedding.isfinite()  # (B, D)
    if not finite.all():
        row = first + int(finite.all(1).int().argmin())
        raise ValueError(
            f"X holds row {row}, whose embedding is infinite or NaN: its values are too "
            f"large for the encoder. Scale X, or leave the row out."
        )


def _dense_floats(rows: Any) -> NDArray[Any]:
    """Make rows of a table dense and float32 or float64; leave images alone."""
    rows = rows.toarray() if issparse(rows) else np.asarray(rows)
    if rows.ndim == 2 and rows.dtype not in (np.float32, np.float64):
        return rows.astype(np.float64)
    return rows


def _embed_padded(
    encoder: nn.Module, rows: Tensor, precision: Precision, multiple: int
) -> Tensor:
    n_missing = -len(rows) % multiple
    padding = rows.new_zeros(n_missing, *rows.shape[1:])
    rows_and_padding = as_float(torch.cat([rows, padding]), precision.dtype)
    return encoder(rows_and_padding)[: len(rows)].to(precision.dtype)
