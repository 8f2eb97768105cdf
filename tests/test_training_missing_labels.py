"""Missing labels are predicted before training."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import load_digits, make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from skorch.callbacks import Callback
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.training import floor, missing_labels
from sklearn_hscl.training.missing_labels import complete_labels, principal_components


def few_labels(y, labelled):
    """Return class codes of which only some are known."""
    codes = np.full(len(y), -1)
    codes[labelled] = y[labelled]
    return torch.as_tensor(codes)


def completed(X, codes):
    """Return the class codes of all rows of a table."""
    rows = torch.as_tensor(X).float()
    return complete_labels(codes, principal_components(rows, codes, None)).numpy()


def test_missing_labels_follow_neighbors():
    X, y = make_moons(400, noise=0.05, random_state=0)
    few = few_labels(y, np.arange(0, 400, 20))
    before = few.clone()
    codes = completed(X, few)
    assert_array_equal(few, before)
    known = before.numpy() >= 0
    assert_array_equal(codes[known], before[known])
    linear = LogisticRegression().fit(X[known], y[known])
    assert (codes == y).mean() > linear.score(X, y) + 0.08


def test_missing_labels_follow_a_linear_model_where_neighbors_mislead():
    X = np.random.default_rng(0).normal(size=(600, 40))
    y = (X[:, :3].sum(1) > 0).astype(int)
    codes = completed(X, few_labels(y, np.arange(100)))
    neighbors = KNeighborsClassifier(10).fit(X[:100], y[:100])
    assert (codes == y)[100:].mean() > neighbors.score(X[100:], y[100:]) + 0.1


def test_equal_rows_get_the_larger_class():
    few = few_labels(np.array([0, 1, 1] + 17 * [0]), [0, 1, 2])
    assert_array_equal(completed(np.ones((20, 3)), few), [0] + 19 * [1])


def test_rows_that_no_label_reaches_get_a_class():
    X = np.repeat([[0.0, 0.0], [1.0, 0.0], [50.0, 0.0]], 30, axis=0)
    X += np.random.default_rng(0).normal(scale=0.01, size=X.shape)
    y = np.repeat([0, 2, 2], 30)
    assert_array_equal(completed(X, few_labels(y, [0, 1, 30, 31])), y)


class LabelsSeen(Callback):
    """Keeps the labels that the net is trained on."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.y = y


MODULE = nn.Sequential(nn.Flatten(), nn.Linear(20, 4))
COMPLETED = {  # parameters, shape of a row, one label in so many rows
    "table": ({}, (20,), 6, True),
    "width": ({"n_components": 4}, (20,), 6, True),
    "mlp": ({"encoder": "mlp"}, (20,), 6, True),
    "many labels": ({}, (20,), 3, False),
    "cross_fit": ({"cross_fit": 2}, (20,), 6, False),
    "images": ({}, (1, 4, 5), 6, True),
    "images, many labels": ({"encoder": "mlp"}, (1, 4, 5), 3, True),
    "images, module": ({"encoder": MODULE}, (1, 4, 5), 6, False),
    "module": ({"encoder": nn.Linear(20, 4)}, (20,), 6, False),
}


@pytest.mark.parametrize(
    ("params", "shape", "every", "expected"), COMPLETED.values(), ids=COMPLETED
)
def test_training_learns_from_completed_labels(params, shape, every, expected):
    X = np.random.default_rng(0).normal(size=(120, *shape)).astype(np.float32)
    few = np.where(np.arange(120) % every, -1, np.arange(120) // every % 4)
    params = {"max_epochs": 1, "random_state": 0, "unlabeled_label": -1} | params
    embedder = HSCLEmbedder(net_callbacks=[LabelsSeen()], **params).fit(X, few)
    seen = next(c for _, c in embedder.net_.callbacks_ if isinstance(c, LabelsSeen)).y
    assert bool((seen >= 0).all()) == expected
    assert_array_equal(seen[few >= 0], few[few >= 0])


@pytest.mark.parametrize("shape", [(20,), (1, 4, 5)], ids=["table", "images"])
def test_complete_labels_are_kept(shape, monkeypatch):
    X = np.random.default_rng(0).normal(size=(60, *shape)).astype(np.float32)
    monkeypatch.delattr(missing_labels, "_predict")
    embedder = HSCLEmbedder(max_epochs=1, unlabeled_label=-1, random_state=0)
    assert np.isfinite(embedder.fit(X, np.arange(60) % 2).transform(X)).all()


class Epochs(Callback):
    """Counts epochs in a list that copies share."""

    def __init__(self, counts):
        self.counts = counts

    def __deepcopy__(self, memo):
        return Epochs(self.counts)

    def on_epoch_end(self, net, **kwargs):
        self.counts.append(1)


def test_a_first_fit_to_images_is_hidden(capsys):
    X, y = load_digits(return_X_y=True)
    few = np.where(np.arange(200) % 5, -1, y[:200])
    counts = []
    params = {"net_callbacks": [Epochs(counts)], "unlabeled_label": -1, "verbose": 1}
    embedder = HSCLEmbedder(max_epochs=2, random_state=0, **params)
    embedder.fit(X[:200].reshape(-1, 1, 8, 8), few)
    assert len(counts) == len(embedder.history_) == 2
    assert capsys.readouterr().out.count("\n") <= 5  # a header and two epochs


def test_images_learn_from_rows_without_label():
    X, y = load_digits(return_X_y=True)
    X, few = X.reshape(-1, 1, 8, 8).astype(np.float32), np.full(len(y), -1)
    few[:60] = y[:60]
    params = {"unlabeled_label": -1, "max_epochs": 15, "random_state": 0}
    scores = []
    for train, labels in ((X, few), (X[:60], few[:60])):
        embedder = HSCLEmbedder(**params).fit(train, labels)
        Z = embedder.transform(X)
        scores.append(KNeighborsClassifier(5).fit(Z[:60], y[:60]).score(Z[60:], y[60:]))
    assert scores[0] > scores[1] - 0.01


def test_readouts_learn_from_the_labels_that_were_passed(monkeypatch):
    X, y = make_moons(400, noise=0.05, random_state=0)
    few = np.where(np.arange(400) % 10, -1, y)
    seen = []
    of = floor.HeldOutReadout.of

    def remembered(train, held_out):
        seen.append(train)
        return of(train, held_out)

    monkeypatch.setattr(floor.HeldOutReadout, "of", remembered)
    params = {"unlabeled_label": -1, "early_stopping": True, "max_epochs": 1}
    params |= {"net_callbacks": [LabelsSeen()], "validation_fraction": 0.5}
    embedder = HSCLEmbedder(random_state=0, **params).fit(X, few)
    trained = next(c for _, c in embedder.net_.callbacks_ if isinstance(c, LabelsSeen)).y
    assert (trained >= 0).all()
    assert (seen[0].targets < 0).any()
