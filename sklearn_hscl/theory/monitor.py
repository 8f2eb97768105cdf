"""The theory along training, as a callback of scikit-learn."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackContext

from sklearn_hscl.theory.estimate import TheoryEstimate
from sklearn_hscl.theory.verification import verify_estimator


class TheoryMonitor:
    """Callback that estimates losses and Assumption 1 after each epoch.

    ``HSCLEmbedder().set_callbacks(TheoryMonitor(X_test, y_test)).fit(X, y)`` trains as
    without it; then :meth:`along_epochs` has the curves.

    Parameters
    ----------
    X : array-like, default=None
        Rows to measure, in the form that the embedder takes; None takes the training
        rows, as the authors' check does.
    y : array-like of shape (n_samples,), default=None
        Their classes, with `X`.
    betas : sequence of float, default=(1.0,)
        Strengths of the tilt to measure, whatever training uses.
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
    It keeps the last fit in this process: in a search, each fit takes the place of the
    one before, and what worker processes measure is lost. A fit that chooses ``beta`` or
    ``temperature`` (``"auto"``) reports no epochs.

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
        X: Any = None,
        y: ArrayLike | None = None,
        *,
        betas: Sequence[float] = (1.0,),
        **settings: Any,
    ) -> None:
        if (X is None) != (y is None):
            raise ValueError("X and y go together: pass both, or neither.")
        self.X = X
        self.y = y
        self.betas = betas
        self.settings = settings
        self.epochs_: list[int] = []
        self.estimates_: list[TheoryEstimate] = []

    def setup(self, estimator: BaseEstimator, context: CallbackContext) -> None:
        """Forget the fit before."""
        self.epochs_, self.estimates_ = [], []

    def teardown(self, estimator: BaseEstimator, context: CallbackContext) -> None:
        """Keep what was measured."""

    def on_fit_task_begin(self, estimator: BaseEstimator, context: CallbackContext) -> None:
        """Wait for the end of the epoch."""

    def on_fit_task_end(
        self,
        estimator: BaseEstimator,
        context: CallbackContext,
        *,
        X: Any = None,
        y: Any = None,
        fitted_estimator: BaseEstimator | None = None,
    ) -> None:
        """Measure the embedder as if training had ended here."""
        if context.task_name != "epoch" or fitted_estimator is None:
            return
        rows, classes = (X, y) if self.y is None else (self.X, self.y)
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
            Which of `betas`; None: the first.

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
                "No epoch was measured: fit an embedder with this monitor first, by "
                "set_callbacks, in this process and with a beta and a temperature given."
            )
        betas = list(self.betas)
        if beta is not None and beta not in betas:
            raise ValueError(f"beta={beta!r} was not measured: choose one of {betas}.")
        place = 0 if beta is None else betas.index(beta)
        return TheoryEstimate.along_epochs(self.estimates_, self.epochs_, place)
