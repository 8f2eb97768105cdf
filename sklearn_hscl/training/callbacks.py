"""scikit-learn's callbacks inside skorch's training loop."""

from collections.abc import Callable
from typing import Any, ClassVar

from sklearn.base import BaseEstimator
from sklearn.callback import CallbackContext
from skorch.callbacks import Callback


class StopTraining(Exception):  # noqa: N818 - as StopIteration, it is no error
    """Ends training after the current epoch; not an error."""


class TrainingCallback(Callback):
    """A callback of this library: it stops by raising :class:`StopTraining`.

    It hears of one more event, ``on_epochs_begin``, when all is ready for the first epoch.
    """

    remembered: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes that carry over from one epoch to the next."""

    def state(self) -> dict[str, Any]:
        """Return what is remembered between two epochs."""
        return {name: vars(self)[name] for name in self.remembered if name in vars(self)}

    def restore(self, state: dict[str, Any]) -> None:
        """Remember what another process did."""
        self.__dict__.update(state)


class FitTasks(TrainingCallback):
    """Report each epoch to scikit-learn's callbacks, and stop where one asks for it.

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
        X: Any,
        y: Any,
        fitted_attributes: Callable[[Any], dict[str, Any]],
    ) -> None:
        self.tasks = tasks
        self.report = {"estimator": estimator, "X": X, "y": y}
        self.fitted_attributes = fitted_attributes
        self.epoch_: CallbackContext | None = None
        self.n_reported_ = 0

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Open the subtask of this epoch, unless it is run once more."""
        if self.epoch_ is not None:
            return
        self.epoch_ = self.tasks.subcontext("epoch")
        self.epoch_.call_on_fit_task_begin(**self.report)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Close the subtask; a callback that returns True stops training."""
        assert self.epoch_ is not None
        if net.n_completed <= self.n_reported_:
            return  # run once more, after training went back
        stop = self.epoch_.call_on_fit_task_end(
            **self.report, reconstruction_attributes=lambda: self.fitted_attributes(net)
        )
        self.epoch_ = None
        self.n_reported_ = net.n_completed
        if stop:
            raise StopTraining
