"""Figure of the hardness path."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from sklearn_hscl.model_selection.hardness_path import (
    BETAS,
    HardnessPath,
    Scoring,
    Splitter,
    hardness_path,
)
from sklearn_hscl.plotting.axes import BLUE, GREEN, VERMILION, new_axes_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


class HardnessPathDisplay:
    """Held-out score and geometry of the embedding along beta.

    The figure has three panels: the held-out score, the effective number of negatives, and
    alignment with uniformity. Bands show one standard error over the folds. Values of beta
    are equally spaced, as they are rarely tried on a linear scale.

    Parameters
    ----------
    path : HardnessPath
        As returned by :func:`hardness_path`.
    score_name : str, default="Held-out score"
        Label of the score.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of 3 matplotlib Axes
    lines_ : list of 4 matplotlib Line2D
        Score, effective negatives, alignment, uniformity.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.model_selection import HardnessPathDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = HSCLEmbedder(encoder="mlp", max_epochs=5, random_state=0)
    >>> pipe = make_pipeline(embedder, LogisticRegression())
    >>> display = HardnessPathDisplay.from_estimator(pipe, X, y, betas=[0, 1, 4], cv=3)
    >>> len(display.axes_)
    3
    """

    def __init__(self, path: HardnessPath, *, score_name: str = "Held-out score") -> None:
        self.path = path
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike,
        betas: Sequence[float] = BETAS,
        *,
        cv: int | Splitter = 5,
        scoring: Scoring = None,
        n_jobs: int | None = None,
        axes: Sequence["Axes"] | None = None,
    ) -> Self:
        """Measure the path and plot it.

        Parameters
        ----------
        estimator, X, y, betas, cv, scoring, n_jobs
            As for :func:`hardness_path`.
        axes : sequence of 3 matplotlib Axes, default=None
            Axes to plot on; None makes a figure.

        Returns
        -------
        HardnessPathDisplay
        """
        path = hardness_path(estimator, X, y, betas, cv=cv, scoring=scoring, n_jobs=n_jobs)
        name = f"Held-out {scoring}" if isinstance(scoring, str) else "Held-out accuracy"
        if callable(scoring):
            name = "Held-out score"
        return cls(path, score_name=name).plot(axes)

    def plot(self, axes: Sequence["Axes"] | None = None) -> Self:
        """Plot the path.

        Parameters
        ----------
        axes : sequence of 3 matplotlib Axes, default=None
            Axes to plot on; None makes a figure.

        Returns
        -------
        HardnessPathDisplay
        """
        if axes is None:
            axes = new_axes_grid(3, sharex=True, figsize=(6, 7))
        score, count, geometry = self.axes_ = np.asarray(axes)
        self.figure_ = score.figure
        path = self.path
        self.lines_ = [
            self._line(score, path.scores, BLUE, self.score_name),
            self._line(count, path.effective_negatives, BLUE, "Effective negatives"),
            self._line(geometry, path.alignment, VERMILION, "Alignment"),
            self._line(geometry, path.uniformity, GREEN, "Uniformity", marker="s"),
        ]
        score.set_ylabel(self.score_name)
        count.set_ylabel("Effective negatives")
        geometry.set_ylabel("Lower is better")
        geometry.legend()
        geometry.set_xlabel("beta")
        geometry.set_xticks(range(len(path.betas)), [f"{beta:g}" for beta in path.betas])
        return self

    def _line(
        self,
        ax: "Axes",
        values: NDArray[np.float64],
        color: str,
        label: str,
        marker: str = "o",
    ) -> "Line2D":
        """Plot the mean over folds, and one standard error on either side."""
        index = np.arange(len(values))
        mean = values.mean(axis=1)
        error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
        ax.fill_between(index, mean - error, mean + error, color=color, alpha=0.2, lw=0)
        (line,) = ax.plot(index, mean, color=color, marker=marker, label=label)
        return line
