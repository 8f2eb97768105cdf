"""Similarities of positive and negative pairs, and of negatives weighted by the tilt."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from sklearn_hscl.diagnostics.loss_batches import LossBatch, loss_batches
from sklearn_hscl.diagnostics.sample import (
    check_max_rows,
    make_sample,
    sample_indices,
    sample_rows,
)
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.metrics.validation import Seed, check_labelled
from sklearn_hscl.plotting.axes import BLACK, BLUE, VERMILION, new_axes
from sklearn_hscl.runtime.global_setting import default_settings
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.random_state import MAX_SEED, scoped_torch_seed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Samples that are enough for a histogram.
_MAX_ROWS = 4096
_N_BINS = 50


class SimilarityDisplay:
    """Histograms of the cosines of positive and negative pairs.

    Negatives are shown twice: with equal weights, and weighted by the tilt of the loss.
    The further the second lies to the right of the first, the more the loss concentrates
    on few hard negatives. Overlap of positives and negatives means that classes are not
    distinguished.

    Parameters
    ----------
    edges : ndarray of shape (n_bins + 1,)
        Edges of the bins, in cosines.
    positive, negative, tilted : ndarray of shape (n_bins,)
        Densities of positive pairs, negative pairs and weighted negative pairs.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    positive_, negative_, tilted_ : matplotlib StepPatch

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.display import SimilarityDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = HSCLEmbedder(encoder="mlp", random_state=0).fit(X, y)
    >>> display = SimilarityDisplay.from_estimator(embedder, X, y)
    >>> bool(display.positive[-1] > display.negative[-1])
    True
    """

    def __init__(
        self,
        edges: NDArray[np.float64],
        positive: NDArray[np.float64],
        negative: NDArray[np.float64],
        tilted: NDArray[np.float64],
    ) -> None:
        self.edges = edges
        self.positive = positive
        self.negative = negative
        self.tilted = tilted

    @classmethod
    @default_settings(keeps_frames=True)
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        max_rows: int | None = _MAX_ROWS,
        random_state: Seed = 0,
        ax: "Axes | None" = None,
    ) -> Self:
        """Plot the similarities that the loss of a fitted embedder compares.

        They are similarities of projected views, in batches of the size used by `fit`.

        Parameters
        ----------
        estimator : HSCLEmbedder or Pipeline
            Fitted estimator.
        X, y : array-like
            Samples and targets; y is required if the loss uses labels.
        max_rows : int or None, default=4096
            Number of samples to use, in whole batches; None uses all.
        random_state : int, RandomState instance or None, default=0
            Seed of the batches and the views.
        ax : matplotlib Axes, default=None
            Axes to plot into; None makes a figure.

        Returns
        -------
        SimilarityDisplay
        """
        check_max_rows(max_rows)
        seed = int(check_random_state(random_state).randint(MAX_SEED))
        drawn = sample_rows(estimator, X, max_rows=None, random_state=None)
        batches = loss_batches(make_sample(drawn, y), max_rows, seed)
        return cls._from_batches(batches, seed).plot(ax)

    @classmethod
    @default_settings()
    def from_embedding(
        cls,
        Z: ArrayLike,
        y: ArrayLike,
        *,
        loss: ContrastiveLoss | None = None,
        max_rows: int | None = _MAX_ROWS,
        random_state: Seed = 0,
        ax: "Axes | None" = None,
    ) -> Self:
        """Plot the similarities of any embedding.

        Parameters
        ----------
        Z : array-like of shape (n_samples, D)
            Embedding. Norms are ignored.
        y : array-like of shape (n_samples,)
            Class labels: samples of a class are positives of each other.
        loss : ContrastiveLoss, default=None
            Loss that defines the tilt; None uses ``ContrastiveLoss("hscl")``.
        max_rows : int or None, default=4096
            Maximum number of samples to draw; None uses all. All are compared with each
            other.
        random_state : int, RandomState instance or None, default=0
            Seed of the draw.
        ax : matplotlib Axes, default=None
            Axes to plot into; None makes a figure.

        Returns
        -------
        SimilarityDisplay
        """
        data = check_labelled(Z, y)
        indices = sample_indices(len(data.rows), max_rows, random_state)
        indices = np.random.default_rng(0).permutation(indices)
        z = l2_normalize(torch.from_numpy(data.rows[indices]))
        codes = torch.from_numpy(data.codes[indices])
        loss = ContrastiveLoss("hscl") if loss is None else loss
        targets, options = loss.resolve(z, codes, torch.arange(len(z)))
        return cls._from_batches([LossBatch(z, targets, options)], seed=0).plot(ax)

    @classmethod
    def _from_batches(cls, batches: Iterable[LossBatch], seed: int) -> Self:
        edges = np.linspace(-1, 1, _N_BINS + 1)
        with scoped_torch_seed(seed):  # of synthetic negatives
            counts = sum(_histograms(batch, edges) for batch in batches)
        totals = np.maximum(np.sum(counts, axis=1, keepdims=True), 1e-300)
        return cls(edges, *(counts / totals / np.diff(edges)))

    def plot(self, ax: "Axes | None" = None) -> Self:
        """Plot the histograms.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot into; None makes a figure.

        Returns
        -------
        SimilarityDisplay
        """
        ax = new_axes() if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure
        edges = self.edges
        self.positive_ = ax.stairs(self.positive, edges, fill=True, color=BLUE)
        self.negative_ = ax.stairs(self.negative, edges, fill=True, color=VERMILION)
        self.tilted_ = ax.stairs(self.tilted, edges, color=BLACK, lw=1.5)
        self.positive_.set(alpha=0.4, hatch="//", label="Positives")
        self.negative_.set(alpha=0.4, label="Negatives")
        self.tilted_.set_label("Negatives under the tilt")
        ax.set(xlabel="Cosine", ylabel="Density", xlim=(-1, 1))
        ax.legend()
        return self


def _histograms(batch: LossBatch, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights of positives, negatives and tilted negatives: (3, n_bins)."""
    positive, log_negative = batch.pairs
    cosines = batch.cosines()
    usable = ~log_negative.isneginf().all(1, keepdim=True)
    tilted = torch.where(usable, batch.tilt()[:, : cosines.shape[1]], 0.0)
    weights = (positive, log_negative.exp(), tilted)
    values = cosines.clamp(-1, 1).cpu().numpy().ravel()
    return np.stack(
        [np.histogram(values, edges, weights=w.cpu().numpy().ravel())[0] for w in weights]
    )
