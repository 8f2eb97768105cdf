"""What an encoder of tables learns about the columns before training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

# Rows from which quantiles are taken; more change no bin that matters.
MAX_ROWS = 100_000
# Scaled numbers are cut off here, and bins are at least this wide: float32 never
# overflows.
LARGEST, NARROWEST = 1e15, 1e-12


@dataclass(frozen=True)
class ColumnStatistics:
    """Scales and bins of numeric columns, number of codes of categorical ones.

    K numeric columns, C categorical ones.
    """

    numeric: Tensor  # (K,), indices of columns
    categorical: Tensor  # (C,), indices of columns
    cardinalities: Tensor  # (C,), known categories, which have the codes 1, 2, ...
    center: Tensor  # (K,), medians, in the dtype of the rows
    scale: Tensor  # (K,), 1 / interquartile range
    left: Tensor  # (K, n_bins), left edges of bins, scaled
    per_width: Tensor  # (K, n_bins), 1 / width of bins; 0 for those not needed
    gappy: Tensor  # (G,), which of the K columns had missing values

    @classmethod
    def of(
        cls,
        rows: Tensor,
        cardinalities: Sequence[int],
        n_bins: int,
        has_missing: ArrayLike | None = None,
    ) -> Self:
        """Learn them from training rows.

        Parameters
        ----------
        rows : Tensor of shape (n, F), float32 or float64
            Numbers and category codes; NaN where missing.
        cardinalities : sequence of F int
            0 for a numeric column, else its number of categories.
        n_bins : int
            Bins of a numeric column, at most: columns with few values need fewer.
        has_missing : array-like of F bool, optional
            Which columns can have missing values; None for those that have some.

        Returns
        -------
        ColumnStatistics
        """
        sizes = torch.tensor(list(cardinalities), dtype=torch.long)
        if sizes.shape != rows.shape[1:]:
            raise ValueError(
                f"cardinalities holds {len(sizes)} entries for {rows.shape[1]} columns: "
                f"pass one per column, 0 for numbers."
            )
        numeric, categorical = (sizes == 0).nonzero()[:, 0], sizes.nonzero()[:, 0]
        step = -(-len(rows) // MAX_ROWS)
        numbers = within_range(rows.detach().cpu()[:, numeric])  # (n, K)
        columns = [column[~column.isnan()] for column in numbers[::step].T]
        scales = [_center_and_scale(column) for column in columns]
        center, scale = torch.tensor(scales, dtype=rows.dtype).reshape(-1, 2).T
        bins = [
            _bins(scaled(column, c, s).float(), n_bins)
            for column, c, s in zip(columns, center, scale, strict=True)
        ]
        left, per_width = torch.stack(bins, 1) if bins else torch.zeros(2, 0, n_bins)
        gappy = numbers.isnan().any(0)
        if has_missing is not None:
            gappy = torch.as_tensor(has_missing)[numeric]
        return cls(
            numeric=numeric,
            categorical=categorical,
            cardinalities=sizes[categorical],
            center=center.contiguous(),
            scale=scale.contiguous(),
            left=left,
            per_width=per_width,
            gappy=gappy.nonzero()[:, 0],
        )


def within_range(numbers: Tensor) -> Tensor:
    """Cut off numbers so large that differences would overflow, and infinities."""
    largest = torch.finfo(numbers.dtype).max / 8
    return numbers.clamp(-largest, largest)


def scaled(numbers: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """Robustly scale numbers (..., K); NaN stays NaN."""
    return ((numbers - center) * scale).clamp(-LARGEST, LARGEST)


def _center_and_scale(column: Tensor) -> tuple[float, float]:
    """Median, and 1 / interquartile range, or 2 / range where half the values agree."""
    if not len(column):
        return 0.0, 0.0
    points = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=column.dtype)
    low, first, median, third, high = torch.quantile(column, points).tolist()
    smallest = torch.finfo(column.dtype).tiny * 4
    if third - first > smallest:
        return median, 1 / (third - first)
    return median, 2 / (high - low) if high - low > smallest else 0.0


def _bins(column: Tensor, n_bins: int) -> Tensor:
    """Left edges and 1 / widths of quantile bins of a scaled column: (2, n_bins)."""
    bins = torch.zeros(2, n_bins)
    if len(column) and n_bins:
        edges = torch.quantile(column, torch.linspace(0, 1, n_bins + 1)).unique()
        widths = edges.diff()
        bins[0] = edges[-1]
        bins[0, : len(widths)] = edges[:-1]
        bins[1, : len(widths)] = 1 / widths.clamp_min(NARROWEST)
    return bins
