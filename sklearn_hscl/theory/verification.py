"""The paper's assumption and inequality on arrays, on estimators and along training."""

from collections.abc import Sequence
from numbers import Integral
from typing import TypedDict, Unpack, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackContext
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state

from sklearn_hscl.metrics.validation import check_labelled
from sklearn_hscl.runtime.global_setting import default_settings
from sklearn_hscl.theory.estimate import (
    LOSSES,
    TheoryEstimate,
    loss_options,
    measure_anchors,
    sample_pairs,
    summarise,
)

# From no hardening to one under which few negatives count.
BETAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
# 2B - 2: the negatives in the authors' batches of 256 rows in two views.
NEGATIVE_MASS = 510.0
# Default of the losses, for estimators without a temperature.
_TEMPERATURE = 0.5


# On arrays and estimators ------------------------------------------------------------


@default_settings()
def verify_embedding(
    X: ArrayLike,
    y: ArrayLike,
    betas: Sequence[float] = BETAS,
    *,
    temperature: float = _TEMPERATURE,
    negative_mass: float = NEGATIVE_MASS,
    view_ids: ArrayLike | None = None,
    max_anchors: int | None = 1000,
    max_negatives: int | None = 4000,
    n_bootstrap: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = 0,
) -> TheoryEstimate:
    """Estimate the four losses, Assumption 1 and L_H-SCL <= L_H-UCL on an embedding.

    With g(x, x') = cos(f(x), f(x')) / T, an anchor x satisfies *Assumption 1* of [1]_ if::

        E[ e^g(x, x-) | x- ~ q_Hcol ]  >=  E[ e^g(x, x-) | x- ~ q_H-SCL ]

    Both distributions are tilted by η = e^(beta g): q_Hcol over rows of the anchor's
    class (collisions), q_H-SCL over rows of other classes. The expectations are the tilted
    means E_Hcol and E_H-SCL over the rows given. The negatives of H-UCL are a mixture of
    the two. Under the assumption, therefore, E_H-UCL >= E_H-SCL and L_H-UCL >= L_H-SCL,
    which is Lemma 1 for infinitely many negatives. The losses are::

        L = mean over anchors and their positives of  -log( e^g+ / (e^g+ + Q E) )

    with E the mean of e^g over all other rows (UCL), rows of other classes (SCL), and the
    same two tilted (H-UCL, H-SCL). Positives and Q are the same for all four. For a single
    anchor, the assumption and the inequality are then equivalent. For the means over
    anchors, the inequality may hold although few anchors satisfy the assumption.

    Parameters
    ----------
    X : array-like of shape (n_samples, D)
        Embedding; norms of rows have no effect.
    y : array-like of shape (n_samples,)
        Classes.
    betas : sequence of float, default=(0, 0.25, 0.5, 1, 2, 4, 8)
        Strengths of the hardening, at least 0; at 0, H-UCL is UCL and H-SCL is SCL.
    temperature : float, default=0.5
        Scale T of the similarities; the authors' value.
    negative_mass : float, default=510
        Q, the factor of the mean over negatives. 510 is that of the authors' batches,
        256 samples in two views. It changes the losses, but not whether an anchor
        satisfies Assumption 1.
    view_ids : array-like of shape (n_samples,), default=None
        Id of the sample that each row is a view of, if X holds several views of each
        sample. Positives are then the other views of the sample, as in the authors' check.
        None: each row is a sample, and positives are the rows of its class.
    max_anchors : int or None, default=1000
        Maximum number of anchors to draw; None takes all rows. The width of the
        intervals falls with its square root.
    max_negatives : int or None, default=4000
        Maximum number of negatives per anchor; rows are drawn accordingly. None takes all
        rows. Memory grows linearly with it.
    n_bootstrap : int, default=1000
        Resamples of the anchors for the intervals.
    confidence_level : float in (0, 1), default=0.95
        Fraction of the resamples inside of the intervals.
    random_state : int, RandomState instance or None, default=0
        For the draws: the same seed draws the same rows of another embedding.

    Returns
    -------
    TheoryEstimate
        Arrays along `betas`.

    Raises
    ------
    ValueError
        If there are NaN or infinities, one class only, a missing label, a parameter out
        of its range, or no row with a positive, another row of its class and a row of
        another class.

    Notes
    -----
    Rows that cannot be anchors are left out and counted. The intervals reflect the
    choice of anchors: all are compared with the same rows.

    A tilted mean of few rows is biased downwards, because harder rows are missing. Under
    strong hardening, fewer anchors of rare classes satisfy the assumption, and with
    shuffled labels fewer than half. Compare with the fraction for shuffled labels.

    Assumption and lemma are cited by name, not by equation number: their form is that of
    the first author's summary of the paper.

    References
    ----------
    .. [1] Jiang, Nguyen, Ishwar and Aeron, "Supervised Contrastive Learning with Hard
       Negative Samples", IJCNN 2024, arXiv 2209.00078: Assumption 1, Lemma 1.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> from sklearn_hscl.theory import verify_embedding
    >>> X, y = load_wine(return_X_y=True)
    >>> estimate = verify_embedding(scale(X), y, betas=[0, 1, 4])
    >>> estimate.inequality_holds
    array([ True,  True,  True])
    >>> bool(estimate.assumption.value[0] > 0.9)
    True
    """
    data = check_labelled(X, y)
    strengths = _check_betas(betas)
    _check_sampling(max_anchors, max_negatives, n_bootstrap, confidence_level)
    options = {
        name: loss_options(name, strengths, temperature, negative_mass) for name in LOSSES
    }
    random = check_random_state(random_state)
    sample = sample_pairs(
        data,
        view_ids,
        max_anchors=max_anchors,
        max_negatives=max_negatives,
        random=random,
    )
    return summarise(
        strengths,
        measure_anchors(sample, options),
        n_skipped=sample.n_skipped,
        n_bootstrap=n_bootstrap,
        confidence_level=confidence_level,
        random=random,
    )


def _check_betas(betas: Sequence[float]) -> NDArray[np.float64]:
    try:
        strengths = np.array(betas, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"betas={betas!r} must be a sequence of numbers.") from error
    usable = strengths.ndim == 1 and len(strengths) > 0
    if not (usable and np.isfinite(strengths).all() and (strengths >= 0).all()):
        raise ValueError(
            f"betas={betas!r} must be a sequence of at least one finite number from 0 up."
        )
    return strengths


def _check_sampling(
    max_anchors: int | None,
    max_negatives: int | None,
    n_bootstrap: int,
    confidence_level: float,
) -> None:
    for name, count, least in (
        ("max_anchors", max_anchors, 1),
        ("max_negatives", max_negatives, 2),
        ("n_bootstrap", n_bootstrap, 1),
    ):
        unlimited = count is None and name != "n_bootstrap"
        if not (unlimited or (isinstance(count, Integral) and count >= least)):
            raise ValueError(f"{name}={count!r} must be an integer from {least} up.")
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level={confidence_level!r} must be in (0, 1).")


class VerificationSettings(TypedDict, total=False):
    """Optional arguments of :func:`verify_embedding`, without the temperature."""

    negative_mass: float
    view_ids: ArrayLike | None
    max_anchors: int | None
    max_negatives: int | None
    n_bootstrap: int
    confidence_level: float
    random_state: int | np.random.RandomState | None


@default_settings(keeps_frames=True)
def verify_estimator(
    estimator: BaseEstimator,
    X: ArrayLike,
    y: ArrayLike,
    betas: Sequence[float] = BETAS,
    *,
    temperature: float | None = None,
    **settings: Unpack[VerificationSettings],
) -> TheoryEstimate:
    """Estimate the same on the embedding of X by a fitted estimator.

    Parameters
    ----------
    estimator : HSCLEmbedder, Pipeline or other transformer
        The fitted estimator.
    X : array-like
        Samples in the form that the estimator takes, usually held-out ones.
    y : array-like of shape (n_samples,)
        Their classes.
    betas : sequence of float, default=(0, 0.25, 0.5, 1, 2, 4, 8)
        Strengths of the hardening.
    temperature : float, default=None
        Scale of the similarities. None takes that of the embedder's loss, also if it is
        the last step of a pipeline, or 0.5 for other estimators.
    **settings
        Further arguments of :func:`verify_embedding`.

    Returns
    -------
    TheoryEstimate

    Raises
    ------
    TypeError
        If the estimator has no ``transform``.
    ValueError
        As :func:`verify_embedding`.

    Notes
    -----
    The embedding is the output of ``transform``. Training compares the output of the
    projection head; with ``projection_dim=None`` they are the same.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.theory import verify_estimator
    >>> X, y = load_wine(return_X_y=True)
    >>> embedder = HSCLEmbedder(encoder="mlp", max_epochs=5, random_state=0).fit(X, y)
    >>> verify_estimator(embedder, X, y, betas=[1]).inequality_holds
    array([ True])
    """
    if not hasattr(estimator, "transform"):
        raise TypeError(
            f"Expected a transformer, got {type(estimator).__name__}, which has no "
            f"transform. Pass the embedder or another transformer."
        )
    if temperature is None:
        last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        temperature = getattr(last, "temperature_", _TEMPERATURE)
    embedding = np.asarray(estimator.transform(X))
    return verify_embedding(embedding, y, betas, temperature=temperature, **settings)


# Along training ----------------------------------------------------------------------


class TheoryMonitor:
    """Callback that estimates losses and Assumption 1 after each epoch.

    ``HSCLEmbedder().set_callbacks(TheoryMonitor(X_test, y_test)).fit(X, y)`` does not
    change training; afterwards :meth:`along_epochs` returns the curves.

    Parameters
    ----------
    X : array-like, default=None
        Samples to measure, in the form that the embedder takes; None takes the training
        samples, as the authors' check does.
    y : array-like of shape (n_samples,), default=None
        Their classes, with `X`.
    betas : sequence of float, default=(1.0,)
        Strengths of the hardening to measure, independent of that in training.
    **settings
        Further arguments of :func:`verify_estimator`.

    Attributes
    ----------
    epochs_ : list of int
        Epochs measured in the last fit, counted from 1.
    estimates_ : list of TheoryEstimate
        One for each of them, along beta.

    Raises
    ------
    ValueError
        If only one of X and y is given; in the fit, as :func:`verify_estimator`.

    Notes
    -----
    It keeps the last fit in this process: in a search, each fit replaces the one before,
    and estimates of worker processes are lost. A fit with ``beta="auto"`` or
    ``temperature="auto"`` reports no epochs.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.theory import TheoryMonitor
    >>> X, y = load_wine(return_X_y=True)
    >>> monitor = TheoryMonitor(X[1::2], y[1::2])
    >>> embedder = HSCLEmbedder(encoder="mlp", max_epochs=3, random_state=0)
    >>> embedder = embedder.set_callbacks(monitor).fit(X[::2], y[::2])
    >>> curves = monitor.along_epochs()
    >>> curves.points
    array([1., 2., 3.])
    >>> curves.hscl.value.shape
    (3,)
    """

    def __init__(
        self,
        X: ArrayLike | None = None,
        y: ArrayLike | None = None,
        *,
        betas: Sequence[float] = (1.0,),
        **settings: Unpack[VerificationSettings],
    ) -> None:
        if (X is None) != (y is None):
            given, missing = ("y", "X") if X is None else ("X", "y")
            raise ValueError(f"{given} was given without {missing}: pass both, or neither.")
        self.X = X
        self.y = y
        self.betas = betas
        self.settings = settings
        self.epochs_: list[int] = []
        self.estimates_: list[TheoryEstimate] = []

    def setup(self, estimator: BaseEstimator, context: CallbackContext) -> None:
        """Discard the estimates of the previous fit."""
        self.epochs_, self.estimates_ = [], []

    def teardown(self, estimator: BaseEstimator, context: CallbackContext) -> None:
        """Keep the estimates."""

    def on_fit_task_begin(self, estimator: BaseEstimator, context: CallbackContext) -> None:
        """Do nothing until the epoch ends."""

    def on_fit_task_end(
        self,
        estimator: BaseEstimator,
        context: CallbackContext,
        *,
        X: ArrayLike | None = None,
        y: ArrayLike | None = None,
        fitted_estimator: BaseEstimator | None = None,
    ) -> None:
        """Measure the embedder as it is after this epoch."""
        if context.task_name != "epoch" or fitted_estimator is None:
            return
        given = (X, y) if self.y is None else (self.X, self.y)
        rows, classes = cast("tuple[ArrayLike, ArrayLike]", given)  # None is refused below
        estimate = verify_estimator(
            fitted_estimator, rows, classes, self.betas, **self.settings
        )
        self.epochs_.append(context.task_id + 1)
        self.estimates_.append(estimate)

    def along_epochs(self, beta: float | None = None) -> TheoryEstimate:
        """Return the curves of the last fit.

        Parameters
        ----------
        beta : float, default=None
            One of `betas`; None: the first.

        Returns
        -------
        TheoryEstimate
            Arrays along epochs.

        Raises
        ------
        ValueError
            If no epoch was measured, or not at this beta.
        """
        if not self.estimates_:
            raise ValueError(
                "No epoch was measured. First fit an embedder with this monitor, by "
                "set_callbacks, in this process and with a beta and a temperature given."
            )
        betas = list(self.betas)
        if beta is not None and beta not in betas:
            raise ValueError(f"beta={beta!r} was not measured. Choose one of {betas}.")
        index = 0 if beta is None else betas.index(beta)
        return TheoryEstimate.along_epochs(self.estimates_, self.epochs_, index)
