"""Each augmentation against its definition."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklearn_hscl.augment import (
    Augmentation,
    FeatureCorruption,
    FunctionAugmentation,
    RandomShift,
)
from sklearn_hscl.training.views import Views


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_corruption_replaces_a_share_p_by_draws_from_the_marginal():
    n_rows = 4000
    rows = torch.stack([torch.full((n_rows,), -1.0), torch.arange(n_rows) % 5 + 10.0], 1)
    train = torch.stack([torch.arange(100.0) % 3, torch.arange(100.0) % 2 + 100], 1)
    views = FeatureCorruption(p=0.3).fitted(train)(rows, generator())
    replaced = views != rows
    # 4000 coin flips: the standard error of a share is 0.007.
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


def test_corruption_does_not_keep_rows_in_the_parameter_object():
    corruption = FeatureCorruption()
    corruption.fitted(torch.ones(4, 3))
    assert vars(corruption) == {"p": 0.2}


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
    views = Views(FunctionAugmentation(noisy), 2, generator())(rows)
    assert torch.equal(rows, before)
    assert not torch.equal(views[:6], views[6:])
