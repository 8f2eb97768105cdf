"""One of several models that are trained at once."""

from typing import Any

from torch import Tensor

from sklearn_hscl.training.averaging import AveragedWeights
from sklearn_hscl.training.callbacks import StopTraining, TrainingCallback
from sklearn_hscl.training.run import TrainingRun


class StackedModel:
    """One run of a stack."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.net = run.net
        self.error: Exception | None = None
        self.is_done = False
        self.averaging: AveragedWeights | None = None
        self.monitors = []
        for monitor in run.monitors:
            if isinstance(monitor, AveragedWeights):
                self.averaging = monitor  # done for all models at once
            else:
                self.monitors.append(monitor)

    def notify(self, event: str, **details: Any) -> None:
        """Call the callbacks of the net; take note of how that ends."""
        with self.net.heard_by(self.monitors, TrainingCallback()):
            try:
                self.net.notify(event, **details)
            except StopTraining:
                self.is_done = True
            except Exception as error:
                self.error = error

    def end(self, rows: Any, targets: Tensor) -> None:
        """Leave the stack, with weights that belong to this model alone."""
        if self.error is None:
            self.notify("on_train_end", X=rows, y=targets)
        if self.error is None:
            try:
                self.run.check_embedding()
            except FloatingPointError as error:
                self.error = error
        self.net.end()

    @property
    def goes_on(self) -> bool:
        """Whether there is an epoch to come."""
        return not self.is_done and self.error is None
