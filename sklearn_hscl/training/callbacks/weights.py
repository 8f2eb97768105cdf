"""Callbacks that set weights: averages, interpolation, scale of the embedding."""

from collections.abc import Callable
from math import sqrt
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.encoders.tabular.encoder import AllMembers, TabularEncoder
from sklearn_hscl.training.batches.tensors import LabelledRows, LazyRows
from sklearn_hscl.training.loop.callback import TrainingCallback
from sklearn_hscl.training.loop.net import ContrastiveNet
from sklearn_hscl.training.out_of_fold import losses_out_of_fold, seen_and_unseen

# Moving average ----------------------------------------------------------------------


class HasModule(Protocol):
    """A net, or the driver of a stack."""

    @property
    def module_(self) -> nn.Module:
        """The module in training."""


class AveragedWeights(TrainingCallback):
    """Put averaged weights into the module at the end of every epoch.

    Training continues from the last weights. Between epochs, and after training, the
    module has their exponential moving average.

    Parameters
    ----------
    decay : float in (0, 1)
        Fraction of the average that a step keeps; less in the first steps.
    """

    remembered = ("n_steps_", "other_", "holds_average_")

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def on_train_begin(self, net: HasModule, **kwargs: object) -> None:
        """Start the average at the present weights."""
        self.n_steps_ = 0
        self.weights_ = [weight.detach() for weight in net.module_.parameters()]
        self.other_ = [weight.clone() for weight in self.weights_]
        self.holds_average_ = False

    def on_epoch_begin(self, net: HasModule, **kwargs: object) -> None:
        """Restore the weights in training."""
        self._swap(to_average=False)

    def on_batch_end(self, net: HasModule, **kwargs: object) -> None:
        """Update the average."""
        self.n_steps_ += 1
        decay = min(self.decay, self.n_steps_ / (self.n_steps_ + 9))
        torch._foreach_lerp_(self.other_, self.weights_, 1 - decay)

    def on_epoch_end(self, net: HasModule, **kwargs: object) -> None:
        """Put the average into the module."""
        self._swap(to_average=True)

    def on_train_end(self, net: HasModule, **kwargs: object) -> None:
        """Leave the average in the module, also after an interruption."""
        if hasattr(self, "weights_"):
            self._swap(to_average=True)
            del self.weights_, self.other_

    def retain(self, net: HasModule, models: Tensor) -> None:
        """Continue with some of several models, after `net` has retained them."""
        self.weights_ = [weight.detach() for weight in net.module_.parameters()]
        self.other_ = [weight[models] for weight in self.other_]

    def _swap(self, *, to_average: bool) -> None:
        """Exchange the module's weights and the others, unless they are in place."""
        if self.holds_average_ == to_average:
            return
        swapped = [weight.clone() for weight in self.weights_]
        # One call for all weights: Ctrl-C may come between two calls, but not within one.
        torch._foreach_copy_(self.weights_, self.other_)
        self.holds_average_ = to_average
        torch._foreach_copy_(self.other_, swapped)


# Interpolation -----------------------------------------------------------------------


class InterpolatedWeights(TrainingCallback):
    """Put weights between those before training and those in training into the encoder.

    Training continues from the last weights. Between epochs, when they are scored, and
    after training, the encoder has those in between. Pretrained weights serve more texts
    than the few that are trained on; weights between both serve new ones best (Wortsman et
    al., Robust fine-tuning of zero-shot models, arXiv 2109.01903).

    Parameters
    ----------
    fraction : float in (0, 1]
        Fraction of the way from the weights before training to those after it.
    """

    remembered = ("start_", "trained_")

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    def on_train_begin(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Keep the weights before training."""
        self.start_ = [weight.clone() for weight in _encoder_weights(net)]
        self.trained_: list[Tensor] = []

    def on_epoch_begin(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Restore the weights in training."""
        if self.trained_:
            torch._foreach_copy_(_encoder_weights(net), self.trained_)
        self.trained_ = []

    def on_epoch_end(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Set the weights between both."""
        if not self.trained_:
            weights = _encoder_weights(net)
            self.trained_ = [weight.clone() for weight in weights]
            torch._foreach_lerp_(weights, self.start_, 1 - self.fraction)

    def on_train_end(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Leave the weights between both in the encoder, also after an interruption."""
        if hasattr(self, "start_"):
            self.on_epoch_end(net)
            del self.start_, self.trained_


def _encoder_weights(net: ContrastiveNet) -> list[Tensor]:
    weights = net.module_.encoder.parameters()
    return [weight.detach() for weight in weights if weight.requires_grad]


# Scale of the embedding --------------------------------------------------------------


_MAX_ROWS = 4096  # rows on which scales are compared
_MAX_EXPONENT = 4  # scales are powers of 2, from 1/16 to 16


class CalibratedScale(TrainingCallback):
    """Scale the embeddings of an ensemble after training, so that classifiers calibrate.

    Training rows are closer to their class than new rows, so that a classifier fitted to
    them is overconfident on new rows. The penalty of a default ``LogisticRegression``
    counteracts that, the more so the smaller the norm of the embeddings. If classes are
    far apart, it keeps the probabilities from 0 and 1 without need.

    The scale is a power of 2 with a low out-of-fold log loss. Each fold is embedded by
    the member that does not see it, and predicted after learning from the other folds.

    Parameters
    ----------
    folds : Tensor of shape (n_samples,)
        Index of the member that does not see a row.
    cross_fit : bool
        Whether the classifier will learn from out-of-fold embeddings, rather than from
        means of all members.
    """

    def __init__(self, folds: Tensor, *, cross_fit: bool) -> None:
        self.folds = folds
        self.cross_fit = cross_fit

    def on_train_begin(
        self, net: ContrastiveNet, X: Tensor | LazyRows, y: Tensor, **kwargs: object
    ) -> None:
        """Keep a reference to the training rows."""
        self.train_ = LabelledRows(X, y)

    def on_train_end(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Set the scale, if an epoch was completed and the embedding is finite."""
        if len(net.history) == net.first_epoch_:
            return
        indices = self._labelled_indices()
        seen, unseen = self._embeddings(net.module_, indices)
        if not np.isfinite(seen).all():
            return
        labels = self.train_.targets[indices].cpu().numpy()
        folds = self.folds[indices].cpu().numpy()
        n_labelled = int((self.train_.targets >= 0).sum())

        def losses(scale: float) -> NDArray[np.float64]:
            return losses_out_of_fold(
                scale * seen, scale * unseen, labels, folds, n_labelled
            )

        encoder = net.module_.encoder
        assert isinstance(encoder, TabularEncoder)
        encoder.output_scale.fill_(best_scale(losses))

    def _labelled_indices(self) -> Tensor:
        """Return the indices of rows with labels, at most _MAX_ROWS."""
        labelled = (self.train_.targets >= 0).nonzero()[:, 0]
        return labelled[:: -(-len(labelled) // _MAX_ROWS)]

    def _embeddings(
        self, module: ContrastiveModule, indices: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Embed rows as a classifier learns from them, and as if they were new: (n, D)."""
        encoder = module.encoder
        assert isinstance(encoder, TabularEncoder)
        rows, folds = self.train_.rows[indices], self.folds[indices]
        seen, unseen = seen_and_unseen(
            AllMembers(encoder), encoder.n_members, rows, folds, module.precision
        )
        scale = float(encoder.output_scale)
        return (unseen if self.cross_fit else seen) / scale, unseen / scale


def best_scale(losses: Callable[[float], NDArray[np.float64]]) -> float:
    """Change the scale from 1 by factors of 2 while the mean loss clearly decreases.

    A decrease is clear if it exceeds the standard error of the mean difference.
    """
    exponent, least = 0, losses(1.0)
    for step in (-1, 1):
        while abs(exponent + step) <= _MAX_EXPONENT:
            tried = losses(2.0 ** (exponent + step))
            gain = least - tried
            if len(gain) < 2 or gain.mean() <= gain.std() / sqrt(len(gain)):
                break
            exponent, least = exponent + step, tried
        if exponent:
            break
    return 2.0**exponent
