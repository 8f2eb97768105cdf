"""Embedding rows with a trained encoder, each with the same bits in any batch.

Matrix kernels choose their order of summation by the shape of a batch and by the address
of a row in it, each processor in its own way. So rows are embedded only in batches of a
few sizes, and only at positions in these, that gave equal bits on the processor at hand.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import Tensor, nn

from sklearn_hscl.augment.graph_rows import Graphs
from sklearn_hscl.data.out_of_core import Rows
from sklearn_hscl.encoders.image.registry import LibraryEncoder
from sklearn_hscl.encoders.preprocessing import Preparation, as_float
from sklearn_hscl.encoders.text.tokens import embed_by_length, is_tokens
from sklearn_hscl.runtime.device import to_device
from sklearn_hscl.runtime.global_setting import renewed_in_children
from sklearn_hscl.runtime.matmul import chosen_products
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.precision import Precision
from sklearn_hscl.runtime.threads import choose_threads, has_small_steps, torch_threads

# Rows that are read, prepared and embedded at a time.
CHUNK_ROWS = 2048
# Rows that an accelerator embeds before the host waits for it, and the pinned memory that
# they may take until then.
_ROWS_PER_WAIT = 2**16
_BYTES_PER_WAIT = 2**30
_MAX_GRAPHS = 256  # graphs that are embedded at a time


@dataclass(frozen=True)
class EmbeddingOptions:
    """Device and manner in which rows are embedded."""

    device: torch.device
    precision: Precision
    normalize: bool
    """Whether to scale embeddings to unit norm."""
    n_threads: int | None
    """CPU threads; None chooses."""


def embed_array(
    encoder: nn.Module, prepare: Preparation, rows: Rows, options: EmbeddingOptions
) -> NDArray[np.floating]:
    """Embed validated rows, of any number in constant extra memory.

    Parameters
    ----------
    encoder : nn.Module
        Trained encoder on the device of the options.
    prepare : Preparation
        Maps an array of rows to the encoder's input.
    rows : ndarray or OutOfCoreRows of shape (n_samples, ...), or CSR array
        Validated rows; those that are sparse or out of core are read chunk by chunk.
    options : EmbeddingOptions
        Device, precision, normalization and threads.

    Returns
    -------
    ndarray of shape (n_samples, n_components)
        See :func:`embedding_dtype`.

    Raises
    ------
    ValueError
        If the encoder returns infinity or NaN for a row.
    """
    small = has_small_steps(TABLE_SIZES[-1], rows.ndim)  # for any number of rows
    parts = []
    with torch_threads(choose_threads(options.n_threads, small_steps=small)):
        for block in _blocks(rows, options.device):
            chunks = [
                _embed_chunk(encoder, prepare, rows[start : start + CHUNK_ROWS], options)
                for start in block
            ]
            embedding = torch.cat(chunks).cpu()
            _check_finite(embedding, block[0])
            parts.append(embedding.numpy())
    return np.concatenate(parts, dtype=embedding_dtype(rows))


def _blocks(rows: Rows, device: torch.device) -> Iterator[range]:
    """Yield the first rows of the chunks that are embedded before the host waits."""
    n_rows, n_chunks = rows.shape[0], 1
    if device.type != "cpu" and not isinstance(rows, Graphs):
        row_bytes = rows.dtype.itemsize * int(np.prod(rows.shape[1:]))
        n_held = min(_ROWS_PER_WAIT, _BYTES_PER_WAIT // max(1, row_bytes))
        n_chunks = max(1, n_held // CHUNK_ROWS)
    for start in range(0, n_rows, n_chunks * CHUNK_ROWS):
        yield range(start, min(start + n_chunks * CHUNK_ROWS, n_rows), CHUNK_ROWS)


def _embed_chunk(
    encoder: nn.Module, prepare: Preparation, rows: Rows, options: EmbeddingOptions
) -> Tensor:
    precision = options.precision
    prepared = prepare(_dense_floats(rows), precision.dtype)
    chunk = to_device(prepared, options.device)
    return embed_alike(encoder, chunk, precision, normalize=options.normalize)


def embedding_dtype(rows: Rows) -> np.dtype[np.floating]:
    """Return the type of the embeddings of validated rows: of floats, their own.

    Other tables give float64, as everywhere in scikit-learn, and other images float32.
    """
    if isinstance(rows, Graphs):
        return np.dtype(np.float64 if rows.dtype == torch.float64 else np.float32)
    if rows.dtype in (np.float32, np.float64):
        return np.dtype(rows.dtype)
    return np.dtype(np.float64 if rows.ndim == 2 else np.float32)


def _check_finite(embedding: Tensor, first: int) -> None:
    finite = embedding.isfinite()  # (B, D)
    if not finite.all():
        row = first + int(finite.all(1).int().argmin())
        raise ValueError(
            f"X holds row {row}, whose embedding is infinite or NaN: its values are too "
            f"large for the encoder. Scale X, or leave the row out."
        )


def _dense_floats(rows: Any) -> NDArray[Any]:
    """Make rows of a table dense and float32 or float64; leave others alone."""
    if isinstance(rows, Graphs):
        return rows  # type: ignore[return-value]
    rows = rows.toarray() if issparse(rows) else np.asarray(rows)
    if rows.ndim == 2 and rows.dtype not in (np.float32, np.float64):
        return rows.astype(np.float64)
    return rows


def embed_alike(
    encoder: nn.Module,
    rows: Tensor,
    precision: Precision,
    *,
    normalize: bool,
) -> Tensor:
    """Embed rows (n, ...) such that their bits do not depend on the others: (n, D).

    On a CPU, such batches are measured once for each encoder and each shape of rows. The
    last bits of texts may depend on others of similar length, those of graphs on others.
    """
    _set_to_eval(encoder)

    def embed(batch: Tensor) -> Tensor:
        embedding = _forward(encoder, batch, precision)
        return l2_normalize(embedding) if normalize else embedding

    with torch.inference_mode(), precision.products(), precision.autocast():
        if is_tokens(rows):  # to measure each length would take longer than to embed
            return embed_by_length(embed, rows)
        if isinstance(rows, Graphs):
            return torch.cat([embed(some) for some in rows.split(_MAX_GRAPHS)])
        if rows.device.type != "cpu":
            return BatchLayout(UNMEASURED_SIZES).embed(embed, rows)
        products = chosen_products() if precision.name == "float32" else ""
        environment = (precision, products, normalize, torch.get_num_threads())
        key = (*environment, rows.shape[1:], rows.dtype)
        measure = partial(measured_layout, embed, rows)
        return _layouts.get(encoder, key, measure).embed(embed, rows)


def embed_tensor(encoder: nn.Module, rows: Any, precision: Precision) -> Tensor:
    """Embed rows (n, ...) in chunks, in eval mode and without gradients: (n, D).

    Rows are a tensor, or another object that splits into tensors. Their last bits may
    depend on the others in their chunk.
    """
    _set_to_eval(encoder)
    with torch.inference_mode(), precision.products(), precision.autocast():
        if isinstance(rows, Tensor) and is_tokens(rows):
            return embed_by_length(partial(_forward, encoder, precision=precision), rows)
        chunks = rows.split(CHUNK_ROWS)
        return torch.cat([_forward(encoder, chunk, precision) for chunk in chunks])


def _set_to_eval(encoder: nn.Module) -> None:
    """Set eval mode; to read it costs less than to set it."""
    if any(part.training for part in encoder.modules()):
        encoder.eval()


def _forward(encoder: nn.Module, rows: Tensor, precision: Precision) -> Tensor:
    return encoder(as_float(rows, precision.dtype)).to(precision.dtype)


# Batches in which rows keep their bits -----------------------------------------------


# Rows per forward pass: enough to keep the cores busy, little enough for the cache.
TABLE_SIZES = (32, 64, 128, 256)
IMAGE_SIZES = (8, 32)
UNMEASURED_SIZES = tuple(32 * 2**k for k in range(7))
# Every row, every second row, ...: addresses of rows are multiples of these.
_SPACINGS = (1, 2, 4, 8, 16)
# Rows to embed at each size of a measurement; an image costs far more than a table's row.
_MEASURED_TABLE_ROWS, _MEASURED_IMAGES = 2048, 128
_MAX_ARCHITECTURES = 1000  # of built-in encoders that are remembered
Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BatchLayout:
    """Sizes of batches, and the positions in them that hold rows.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of rows of a batch, in ascending order.
    spacing : int, default=1
        Distance between two positions in use; all others hold zeros.
    """

    sizes: tuple[int, ...]
    spacing: int = 1

    def embed(self, embed: Embed, rows: Tensor) -> Tensor:
        """Embed rows (n, ...) by a function of a batch: (n, D)."""
        parts = []
        for some, size in self._cut(rows):
            # Always a tensor of its own: the address of a view depends on its offset.
            batch = rows.new_zeros(size, *rows.shape[1:])
            batch[:: self.spacing][: len(some)] = some
            parts.append(embed(batch)[:: self.spacing][: len(some)])
        return torch.cat(parts)

    def _cut(self, rows: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Cut rows for batches of the largest size, and the rest for the smallest."""
        for some in rows.split(self.sizes[-1] // self.spacing):
            n_positions = len(some) * self.spacing
            yield some, next(size for size in self.sizes if size >= n_positions)


def measured_layout(embed: Embed, like: Tensor) -> BatchLayout:
    """Find the closest positions and smallest batches that give a row the same bits.

    Parameters
    ----------
    embed : callable
        Maps a batch (B, ...) to embeddings (B, D), in evaluation mode.
    like : Tensor of shape (n, ...)
        Rows whose shape and type random ones get.

    Returns
    -------
    BatchLayout
        Whole batches of the largest size if no positions agree, because rows influence
        each other, or because the function fails on random rows.
    """
    is_table = like.ndim == 2
    sizes = TABLE_SIZES if is_table else IMAGE_SIZES
    n_measured = _MEASURED_TABLE_ROWS if is_table else _MEASURED_IMAGES
    # An odd number, so that no spacing meets the same row again and again.
    rows = _random_rows(n_measured // sizes[0] - 1, like)
    for first, size in enumerate(sizes):
        n_here = n_measured * size // sizes[0]
        try:
            spacing = _least_spacing(_agreement(embed, rows, sizes[first:], n_here))
        except Exception:  # whatever the modules of users raise
            break
        if spacing is not None:
            return BatchLayout(sizes[first:], spacing)
    return BatchLayout(sizes[-1:])


def _random_rows(n_rows: int, like: Tensor) -> Tensor:
    """Draw normal rows, as of standardised columns; bytes for bytes."""
    generator = torch.Generator().manual_seed(0)  # the global one stays as it is
    if like.dtype == torch.uint8:
        rows = 256 * torch.rand(n_rows, *like.shape[1:], generator=generator)
    else:
        rows = torch.randn(n_rows, *like.shape[1:], generator=generator)
    return rows.to(like.dtype)


def _agreement(
    embed: Embed, rows: Tensor, sizes: Sequence[int], n_measured: int
) -> list[Tensor]:
    """Compare each position of each size with the first of the smallest: (size,) of bool.

    All rows are moved to the first position, and to each as many as the cost allows.
    """
    expected, same = None, []
    for size in sizes:
        shifts = torch.arange(n_measured // size - 1).unsqueeze(1)
        row = (torch.arange(size) + shifts) % len(rows)  # (shifts, size)
        found = torch.stack([embed(rows[some]) for some in row])  # (shifts, size, D)
        expected = found[:, 0] if expected is None else expected  # (R, D)
        same.append((found == expected[row]).all(-1).all(0))
    return same


def _least_spacing(same: Sequence[Tensor]) -> int | None:
    """Return the least distance of positions that all agree; None if there is none."""
    for spacing in _SPACINGS:
        if spacing <= len(same[0]) and all(part[::spacing].all() for part in same):
            return spacing
    return None


class LayoutCache:
    """Layouts measured in this process.

    Built-in encoders of the same shapes share one, as the candidates of a search are
    many. Other modules have their own for as long as they live. Layouts are kept beside
    the modules, so that copies and files do not take them to another processor.
    """

    def __init__(self) -> None:
        self._lock = renewed_in_children(threading.Lock())
        self._built_in: dict[Hashable, dict[Hashable, BatchLayout]] = {}
        self._by_module: WeakKeyDictionary[nn.Module, dict[Hashable, BatchLayout]]
        self._by_module = WeakKeyDictionary()

    def get(
        self, module: nn.Module, key: Hashable, measure: Callable[[], BatchLayout]
    ) -> BatchLayout:
        """Return the layout of a module under a key; measure it at first."""
        with self._lock:
            known = self._known(module)
        if key not in known:
            known[key] = measure()  # threads that meet here measure the same
        return known[key]

    def _known(self, module: nn.Module) -> dict[Hashable, BatchLayout]:
        known = self._by_module.get(module)
        if known is None:
            known = self._by_module[module] = self._of_shapes(module)
        return known

    def _of_shapes(self, module: nn.Module) -> dict[Hashable, BatchLayout]:
        is_foreign = isinstance(module, LibraryEncoder)  # shapes do not tell its layers
        if is_foreign or not type(module).__module__.startswith("sklearn_hscl."):
            return {}
        shapes = tuple(_shapes(module))
        if len(self._built_in) >= _MAX_ARCHITECTURES:
            self._built_in.clear()
        return self._built_in.setdefault((type(module), shapes), {})


def _shapes(module: nn.Module) -> Iterator[tuple[str, torch.Size]]:
    """Yield what decides about the order of summation: names and shapes of the state."""
    for name, part in module.state_dict().items():
        # Nodes of trees are looked up one by one, and each fit has another number.
        yield name, part.shape[1:] if "forests." in name else part.shape


_layouts = LayoutCache()
