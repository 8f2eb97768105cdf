"""Losses of the linear head that is trained jointly, one for each type of targets."""

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(
    logits: Tensor, y: Tensor, unlabeled: int, label_smoothing: float
) -> Tensor:
    """Return the mean cross-entropy over labeled samples; 0 if there are none.

    Parameters
    ----------
    logits : Tensor of shape (..., B, n_classes)
        Output of the classifier.
    y : Tensor of int, shape (..., B) or (B,)
        Class codes.
    unlabeled : int
        Code of unlabeled samples.
    label_smoothing : float in [0, 1)
        Fraction of the probability that is spread over all classes.

    Returns
    -------
    Tensor of shape (...)
        One value per leading index.
    """
    labeled = y != unlabeled
    safe = torch.where(labeled, y, 0).expand(logits.shape[:-1])  # (..., B)
    try:
        losses = functional.cross_entropy(
            logits.flatten(0, -2),
            safe.flatten(),
            reduction="none",
            label_smoothing=label_smoothing,
        ).view(safe.shape)
    except IndexError as error:  # on a CPU
        raise ValueError(
            f"Expected `y` to hold codes from 0 to {logits.shape[-1] - 1} for `logits` of "
            f"{logits.shape[-1]} classes: {error} Pass codes of the classes, and the mark "
            f"of unlabeled samples as unlabeled_label."
        ) from error
    labeled = labeled.expand(safe.shape)
    return (losses * labeled).sum(-1) / labeled.sum(-1).clamp_min(1)


def binary_cross_entropy(
    logits: Tensor, indicators: Tensor, label_smoothing: float
) -> Tensor:
    """Return the mean binary cross-entropy over samples and labels.

    Parameters
    ----------
    logits : Tensor of shape (..., B, K)
        A score per label.
    indicators : Tensor of shape (..., B, K) or (B, K)
        1 where a sample has the label, else 0.
    label_smoothing : float in [0, 1)
        Fraction of the probability that is spread over having a label and not having it.

    Returns
    -------
    Tensor of shape (...)
        One value per leading index.
    """
    _check_columns(logits, indicators)
    truth = indicators.to(logits) * (1 - label_smoothing) + label_smoothing / 2
    losses = functional.binary_cross_entropy_with_logits(
        logits, truth.expand(logits.shape), reduction="none"
    )
    return losses.mean((-2, -1))


def squared_error(outputs: Tensor, values: Tensor) -> Tensor:
    """Return the mean squared error over samples and targets.

    Parameters
    ----------
    outputs : Tensor of shape (..., B, K)
        A prediction per target.
    values : Tensor of shape (..., B, K) or (B, K)
        The targets.

    Returns
    -------
    Tensor of shape (...)
        One value per leading index.
    """
    _check_columns(outputs, values)
    return (outputs - values.to(outputs)).square().mean((-2, -1))


def _check_columns(logits: Tensor, y: Tensor) -> None:
    if logits.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"Expected `logits` with a column for each of the {y.shape[-1]} columns of "
            f"`y`, got {logits.shape[-1]}. Pass the output of a head of that width."
        )
