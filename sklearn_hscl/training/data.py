"""Validated arrays become training and held-out tensors on the device."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor

from sklearn_hscl.encoders.features import AsIs, Preparation, Standardization
from sklearn_hscl.targets import TargetEncoder


class LabelledArrays(NamedTuple):
    """Validated rows and their targets (None for losses without labels)."""

    rows: NDArray[Any]  # (n, ...)
    targets: NDArray[Any] | None
    """Class codes (n,), -1 for no label; indicators or numbers (n, K)."""

    def select(self, index: NDArray[np.int64]) -> "LabelledArrays":
        """Return some of the rows."""
        return LabelledArrays(
            self.rows[index], None if self.targets is None else self.targets[index]
        )


class TrainingData(NamedTuple):
    """What a fit learns from."""

    train: LabelledArrays
    held_out: LabelledArrays | None
    encode: TargetEncoder | None
    """From y to targets; None where y is ignored."""

    @property
    def target_kind(self) -> str | None:
        """``"class"``, ``"multilabel"``, ``"continuous"``; None where y is ignored."""
        return None if self.encode is None else self.encode.kind


class LabelledRows(NamedTuple):
    """Rows as the encoder takes them, with targets (0 where there are none)."""

    rows: Tensor  # (n, ...)
    targets: Tensor  # (n,) or (n, K)


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
    n_held_out = max(2, round(fraction * n_rows))  # two rows make a contrast
    train, held_out = train_test_split(
        np.arange(n_rows),
        test_size=min(n_held_out, n_rows - 1),
        random_state=seed,
        stratify=_strata(data.targets, n_held_out),
    )
    targets = data.targets
    if len(train) < 2 or (targets is not None and len(np.unique(targets[train])) < 2):
        raise ValueError(
            f"validation_fraction={fraction} leaves {len(train)} of {n_rows} rows to "
            f"train on, too few or of one class: lower it, or set early_stopping=False."
        )
    return data.select(train), data.select(held_out)


def _strata(targets: NDArray[Any] | None, n_held_out: int) -> NDArray[np.int64] | None:
    if targets is None or targets.ndim > 1:
        return None
    sizes = np.unique(targets, return_counts=True)[1]
    n_classes = len(sizes)
    enough = n_classes <= n_held_out <= len(targets) - n_classes and sizes.min() > 1
    return targets if enough else None


def fit_preparation(rows: NDArray[Any], built_in_encoder: bool) -> Preparation:
    """Standardise tables for built-in encoders; modules get the rows as they are."""
    if built_in_encoder and rows.ndim == 2:
        return Standardization.of(rows)
    return AsIs()


def to_tensors(
    data: LabelledArrays,
    prepare: Preparation,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> LabelledRows:
    """Move all rows to the device, as `dtype` unless they are uint8 images."""
    targets = data.targets
    if targets is None:
        targets = np.zeros(len(data.rows), np.int64)
    elif targets.dtype.kind == "f":
        targets = targets.astype(np.float32)
    rows = prepare(data.rows)
    rows = rows.to(device, dtype if rows.is_floating_point() else rows.dtype)
    return LabelledRows(rows, torch.from_numpy(targets).to(device))
