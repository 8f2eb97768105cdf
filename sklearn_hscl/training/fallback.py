"""One more try, at a lower rate, where training diverges."""

import warnings
from typing import Any

from sklearn_hscl.training.callbacks import TrainingCallback
from sklearn_hscl.training.divergence import DivergenceError
from sklearn_hscl.training.state import restore_training, snapshot


class Fallback(TrainingCallback):
    """Keep the state at the end of the last epoch, to go back to it once.

    Parameters
    ----------
    factor : float in (0, 1)
        What the learning rate is multiplied by from there on.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def on_epochs_begin(self, net: Any, **kwargs: Any) -> None:
        """Keep the state from which training starts."""
        self.state_ = snapshot(net)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Keep the state after this epoch, whose weights are finite."""
        self.state_ = snapshot(net)

    def go_back(self, net: Any, error: DivergenceError) -> None:
        """Bring the net back to the last good epoch, at the lower rate.

        Raises
        ------
        DivergenceError
            The one that is given, if the rate was lowered before.
        """
        if net.rate_factor_ < 1:
            raise error
        restore_training(net, self.state_)
        net.rate_factor_ = self.factor
        warnings.warn(
            f"{error} Going on from the end of epoch {len(net.history)} at {self.factor} "
            f"of the learning rate.",
            UserWarning,
            stacklevel=2,
        )
