"""Batches in which a row gets the same bits wherever it stands, found by measurement.

Matrix kernels choose their order of summation by the shape of a batch and by the address
of a row in it, each processor in its own way. So rows are embedded only in batches of a
few sizes, and only at places of these, that gave equal bits on the processor at hand.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# Rows per forward pass: enough to keep the cores busy, little enough for the cache.
TABLE_SIZES = (32, 64, 128, 256)
IMAGE_SIZES = (8, 32)
UNMEASURED_SIZES = tuple(32 * 2**k for k in range(7))
# Every row, every second row, ...: a place's address is a multiple of that of a row.
_SPACINGS = (1, 2, 4, 8, 16)
# Rows to embed at each size of a measurement; an image costs far more than a table's row.
_MEASURED_TABLE_ROWS, _MEASURED_IMAGES = 2048, 128

_MAX_ARCHITECTURES = 1000  # of built-in encoders that are remembered

Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BatchLayout:
    """Sizes of batches, and which of their places hold rows.

    Parameters
    ----------
    sizes : sequence of int
        Rising numbers of rows of a batch.
    spacing : int, default=1
        Distance between two places in use; all others hold zeros.
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
            n_places = len(some) * self.spacing
            yield some, next(size for size in self.sizes if size >= n_places)


class LayoutCache:
    """Layouts measured in this process.

    Built-in encoders of the same shapes share one, as the candidates of a search are
    many. Other modules have their own for as long as they live. Layouts are kept beside
    the modules, so that copies and files do not take them to another processor.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._built_in: dict[Hashable, dict[Hashable, BatchLayout]] = {}
        self._custom: WeakKeyDictionary[nn.Module, dict[Hashable, BatchLayout]]
        self._custom = WeakKeyDictionary()

    def get(
        self, module: nn.Module, key: Hashable, measure: Callable[[], BatchLayout]
    ) -> BatchLayout:
        """Return the layout of a module under a key; measure it at first."""
        with self._lock:
            known = self._known(module)
        if key not in known:
            known[key] = measure()  # threads that meet here come to the same
        return known[key]

    def _known(self, module: nn.Module) -> dict[Hashable, BatchLayout]:
        if not type(module).__module__.startswith("sklearn_hscl."):
            return self._custom.setdefault(module, {})
        shapes = tuple((name, part.shape) for name, part in module.state_dict().items())
        if len(self._built_in) >= _MAX_ARCHITECTURES:
            self._built_in.clear()
        return self._built_in.setdefault((type(module), shapes), {})


def measured_layout(embed: Embed, like: Tensor) -> BatchLayout:
    """Find the closest places and the smallest batches that give a row the same bits.

    Parameters
    ----------
    embed : callable
        Maps a batch (B, ...) to embeddings (B, D), in evaluation mode.
    like : Tensor of shape (n, ...)
        Rows whose shape and type random ones get.

    Returns
    -------
    BatchLayout
        Whole batches of the largest size where nothing agrees, as where rows influence
        each other, or where the function takes no random rows.
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
        except Exception:  # by modules of users, of whatever kind
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
    """Compare each place of each size with the first of the smallest: (size,) of bool.

    All rows are moved to the first place, and as many to each place as the cost allows.
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
    """Return the least distance of places that all agree; None where none do."""
    for spacing in _SPACINGS:
        if spacing <= len(same[0]) and all(part[::spacing].all() for part in same):
            return spacing
    return None
