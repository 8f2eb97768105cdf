"""The length of the embeddings: one at which a classifier on them is calibrated."""

import warnings
from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from sklearn_hscl.encoders.inference import embed_tensor
from sklearn_hscl.encoders.tabular.encoder import AllMembers
from sklearn_hscl.training.batches.tensors import LabelledRows
from sklearn_hscl.training.loop.callback import TrainingCallback

MAX_ROWS = 4096  # on which scales are compared
LARGEST_EXPONENT = 4  # scales are powers of 2, from 1/16 to 16
SMALLEST_PROBABILITY = 1e-12


class CalibratedScale(TrainingCallback):
    """Scale the embeddings of an ensemble, after training, to what a classifier needs.

    Rows that were trained on lie closer to their class than new ones do, so that a
    classifier that learns from them is too sure of new ones. The penalty of a default
    ``LogisticRegression`` holds against that, the more so the shorter the embeddings are;
    where classes are far apart, it keeps the probabilities from 0 and 1 without need.
    The scale is a power of 2 at which it predicts well, by log loss, the rows of each
    fold as the member embeds them that does not see them, after learning from the other
    rows.

    Parameters
    ----------
    folds : Tensor of shape (n_samples,)
        The member that does not see a row.
    cross_fit : bool
        Whether the classifier will learn from rows as the member embeds them that does
        not see them, and not from means of all members.
    """

    def __init__(self, folds: Tensor, *, cross_fit: bool) -> None:
        self.folds = folds
        self.cross_fit = cross_fit

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kw: Any) -> None:
        """Remember the training rows."""
        self.train_ = LabelledRows(X, y)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Set the scale, if training came to a finite embedding."""
        if len(net.history) == net.first_epoch_:
            return
        chosen = self._chosen_rows()
        seen, unseen = self._embeddings(net.module_, chosen)
        if not np.isfinite(seen).all():
            return
        labels = self.train_.targets[chosen].cpu().numpy()
        folds = self.folds[chosen].cpu().numpy()
        n_labelled = int((self.train_.targets >= 0).sum())

        def losses(scale: float) -> NDArray[np.float64]:
            return losses_out_of_fold(
                scale * seen, scale * unseen, labels, folds, n_labelled
            )

        net.module_.encoder.output_scale.fill_(best_scale(losses))

    def _chosen_rows(self) -> Tensor:
        """Return the indices of rows with labels, at most MAX_ROWS."""
        labelled = (self.train_.targets >= 0).nonzero()[:, 0]
        return labelled[:: -(-len(labelled) // MAX_ROWS)]

    def _embeddings(
        self, module: Any, chosen: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Embed rows as a classifier learns from them, and as if they were new: (n, D)."""
        rows = self.train_.rows[chosen]
        members = embed_tensor(AllMembers(module.encoder), rows, module.precision)
        members = members.unflatten(1, (-1, module.n_components)).double()  # (n, M, D)
        members = members / module.encoder.output_scale
        unseen = members[torch.arange(len(chosen)), self.folds[chosen]]
        seen = unseen if self.cross_fit else members.mean(1)
        return seen.cpu().numpy(), unseen.cpu().numpy()


def losses_out_of_fold(
    seen: NDArray[np.float64],
    unseen: NDArray[np.float64],
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
    n_samples: int,
) -> NDArray[np.float64]:
    """Log losses of rows of each fold by a classifier that has learnt from the others.

    Parameters
    ----------
    seen, unseen : ndarray of shape (n, D)
        Embeddings to learn from, and to predict from.
    labels, folds : ndarray of int, shape (n,)
        Class codes, and the fold of a row.
    n_samples : int
        Rows that the classifier will learn from in the end: the penalty of a default
        ``LogisticRegression`` weighs less the more these are.

    Returns
    -------
    ndarray of shape (n_predicted,)
        Fold after fold, without rows of classes that the other folds lack.
    """
    losses = [np.zeros(0)]
    for fold in np.unique(folds):
        others = folds != fold
        known = ~others & np.isin(labels, labels[others])
        if len(np.unique(labels[others])) < 2 or not known.any():
            continue
        classifier = LogisticRegression(C=n_samples / others.sum(), max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # convergence, many classes
            classifier.fit(seen[others], labels[others])
        probabilities = classifier.predict_proba(unseen[known])
        own = np.searchsorted(classifier.classes_, labels[known])
        truth = probabilities[np.arange(len(own)), own]
        losses.append(-np.log(np.maximum(truth, SMALLEST_PROBABILITY)))
    return np.concatenate(losses)


def best_scale(losses: Callable[[float], NDArray[np.float64]]) -> float:
    """Go from 1 by factors of 2 for as long as the losses of rows clearly fall.

    Clearly is by more than the standard error of the mean difference.
    """
    exponent, least = 0, losses(1.0)
    for step in (-1, 1):
        while abs(exponent + step) <= LARGEST_EXPONENT:
            tried = losses(2.0 ** (exponent + step))
            gain = least - tried
            if len(gain) < 2 or gain.mean() <= gain.std() / sqrt(len(gain)):
                break
            exponent, least = exponent + step, tried
        if exponent:
            break
    return 2.0**exponent
