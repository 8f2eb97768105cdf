"""Groups the candidates of a search into stacks; defines the folds."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone, is_regressor
from sklearn.utils.multiclass import type_of_target

from sklearn_hscl._sklearn_compat import has_callbacks
from sklearn_hscl.data.missing import column_array
from sklearn_hscl.data.targets import LabeledRows, labeled_rows
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.model_selection.pipeline_split import (
    NoEmbedderError,
    PipelineSplit,
    split_pipeline,
)
from sklearn_hscl.training.param_constraints import surprising_params
from sklearn_hscl.training.stacked.auto_select import is_auto

# Parameters of the embedder in which the models of one stack may differ.
STACKABLE_PARAMS = (
    "beta",
    "temperature",
    "threshold",
    "ce_weight",
    "loss",
    "preset",
    "hardening",
    "top_k",
    "tau_plus",
    "negative_mass",
    "reduction",
    "detach_weights",
    "positives",
    "lr",
    "weight_decay",
    "tol",
    "n_iter_no_change",
)
Params = dict[str, object]


# Candidates --------------------------------------------------------------------------


@dataclass
class EmbedderJob:
    """One embedder to train on each fold, and the candidates that use it."""

    candidates: list[int] = field(default_factory=list)
    """Indices of candidates that differ in later steps of the pipeline only."""


@dataclass(eq=False)
class CandidateStack:
    """Embedders that can be trained as one model, after equal steps."""

    prefix_key: Hashable
    """Equal in stacks that share the steps before the embedder."""
    jobs: dict[Hashable, EmbedderJob] = field(default_factory=dict)

    @property
    def first_candidate(self) -> int:
        """Index of one of its candidates, for what they have in common."""
        return next(iter(self.jobs.values())).candidates[0]


@dataclass
class Grouping:
    """The stacks of a search, and the candidates that are fitted one by one."""

    stacks: list[CandidateStack]
    single: dict[int, str]
    """Indices of the candidates that are fitted one by one, and the reasons."""

    @classmethod
    def of_single(cls, n_candidates: int, reason: str) -> "Grouping":
        """Return a grouping in which all candidates are fitted one by one."""
        return cls([], dict.fromkeys(range(n_candidates), reason))

    def dissolve(self, stack: CandidateStack, reason: str) -> None:
        """Have the candidates of a stack fitted one by one after all."""
        self.stacks.remove(stack)
        for job in stack.jobs.values():
            self.single |= dict.fromkeys(job.candidates, reason)


def group_candidates(estimator: BaseEstimator, candidates: Sequence[Params]) -> Grouping:
    """Divide the candidates of a search into stacks.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        The estimator that is searched, with one embedder.
    candidates : sequence of dict
        Parameters of each candidate.

    Returns
    -------
    Grouping
    """
    original = split_pipeline(estimator)
    stacks: dict[Hashable, CandidateStack] = {}
    single = {}
    for index, params in enumerate(candidates):
        reason = _reason_single(estimator, original, params)
        if reason is not None:
            single[index] = reason
            continue
        keys = _keys(original, params)
        stack = stacks.setdefault(keys.stack, CandidateStack(keys.prefix))
        stack.jobs.setdefault(keys.embedder, EmbedderJob()).candidates.append(index)
    return Grouping(list(stacks.values()), single)


def with_params(estimator: BaseEstimator, params: Params) -> BaseEstimator:
    """Return an unfitted copy with the parameters of a candidate."""
    return clone(estimator).set_params(**clone(params, safe=False))


def _reason_single(
    estimator: BaseEstimator, original: PipelineSplit, params: Params
) -> str | None:
    """Return why a candidate has to be fitted by itself; None if it can be stacked."""
    try:
        candidate = with_params(estimator, params)
    except Exception as error:  # fitting it alone raises that, as a search wants it
        return f"its parameters cannot be set: {error}"
    try:
        split = split_pipeline(candidate)
    except NoEmbedderError:
        return "its parameters replace the embedder"
    if len(split.before) != len(original.before):
        return "its parameters replace the embedder"
    if split.step_names != original.step_names:
        return "its parameters replace the steps"
    if any(map(has_callbacks, [candidate, *(step for _, step in split.steps)])):
        return "its callbacks are made for a single fit"
    return _reason_of_embedder(split.embedder)


def _reason_of_embedder(embedder: HSCLEmbedder) -> str | None:
    subclass, base = type(embedder), HSCLEmbedder
    if subclass.fit is not base.fit or subclass.fit_transform is not base.fit_transform:
        return f"{subclass.__name__} overrides fit or fit_transform"
    if is_auto(embedder.beta) or is_auto(embedder.temperature):
        return 'beta="auto" or temperature="auto" selects a value in each fit'
    if embedder.cross_fit is not None:
        return "cross_fit embeds training samples with the members of one model"
    return None


class _Keys(NamedTuple):
    """Equal for candidates with the same steps before, stack, and embedder."""

    prefix: Hashable
    stack: Hashable
    embedder: Hashable


def _keys(original: PipelineSplit, params: Params) -> _Keys:
    names = original.step_names
    before = names[: len(original.before)]
    prefix: list[Hashable] = []
    stackable: list[Hashable] = []
    others: list[Hashable] = []
    for key, value in sorted(params.items()):
        # The parameters of a bare embedder are those of a step without a name.
        step, _, name = key.partition("__") if original.name else ("", "", key)
        item = (key, _identity(value))
        if step in before:
            prefix.append(item)
        elif step == original.name:
            (stackable if name in STACKABLE_PARAMS else others).append(item)
        elif step not in names:
            others.append(item)  # of the pipeline itself
    prefix_key = tuple(prefix)
    stack_key = (prefix_key, tuple(others))
    return _Keys(prefix_key, stack_key, (stack_key, tuple(stackable)))


def _identity(value: object) -> Hashable:
    """Return a key that is equal for equal values; that of an object if unhashable."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


# Folds -------------------------------------------------------------------------------


@dataclass
class Fold:
    """One split into training and test samples."""

    index: int
    train: NDArray[np.integer | np.bool_]
    test: NDArray[np.integer | np.bool_]
    seed: int
    """For embedders with ``random_state=None``, on this fold."""


def warn_about_params(estimator: BaseEstimator, candidates: Sequence[Params]) -> None:
    """Warn about parameters that have no effect in candidates, or are extreme.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        The estimator that is searched, with one embedder.
    candidates : sequence of dict
        Parameters of each candidate that was trained.

    Warns
    -----
    UserWarning
        Once for each parameter, with the message of the first candidate.
    """
    messages: dict[str, list[str]] = {}
    for params in candidates:
        found = _surprises(estimator, params)
        for name, message in found.items():
            messages.setdefault(name, []).append(message)
    for message, *others in messages.values():
        warnings.warn(
            f"{message} (In {1 + len(others)} of {len(candidates)} candidates.)",
            UserWarning,
            stacklevel=2,
        )


def _surprises(estimator: BaseEstimator, params: Params) -> dict[str, str]:
    """Return messages about the parameters of a candidate's embedder, by name."""
    try:
        split = split_pipeline(with_params(estimator, params))
    except NoEmbedderError:  # another step in its place
        return {}
    prefix = f"{split.name}__" if split.name else ""
    given = {name.removeprefix(prefix) for name in params if name.startswith(prefix)}
    return surprising_params(split.embedder.get_params(deep=False), given)


def warn_about_missing_classes(
    estimator: BaseEstimator, y: ArrayLike | None, folds: Sequence[Fold]
) -> None:
    """Warn about classes of which a fold has no training sample.

    Parameters
    ----------
    estimator : HSCLEmbedder or Pipeline
        The estimator that is searched, with one embedder. A regressor draws no warning.
    y : array-like or None
        Labels of all samples.
    folds : sequence of Fold
        The splits.

    Warns
    -----
    UserWarning
        Once for each fold that lacks classes.
    """
    embedder = split_pipeline(estimator).embedder
    if y is None or is_regressor(estimator) or not (given := _class_labels(embedder, y)):
        return
    rows, labels = given
    indices = np.arange(len(column_array(y)))
    for fold in folds:
        train = np.isin(rows, indices[fold.train])
        missing = set(np.unique(labels)) - set(np.unique(labels[train]))
        if missing:
            warnings.warn(
                f"The training samples of fold {fold.index} lack {_listed(missing)}, so "
                f"candidates cannot learn it there. Use a stratified cv, or fewer folds.",
                UserWarning,
                stacklevel=2,
            )


def _class_labels(embedder: HSCLEmbedder, y: ArrayLike) -> LabeledRows | None:
    """Return the labelled rows if y holds classes, for an embedder or a classifier.

    The fits report errors in y.
    """
    if embedder.target_type not in ("auto", "class"):
        return None
    try:
        rows, labels = labeled_rows(y, embedder.unlabeled_label)
        is_class = type_of_target(labels) in ("binary", "multiclass")
    except (TypeError, ValueError):
        return None
    return (rows, labels) if is_class else None


def _listed(classes: set[object]) -> str:
    names = ", ".join(repr(label) for label in np.array(sorted(classes)).tolist())  # type: ignore[type-var]
    return f"class {names}" if len(classes) == 1 else f"classes {names}"
