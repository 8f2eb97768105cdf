"""Augmentations of table rows by random feature corruption."""

import copy
from numbers import Real
from typing import Self

import torch
from torch import Tensor

from sklearn_hscl.augment.base import Augmentation, ClassAugmentation

# Random integers below this are nearly uniform modulo any number of rows.
_MAX_DRAW = 2**62


class _Corruption(Augmentation):
    """Base class: each feature is replaced with probability p by that of a donor row."""

    def __init__(self, p: float = 0.2) -> None:
        self.p = p

    @property
    def is_identity(self) -> bool:
        """Whether no feature is ever replaced."""
        return self.p == 0

    def _drawing_from(self, rows: Tensor) -> Self:
        """Return a copy that holds the donor rows."""
        name = type(self).__name__
        if not (isinstance(self.p, Real) and 0 <= self.p <= 1):
            raise ValueError(f"{name}: p must be in [0, 1], got {self.p!r}.")
        if rows.ndim != 2:
            raise ValueError(
                f"{name} needs a table, got rows of shape {tuple(rows.shape[1:])}. Use "
                f"RandomShift for images."
            )
        fitted = copy.copy(self)
        fitted.rows_ = rows
        return fitted

    def _is_replaced(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the mask of replaced values, (B, F)."""
        return torch.rand(rows.shape, generator=generator, device=rows.device) < self.p

    def _view(self, rows: Tensor, is_replaced: Tensor, donors: Tensor) -> Tensor:
        """Replace values by those of the donor rows at the indices `donors` (B, F)."""
        return torch.where(is_replaced, self.rows_.gather(0, donors), rows)


class FeatureCorruption(_Corruption):
    """Replace each feature with probability p by a draw from its training marginal.

    The replacement is the value of the same feature in a training row chosen at
    random, independently for each feature and row (SCARF).

    Parameters
    ----------
    p : float in [0, 1], default=0.2
        Probability that a feature is replaced. SCARF corrupts one of two views, with
        0.6. Here every view is corrupted, for which lower values gave better embeddings.

    See Also
    --------
    ClassCorruption : Takes the values from rows of the same class.

    References
    ----------
    Bahri, Jiang, Tay, Metzler, "SCARF: Self-Supervised Contrastive Learning using
    Random Feature Corruption", ICLR 2022, arXiv 2106.15147, algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.augment import FeatureCorruption
    >>> rows = torch.arange(6.0).reshape(3, 2)
    >>> corrupt = FeatureCorruption(p=0.5).fitted(rows)
    >>> corrupt(rows, torch.Generator().manual_seed(0)).shape
    torch.Size([3, 2])
    """

    def fitted(self, rows: Tensor) -> Self:
        """Return a corruption with `rows` as its donors."""
        return self._drawing_from(rows)

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return one corrupted view of each row."""
        is_replaced = self._is_replaced(rows, generator)  # (B, F)
        donors = torch.randint(
            len(self.rows_), rows.shape, generator=generator, device=rows.device
        )  # (B, F)
        return self._view(rows, is_replaced, donors)


class ClassCorruption(_Corruption, ClassAugmentation):
    """Replace each feature with probability p by its value in a row of the same class.

    The replacement is the value of the same feature in a random training row of the same
    class, independently for each feature and row. If features depend little on each other
    within classes, the view is a plausible row of its class. Unlabelled rows get values of
    all training rows, as in :class:`FeatureCorruption`.

    Parameters
    ----------
    p : float in [0, 1], default=0.2
        Probability that a feature is replaced, in every view. The paper's code uses 0.4.
        The default is that of :class:`FeatureCorruption`, to make the two comparable.

    See Also
    --------
    FeatureCorruption : Takes the values from all rows, and needs no labels.

    Notes
    -----
    A fit requires a loss that uses labels, and a `y` with classes. If a class has a single
    training row, every view is the row itself. If folds are held out from the members of
    ``encoder="tabular"``, donors are rows of the same class and fold: a quarter of the
    class for four members.

    References
    ----------
    Cui, Hosseinzadeh, Ma, Wu, Sui, Golestan, "Tabular Data Contrastive Learning via
    Class-Conditioned and Feature-Correlation Based Augmentation", arXiv 2404.17489. In the
    paper most rows are unlabelled, and their classes are predicted.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.augment import ClassCorruption
    >>> rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [50.0, 60.0]])
    >>> codes = torch.tensor([0, 0, 1])
    >>> corrupt = ClassCorruption(p=1.0).fitted(rows, codes)
    >>> corrupt(rows, torch.Generator().manual_seed(0), codes)[2]
    tensor([50., 60.])
    """

    def fitted(self, rows: Tensor, codes: Tensor | None = None) -> Self:
        """Return a corruption with `rows` of the classes `codes` as its donors.

        Parameters
        ----------
        rows : Tensor of shape (n_samples, n_features)
            The training rows.
        codes : Tensor of int64, shape (n_samples,), or None
            Class codes, -1 for unlabelled rows; None if all rows are unlabelled.

        Raises
        ------
        ValueError
            If p is not in [0, 1], or the rows are not those of a table.
        """
        fitted = self._drawing_from(rows)
        if codes is None:
            codes = torch.full((len(rows),), -1, device=rows.device)
        codes = codes.long()  # others lack -1, or operations
        fitted.order_ = codes.argsort(stable=True)  # (n,), rows sorted by class
        sizes = codes[codes >= 0].bincount()  # (C,)
        starts = (codes < 0).sum() + sizes.cumsum(0) - sizes  # (C,)
        # All rows are donors for code -1 (the last entry) and for classes without rows.
        sizes, starts = _append(sizes, 0), _append(starts, 0)
        fitted.starts_ = torch.where(sizes > 0, starts, 0)
        fitted.sizes_ = torch.where(sizes > 0, sizes, len(rows))
        return fitted

    def __call__(
        self, rows: Tensor, generator: torch.Generator, codes: Tensor | None = None
    ) -> Tensor:
        """Return one corrupted view of each row; `codes` (B,) are their classes."""
        is_replaced = self._is_replaced(rows, generator)  # (B, F)
        draws = torch.randint(
            _MAX_DRAW, rows.shape, generator=generator, device=rows.device
        )
        if codes is None:
            codes = torch.full((len(rows),), -1, device=rows.device)
        codes = codes.long()
        known = torch.where(codes < len(self.sizes_) - 1, codes, -1)[:, None]  # (B, 1)
        donors = self.order_[self.starts_[known] + draws % self.sizes_[known]]  # (B, F)
        return self._view(rows, is_replaced, donors)


def _append(values: Tensor, last: int) -> Tensor:
    return torch.cat([values, values.new_tensor([last])])
