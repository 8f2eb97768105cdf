"""Views of a batch: their number, the augmentation and the generator."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from sklearn_hscl.augment.base import (
    Augmentation,
    ClassAugmentation,
    FunctionAugmentation,
)
from sklearn_hscl.augment.graph import NodeDropping
from sklearn_hscl.augment.graph_rows import join_rows
from sklearn_hscl.augment.image import ImageTransforms, RandomShift
from sklearn_hscl.augment.tabular import FeatureCorruption
from sklearn_hscl.data.graphs import is_graph_shape
from sklearn_hscl.data.texts import reads_texts
from sklearn_hscl.encoders.preprocessing import as_float
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime.random_state import ByteDropout
from sklearn_hscl.training.batches.tensors import LazyRows
from sklearn_hscl.training.ensemble import Targets

AugmentParameter = str | Callable[[Tensor, torch.Generator], Tensor] | None


@dataclass
class Views:
    """Source of random views; calling it advances its generator."""

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
        if self.n_views == 1:
            return self._view(rows, targets, folds)
        return join_rows([self._view(rows, targets, folds) for _ in range(self.n_views)])

    def _view(self, rows: Tensor, targets: Tensor | None, folds: Tensor | None) -> Tensor:
        if isinstance(self.augment, ClassAugmentation):
            codes = codes_within_folds(targets, folds, self.n_members)
            return self.augment(rows, self.generator, codes)
        return self.augment(rows, self.generator)


def fitted_augment(
    augment: Augmentation,
    rows: Tensor | LazyRows,
    targets: Tensor | None,
    folds: Tensor | None = None,
    n_members: int = 1,
) -> Augmentation:
    """Fit an augmentation to the training rows, and to their classes if it needs them.

    Parameters
    ----------
    augment : Augmentation
        The augmentation, as chosen.
    rows : Tensor or LazyRows (n, ...)
        Training rows.
    targets : Tensor of shape (n,) or (n, K), or None
        Class codes, if the augmentation needs them.
    folds : Tensor of shape (n,) or None
        Index of the ensemble member that does not see a row.
    n_members : int
        Number of members.

    Returns
    -------
    Augmentation
        The fitted copy. Of rows that are read in windows, some are its donors.
    """
    is_read = _reads_rows(augment) and isinstance(rows, LazyRows)
    some = cast(LazyRows, rows).donors() if is_read else None
    if some is not None:
        targets, folds = (_take(part, some) for part in (targets, folds))
        rows = rows[some]
    dense = cast(Tensor, rows)  # LazyRows have the methods that augmentations use
    if isinstance(augment, ClassAugmentation):
        return augment.fitted(dense, codes_within_folds(targets, folds, n_members))
    return augment.fitted(dense)


def _reads_rows(augment: Augmentation) -> bool:
    ignoring = Augmentation.fitted, ClassAugmentation.fitted
    return type(augment).fitted not in ignoring


def _take(values: Tensor | None, index: Tensor) -> Tensor | None:
    return None if values is None else values[index.to(values.device)]


def codes_within_folds(
    targets: Tensor | None, folds: Tensor | None, n_members: int
) -> Tensor | None:
    """Return codes that distinguish rows of one class that different members see.

    Mixing in values of a held-out row would leak its label to the member that must not
    see it.
    """
    if targets is None or folds is None:
        return targets
    return torch.where(targets < 0, targets, targets * n_members + folds)  # (B,)


def choose_n_views(
    n_views: int | str, loss: ContrastiveLoss, targets: Targets | None
) -> int:
    """Choose the number of views: one only if labels give positives.

    Parameters
    ----------
    n_views : int or "auto"
        As given by the user.
    loss : ContrastiveLoss
        The loss.
    targets : ndarray of shape (n_samples,) or (n_samples, K), or None
        Class codes (-1 for no label), indicators or continuous values; None for losses
        without labels.

    Raises
    ------
    ValueError
        If one view is requested and no row has a positive.
    """
    reason = _reason_no_positives(loss, targets)
    if n_views == "auto":
        all_labelled = targets is not None and (targets.ndim > 1 or targets.min() >= 0)
        return 1 if all_labelled and reason is None else 2
    if n_views == 1 and reason is not None:
        raise ValueError(
            f"n_views=1 leaves every row without a positive, as loss={loss.loss!r} "
            f"{reason}. Use n_views='auto' or at least 2."
        )
    return int(n_views)


def _reason_no_positives(loss: ContrastiveLoss, targets: Targets | None) -> str | None:
    """Return why rows are not positives of each other; None if some are."""
    if targets is None:
        return "ignores labels"
    if loss.options.positives == "view":
        return "accepts only views as positives"
    if targets.ndim == 1 and np.bincount(targets[targets >= 0], minlength=1).max() < 2:
        return "finds no two rows of one class"
    return None


def choose_augment(
    augment: AugmentParameter, n_views: int, shape: tuple[int, ...], *, has_targets: bool
) -> Augmentation:
    """Choose the augmentation.

    Parameters
    ----------
    augment : "auto", callable or None
        As given by the user.
    n_views : int
        Number of views of each row.
    shape : tuple of int
        Shape of a training row: (n_features,) of a table, (C, H, W) of images, () of texts
        and (2, L) of their tokens, (-1, n_features) of graphs.
    has_targets : bool
        Whether labels or values decide about positives.

    Returns
    -------
    Augmentation
        For "auto", tables are corrupted if a row needs several views, and nodes of graphs
        are dropped. Images are always
        shifted, as shifted images look like real ones, which corrupted rows do not.
        Without targets they are cropped and recoloured: all that is learned is which views
        are of one image, and shifted ones are too easy to recognize. Texts stay as they
        are: the dropout of a transformer makes their views differ.
    """
    if isinstance(augment, Augmentation):
        return augment
    if augment is None:
        return Augmentation()
    if not isinstance(augment, str):
        _check_function(augment)
        return FunctionAugmentation(augment)
    if is_graph_shape(shape):
        return NodeDropping() if n_views > 1 else Augmentation()
    if len(shape) in (0, 2):
        return Augmentation()
    if len(shape) > 2:
        return RandomShift() if has_targets else _crops(n_channels=shape[0])
    return FeatureCorruption() if n_views > 1 else Augmentation()


def _crops(n_channels: int) -> ImageTransforms:
    """Return the crops of images without targets; no flips, which make digits another."""
    crops = ImageTransforms(crop=(0.5, 1.0), flip=0.0)
    has_colours = n_channels in (1, 3)
    return crops if has_colours else crops.set_params(jitter=0.0, grey=0.0)


def _check_function(augment: Callable[..., Tensor]) -> None:
    try:
        accepted = not isinstance(augment, type)
        inspect.signature(augment).bind(None, None)
    except (TypeError, ValueError):
        accepted = False
    if not accepted:
        raise ValueError(
            f"augment must be an Augmentation (an instance, not a class) or a function of "
            f"(rows, generator), got {augment!r}."
        )


def check_classes(
    augment: Augmentation, target_kind: str | None, loss: ContrastiveLoss
) -> None:
    """Check that the classes that an augmentation needs are available.

    Raises
    ------
    ValueError
        If the loss ignores labels, or the targets are not classes.
    """
    if not isinstance(augment, ClassAugmentation) or target_kind == "class":
        return
    if target_kind is None:
        reason, remedy = f"loss={loss.loss!r} ignores labels", "a loss such as 'hscl'"
    else:
        reason, remedy = f"the targets are {target_kind}", "a y with one class per row"
    raise ValueError(
        f"augment={augment!r} needs the classes of rows, but {reason}. Use {remedy}, or an "
        f"augment without classes, such as FeatureCorruption."
    )


def check_views_differ(
    augment: Augmentation, n_views: int, module: nn.Module, loss: ContrastiveLoss
) -> None:
    """Check that the views of a row differ, as nothing is learned otherwise.

    Raises
    ------
    ValueError
        If neither augmentation nor dropout makes the views differ.
    """
    if not augment.is_identity or any(map(_drops_units, module.modules())):
        return
    if any(map(reads_texts, module.modules())):
        raise ValueError(
            f"The {n_views} views of a text are equal, as the transformer drops no units, "
            f"so that loss={loss.loss!r} has nothing to learn from. Pass y, or a model "
            f"with dropout, such as AutoModel.from_pretrained(path, attention_dropout=0.1)."
        )
    given = None if type(augment) is Augmentation else augment
    raise ValueError(
        f"augment={given!r} makes the {n_views} views of a row equal, so that "
        f"loss={loss.loss!r} has nothing to learn from. Use augment='auto', or an "
        f"encoder with dropout (`dropout`, or torch.nn.Dropout in a custom module)."
    )


def _drops_units(part: nn.Module) -> bool:
    if isinstance(part, ByteDropout):
        return part.drops
    of_attention = getattr(part, "attention_dropout", None)  # of decoders, by a function
    if isinstance(of_attention, float) and of_attention > 0:
        return True
    return isinstance(part, _DropoutNd) and part.p > 0
