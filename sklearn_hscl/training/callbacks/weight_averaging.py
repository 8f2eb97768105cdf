"""The moving average of the weights, which is better than the weights themselves."""

from typing import Any

import torch
from torch import Tensor

from sklearn_hscl.training.loop.callback import TrainingCallback


class AveragedWeights(TrainingCallback):
    """Put averaged weights into the module at the end of every epoch.

    Training goes on from the weights as they are, but whoever looks at the module
    between epochs, or after training, sees their exponential moving average.

    Parameters
    ----------
    decay : float in (0, 1)
        Share of the average that a step keeps; less in the first steps.
    """

    remembered = ("n_steps_", "other_", "holds_average_")

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kw: Any) -> None:
        """Start from the weights as they are."""
        self.n_steps_ = 0
        self.weights_ = [weight.detach() for weight in net.module_.parameters()]
        self.other_ = [weight.clone() for weight in self.weights_]
        self.holds_average_ = False

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Go back to the weights that are trained."""
        self._hold_average(False)

    def on_batch_end(self, net: Any, **kwargs: Any) -> None:
        """Take the new weights into the average."""
        self.n_steps_ += 1
        decay = min(self.decay, self.n_steps_ / (self.n_steps_ + 9))
        torch._foreach_lerp_(self.other_, self.weights_, 1 - decay)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Show the average."""
        self._hold_average(True)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Leave the average in the module, also after an interruption."""
        if hasattr(self, "weights_"):
            self._hold_average(True)
            del self.weights_, self.other_

    def keep(self, net: Any, index: Tensor) -> None:
        """Go on with some of several models, whose weights are in `net` already."""
        self.weights_ = [weight.detach() for weight in net.module_.parameters()]
        self.other_ = [weight[index] for weight in self.other_]

    def _hold_average(self, average: bool) -> None:
        """Exchange the module's weights and the others where that is called for."""
        if self.holds_average_ == average:
            return
        kept = [weight.clone() for weight in self.weights_]
        # All at once: Ctrl-C may come between any two calls, but not inside of one.
        torch._foreach_copy_(self.weights_, self.other_)
        self.holds_average_ = average
        torch._foreach_copy_(self.other_, kept)
