"""Splits a pipeline at its embedder."""

from dataclasses import dataclass

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from sklearn_hscl.embedder import HSCLEmbedder

Step = tuple[str, BaseEstimator]


class NoEmbedderError(ValueError):
    """An estimator does not have exactly one embedder to work with."""


@dataclass(frozen=True)
class PipelineSplit:
    """The embedder of an estimator, and the steps around it.

    Parameters
    ----------
    before, after : list of (str, estimator)
        Steps before and after the embedder; both are empty for a bare embedder.
    name : str
        Name of the embedder's step; empty for a bare embedder.
    embedder : HSCLEmbedder
        The embedder.
    """

    before: list[Step]
    name: str
    embedder: HSCLEmbedder
    after: list[Step]

    @property
    def steps(self) -> list[Step]:
        """All steps, in order."""
        return [*self.before, (self.name, self.embedder), *self.after]

    @property
    def step_names(self) -> list[str]:
        """Names of all steps, in order."""
        return [name for name, _ in self.steps]

    def transform_before(self, X: ArrayLike) -> ArrayLike:
        """Pass samples through the fitted steps before the embedder."""
        return Pipeline(self.before).transform(X) if self.before else X


def split_pipeline(estimator: BaseEstimator) -> PipelineSplit:
    """Split an estimator at its embedder.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        Fitted or not; the split holds the same objects.

    Returns
    -------
    PipelineSplit

    Raises
    ------
    NoEmbedderError
        If no step is an embedder, or several are, or the pipeline is of a subclass.
    """
    if isinstance(estimator, HSCLEmbedder):
        return PipelineSplit([], "", estimator, [])
    estimator_type = type(estimator)
    if not isinstance(estimator, Pipeline):
        raise NoEmbedderError(
            f"Expected an HSCLEmbedder or a Pipeline with one among its steps, got "
            f"{estimator_type.__name__}."
        )
    if estimator_type is not Pipeline:
        raise NoEmbedderError(
            f"Expected a Pipeline of scikit-learn, got the subclass "
            f"{estimator_type.__module__}.{estimator_type.__name__}, which may resample."
        )
    steps = estimator.steps
    indices = [k for k, (_, step) in enumerate(steps) if isinstance(step, HSCLEmbedder)]
    if len(indices) != 1:
        raise NoEmbedderError(
            f"Expected exactly one HSCLEmbedder among the steps of this Pipeline, got "
            f"{len(indices)}."
        )
    index = indices[0]
    name, embedder = steps[index]
    return PipelineSplit(steps[:index], name, embedder, steps[index + 1 :])
