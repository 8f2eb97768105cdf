"""What a search trains together, how often it fits a step, and what it says of that."""

import numpy as np
import pytest
import torch
from helpers.searches import (
    BETAS,
    SMOOTHINGS,
    embedder,
    fit_both,
    neighbors,
    pipeline,
    reasons,
    some_rows,
)
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.callback import ScoringMonitor
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EpochTimer
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.model_selection import BatchedGridSearchCV


class Noting(TransformerMixin, BaseEstimator):
    """Step that leaves rows as they are and notes each fit in a file."""

    def __init__(self, file, mark="fit", shift=0.0):
        self.file = file
        self.mark = mark
        self.shift = shift

    def fit(self, X, y=None):
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(f"{self.mark}\n")
        return self

    def transform(self, X):
        return X + self.shift


class NotingEncoder(nn.Linear):
    """Encoder that notes each batch of training that it sees."""

    steps = 0

    def forward(self, rows):
        NotingEncoder.steps += self.training and len(rows) > 10  # no sample of a few rows
        return super().forward(rows)


@pytest.fixture
def noted(tmp_path):
    """Pipeline with noted steps around the embedder, and who counts them."""
    file = tmp_path / "fits.txt"
    estimator = Pipeline(
        [
            ("before", Noting(file, "before")),
            ("embed", embedder()),
            ("after", Noting(file, "after")),
            ("classify", GaussianNB()),
        ]
    )

    def count():
        marks = file.read_text(encoding="utf-8").split()
        file.unlink()
        return {mark: marks.count(mark) for mark in ("before", "after")}

    return estimator, count


def test_how_often_steps_are_fitted(iris, noted):
    estimator, count = noted
    grid = {"embed__beta": [0, 1.0], "embed__n_components": [3, 4]} | SMOOTHINGS
    options = {"cv": 2, "refit": False}
    BatchedGridSearchCV(estimator, grid, **options).fit(*iris)
    assert count() == {"before": 2, "after": 2 * 8}
    grid |= {"before__shift": [0.0, 1.0]}
    BatchedGridSearchCV(estimator, grid, **options).fit(*iris)
    assert count() == {"before": 2 * 2, "after": 2 * 16}


def test_an_embedder_of_later_steps_is_trained_once(iris):
    estimator = pipeline(encoder=NotingEncoder(4, 3), n_components=None)
    grid = {"embed__beta": [0.0, 1.0], "classify__var_smoothing": [1e-9, 0.1, 1.0]}
    steps = []
    for kind in (BatchedGridSearchCV, GridSearchCV):
        NotingEncoder.steps = 0
        kind(estimator, grid, cv=2, refit=False).fit(*iris)
        steps.append(NotingEncoder.steps)
    # As the stack takes a step for both betas at once, and for all that follows them.
    assert steps[1] == 6 * steps[0]


def test_time_of_a_candidate(iris):
    table = BatchedGridSearchCV(pipeline(), BETAS, cv=2).fit(*iris).cv_results_
    assert (table["mean_fit_time"] > 0).all()


# Reasons ----------------------------------------------------------------------------


class OwnFit(HSCLEmbedder):
    """An embedder that does more than ours in its fit."""

    def fit(self, X, y=None):
        return super().fit(X + 1, y)


class OwnMethod(HSCLEmbedder):
    """An embedder whose fit is ours."""

    def describe(self):
        return f"beta={self.beta}"


class OwnPipeline(Pipeline):
    """Stands for pipelines that resample rows between steps."""


class Watch:
    """scikit-learn callback."""

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context):
        pass


def watched_step():
    estimator = pipeline()
    estimator["embed"].set_callbacks(Watch())
    return estimator


SCALED = ("scale", StandardScaler())
CLASSIFIED = ("classify", GaussianNB())
ALONE = {
    "compile=True": pipeline(compile=True, net_params={"compile__backend": "eager"}),
    "device_batch_size=64": pipeline(device_batch_size=64),
    "the encoder has batch statistics": pipeline(
        encoder=nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), n_components=None
    ),
    "Adafactor does not update": pipeline(net_params={"optimizer": torch.optim.Adafactor}),
    "net_callbacks=['clock']": pipeline(net_callbacks=[("clock", EpochTimer())]),
    "cross_fit embeds": pipeline(encoder="tabular", cross_fit=2),
    "its callbacks are made for a single fit": watched_step(),
    "OwnFit overrides fit": Pipeline(
        [("embed", OwnFit(max_epochs=1, random_state=0)), CLASSIFIED]
    ),
    "Expected a Pipeline of scikit-learn, got the subclass "
    "test_model_selection_grouping.OwnPipeline": OwnPipeline(
        [SCALED, ("embed", embedder()), CLASSIFIED]
    ),
    "Expected exactly one HSCLEmbedder among the steps of this Pipeline, got 2": Pipeline(
        [("embed", embedder()), ("again", embedder()), CLASSIFIED]
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("reason", ALONE)
def test_who_is_fitted_alone(iris, reason):
    (found,) = reasons(fit_both(ALONE[reason], BETAS, *iris, cv=2, refit=False))
    assert found.startswith(reason)


def test_embedder_out_of_reach(iris):
    estimator = make_pipeline(FeatureUnion([("embed", embedder())]), GaussianNB())
    grid = {"featureunion__embed__beta": [0.0, 1.0]}
    (reason,) = reasons(fit_both(estimator, grid, *iris, cv=2))
    assert reason.endswith("one HSCLEmbedder among the steps of this Pipeline, got 0.")


def test_subclass_with_our_fit_is_stacked(iris):
    own = OwnMethod(max_epochs=1, random_state=0, precision="float64")
    estimator = Pipeline([("embed", own), CLASSIFIED])
    assert reasons(fit_both(estimator, BETAS, *iris, cv=2)) == [""]


def test_exchanged_steps(iris):
    grid = {"steps": [[SCALED, ("embed", embedder()), ("other", GaussianNB())]]}
    assert reasons(fit_both(pipeline(), grid, *iris, cv=2)) == [
        "its parameters replace the steps"
    ]


def test_a_stack_that_fails_as_a_whole(iris):
    class Branching(nn.Linear):
        def forward(self, rows):
            out = super().forward(rows)
            return out if out.sum().item() > 0 else out.clone()

    estimator = pipeline(encoder=Branching(4, 3), n_components=None)
    (reason,) = reasons(fit_both(estimator, BETAS, *iris, cv=2))
    assert reason.startswith("stacked training failed: RuntimeError")


# Folds ------------------------------------------------------------------------------


def test_fold_that_lacks_classes(iris):
    y = np.array(["x", "y", "z"])[iris[1]]
    search = BatchedGridSearchCV(pipeline(), BETAS, cv=KFold(3))
    with pytest.warns(UserWarning, match="The training samples of fold") as caught:
        search.fit(iris[0], y)
    texts = [str(warning.message) for warning in caught]
    for fold, label in enumerate("xyz"):
        assert sum(f"fold {fold} lack class '{label}'" in text for text in texts) == 1


def test_fold_that_lacks_several_classes(iris):
    splits = [(np.arange(100), np.arange(100, 150))]
    X, y = iris[0], np.arange(150) // 25
    search = BatchedGridSearchCV(pipeline(), BETAS, cv=splits)
    with pytest.warns(UserWarning, match="fold 0 lack classes 4, 5, so candidates"):
        search.fit(X, y)


def test_marks_of_rows_without_label_are_no_class():
    X, y = some_rows(60)
    y[:30] = -1
    splits = [(np.arange(30, 60), np.arange(30, 50))]
    estimator = embedder(unlabeled_label=-1)
    search = BatchedGridSearchCV(estimator, {"beta": [0.0, 1.0]}, cv=splits)
    search.set_params(scoring=neighbors).fit(X, y)  # without a warning
    assert reasons(search) == [""]


# Ctrl-C and callbacks ---------------------------------------------------------------


@pytest.mark.parametrize("parameters", [{}, {"device_batch_size": 64}])
def test_ctrl_c_leaves_the_search(iris, parameters):
    steps = []

    class Interrupt(nn.Linear):
        def forward(self, rows):
            steps.append(len(rows))
            if len(steps) > 10:  # after the first epoch
                raise KeyboardInterrupt
            return super().forward(rows)

    estimator = pipeline(
        encoder=Interrupt(4, 3),
        n_components=None,
        batch_size=16,
        max_epochs=9,
        **parameters,
    )
    search = BatchedGridSearchCV(estimator, BETAS, cv=2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(*iris)
    assert not hasattr(search, "cv_results_")


class Recorder:
    """scikit-learn callback that notes tasks."""

    def __init__(self):
        self.events = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context):
        self.events.append(("end", context.task_name, context.task_id))


def test_tasks_of_a_search(iris):
    events = []
    for kind in (BatchedGridSearchCV, GridSearchCV):
        recorder = Recorder()
        kind(pipeline(), BETAS, cv=3).set_callbacks(recorder).fit(*iris)
        events.append(recorder.events)
    assert sorted(map(str, events[0])) == sorted(map(str, events[1]))
    ends = ("setup", ("begin", "fit", 0)), (("end", "fit", 0), "teardown")
    for found in events:
        assert (tuple(found[:2]), tuple(found[-2:])) == ends


def test_scoring_monitor_in_a_search(iris):
    monitor = ScoringMonitor(scoring={"accuracy": neighbors})
    estimator = Pipeline([("embed", embedder().set_callbacks(monitor)), CLASSIFIED])
    search = BatchedGridSearchCV(estimator, BETAS, cv=2, refit=False).fit(*iris)
    rows = monitor.get_logs().data
    assert sum(row["task_name"] == "epoch" for row in rows) == 2 * 2 * 2
    assert reasons(search) == ["its callbacks are made for a single fit"]


def test_teardown_after_a_failed_search(iris):
    recorder = Recorder()
    search = BatchedGridSearchCV(pipeline(), {"embed__nothing": [1]}, cv=2)
    with pytest.raises(ValueError, match="Invalid parameter 'nothing'"):
        search.set_callbacks(recorder).fit(*iris)
    assert recorder.events[-1] == "teardown"
