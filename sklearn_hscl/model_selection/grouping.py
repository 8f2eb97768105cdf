"""Which candidates can be trained together, on which folds."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone, is_regressor
from sklearn.pipeline import Pipeline
from sklearn.utils.multiclass import type_of_target

from sklearn_hscl._sklearn_compat import has_callbacks
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.training.stacked.auto_select import is_auto

# Parameters of the embedder in which models of one stack may differ.
NUMBERS = (
    "beta",
    "temperature",
    "threshold",
    "ce_weight",
    "lr",
    "weight_decay",
    "tol",
    "n_iter_no_change",
)
Params = dict[str, Any]


@dataclass
class EmbedderJob:
    """One embedder to be trained on each fold, and who uses it."""

    candidates: list[int] = field(default_factory=list)
    """Candidates that differ in later steps of the pipeline only."""


@dataclass(eq=False)
class Stack:
    """Embedders that differ in numbers, after steps that do not differ."""

    preparation: Hashable
    """Equal in stacks that share the steps before the embedder."""
    embeddings: dict[Hashable, EmbedderJob] = field(default_factory=dict)
    before: list[Any] = field(default_factory=list)
    """What the steps before the embedder made of each fold."""

    @property
    def first(self) -> int:
        """One of its candidates, for what they have in common."""
        return next(iter(self.embeddings.values())).candidates[0]


@dataclass
class Plan:
    """Who is trained with whom."""

    stacks: list[Stack]
    alone: dict[int, str]
    """Candidates that are fitted one by one, and why."""

    def give_up(self, stack: Stack, reason: str) -> None:
        """Have the candidates of a stack fitted one by one after all."""
        self.stacks.remove(stack)
        for embedding in stack.embeddings.values():
            self.alone |= dict.fromkeys(embedding.candidates, reason)


def make_plan(estimator: BaseEstimator, candidates: Sequence[Params]) -> Plan:
    """Divide the candidates of a search into stacks.

    Parameters
    ----------
    estimator : estimator
        An embedder, or a pipeline.
    candidates : sequence of dict
        Parameters of each candidate.

    Returns
    -------
    Plan
    """
    place = find_embedder(estimator)
    if isinstance(place, str):
        return Plan([], dict.fromkeys(range(len(candidates)), place))
    stacks: dict[Hashable, Stack] = {}
    alone = {}
    for index, params in enumerate(candidates):
        reason = _why_alone(estimator, place, params)
        if reason is not None:
            alone[index] = reason
            continue
        preparation, form, embedding = _keys(estimator, place, params)
        stack = stacks.setdefault(form, Stack(preparation))
        stack.embeddings.setdefault(embedding, EmbedderJob()).candidates.append(index)
    return Plan(list(stacks.values()), alone)


def find_embedder(estimator: BaseEstimator) -> int | str:
    """Return the place of the embedder among the steps, or why there is none."""
    kind = type(estimator)
    if issubclass(kind, Pipeline) and kind is not Pipeline:  # it may resample rows
        return f"{kind.__module__}.{kind.__name__} is no Pipeline of scikit-learn's own"
    steps = steps_of(estimator)
    places = [k for k, (_, step) in enumerate(steps) if isinstance(step, HSCLEmbedder)]
    if len(places) == 1:
        return places[0]
    return f"{len(places)} steps of this {kind.__name__} are an HSCLEmbedder, not one"


def place_of(estimator: BaseEstimator) -> int:
    """Return the place of the embedder of an estimator that has one."""
    place = find_embedder(estimator)
    assert isinstance(place, int)  # as planned
    return place


def embedder_of(estimator: BaseEstimator) -> HSCLEmbedder:
    """Return the embedder of an estimator that has one."""
    return steps_of(estimator)[place_of(estimator)][1]


def steps_of(estimator: BaseEstimator) -> list[tuple[str, Any]]:
    """Return the steps of a pipeline, or the estimator as the only step."""
    return estimator.steps if isinstance(estimator, Pipeline) else [("", estimator)]


def with_params(estimator: BaseEstimator, params: Params) -> BaseEstimator:
    """Return an unfitted copy with parameters of its own."""
    return clone(estimator).set_params(**clone(params, safe=False))


def _why_alone(estimator: BaseEstimator, place: int, params: Params) -> str | None:
    try:
        candidate = with_params(estimator, params)
    except Exception as error:  # fitting it alone raises that, as a search wants it
        return f"its parameters cannot be set: {error}"
    if find_embedder(candidate) != place or len(steps_of(candidate)) <= place:
        return "its parameters exchange the embedder"
    names = [name for name, _ in steps_of(candidate)]
    if names != [name for name, _ in steps_of(estimator)]:
        return "its parameters exchange the steps"
    embedder = steps_of(candidate)[place][1]
    if _has_own_fit(embedder):
        return f"{type(embedder).__name__} has a fit of its own"
    if is_auto(embedder.beta) or is_auto(embedder.temperature):
        return "its beta or temperature is chosen by a fit of its own"
    if embedder.cross_fit is not None:
        return "cross_fit embeds training rows by members of one model"
    parts = [candidate, *(step for _, step in steps_of(candidate))]
    if any(map(has_callbacks, parts)):
        return "its callbacks see one fit"
    return None


def _has_own_fit(embedder: HSCLEmbedder) -> bool:
    kind, ours = type(embedder), HSCLEmbedder
    return kind.fit is not ours.fit or kind.fit_transform is not ours.fit_transform


def _keys(
    estimator: BaseEstimator, place: int, params: Params
) -> tuple[Hashable, Hashable, Hashable]:
    """Return what is equal for the same steps before, the same stack, the same embedder."""
    names = [name for name, _ in steps_of(estimator)]
    before: list[Hashable] = []
    numbers: list[Hashable] = []
    others: list[Hashable] = []
    for key, value in sorted(params.items()):
        step, _, name = key.rpartition("__") if names == [""] else key.partition("__")
        item = (key, _identity(value))
        if step in names[:place]:
            before.append(item)
        elif step == names[place]:
            (numbers if name in NUMBERS else others).append(item)
        elif step not in names:
            others.append(item)  # of the pipeline itself
    preparation = tuple(before)
    form = (preparation, tuple(others))
    return preparation, form, (form, tuple(numbers))


def _identity(value: Any) -> Hashable:
    """Return what is equal for equal values, and unequal where that is not known."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


@dataclass
class Fold:
    """One split of the rows."""

    index: int
    train: Any
    test: Any
    seed: int
    """For embedders with ``random_state=None``, on this fold."""


def warn_about_missing_classes(estimator: Any, y: Any, folds: Sequence[Fold]) -> None:
    """Say which classes a fold has no row of to train on.

    Parameters
    ----------
    estimator : estimator
        What is searched; nothing is said where it has no embedder, or is a regressor.
    y : array-like or None
        Labels of all rows.
    folds : sequence of Fold
        The splits.

    Warns
    -----
    UserWarning
        Once for each fold that lacks classes.
    """
    if not _has_classes(estimator, y):
        return
    labels = np.asarray(y).ravel()
    unlabelled = embedder_of(estimator).unlabeled_label
    for fold in folds:
        missing = set(np.unique(labels)) - set(np.unique(labels[fold.train]))
        missing.discard(unlabelled)
        if missing:
            warnings.warn(
                f"The training rows of fold {fold.index} lack {_listed(missing)}, which "
                f"candidates cannot learn there: use a stratified cv, or fewer folds.",
                UserWarning,
                stacklevel=2,
            )


def _has_classes(estimator: Any, y: Any) -> bool:
    """Whether there is an embedder, and y holds classes that it or others learn."""
    if y is None or isinstance(find_embedder(estimator), str) or is_regressor(estimator):
        return False
    if embedder_of(estimator).target_type not in ("auto", "class"):
        return False
    try:
        return type_of_target(y) in ("binary", "multiclass")
    except (TypeError, ValueError):  # the fits say what is wrong with y
        return False


def _listed(classes: set[Any]) -> str:
    names = ", ".join(repr(label) for label in np.array(sorted(classes)).tolist())
    return f"class {names}" if len(classes) == 1 else f"classes {names}"
