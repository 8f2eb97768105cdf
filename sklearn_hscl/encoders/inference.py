"""Embedding rows with a trained encoder, each row on its own."""

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import issparse
from torch import Tensor, nn

from sklearn_hscl.encoders.batches import (
    UNMEASURED_SIZES,
    BatchLayout,
    LayoutCache,
    measured_layout,
)
from sklearn_hscl.encoders.preprocessing import Preparation, as_float
from sklearn_hscl.runtime.matmul import chosen_products
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.precision import Precision

# Rows that are read, prepared and embedded at a time.
CHUNK_ROWS = 2048
_layouts = LayoutCache()


def embed_tensor(encoder: nn.Module, rows: Any, precision: Precision) -> Tensor:
    """Embed rows (n, ...) in chunks, in eval mode and without gradients: (n, D).

    Rows are a tensor, or what else can be split into tensors. Their last bits may depend
    on the others in their chunk.
    """
    encoder.eval()
    with torch.inference_mode(), precision.products(), precision.autocast():
        chunks = rows.split(CHUNK_ROWS)
        return torch.cat([_forward(encoder, chunk, precision) for chunk in chunks])


def embed_alike(
    encoder: nn.Module,
    rows: Tensor,
    precision: Precision,
    *,
    normalize: bool,
) -> Tensor:
    """Embed rows (n, ...) such that their bits do not depend on the others: (n, D).

    On a CPU, a measurement finds batches that do so when rows of a kind come first.
    """
    encoder.eval()

    def embed(batch: Tensor) -> Tensor:
        embedding = _forward(encoder, batch, precision)
        return l2_normalize(embedding) if normalize else embedding

    with torch.inference_mode(), precision.products(), precision.autocast():
        if rows.device.type != "cpu":
            return BatchLayout(UNMEASURED_SIZES).embed(embed, rows)
        products = chosen_products() if precision.name == "float32" else ""
        environment = (precision, products, normalize, torch.get_num_threads())
        key = (*environment, rows.shape[1:], rows.dtype)
        measure = partial(measured_layout, embed, rows)
        return _layouts.get(encoder, key, measure).embed(embed, rows)


def _forward(encoder: nn.Module, rows: Tensor, precision: Precision) -> Tensor:
    return encoder(as_float(rows, precision.dtype)).to(precision.dtype)


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
    rows : ndarray or OutOfCoreRows of shape (n_samples, ...), or CSR array
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
        embedding = embed_alike(
            encoder,
            chunk.to(device),
            precision,
            normalize=normalize,
        )
        _check_finite(embedding, start)
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
