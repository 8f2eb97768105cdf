"""Views of table rows: random feature corruption."""

import copy
from numbers import Real
from typing import Self

import torch
from torch import Tensor

from sklearn_hscl.augment.base import Augmentation


class FeatureCorruption(Augmentation):
    """Replace each feature with probability p by a draw from its training marginal.

    The replacement is the value of the same feature in a training row chosen at
    random, independently for each feature and row (SCARF).

    Parameters
    ----------
    p : float in [0, 1], default=0.2
        Probability that a feature is replaced. SCARF corrupts one of two views, with
        0.6; here every view is corrupted, and milder corruption measured better.

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

    def __init__(self, p: float = 0.2) -> None:
        self.p = p

    @property
    def is_identity(self) -> bool:
        """Whether no feature is ever replaced."""
        return self.p == 0

    def fitted(self, rows: Tensor) -> Self:
        """Return a corruption that draws from the columns of `rows`."""
        if not (isinstance(self.p, Real) and 0 <= self.p <= 1):
            raise ValueError(f"FeatureCorruption: p must be in [0, 1], got {self.p!r}.")
        if rows.ndim != 2:
            raise ValueError(
                f"FeatureCorruption needs a table, got rows of shape "
                f"{tuple(rows.shape[1:])}: use RandomShift for images."
            )
        fitted = copy.copy(self)
        fitted.rows_ = rows
        return fitted

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return one corrupted view of each row."""
        device = rows.device
        chance = torch.rand(rows.shape, generator=generator, device=device)  # (B, F)
        donors = torch.randint(
            len(self.rows_), rows.shape, generator=generator, device=device
        )  # (B, F)
        return torch.where(chance < self.p, self.rows_.gather(0, donors), rows)
