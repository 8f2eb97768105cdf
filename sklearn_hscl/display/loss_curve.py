"""The loss over training, with its chance level and the held-out score."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from sklearn_hscl.diagnostics.sample import split_fitted
from sklearn_hscl.plotting.axes import BLACK, BLUE, GREY, VERMILION, new_axes
from sklearn_hscl.runtime.global_setting import default_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


class LossCurveDisplay:
    """Training loss of each epoch, chance level, held-out score and best epoch.

    Parameters
    ----------
    train_loss : sequence of float
        Training loss of each epoch.
    chance_loss : float, default=None
        Loss of a constant embedding, plotted as a line; None plots no line.
    valid_score : sequence of float, default=None
        Held-out score of each epoch, higher is better.
    valid_score_name : str, default=None
        Name of the score. ``"negative loss"`` is plotted as a loss, together with the
        training loss; other scores have a separate axis on the right.
    best_epoch : int, default=None
        Epoch, from 1, whose weights were selected, plotted as a line; None plots no
        line.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    score_ax_ : matplotlib Axes or None
        Axis of the held-out score: `ax_` itself for a held-out loss.
    train_line_ : matplotlib Line2D
    valid_line_, chance_line_, best_line_ : matplotlib Line2D or None

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.display import LossCurveDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = HSCLEmbedder(encoder="mlp", max_epochs=5, random_state=0).fit(X, y)
    >>> display = LossCurveDisplay.from_estimator(embedder)
    >>> len(display.train_line_.get_xdata())
    5
    """

    def __init__(
        self,
        train_loss: Sequence[float],
        *,
        chance_loss: float | None = None,
        valid_score: Sequence[float] | None = None,
        valid_score_name: str | None = None,
        best_epoch: int | None = None,
    ) -> None:
        self.train_loss = train_loss
        self.chance_loss = chance_loss
        self.valid_score = valid_score
        self.valid_score_name = valid_score_name
        self.best_epoch = best_epoch

    @classmethod
    @default_settings(keeps_frames=True)
    def from_estimator(cls, estimator: BaseEstimator, *, ax: "Axes | None" = None) -> Self:
        """Plot the history of a fit.

        Parameters
        ----------
        estimator : HSCLEmbedder or Pipeline
            Fitted estimator.
        ax : matplotlib Axes, default=None
            Axes to plot into; None makes a figure.

        Returns
        -------
        LossCurveDisplay
        """
        embedder = split_fitted(estimator).embedder
        name = getattr(embedder, "valid_score_name_", None)
        scores = [epoch.get("valid_score", np.nan) for epoch in embedder.history_]
        display = cls(
            embedder.loss_curve_,
            chance_loss=embedder.chance_loss_,
            valid_score=None if name is None else scores,
            valid_score_name=name,
            best_epoch=embedder.best_epoch_,
        )
        return display.plot(ax)

    def plot(self, ax: "Axes | None" = None) -> Self:
        """Plot the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot into; None makes a figure.

        Returns
        -------
        LossCurveDisplay
        """
        from matplotlib.ticker import MaxNLocator

        ax = new_axes() if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure
        epochs = np.arange(1, len(self.train_loss) + 1)
        marker = _marker(epochs)
        (line,) = ax.plot(epochs, self.train_loss, color=BLUE, marker=marker)
        line.set_label("Training loss")
        self.train_line_ = line
        self.valid_line_, self.score_ax_ = self._plot_score(ax, epochs)
        self.chance_line_: Line2D | None = None
        self.best_line_: Line2D | None = None
        if self.chance_loss is not None:
            self.chance_line_ = ax.axhline(
                self.chance_loss, color=GREY, ls="--", label="Chance level"
            )
        if self.best_epoch is not None:
            self.best_line_ = ax.axvline(
                self.best_epoch, color=BLACK, ls=":", label=f"Best epoch: {self.best_epoch}"
            )
        ax.set(xlabel="Epoch", ylabel="Loss")
        losses = [*self.train_loss, self.chance_loss or 0.0]
        if self.valid_line_ is not None and self.score_ax_ is self.ax_:
            losses += np.asarray(self.valid_line_.get_ydata()).tolist()
        # From 0, so that a loss that stays at chance level is not magnified.
        ax.set_ylim(0, 1.1 * np.nanmax(losses))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        self._add_legend()
        return self

    def _plot_score(
        self, ax: "Axes", epochs: NDArray[np.int64]
    ) -> "tuple[Line2D | None, Axes | None]":
        if self.valid_score is None:
            return None, None
        score, label = np.asarray(self.valid_score), f"Held-out {self.valid_score_name}"
        if self.valid_score_name == "negative loss":
            score, label = -score, "Held-out loss"
        else:
            ax = ax.twinx()
            ax.set_ylabel(label)
        marker = _marker(epochs, "s")
        (line,) = ax.plot(epochs, score, color=VERMILION, marker=marker, label=label)
        return line, ax

    def _add_legend(self) -> None:
        """Add one legend for both axes, on top of all lines."""
        lines = (self.train_line_, self.valid_line_, self.chance_line_, self.best_line_)
        front = self.ax_ if self.score_ax_ is None else self.score_ax_
        front.legend(handles=[line for line in lines if line is not None])


def _marker(epochs: NDArray[np.int64], marker: str = "o") -> str:
    """Return a marker if there are few enough epochs to see each."""
    return marker if len(epochs) <= 40 else ""
