"""One more try, at a lower rate, where training diverges."""

import warnings
from collections import deque
from typing import Any

from sklearn_hscl.training.callbacks import TrainingCallback
from sklearn_hscl.training.divergence import DivergenceError
from sklearn_hscl.training.state import restore_training, snapshot


class Fallback(TrainingCallback):
    """Keep the states at the end of the last two epochs, to go back to one of them once.

    Parameters
    ----------
    factor : float in (0, 1)
        What the learning rate is multiplied by from there on.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def on_epochs_begin(self, net: Any, **kwargs: Any) -> None:
        """Keep the state from which training starts."""
        self.states_ = deque([snapshot(net)], maxlen=2)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Keep the state after this epoch, whose weights are finite."""
        self.states_.append(snapshot(net))

    def go_back(self, net: Any, error: DivergenceError) -> None:
        """Bring the net back to the last good epoch, at the lower rate.

        Raises
        ------
        DivergenceError
            The one that is given, if the rate was lowered before.
        """
        if net.rate_factor_ < 1:
            raise error
        # A first batch fails by the weights that the epoch before it ended with, finite
        # as they are.
        restore_training(net, self.states_[0 if error.batch == 1 else -1])
        net.rate_factor_ = self.factor
        warnings.warn(
            f"{error} Going on from the end of epoch {len(net.history)} at {self.factor} "
            f"of the learning rate.",
            UserWarning,
            stacklevel=2,
        )
