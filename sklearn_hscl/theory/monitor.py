"""The theory along training, as a callback of scikit-learn."""

from collections.abc import Sequence
from typing import Unpack, cast

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackContext

from sklearn_hscl.theory.estimate import TheoryEstimate
from sklearn_hscl.theory.verification import VerificationSettings, verify_estimator


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
