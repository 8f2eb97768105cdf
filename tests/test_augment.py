"""Each augmentation against its definition."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sklearn_hscl import HSCLEmbedder, augment
from sklearn_hscl.augment import (
    Augmentation,
    ClassCorruption,
    FeatureCorruption,
    FunctionAugmentation,
    ImageTransforms,
    RandomShift,
)
from sklearn_hscl.persistence.json_codec import _AUGMENTATIONS, JsonDecoder, JsonEncoder
from sklearn_hscl.training.batches.views import Views


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_corruption_replaces_a_fraction_p_by_draws_from_the_marginal():
    n_rows = 4000
    rows = torch.stack([torch.full((n_rows,), -1.0), torch.arange(n_rows) % 5 + 10.0], 1)
    train = torch.stack([torch.arange(100.0) % 3, torch.arange(100.0) % 2 + 100], 1)
    views = FeatureCorruption(p=0.3).fitted(train)(rows, generator())
    replaced = views != rows
    # 4000 coin flips: the standard error of a fraction is 0.007.
    np.testing.assert_allclose(replaced.double().mean(0), 0.3, atol=0.03)
    both = replaced.all(1).double().mean().item()
    assert both == pytest.approx(0.09, abs=0.02)  # features fall independently
    for column in range(2):
        drawn = views[replaced[:, column], column]
        values, counts = drawn.unique(return_counts=True)
        assert torch.equal(values, train[:, column].unique())
        expected = np.bincount((train[:, column] - train[:, column].min()).int()) / 100
        np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.05)


@pytest.mark.parametrize(("p", "equal"), [(0.0, True), (1.0, False)])
def test_corruption_at_its_ends(p, equal):
    rows, train = torch.zeros(5, 3), torch.ones(4, 3)
    views = FeatureCorruption(p).fitted(train)(rows, generator())
    assert torch.equal(views, rows if equal else torch.ones(5, 3))


def test_corruption_stores_no_rows_in_the_parameter_object():
    corruption = FeatureCorruption()
    corruption.fitted(torch.ones(4, 3))
    assert vars(corruption) == {"p": 0.2}


CLASSES = torch.arange(120) % 4 - 1  # of training rows; -1 if unlabelled
# Column 0 holds the class in its tens, column 1 the index of the row.
BY_CLASS = torch.stack([10.0 * CLASSES + torch.arange(120) % 3, torch.arange(120.0)], 1)


def test_class_corruption_replaces_a_fraction_p_by_values_of_the_class():
    codes = torch.arange(6000) % 3
    rows = torch.full((6000, 2), -99.0)
    views = ClassCorruption(p=0.3).fitted(BY_CLASS, CLASSES)(rows, generator(), codes)
    replaced = views != rows
    np.testing.assert_allclose(replaced.double().mean(0), 0.3, atol=0.03)
    assert replaced.all(1).double().mean().item() == pytest.approx(0.09, abs=0.02)
    for code in range(3):
        train = BY_CLASS[code == CLASSES]
        for column in range(2):
            drawn = views[replaced[:, column] & (codes == code), column]
            values, counts = drawn.unique(return_counts=True)
            expected, sizes = train[:, column].unique(return_counts=True)
            assert torch.equal(values, expected)
            np.testing.assert_allclose(
                counts / counts.sum(), sizes / sizes.sum(), atol=0.06
            )


def test_class_corruption_draws_features_independently():
    codes = torch.zeros(2000, dtype=torch.long)
    rows = BY_CLASS[:1].expand(2000, 2)
    views = ClassCorruption(p=1.0).fitted(BY_CLASS, CLASSES)(rows, generator(), codes)
    alike = views[:, 0] == views[:, 1] % 3  # as in any training row
    assert alike.double().mean().item() == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("code", [-1, 3, 1])
def test_rows_without_label_or_donors_draw_from_all_rows(code):
    train = torch.where(CLASSES == 1, -1, CLASSES)  # no row of class 1
    corrupt = ClassCorruption(p=1.0).fitted(BY_CLASS, train)
    views = corrupt(torch.zeros(4000, 2), generator(), torch.full((4000,), code))
    assert torch.equal(views[:, 1].unique(), BY_CLASS[:, 1])
    no_codes = ClassCorruption(p=1.0).fitted(BY_CLASS)(torch.zeros(4000, 2), generator())
    assert torch.equal(no_codes[:, 1].unique(), BY_CLASS[:, 1])


def test_rows_of_classes_of_size_one_are_unchanged():
    codes = torch.tensor([0, 1, 1, -1])
    rows = torch.arange(8.0).reshape(4, 2)
    views = ClassCorruption(p=1.0).fitted(rows, codes)(rows, generator(), codes)
    assert torch.equal(views[0], rows[0])
    assert torch.isin(views[1:3], rows[1:3]).all()


def test_class_corruption_holds_no_data_and_draws_from_its_generator_alone():
    corruption = ClassCorruption(p=0.5)
    fitted = clone(corruption).fitted(BY_CLASS, CLASSES)
    assert vars(corruption) == {"p": 0.5}
    before = torch.get_rng_state()
    first = fitted(BY_CLASS, generator(1), CLASSES)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert torch.equal(fitted(BY_CLASS, generator(1), CLASSES), first)
    assert not torch.equal(fitted(BY_CLASS, generator(2), CLASSES), first)


def test_shift_moves_whole_images_by_up_to_a_margin():
    images = torch.zeros(500, 2, 8, 16)
    images[:, 0, 4, 8] = 1
    images[:, 1, 4, 8] = 2
    views = RandomShift(0.125).fitted(images)(images, generator())
    assert torch.equal(views[:, 1], 2 * views[:, 0])  # channels move together
    _, row, column = views[:, 0].nonzero().T
    assert len(row) == 500
    assert row.unique().tolist() == [3, 4, 5]
    assert column.unique().tolist() == [6, 7, 8, 9, 10]


def test_shift_fills_with_zeros_and_can_be_off():
    images = torch.ones(50, 1, 8, 8)
    views = RandomShift()(images, generator())
    assert views.flatten(1).min(1).values.eq(0).any()
    assert torch.equal(RandomShift(0.0)(images, generator()), images)


@pytest.mark.parametrize("augment", [Augmentation(), FeatureCorruption(), RandomShift()])
def test_augmentations_are_reproducible_parameter_objects(augment):
    rows = torch.rand(20, 4) if isinstance(augment, FeatureCorruption) else None
    rows = torch.rand(20, 1, 8, 8) if rows is None else rows
    fitted = clone(augment).fitted(rows)
    first, second = fitted(rows, generator(1)), fitted(rows, generator(1))
    assert torch.equal(first, second)
    assert first.shape == rows.shape


def test_functions_may_write_on_their_rows():
    def noisy(rows, generator):
        return rows.add_(torch.rand(rows.shape, generator=generator))

    rows = torch.rand(6, 4)
    before = rows.clone()
    views = Views(FunctionAugmentation(noisy), 2, generator())(rows, None)
    assert torch.equal(rows, before)
    assert not torch.equal(views[:6], views[6:])


# Parameters ---------------------------------------------------------------------------

CHANGES = [
    (Augmentation(), {}),
    (FeatureCorruption(0.3), {"p": 0.6}),
    (ClassCorruption(p=0.3), {"p": 0.6}),
    (RandomShift(0.25), {"fraction": 0.5}),
    (ImageTransforms(flip=0.0), {"flip": 0.3, "crop": None}),
    (FunctionAugmentation(torch.add), {"function": torch.sub}),
]


@pytest.mark.parametrize(("augmentation", "changes"), CHANGES)
def test_parameters_are_read_set_cloned_and_copied(augmentation, changes):
    before = augmentation.get_params()
    assert vars(augmentation) == before
    for made in (clone(augmentation), copy.deepcopy(augmentation)):
        assert type(made) is type(augmentation)
        assert made.get_params() == before and repr(made) == repr(augmentation)
        assert made.set_params(**changes) is made
        assert made.get_params() == before | changes
        assert augmentation.get_params() == before
    with pytest.raises(ValueError, match="Invalid parameter 'nope'"):
        clone(augmentation).set_params(nope=1)


@pytest.mark.parametrize(("augmentation", "changes"), CHANGES[:-1])
def test_parameters_are_pickled_and_stored(augmentation, changes):
    augmentation = clone(augmentation).set_params(**changes)
    stored = JsonEncoder()(augmentation)
    for made in (pickle.loads(pickle.dumps(augmentation)), JsonDecoder([])(stored)):
        assert type(made) is type(augmentation)
        assert made.get_params() == augmentation.get_params()


def test_all_exported_augmentations_with_plain_parameters_are_stored():
    others = {"ClassAugmentation", "FunctionAugmentation", "Graphs"}  # base, function, data
    assert {kind.__name__ for kind in _AUGMENTATIONS} == set(augment.__all__) - others


@pytest.mark.parametrize(("augmentation", "changes"), CHANGES)
def test_the_embedder_has_the_parameters_of_an_augmentation_object(augmentation, changes):
    embedder = HSCLEmbedder(augment=clone(augmentation))
    nested = {f"augment__{name}": value for name, value in changes.items()}
    assert embedder.get_params().keys() >= nested.keys()
    copied = clone(embedder).set_params(**nested)
    assert copied.augment.get_params() == augmentation.get_params() | changes
    assert embedder.augment.get_params() == augmentation.get_params()


@pytest.mark.parametrize("augmentation", [FeatureCorruption(), ClassCorruption()])
def test_a_grid_search_reaches_the_parameters_of_an_augmentation(augmentation):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4)), np.arange(40) % 2
    embedder = HSCLEmbedder(
        encoder="mlp", augment=augmentation, n_views=2, max_epochs=2, random_state=0
    )
    search = GridSearchCV(
        embedder,
        {"augment__p": [0.0, 0.5]},
        scoring=lambda fitted, X, y: fitted.loss_curve_[-1] * (fitted.augment.p == 0.5),
        cv=2,
    ).fit(X, y)
    assert search.best_params_ == {"augment__p": 0.5}
    assert search.best_estimator_.augment.p == 0.5
    assert augmentation.p == 0.2  # the object that was passed is unchanged
    alone = clone(embedder).set_params(augment__p=0.5).fit(X, y)
    assert alone.loss_curve_ == search.best_estimator_.loss_curve_
    other = clone(embedder).set_params(augment__p=0.0).fit(X, y)
    assert other.loss_curve_ != alone.loss_curve_
