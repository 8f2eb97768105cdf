"""scikit-learn's callbacks inside skorch's training loop."""

from collections.abc import Callable

from sklearn.base import BaseEstimator
from sklearn.callback import CallbackContext

from sklearn_hscl.training.loop.callback import StopTraining, TrainingCallback
from sklearn_hscl.training.loop.net import ContrastiveNet


class SklearnCallbackBridge(TrainingCallback):
    """Report each epoch to scikit-learn's callbacks, and stop if one of them asks for it.

    Parameters
    ----------
    tasks : sklearn.callback.CallbackContext
        Context of the fit; each epoch becomes a subtask.
    estimator : estimator
        The estimator being fitted.
    X, y : array-like
        Training data as passed to fit, for callbacks that score.
    fitted_attributes : callable
        ``fitted_attributes(net)`` returns the attributes of an estimator as if fit had
        ended with this epoch.
    """

    def __init__(
        self,
        tasks: CallbackContext,
        estimator: BaseEstimator,
        X: object,
        y: object,
        fitted_attributes: Callable[[ContrastiveNet], dict[str, object]],
    ) -> None:
        self.tasks = tasks
        self.report = {"estimator": estimator, "X": X, "y": y}
        self.fitted_attributes = fitted_attributes
        self.epoch_: CallbackContext | None = None
        self.n_reported_ = 0

    def on_epoch_begin(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Open the subtask of this epoch, unless the epoch is repeated."""
        if self.epoch_ is not None:
            return
        self.epoch_ = self.tasks.subcontext("epoch")
        self.epoch_.call_on_fit_task_begin(**self.report)

    def on_epoch_end(self, net: ContrastiveNet, **kwargs: object) -> None:
        """Close the subtask; stop training if a callback returns True."""
        assert self.epoch_ is not None
        if net.n_completed <= self.n_reported_:
            return  # the epoch was repeated after a divergence
        stop = self.epoch_.call_on_fit_task_end(
            **self.report, reconstruction_attributes=lambda: self.fitted_attributes(net)
        )
        self.epoch_ = None
        self.n_reported_ = net.n_completed
        if stop:
            raise StopTraining
