"""Validated arrays become training and held-out tensors on the device."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor

from sklearn_hscl.encoders.features import AsIs, Preparation, Standardization


class LabelledArrays(NamedTuple):
    """Validated rows and their class codes (None for losses without labels)."""

    rows: NDArray[Any]  # (n, ...)
    codes: NDArray[np.int64] | None  # (n,)

    def __getitem__(self, index: Any) -> "LabelledArrays":  # type: ignore[override]
        """Select rows."""
        return LabelledArrays(
            self.rows[index], None if self.codes is None else self.codes[index]
        )


class TrainingData(NamedTuple):
    """What a fit learns from."""

    train: LabelledArrays
    held_out: LabelledArrays | None
    classes: NDArray[Any] | None


class LabelledRows(NamedTuple):
    """Rows as the encoder takes them, with class codes (0 where there are none)."""

    rows: Tensor  # (n, ...)
    labels: Tensor  # (n,)


def split_held_out(
    data: LabelledArrays, fraction: float, seed: int
) -> tuple[LabelledArrays, LabelledArrays]:
    """Hold out a share of the rows, stratified by class where the classes allow it.

    Parameters
    ----------
    data : LabelledArrays
        All rows.
    fraction : float in (0, 1)
        Share of rows to hold out.
    seed : int
        Seed of the split.

    Returns
    -------
    train, held_out : LabelledArrays

    Raises
    ------
    ValueError
        If less than two rows, or less than two classes, are left to train on.
    """
    n_rows = len(data.rows)
    n_held_out = max(1, round(fraction * n_rows))
    train, held_out = train_test_split(
        np.arange(n_rows),
        test_size=min(n_held_out, n_rows - 1),
        random_state=seed,
        stratify=_strata(data.codes, n_held_out),
    )
    codes = data.codes
    if len(train) < 2 or (codes is not None and len(np.unique(codes[train])) < 2):
        raise ValueError(
            f"validation_fraction={fraction} leaves {len(train)} of {n_rows} rows to "
            f"train on, too few or of one class: lower it, or set early_stopping=False."
        )
    return data[train], data[held_out]


def _strata(
    codes: NDArray[np.int64] | None, n_held_out: int
) -> NDArray[np.int64] | None:
    if codes is None:
        return None
    sizes = np.bincount(codes)
    n_classes = len(sizes)
    enough = n_classes <= n_held_out <= len(codes) - n_classes and sizes.min() > 1
    return codes if enough else None


def fit_preparation(rows: NDArray[Any], built_in_encoder: bool) -> Preparation:
    """Standardise tables for built-in encoders; modules get the rows as they are."""
    if built_in_encoder and rows.ndim == 2:
        return Standardization().fitted(rows)
    return AsIs()


def to_tensors(
    data: LabelledArrays, prepare: Preparation, device: torch.device
) -> LabelledRows:
    """Move all rows to the device."""
    codes = np.zeros(len(data.rows), np.int64) if data.codes is None else data.codes
    return LabelledRows(
        prepare(data.rows).to(device), torch.from_numpy(codes).to(device)
    )
