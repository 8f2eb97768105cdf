"""The base class of the callbacks of a training run."""

from typing import Any, ClassVar

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
