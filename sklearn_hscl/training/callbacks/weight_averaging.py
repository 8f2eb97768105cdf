"""The moving average of the weights, which generalizes better than the last weights."""

from typing import Protocol

import torch
from torch import Tensor, nn

from sklearn_hscl.training.loop.callback import TrainingCallback


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
