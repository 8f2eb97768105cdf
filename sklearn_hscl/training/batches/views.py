"""Views of a batch: how many, made by what, drawn from which generator."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from sklearn_hscl.augment import (
    Augmentation,
    ClassAugmentation,
    FeatureCorruption,
    FunctionAugmentation,
    RandomShift,
)
from sklearn_hscl.encoders.preprocessing import as_float
from sklearn_hscl.encoders.tabular.encoder import ByteDropout
from sklearn_hscl.losses import ContrastiveLoss

AugmentParameter = str | Callable[[Tensor, torch.Generator], Tensor] | None


@dataclass
class Views:
    """Maker of random views; calling it advances its generator."""

    augment: Augmentation
    n_views: int
    generator: torch.Generator
    dtype: torch.dtype = torch.float32
    n_members: int = 1

    def __call__(
        self, rows: Tensor, targets: Tensor | None, folds: Tensor | None = None
    ) -> Tensor:
        """Return all views of a batch (B, ...), view by view: (n_views * B, ...)."""
        rows = as_float(rows, self.dtype)
        augment = self.augment
        arguments: tuple[Any, ...] = (rows, self.generator)
        if isinstance(augment, ClassAugmentation):
            arguments += (codes_within_folds(targets, folds, self.n_members),)
        if self.n_views == 1:
            return augment(*arguments)
        return torch.cat([augment(*arguments) for _ in range(self.n_views)])


def fitted_augment(
    augment: Augmentation,
    rows: Any,
    targets: Tensor | None,
    folds: Tensor | None = None,
    n_members: int = 1,
) -> Augmentation:
    """Let an augmentation learn from the training rows, and their classes if it asks.

    Parameters
    ----------
    augment : Augmentation
        As settled.
    rows : Tensor or LazyRows (n, ...)
        Training rows.
    targets : Tensor of shape (n,) or (n, K), or None
        Class codes, if the augmentation asks for them.
    folds : Tensor of shape (n,) or None
        The member of an ensemble that does not see a row.
    n_members : int
        Members.
    """
    if isinstance(augment, ClassAugmentation):
        return augment.fitted(rows, codes_within_folds(targets, folds, n_members))
    return augment.fitted(rows)


def codes_within_folds(
    targets: Tensor | None, folds: Tensor | None, n_members: int
) -> Tensor | None:
    """Return codes by which a row has the class only of rows that the same members see.

    A view with values of a row of its class tells of that row's class, which the member
    that does not see the row must not learn.
    """
    if targets is None or folds is None:
        return targets
    return torch.where(targets < 0, targets, targets * n_members + folds)  # (B,)


def choose_n_views(
    n_views: int | str, loss: ContrastiveLoss, targets: NDArray[Any] | None
) -> int:
    """Settle the number of views: one only where labels give positives.

    Parameters
    ----------
    n_views : int or "auto"
        As given by the user.
    loss : ContrastiveLoss
        The loss.
    targets : ndarray of shape (n_samples,) or (n_samples, K), or None
        Class codes (-1 for no label), indicators or numbers; None for losses without
        labels.

    Raises
    ------
    ValueError
        If one view is asked for and no row has a positive.
    """
    why_not = _why_no_positives(loss, targets)
    if n_views == "auto":
        all_labelled = targets is not None and (targets.ndim > 1 or targets.min() >= 0)
        return 1 if all_labelled and why_not is None else 2
    if n_views == 1 and why_not is not None:
        raise ValueError(
            f"n_views=1 leaves every row without a positive, as loss={loss.loss!r} "
            f"{why_not}: use n_views='auto' or at least 2."
        )
    return int(n_views)


def _why_no_positives(loss: ContrastiveLoss, targets: NDArray[Any] | None) -> str | None:
    """Say why rows are no positives of each other, if they are not."""
    if targets is None:
        return "ignores labels"
    if loss.options.positives == "view":
        return "takes only views as positives"
    if targets.ndim == 1 and np.bincount(targets[targets >= 0], minlength=1).max() < 2:
        return "finds no two rows of one class"
    return None


def choose_augment(augment: AugmentParameter, n_views: int, ndim: int) -> Augmentation:
    """Settle the augmentation.

    Parameters
    ----------
    augment : "auto", callable or None
        As given by the user.
    n_views : int
        Views of each row.
    ndim : int
        Dimensions of the training rows: 2 for a table, 4 for images.

    Returns
    -------
    Augmentation
        For "auto", tables are corrupted where a row needs several views, and images
        are always shifted: a shifted image is an honest image, a corrupted row is not.
    """
    if isinstance(augment, Augmentation):
        return augment
    if augment is None:
        return Augmentation()
    if not isinstance(augment, str):
        _check_function(augment)
        return FunctionAugmentation(augment)
    if ndim > 2:
        return RandomShift()
    return FeatureCorruption() if n_views > 1 else Augmentation()


def _check_function(augment: Callable[..., Tensor]) -> None:
    try:
        accepted = not isinstance(augment, type)
        inspect.signature(augment).bind(None, None)
    except (TypeError, ValueError):
        accepted = False
    if not accepted:
        raise ValueError(
            f"augment={augment!r} must be an Augmentation (an object, not its class) or a "
            f"function of (rows, generator)."
        )


def check_classes(
    augment: Augmentation, target_kind: str | None, loss: ContrastiveLoss
) -> None:
    """Raise where an augmentation asks for classes that are not there.

    Raises
    ------
    ValueError
        If the loss ignores labels, or targets are no classes.
    """
    if not isinstance(augment, ClassAugmentation) or target_kind == "class":
        return
    if target_kind is None:
        reason, remedy = f"loss={loss.loss!r} ignores labels", "a loss such as 'hscl'"
    else:
        reason, remedy = f"the targets are {target_kind}", "a y with one class a row"
    raise ValueError(
        f"augment={augment!r} needs the classes of rows, but {reason}: use {remedy}, or an "
        f"augment that needs none, such as FeatureCorruption."
    )


def check_views_differ(
    augment: Augmentation, n_views: int, module: nn.Module, loss: ContrastiveLoss
) -> None:
    """Raise where all views of a row are the same, so that nothing is learnt.

    Raises
    ------
    ValueError
        If neither augmentation nor dropout tells the views apart.
    """
    if not augment.is_identity or any(map(_drops_units, module.modules())):
        return
    given = None if type(augment) is Augmentation else augment
    raise ValueError(
        f"augment={given!r} makes the {n_views} views of a row equal, so that "
        f"loss={loss.loss!r} has nothing to learn from: use augment='auto', or an "
        f"encoder with dropout (`dropout`, or torch.nn.Dropout in a module of yours)."
    )


def _drops_units(part: nn.Module) -> bool:
    if isinstance(part, ByteDropout):
        return part.drops
    return isinstance(part, _DropoutNd) and part.p > 0
