"""A skorch net's events: who hears of them, and who may stop training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer, PrintLog

from sklearn_hscl.training.callbacks import StopTraining, TrainingCallback


class EpochLog(PrintLog):
    """skorch's table of epochs, which is made up only where it is printed."""

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Print a line where the net is verbose."""
        if net.verbose:
            super().on_epoch_end(net, **kwargs)


class EventfulNet(NeuralNet):
    """skorch net whose callbacks of one training come and go, and may stop it.

    skorch swallows Ctrl-C as the way of its own callbacks to stop; here that of the user
    is told apart, and leaves `fit`.
    """

    callbacks_: Any
    stops_: bool

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        # Losses are recorded per epoch, so skorch's batch averages have no work.
        return [("epoch_timer", EpochTimer()), ("print_log", EpochLog())]

    @contextmanager
    def heard_by(
        self,
        monitors: Sequence[TrainingCallback],
        report: TrainingCallback,
        keepers: Sequence[TrainingCallback] = (),
    ) -> Iterator[None]:
        """Context in which callbacks of one training take part."""
        users = self.callbacks_
        # Held-out scores first, so that users' callbacks see them; then the report, and
        # last who keeps what all others have come to.
        first = [(type(monitor).__name__, monitor) for monitor in monitors]
        last = [(type(keeper).__name__, keeper) for keeper in keepers]
        self.callbacks_ = [*first, *users, ("report", report), *last]
        try:
            yield
        finally:
            self.callbacks_ = users

    def notify(self, method_name: str, **kwargs: Any) -> None:
        """Call all callbacks, then stop if one of them ended the epoch that way."""
        getattr(self, method_name)(self, **kwargs)
        self.stops_ = False
        for callback in self._listeners(method_name):
            try:
                getattr(callback, method_name)(self, **kwargs)
            except StopTraining:
                self.stops_ = True
            except KeyboardInterrupt:
                # This is how skorch's EarlyStopping stops; from ours it is Ctrl-C.
                ours = isinstance(callback, TrainingCallback)
                if ours or method_name != "on_epoch_end":
                    raise
                self.stops_ = True
        if self.stops_:
            raise StopTraining

    def _listeners(self, method_name: str) -> list[Callback]:
        """Return the callbacks that do something at this event."""
        nothing = getattr(Callback, method_name, None)
        return [
            callback
            for _, callback in self.callbacks_
            if getattr(getattr(callback, method_name, None), "__func__", None)
            is not nothing
        ]

    def on_epochs_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Do nothing: the event is for callbacks."""

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Open no record of the batch: the history is kept per epoch."""
