"""A restart at a lower learning rate when training diverges."""

import warnings
from collections import deque

from sklearn_hscl.training.callbacks.training_state import restore_training, snapshot
from sklearn_hscl.training.loop.callback import TrainingCallback
from sklearn_hscl.training.loop.epoch import DivergenceError
from sklearn_hscl.training.loop.net import ContrastiveNet


class LRBackoff(TrainingCallback):
    """Restart training once from an earlier epoch, at a lower rate, if it diverges.

    It keeps the states at the end of the last two epochs.

    Parameters
    ----------
    factor : float in (0, 1)
        Multiplier of the learning rate after the restart.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def on_epochs_begin(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Keep the state from which training starts."""
        self.states_ = deque([snapshot(net)], maxlen=2)

    def on_epoch_end(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Keep the state after this epoch, whose weights are finite."""
        self.states_.append(snapshot(net))

    def on_divergence(self, net: ContrastiveNet, error: DivergenceError) -> bool:
        """Restore the last good epoch at the lower rate, unless that was done before."""
        rate = net.loop.learning_rate
        assert rate is not None, "build_callbacks refuses lr_backoff without lr_schedule"
        if rate.factor < 1:
            return False
        # A failure in the first batch is due to the weights at the end of the epoch
        # before, although these are finite.
        restore_training(net, self.states_[0 if error.batch == 1 else -1])
        rate.factor = self.factor
        warnings.warn(
            f"{error} Continuing from the end of epoch {len(net.history)} at "
            f"{self.factor} of the learning rate.",
            UserWarning,
            stacklevel=2,
        )
        return True
