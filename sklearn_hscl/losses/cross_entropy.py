"""Cross-entropy of a classifier that is trained along."""

import torch
from torch import Tensor
from torch.nn import functional

TORCH_MARK = -100  # torch's own label of rows without label


def cross_entropy(
    logits: Tensor, y: Tensor, unlabelled: int, label_smoothing: float
) -> Tensor:
    """Mean cross-entropy over the rows that have a label; 0 where none has.

    Parameters
    ----------
    logits : Tensor of shape (..., B, n_classes)
        Output of the classifier.
    y : Tensor of int, shape (..., B) or (B,)
        Class codes.
    unlabelled : int
        Code of rows without label.
    label_smoothing : float in [0, 1)
        Share of the probability that is spread over all classes.

    Returns
    -------
    Tensor of shape (...)
        One value per leading index.
    """
    labelled = y != unlabelled
    safe = torch.where(labelled, y, 0).expand(logits.shape[:-1])  # (..., B)
    losses = functional.cross_entropy(
        logits.flatten(0, -2),
        safe.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
    ).view(safe.shape)
    labelled = labelled.expand(safe.shape)
    return (losses * labelled).sum(-1) / labelled.sum(-1).clamp_min(1)
