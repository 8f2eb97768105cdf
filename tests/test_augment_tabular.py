"""Augmentations that look at classes, in training."""

import numpy as np
import pytest
import torch
from helpers.searches import fit_both, pipeline
from helpers.stacks import compare, embedder, tabular
from helpers.streamed_losses import X, Y, assert_same_fit, fit
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.utils.data import TensorDataset

from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.augment import Augmentation, ClassAugmentation, ClassCorruption
from sklearn_hscl.training.batches.views import codes_within_folds

VIEWS = {"augment": ClassCorruption(p=0.3), "n_views": 2}
PARTIAL = np.where(np.arange(len(Y)) % 4 == 0, -1, Y)


class Recorder(ClassAugmentation):
    """Remembers what it is given."""

    def __init__(self, seen):
        self.seen = seen

    def fitted(self, rows, codes=None):
        self.seen.append((rows[:], codes))
        return self

    def __call__(self, rows, generator, codes=None):
        self.seen.append((rows, codes))
        return rows + 0.1 * torch.randn(rows.shape, generator=generator)


def pairs_of(seen):
    """Distinct pairs of a row's number and its code, over all that was given."""
    numbers = torch.cat([rows[:, 0] for rows, _ in seen]).mul(1e4).round()
    codes = torch.cat([codes for _, codes in seen])
    return torch.stack([numbers, codes], 1).unique(dim=0)


@pytest.mark.parametrize("y", [Y, PARTIAL])
@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_rows_come_with_their_own_codes(y, kind):
    seen = []
    options = {"encoder": "mlp", "batch_size": 16, "max_epochs": 2, "n_views": 2}
    HSCLEmbedder(augment=Recorder(seen), unlabeled_label=-1, random_state=0, **options).fit(
        kind(X), y
    )
    pairs = pairs_of(seen)
    order = np.argsort(X[:, 0])
    assert_array_equal(pairs[:, 1], y[order])  # one code for each row, and the right one
    assert sum(len(rows) for rows, _ in seen) == len(X) * (1 + 2 * 2)


def test_values_come_from_rows_that_the_same_members_see():
    codes, folds = torch.tensor([0, 0, 1, 1, -1, -1]), torch.tensor([0, 1, 0, 1, 0, 1])
    assert codes_within_folds(codes, folds, 2).tolist() == [0, 1, 2, 3, -1, -1]
    assert codes_within_folds(codes, None, 1) is codes
    seen = []
    base = tabular(augment=Recorder(seen), n_views=2, max_epochs=1, n_members=3)
    base.fit(X, Y)
    pairs = pairs_of(seen)
    assert len(pairs) == len(X)  # the same code in all batches
    assert_array_equal(pairs[:, 1] // 3, Y[np.argsort(X[:, 0])])
    assert_array_equal(pairs[:, 1].unique(), np.arange(3 * 3))


@pytest.mark.parametrize("encoder", ["mlp", "tabular"])
def test_fits_are_reproducible_and_know_the_classes(encoder):
    options = {"encoder": encoder, "max_epochs": 2, "random_state": 0, **VIEWS}
    state = torch.get_rng_state()
    first = HSCLEmbedder(**options).fit(X, Y)
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        first.transform(X).tolist() == HSCLEmbedder(**options).fit_transform(X, Y).tolist()
    )
    assert vars(VIEWS["augment"]) == {"p": 0.3}
    without = HSCLEmbedder(**options | {"augment": ClassCorruption(p=0.0)}).fit(X, Y)
    assert without.loss_curve_ != first.loss_curve_
    loss = diagnose(first, X, Y).to_dict()["findings"]["loss"]["values"]["loss"]
    assert np.isfinite(loss)


@pytest.mark.parametrize("make", [embedder, tabular])
def test_stacks_are_as_single_fits(iris, make):
    candidates = [{"beta": 0.0}, {"beta": 3.0, "lr": 1e-2}]
    compare(make(**VIEWS), candidates, *iris)


def test_searches_over_p(iris):
    grid = {"embed__augment__p": [0.0, 0.4], "embed__beta": [0.0, 3.0]}
    search = fit_both(pipeline(**VIEWS), grid, *iris)
    assert isinstance(search.best_estimator_["embed"].augment, ClassCorruption)
    GridSearchCV(pipeline(**VIEWS), {"embed__augment__p": [0.1]}, cv=2).fit(*iris)


def test_training_on(iris):
    rows, labels = iris
    warm = embedder(**VIEWS, warm_start=True, max_epochs=2).fit(rows, labels)
    assert warm.fit(rows, labels).n_iter_ == 4
    part = embedder(**VIEWS, max_epochs=1)
    part.partial_fit(rows, labels).partial_fit(rows[labels != 1], labels[labels != 1])
    assert np.isfinite(part.transform(rows)).all()


def test_memory_maps_have_the_bits_of_arrays(tmp_path):
    rows = np.memmap(tmp_path / "rows", X.dtype, "w+", shape=X.shape)
    rows[:] = X
    for encoder in ("mlp", "tabular", lambda: nn.LazyLinear(3)):
        assert_same_fit(rows, X, encoder=encoder, **VIEWS)


def test_datasets_of_tables_are_read_but_not_value_by_value():
    dataset = TensorDataset(torch.from_numpy(X))
    assert_same_fit(dataset, X, **VIEWS)
    with pytest.raises(ValueError, match="ClassCorruption replace values .* as a dataset"):
        fit(dataset, encoder=lambda: nn.LazyLinear(3), **VIEWS)


def test_sparse_rows():
    fitted = HSCLEmbedder(encoder="mlp", max_epochs=1, **VIEWS).fit(csr_array(X), Y)
    assert np.isfinite(fitted.transform(csr_array(X))).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "ucl"}, r"ClassCorruption.p=0.3. needs .* loss='ucl' ignores labels"),
        ({"loss": "hucl", "y": None}, "loss='hucl' ignores labels"),
        ({"y": np.eye(3)[Y].astype(int)}, "targets are multilabel"),
        ({"y": X[:, 0]}, "targets are continuous"),
        ({"X": np.ones((60, 8, 8))}, "ClassCorruption needs a table.*Use RandomShift"),
        ({"augment": ClassCorruption(p=1.5)}, "ClassCorruption: p must be in .0, 1., got"),
        ({"augment": ClassCorruption}, "an instance, not a class"),
    ],
)
def test_clear_errors(given, message):
    given = {"X": X, "y": Y} | given
    rows, y = given.pop("X"), given.pop("y")
    with pytest.raises(ValueError, match=message):
        HSCLEmbedder(max_epochs=1, **VIEWS | given).fit(rows, y)


class Old(Augmentation):
    """Of a user who knows nothing of classes."""

    def fitted(self, rows):
        self.n_rows_ = len(rows)
        return self

    def __call__(self, rows, generator):
        return rows + 0.1 * torch.randn(rows.shape, generator=generator)


@pytest.mark.parametrize("encoder", ["mlp", "tabular"])
def test_other_augmentations_get_rows_alone(encoder):
    old = Old()
    HSCLEmbedder(encoder=encoder, augment=old, n_views=2, max_epochs=1).fit(X, Y)
    assert old.n_rows_ == len(X)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.uint64])
def test_codes_of_any_type(dtype):
    rows = torch.arange(24.0).view(12, 2)
    codes = torch.tensor([0, 0, 0, 1, 1, 1] * 2)

    def views(codes, of_batch):
        corrupt = ClassCorruption(p=1.0).fitted(rows, codes)
        return corrupt(rows, torch.Generator().manual_seed(0), of_batch)

    new = codes + 1  # a class that the training rows lack
    assert views(codes.to(dtype), new.to(dtype)).equal(views(codes, new))
