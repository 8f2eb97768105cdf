"""scikit-learn's callbacks and skorch's, bare, in a Pipeline and in a grid search."""

import numpy as np
import pytest
import torch
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    LRScheduler,
    TensorBoard,
    TrainEndCheckpoint,
)

from sklearn_hscl import HSCLEmbedder


def nearest_neighbor_accuracy(embedder, X, y):
    embedding = embedder.transform(X)
    return KNeighborsClassifier().fit(embedding, y).score(embedding, y)


SCORING = {"accuracy": nearest_neighbor_accuracy}


class Recorder:
    """scikit-learn callback that notes what it sees, and stops where told to."""

    def __init__(self, stop_at=None):
        self.stop_at = stop_at
        self.events = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        embedding = fitted_estimator.transform(X)
        self.events.append(("end", context.task_name, context.task_id, embedding))
        return context.task_name == "epoch" and context.task_id == self.stop_at


def embedder(**parameters):
    settings = {"max_epochs": 3, "random_state": 0, "encoder": "mlp"}
    return HSCLEmbedder(**(settings | parameters))


def test_tasks_of_a_fit(iris):
    X, y = iris
    recorder = Recorder()
    fitted = embedder().set_callbacks(recorder).fit(X, y)
    kinds = [event if isinstance(event, str) else event[:2] for event in recorder.events]
    epoch = [("begin", "epoch"), ("end", "epoch")]
    assert kinds == ["setup", ("begin", "fit"), *epoch * 3, ("end", "fit"), "teardown"]
    embeddings = [event[3] for event in recorder.events if event[0] == "end"]
    assert not np.array_equal(embeddings[0], embeddings[1])  # snapshots, not views
    np.testing.assert_array_equal(embeddings[2], embeddings[3])
    np.testing.assert_array_equal(embeddings[3], fitted.transform(X))


def test_callbacks_do_not_change_the_result(iris):
    X, y = iris
    watched = embedder().set_callbacks(Recorder()).fit(X, y)
    np.testing.assert_array_equal(watched.transform(X), embedder().fit(X, y).transform(X))


def test_any_callback_can_stop_training(iris):
    fitted = embedder().set_callbacks(Recorder(), Recorder(stop_at=1)).fit(*iris)
    assert fitted.n_iter_ == 2
    assert fitted.transform(iris[0]).shape == (150, 64)


def test_teardown_after_a_failed_fit(iris):
    recorder = Recorder()
    broken = embedder(temperature=0.5, encoder=torch.nn.Linear(3, 2))
    with pytest.raises(ValueError, match="encoder=Linear failed"):
        broken.set_callbacks(recorder).fit(*iris)
    assert recorder.events[-1] == "teardown"


def pipeline(**parameters):
    return make_pipeline(embedder(**parameters), LogisticRegression())


def search(n_jobs):
    grid = {"hsclembedder__beta": [0.0, 1.0]}
    return GridSearchCV(pipeline(), grid, cv=3, n_jobs=n_jobs)


@pytest.mark.parametrize(
    "estimator",
    [embedder(), pipeline(), search(1), search(2)],
    ids=["bare", "pipeline", "search", "search in two processes"],
)
def test_progress_bar(iris, estimator, capsys):
    estimator.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(*iris)
    shown = capsys.readouterr().out
    assert "HSCLEmbedder - fit" in shown
    assert "100%" in shown


def test_scoring_monitor_bare(iris):
    monitor = ScoringMonitor(scoring=SCORING)
    fitted = embedder().set_callbacks(monitor).fit(*iris)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(epochs) == 3
    assert epochs[-1]["accuracy"] == nearest_neighbor_accuracy(fitted, *iris)


def test_scoring_monitor_in_a_pipeline_and_a_search(iris):
    monitor = ScoringMonitor(scoring=SCORING)
    pipe = make_pipeline(embedder().set_callbacks(monitor), LogisticRegression())
    pipe.fit(*iris)
    assert sum(r["task_name"] == "epoch" for r in monitor.get_logs().data) == 3
    grid = {"hsclembedder__beta": [0.0, 1.0]}
    GridSearchCV(pipe, grid, cv=2, n_jobs=2, refit=False).fit(*iris)
    rows = monitor.get_logs().data
    assert sum(r["task_name"] == "epoch" for r in rows) == 3 * 2 * 2


# skorch -----------------------------------------------------------------------------


def test_skorch_callbacks_see_history_and_can_stop(iris):
    early = EarlyStopping(monitor="train_loss", patience=2, threshold=10, sink=print)
    fitted = embedder(max_epochs=9, net_callbacks=[("early", early)]).fit(*iris)
    assert fitted.n_iter_ == 3  # one improvement from infinity, two without
    assert "early" in dict(fitted.net_.callbacks_)
    assert early.misses_ == 0  # fit works on a copy of its parameters


def test_skorch_callbacks_see_the_held_out_score(iris, capsys):
    early = EarlyStopping("valid_score", lower_is_better=False, patience=2, threshold=9)
    fitted = embedder(
        max_epochs=9, early_stopping=True, net_callbacks=[early], verbose=1
    ).fit(*iris)
    assert fitted.n_iter_ == 3
    assert "valid_score" in capsys.readouterr().out


@pytest.mark.parametrize("early_stopping", [True, False])
def test_the_report_comes_after_users_callbacks(iris, early_stopping):
    order = []

    class Noted(Callback):
        def on_epoch_end(self, net, **kwargs):
            order.append("skorch")

        def __deepcopy__(self, memo):
            return self

    class Reported(Recorder):
        def on_fit_task_end(self, estimator, context):
            order.append("scikit-learn")

    estimator = embedder(
        max_epochs=1, early_stopping=early_stopping, net_callbacks=[Noted()]
    )
    estimator.set_callbacks(Reported()).fit(*iris)
    assert order[:2] == ["skorch", "scikit-learn"]


def test_learning_rate_scheduler(iris):
    scheduler = LRScheduler("StepLR", step_size=1, gamma=0.1)
    fitted = embedder(net_callbacks=[scheduler], lr=0.1).fit(*iris)
    rates = [row["event_lr"] for row in fitted.history_]
    np.testing.assert_allclose(rates, [0.1, 0.01, 0.001])


def test_scoring_callback_and_user_callback(iris):
    class Noted(Callback):
        def on_grad_computed(self, net, named_parameters, **kwargs):
            norm = sum(p.grad.norm().item() for _, p in named_parameters)
            net.history.record("gradient", norm)

    norm = EpochScoring(
        lambda net, X, y: net.module_(X[:1])[0].norm().item(), name="norm", on_train=True
    )
    fitted = embedder(net_callbacks=[Noted, norm]).fit(*iris)
    assert all(row["gradient"] > 0 and row["norm"] > 0 for row in fitted.history_)


def test_net_params_reach_optimizer_and_callbacks(iris):
    net_params = {
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.9,
        "callbacks__rate__step_size": 1,
    }
    rate = ("rate", LRScheduler("StepLR", step_size=100))
    fitted = embedder(net_params=net_params, net_callbacks=[rate]).fit(*iris)
    assert isinstance(fitted.net_.optimizer_, torch.optim.SGD)
    assert fitted.net_.optimizer_.defaults["momentum"] == 0.9
    assert fitted.history_[1]["event_lr"] < fitted.history_[0]["event_lr"]


def test_verbose_prints_every_epoch_also_the_last(iris, capsys):
    embedder(verbose=1).set_callbacks(Recorder(stop_at=1)).fit(*iris)
    lines = capsys.readouterr().out.splitlines()
    assert "train_loss" in lines[0]
    assert [line.split()[0] for line in lines[2:4]] == ["1", "2"]
    embedder().fit(*iris)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("where", ["module", "callback"])
def test_ctrl_c_leaves_fit(iris, where):
    class Interrupt(torch.nn.Linear):
        def forward(self, rows):
            if self.training:
                raise KeyboardInterrupt
            return super().forward(rows)

    class InterruptedRecorder(Recorder):
        def on_fit_task_end(self, estimator, context):
            raise KeyboardInterrupt

    estimator = embedder(encoder=Interrupt(4, 2) if where == "module" else "auto")
    if where == "callback":
        estimator.set_callbacks(InterruptedRecorder())
    with pytest.raises(KeyboardInterrupt):
        make_pipeline(estimator, LogisticRegression()).fit(*iris)
    assert not hasattr(estimator, "module_")


def test_net_trains_on_as_a_skorch_net(iris):
    X, y = iris
    fitted = embedder().fit(X, y)
    net = fitted.net_
    rows, labels = fitted._prepare(X), torch.from_numpy(y)
    net.partial_fit(rows, labels)
    assert len(net.history) == 6
    net.fit(rows, labels)
    assert len(net.history) == 3


class Writer:
    """Stands for tensorboard's SummaryWriter, whose package is not needed here."""

    def __init__(self):
        self.tags = []

    def add_scalar(self, tag, scalar_value, global_step):
        self.tags.append(tag)

    def close(self):
        pass


def test_callbacks_of_skorch_work_unchanged(iris, tmp_path):
    callbacks = [
        ("best", Checkpoint(monitor="train_loss_best", dirname=tmp_path)),
        ("last", TrainEndCheckpoint(dirname=tmp_path)),
        ("board", TensorBoard(Writer())),
        ("clip", GradientNormClipping(0.1)),
        ("freeze", Freezer("encoder.layers.0.*")),
        ("stop", EarlyStopping(monitor="train_loss", patience=2)),
    ]
    fitted = embedder(net_callbacks=callbacks).fit(*iris)
    net = fitted.net_
    saved = {path.name for path in tmp_path.iterdir()}
    assert {"params.pt", "optimizer.pt", "train_end_params.pt", "history.json"} <= saved
    assert "Loss/train_loss" in dict(net.callbacks_)["board"].writer.tags
    assert not net.module_.encoder.layers[0].weight.requires_grad
    trained = net.module_.encoder.layers[2].weight.clone()
    with torch.no_grad():
        net.module_.encoder.layers[2].weight.zero_()
    net.load_params(f_params=tmp_path / "train_end_params.pt")
    assert torch.equal(net.module_.encoder.layers[2].weight, trained)
    net.partial_fit(torch.tensor(iris[0]).float(), torch.tensor(iris[1]))
    assert len(net.history) == 6
    assert not torch.equal(net.module_.encoder.layers[2].weight, trained)


def test_checkpoint_of_the_best_held_out_score(iris, tmp_path):
    best = Checkpoint(monitor="valid_score_best", dirname=tmp_path)
    fitted = embedder(early_stopping=True, net_callbacks=[best]).fit(*iris)
    weights = {name: value.clone() for name, value in fitted.module_.state_dict().items()}
    fitted.net_.load_params(checkpoint=best)
    for name, value in fitted.module_.state_dict().items():
        assert torch.equal(value, weights[name])
