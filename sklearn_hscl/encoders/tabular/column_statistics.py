"""Statistics of table columns that an encoder is built from: scales and quantile bins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

MAX_QUANTILE_ROWS = 100_000
"""Number of rows that quantiles are computed from; more would hardly change them."""
# Bounds by which float32 never overflows: of scaled values, and of widths of bins.
_MAX_SCALED, _MIN_BIN_WIDTH = 1e15, 1e-12


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of K numeric and C categorical columns.

    Attributes
    ----------
    numeric : Tensor of int, shape (K,)
        Indices of the numeric columns.
    categorical : Tensor of int, shape (C,)
        Indices of the categorical columns.
    cardinalities : Tensor of int, shape (C,)
        Number of known categories, which have the codes 1, 2, ...
    center : Tensor of shape (K,)
        Medians, in the dtype of the rows.
    scale : Tensor of shape (K,)
        Inverse interquartile ranges.
    left : Tensor of shape (K, n_bins)
        Left edges of the bins of scaled columns.
    inv_width : Tensor of shape (K, n_bins)
        Inverse widths of the bins; 0 for unused bins.
    with_missing : Tensor of int, shape (G,)
        Those of the K columns, by position, that have missing values.
    """

    numeric: Tensor
    categorical: Tensor
    cardinalities: Tensor
    center: Tensor
    scale: Tensor
    left: Tensor
    inv_width: Tensor
    with_missing: Tensor

    @classmethod
    def fit(
        cls,
        rows: Tensor,
        cardinalities: Sequence[int],
        n_bins: int,
        has_missing: ArrayLike | None = None,
    ) -> Self:
        """Compute the statistics of training rows.

        Parameters
        ----------
        rows : Tensor of shape (n, F), float32 or float64
            Numbers and category codes; NaN for missing values.
        cardinalities : sequence of F int
            0 for a numeric column, else its number of categories.
        n_bins : int
            Largest number of bins of a numeric column; columns of few values need fewer.
        has_missing : array-like of F bool, optional
            Mask of the columns that can have missing values; None for those that have
            some.

        Returns
        -------
        ColumnStatistics
        """
        sizes = torch.tensor(list(cardinalities), dtype=torch.long)
        if sizes.shape != rows.shape[1:]:
            raise ValueError(
                f"cardinalities holds {len(sizes)} entries for {rows.shape[1]} columns. "
                f"Pass one per column, 0 for numeric columns."
            )
        numeric, categorical = (sizes == 0).nonzero()[:, 0], sizes.nonzero()[:, 0]
        step = -(-len(rows) // MAX_QUANTILE_ROWS)
        values = clip_to_range(rows.detach().cpu()[:, numeric])  # (n, K)
        columns = [column[~column.isnan()] for column in values[::step].T]
        scales = [_center_and_scale(column) for column in columns]
        center, scale = torch.tensor(scales, dtype=rows.dtype).reshape(-1, 2).T
        left, inv_width = _all_bins(columns, center, scale, n_bins)
        can_miss = values.isnan().any(0)
        if has_missing is not None:
            can_miss = torch.as_tensor(has_missing)[numeric]
        return cls(
            numeric=numeric,
            categorical=categorical,
            cardinalities=sizes[categorical],
            center=center.contiguous(),
            scale=scale.contiguous(),
            left=left,
            inv_width=inv_width,
            with_missing=can_miss.nonzero()[:, 0],
        )


def clip_to_range(values: Tensor) -> Tensor:
    """Clip infinities, and values whose differences would overflow."""
    largest = torch.finfo(values.dtype).max / 8
    return values.clamp(-largest, largest)


def robust_scale(values: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """Scale values (..., K) robustly; NaN stays NaN."""
    return ((values - center) * scale).clamp(-_MAX_SCALED, _MAX_SCALED)


def _center_and_scale(column: Tensor) -> tuple[float, float]:
    """Return the median and 1 / interquartile range, or 2 / range if the latter is 0."""
    if not len(column):
        return 0.0, 0.0
    points = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=column.dtype)
    low, first, median, third, high = torch.quantile(column, points).tolist()
    smallest = torch.finfo(column.dtype).tiny * 4
    if third - first > smallest:
        return median, 1 / (third - first)
    return median, 2 / (high - low) if high - low > smallest else 0.0


def _all_bins(
    columns: Sequence[Tensor], center: Tensor, scale: Tensor, n_bins: int
) -> Tensor:
    """Return left edges and 1 / widths of the bins of K columns: (2, K, n_bins)."""
    bins = [
        _bins(robust_scale(column, c, s).float(), n_bins)
        for column, c, s in zip(columns, center, scale, strict=True)
    ]
    return torch.stack(bins, 1) if bins else torch.zeros(2, 0, n_bins)


def _bins(column: Tensor, n_bins: int) -> Tensor:
    """Return left edges and 1 / widths of quantile bins of a scaled column: (2, n_bins)."""
    bins = torch.zeros(2, n_bins)
    if len(column) and n_bins:
        edges = torch.quantile(column, torch.linspace(0, 1, n_bins + 1)).unique()
        widths = edges.diff()
        bins[0] = edges[-1]
        bins[0, : len(widths)] = edges[:-1]
        bins[1, : len(widths)] = 1 / widths.clamp_min(_MIN_BIN_WIDTH)
    return bins
