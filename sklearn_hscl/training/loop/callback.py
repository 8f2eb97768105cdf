"""Callbacks of a training run, and the skorch net that calls them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer, PrintLog

from sklearn_hscl.training.loop.epoch import DivergenceError

CallbackState = dict[str, object]


class StopTraining(Exception):  # noqa: N818 - as StopIteration, not an error
    """Ends training after the current epoch; not an error."""


class TrainingCallback(Callback):
    """A callback of this library, which stops by raising :class:`StopTraining`.

    It gets two events more than skorch's callbacks: ``on_epochs_begin``, when the net is
    ready for its first epoch, and ``on_divergence``.
    """

    remembered: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes that carry over from one epoch to the next."""

    def on_divergence(self, net: NeuralNet, error: DivergenceError) -> bool:
        """Return whether the callback has restored a state from which to train on.

        If no callback has, `error` ends training.
        """
        return False

    def state(self) -> CallbackState:
        """Return the attributes that carry over between two epochs."""
        return {name: vars(self)[name] for name in self.remembered if name in vars(self)}

    def restore(self, state: CallbackState) -> None:
        """Restore the attributes that :meth:`state` has returned."""
        self.__dict__.update(state)


class EpochLog(PrintLog):
    """skorch's table of epochs, which is built only if it is printed."""

    def on_epoch_end(self, net: NeuralNet, **kwargs: object) -> None:
        """Print a line if the net is verbose."""
        if net.verbose:
            super().on_epoch_end(net, **kwargs)


class CallbackNet(NeuralNet):
    """skorch net whose callbacks may change from one training to the next, and may stop it.

    skorch's own callbacks stop training by raising KeyboardInterrupt, which skorch catches.
    Here that of the user (Ctrl-C) is distinguished, and leaves `fit`.
    """

    callbacks_: list[tuple[str, Callback]]
    stops_: bool

    @property
    def _default_callbacks(self) -> list[tuple[str, Callback]]:
        # Losses are recorded per epoch, so skorch's averages of batches are not needed.
        return [("epoch_timer", EpochTimer()), ("print_log", EpochLog())]

    @property
    def user_callbacks(self) -> list[str]:
        """Names of the callbacks of skorch that a user has added."""
        defaults = {name for name, _ in self._default_callbacks}
        return [name for name, _ in self.callbacks_ if name not in defaults]

    @contextmanager
    def with_callbacks(
        self,
        monitors: Sequence[TrainingCallback],
        report: TrainingCallback,
        keepers: Sequence[TrainingCallback] = (),
    ) -> Iterator[None]:
        """Add callbacks to those of the user inside the block."""
        user_callbacks = self.callbacks_
        # Held-out scores come first, so that users' callbacks see them. Callbacks that
        # store the state come last, as they store the result of all others.
        first = [(type(monitor).__name__, monitor) for monitor in monitors]
        last = [(type(keeper).__name__, keeper) for keeper in keepers]
        self.callbacks_ = [*first, *user_callbacks, ("report", report), *last]
        try:
            yield
        finally:
            self.callbacks_ = user_callbacks

    @property
    def training_callbacks(self) -> list[TrainingCallback]:
        """The callbacks of this library."""
        return [part for _, part in self.callbacks_ if isinstance(part, TrainingCallback)]

    def notify(self, method_name: str, **kwargs: object) -> None:
        """Call all callbacks, then stop if one of them asked for it."""
        getattr(self, method_name)(self, **kwargs)
        self.stops_ = False
        for callback in self.listeners(method_name):
            try:
                getattr(callback, method_name)(self, **kwargs)
            except StopTraining:
                self.stops_ = True
            except KeyboardInterrupt:
                # skorch's EarlyStopping stops this way; from our callbacks it is Ctrl-C.
                is_ours = isinstance(callback, TrainingCallback)
                if is_ours or method_name != "on_epoch_end":
                    raise
                self.stops_ = True
        if self.stops_:
            raise StopTraining

    def listeners(self, method_name: str) -> list[Callback]:
        """Return the callbacks that override the method of this event."""
        nothing = getattr(Callback, method_name, None)
        return [
            callback
            for _, callback in self.callbacks_
            if getattr(getattr(callback, method_name, None), "__func__", None)
            is not nothing
        ]

    def on_epochs_begin(self, net: NeuralNet, **kwargs: object) -> None:
        """Do nothing: the event is for callbacks."""

    def on_batch_begin(
        self, net: NeuralNet, batch: object = None, training: bool = False, **kwargs: object
    ) -> None:
        """Open no record of the batch, as the history is kept per epoch."""
