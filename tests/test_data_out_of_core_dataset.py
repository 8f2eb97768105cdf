"""Torch datasets as X, read item by item."""

import numpy as np
import pytest
import torch
from helpers.streamed_losses import IMAGES, X, Y, assert_same_fit, fit
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from sklearn_hscl import HSCLEmbedder

pytestmark = pytest.mark.usefixtures("few_trees")


class Items(Dataset):
    """Items that are read one by one, and counted."""

    def __init__(self, items):
        self.items, self.n_read = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.n_read += 1
        return self.items[index]


def custom_module():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize("array", [X, X.astype(np.float32), IMAGES, IMAGES[..., 0]])
@pytest.mark.parametrize("encoder", ["auto", custom_module])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_datasets_have_the_bits_of_arrays(array, encoder, early_stopping):
    settings = {"encoder": encoder, "early_stopping": early_stopping}
    in_memory = fit(array, **settings)
    for items in (
        TensorDataset(torch.from_numpy(array), torch.from_numpy(Y)),
        TensorDataset(torch.from_numpy(array)),
        Items(list(array)),
        Subset(Items(list(array)), range(60)),
    ):
        assert_same_fit(items, array, in_memory, **settings)


def test_items_of_integers_and_tables_that_miss_values():
    counts = (10 * X).astype(np.int64)
    assert_same_fit(Items(list(counts)), counts)
    assert_same_fit(Items(list(counts)), counts, encoder=custom_module)
    missing = np.where(X > 1, np.nan, X)
    assert_same_fit(Items(list(missing)), missing)
    codes = np.column_stack([X, Y.astype(float)])
    assert_same_fit(Items(list(codes)), codes, categorical_features=[4])
    half = torch.from_numpy(X).bfloat16()
    assert_same_fit(TensorDataset(half), half.float().numpy())


def test_tables_are_read_once_and_images_by_the_batch():
    table, images = Items(list(X)), Items(list(IMAGES))
    fit(table)
    assert table.n_read < 60 + 5  # and a look at the first item
    fit(images)
    # Two epochs; the scale of the channels and a last check; some samples.
    assert 120 <= images.n_read < 120 + 2 * 60 + 20
    images.n_read = 0
    fit(IMAGES).transform(images)
    assert 60 <= images.n_read < 60 + 5


@pytest.mark.parametrize(
    "labels", [Y, np.array(["a", "bc", "d"])[Y], np.eye(3, dtype=int)[Y]]
)
def test_labels_come_from_the_items_if_the_loss_needs_them(labels):
    items = Items([(image, label) for image, label in zip(IMAGES, labels, strict=True)])
    settings = {"loss": "hscl", "early_stopping": True}
    embedder = fit(items, None, X_val=items, **settings)
    expected = fit(IMAGES, labels, X_val=IMAGES, y_val=labels, **settings)
    assert embedder.loss_curve_ == expected.loss_curve_
    assert_array_equal(embedder.transform(items), expected.transform(IMAGES))
    with pytest.warns(UserWarning, match="loss='auto' does not read.*y=None: pass y"):
        unlabeled = fit(items, None)  # "auto" learns without labels where y is None
    assert not hasattr(unlabeled, "classes_")
    assert_array_equal(unlabeled.transform(items), fit(IMAGES, None).transform(IMAGES))


def changed(index, item, array=IMAGES):
    items = list(array)
    items[index] = item
    return Items(items)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class NoLength(Dataset):
    def __getitem__(self, index):
        return X[index]


@pytest.mark.parametrize(
    ("items", "match"),
    [
        (Stream(), "X is a Stream, .* by their index: pass a torch.*Dataset"),
        (NoLength(), "X is a NoLength, .* by their index"),
        (Items([]), "X is a dataset with 0 items"),
        (Items([IMAGES[0]]), "X holds 1 row, but a minimum of 2"),
        (Items([{"image": image} for image in IMAGES]), "item 0 is a dict .* dtype object"),
        (Items([()] * 60), "0 feature"),
        (Items(list(X[:, 0])), r"row of shape \(\) and dtype float64"),
        (Items(["a"] * 60), "item 0 is a str"),
        (Items(list(np.zeros((60, 0, 4, 3)))), "images without pixels"),
        (Items(list(np.zeros((60, 2, 2, 2, 2)))), "X has 5 dimensions"),
        (
            changed(7, IMAGES[7, :5]),
            r"item 7 is uint8 \(5, 8, 3\), item 0 uint8 \(6, 8, 3\)",
        ),
        (changed(7, IMAGES[7] / 255), "different shapes or types: item 7 is float64"),
        (changed(7, IMAGES[7] * np.inf, IMAGES / 1.0), r"(nan|inf).* in item 7: repair"),
        (changed(7, X[7] * np.inf, X), r"inf\S* in item 7: repair"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_datasets_that_cannot_be_used(items, match):
    n_items = len(items) if hasattr(items, "__len__") else 60
    with pytest.raises(ValueError, match=match):
        fit(items, np.arange(n_items) % 3)


def test_datasets_that_do_not_match():
    with pytest.raises(ValueError, match="inconsistent numbers of samples: .60, 59"):
        fit(Items(list(IMAGES)), Y[:59])
    with pytest.raises(ValueError, match="requires y to be passed"):
        fit(Items(list(IMAGES)), None, loss="hscl")
    with pytest.raises(ValueError, match="Item 1 of X has no label"):
        fit(Items([(X[0], 0), X[1]]), None, loss="hscl")
    with pytest.raises(ValueError, match="labels in the items of X have different shapes"):
        fit(Items([(X[0], 0), (X[1], [1, 0])]), None, loss="hscl")
    with pytest.raises(ValueError, match="X as a dataset .* array or a memory map"):
        fit(Items(list(X)), loss="hucl", encoder=custom_module)
    with pytest.raises(ValueError, match="X_val is a dataset with 0 items"):
        fit(X_val=Items([]), early_stopping=True)
    embedder = fit()
    with pytest.raises(
        ValueError, match="X has 3 features, but HSCLEmbedder is expecting 4"
    ):
        embedder.transform(Items(list(X[:, :3])))
    with pytest.raises(ValueError, match="X holds rows of shape"):
        embedder.transform(Items(list(IMAGES)))
    with pytest.raises(ValueError, match="X holds rows of shape"):
        fit(IMAGES).transform(Items(list(X)))
    with pytest.raises(ValueError, match="inf.* in item 3"):
        embedder.transform(changed(3, X[3] * np.inf, X))
    with pytest.raises(NotFittedError):
        HSCLEmbedder().transform(Items(list(X)))


@pytest.mark.parametrize("array", [X.astype(np.float32), IMAGES])
def test_scikit_learn_splits_datasets_into_lists_of_items(array):
    model = make_pipeline(
        HSCLEmbedder(encoder="mlp", max_epochs=1, random_state=0), LogisticRegression()
    )
    expected = cross_validate(model, array, Y, cv=2)["test_score"]
    rows, labels = torch.from_numpy(array), torch.from_numpy(Y)
    for items in (TensorDataset(rows), TensorDataset(rows, labels), Items(list(rows))):
        scores = cross_validate(model, items, Y, cv=2, error_score="raise")["test_score"]
        assert_array_equal(scores, expected)


def test_lists_of_channels_are_not_items():
    planes = [tuple(image.transpose(2, 0, 1)) for image in IMAGES]
    assert_array_equal(fit(planes).transform(planes), fit(IMAGES).transform(IMAGES))
