"""Views of table rows: random feature corruption."""

import copy
from numbers import Real
from typing import Self

import torch
from torch import Tensor

from sklearn_hscl.augment.base import Augmentation, ClassAugmentation

_MANY = 2**62  # random integers below it are even enough over any number of rows


class _Corruption(Augmentation):
    """What is common: each feature is replaced with probability p by a donor's."""

    def __init__(self, p: float = 0.2) -> None:
        self.p = p

    @property
    def is_identity(self) -> bool:
        """Whether no feature is ever replaced."""
        return self.p == 0

    def _drawing_from(self, rows: Tensor) -> Self:
        """Return a copy that holds the rows whose values replace others."""
        name = type(self).__name__
        if not (isinstance(self.p, Real) and 0 <= self.p <= 1):
            raise ValueError(f"{name}: p must be in [0, 1], got {self.p!r}.")
        if rows.ndim != 2:
            raise ValueError(
                f"{name} needs a table, got rows of shape {tuple(rows.shape[1:])}: use "
                f"RandomShift for images."
            )
        fitted = copy.copy(self)
        fitted.rows_ = rows
        return fitted

    def _is_replaced(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Draw which values are replaced, (B, F)."""
        return torch.rand(rows.shape, generator=generator, device=rows.device) < self.p

    def _view(self, rows: Tensor, is_replaced: Tensor, donors: Tensor) -> Tensor:
        """Take values from the training rows that `donors` (B, F) names."""
        return torch.where(is_replaced, self.rows_.gather(0, donors), rows)


class FeatureCorruption(_Corruption):
    """Replace each feature with probability p by a draw from its training marginal.

    The replacement is the value of the same feature in a training row chosen at
    random, independently for each feature and row (SCARF).

    Parameters
    ----------
    p : float in [0, 1], default=0.2
        Probability that a feature is replaced. SCARF corrupts one of two views, with
        0.6; here every view is corrupted, and milder corruption measured better.

    See Also
    --------
    ClassCorruption : The same with values of the own class.

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
        """Return a corruption that draws from the columns of `rows`."""
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

    The replacement is the value of the same feature in a training row of the same class
    chosen at random, independently for each feature and row: the view is likely a row of
    its class, where features depend little on each other within classes. A row without
    label gets values of all training rows, as :class:`FeatureCorruption` gives them.

    Parameters
    ----------
    p : float in [0, 1], default=0.2
        Probability that a feature is replaced, in every view. The paper's code takes 0.4;
        the default is that of :class:`FeatureCorruption`, so that the two compare.

    See Also
    --------
    FeatureCorruption : The same with values of all rows; needs no labels.

    Notes
    -----
    A fit needs a loss that looks at labels, and classes in y. Of a class with a single
    training row every view is the row itself. Members of ``encoder="tabular"`` that keep
    folds of rows unseen draw from rows of the same class and fold: a quarter of the class
    for four members.

    References
    ----------
    Cui, Hosseinzadeh, Ma, Wu, Sui, Golestan, "Tabular Data Contrastive Learning via
    Class-Conditioned and Feature-Correlation Based Augmentation", arXiv 2404.17489. There
    most rows have no label, and their classes are predicted; here the classes are those
    of y.

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
        """Return a corruption that draws from `rows` of the classes `codes`.

        Parameters
        ----------
        rows : Tensor of shape (n_samples, n_features)
            The training rows.
        codes : Tensor of int64, shape (n_samples,), or None
            Class codes, -1 for no label; None if no row has one.

        Raises
        ------
        ValueError
            If p is no probability or the rows are no table.
        """
        fitted = self._drawing_from(rows)
        if codes is None:
            codes = torch.full((len(rows),), -1, device=rows.device)
        fitted.order_ = codes.argsort(stable=True)  # (n,), the rows of a class side by side
        sizes = codes[codes >= 0].bincount()  # (C,)
        starts = (codes < 0).sum() + sizes.cumsum(0) - sizes  # (C,)
        # All rows are the donors of code -1, the last place, and of classes without rows.
        sizes, starts = _with_last(sizes, 0), _with_last(starts, 0)
        fitted.starts_ = torch.where(sizes > 0, starts, 0)
        fitted.sizes_ = torch.where(sizes > 0, sizes, len(rows))
        return fitted

    def __call__(
        self, rows: Tensor, generator: torch.Generator, codes: Tensor | None = None
    ) -> Tensor:
        """Return one corrupted view of each row, of class `codes` (B,)."""
        is_replaced = self._is_replaced(rows, generator)  # (B, F)
        draws = torch.randint(_MANY, rows.shape, generator=generator, device=rows.device)
        if codes is None:
            codes = torch.full((len(rows),), -1, device=rows.device)
        known = torch.where(codes < len(self.sizes_) - 1, codes, -1)[:, None]  # (B, 1)
        donors = self.order_[self.starts_[known] + draws % self.sizes_[known]]  # (B, F)
        return self._view(rows, is_replaced, donors)


def _with_last(numbers: Tensor, last: int) -> Tensor:
    return torch.cat([numbers, numbers.new_tensor([last])])
