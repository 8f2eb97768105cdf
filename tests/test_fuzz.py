"""A share of the cases of ``benchmarks/fuzz.py``: anything passed works, or is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.fuzzing import KINDS, X_BASE, Y_BASE, small_embedder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sklearn_hscl.losses import ContrastiveLoss

N_CASES = {"fit, transform": 200, "fit again": 50, "set_params": 60}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_anything_works_or_is_refused(kind):
    @settings(
        max_examples=N_CASES.get(kind, 50),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def cases(data):
        KINDS[kind](data.draw)

    cases()


# Cases that were found so, and mended -------------------------------------------------

ROWS, LABELS = X_BASE, Y_BASE
FOUND = {
    "X is a dict, which is not read": lambda e: e.fit({"a": [1] * 20}, LABELS),
    "Expected 2D array": lambda e: e.fit(list(range(20)), LABELS),
    "contains infinity": lambda e: e.fit(np.tile([[np.inf, -np.inf]], (20, 1)), LABELS),
    "y contains infinity": lambda e: e.fit(ROWS, [np.inf, -np.inf] * 10),
    "square is infinite": lambda e: e.fit(ROWS, np.linspace(-1e300, 1e300, 20)),
    "y_val cannot be used: it has shape": lambda e: e.set_params(early_stopping=True).fit(
        ROWS, LABELS, X_val=ROWS[:1], y_val=np.eye(4, dtype=int)[:1]
    ),
    "y_val cannot be used: it holds 1e\\+300": lambda e: e.set_params(
        early_stopping=True
    ).fit(ROWS, np.linspace(0, 1, 20), X_val=ROWS[:2], y_val=[1e300, 0.5]),
    "'n_views' parameter": lambda e: e.set_params(n_views=2**63).fit(ROWS, LABELS),
    "y holds labels of types that cannot be compared": lambda e: e.set_params(
        target_type="class"
    ).fit(ROWS, np.array([1, "a"] * 10, dtype=object)),
    "Column 'c' .* cannot be converted to float64": lambda e: e.fit(
        pd.DataFrame({"c": [1j, 2] * 10, "d": ["a", "b"] * 10}, dtype=object), LABELS
    ),
    "lr_schedule=.* failed": lambda e: e.set_params(lr_schedule=len).fit(ROWS, LABELS),
    "augment=.* failed": lambda e: e.set_params(augment=nn.Identity()).fit(ROWS, LABELS),
    "hardening=.* failed": lambda e: e.set_params(hardening=int).fit(ROWS, LABELS),
    "hardening=.* got <class 'int'>": lambda e: e.set_params(hardening=len).fit(
        ROWS, LABELS
    ),
    "Expected X to be a table with at least one row, got an empty list": lambda e: e.fit(
        pd.DataFrame({"a": ["x", "y"] * 10}), LABELS
    ).transform([]),
    "temperature must be from": lambda e: ContrastiveLoss("scl", temperature=len),
    "negative_mass must be": lambda e: ContrastiveLoss("scl", negative_mass=[1]),
}


@pytest.mark.parametrize("message", FOUND)
def test_refused_clearly(message):
    with pytest.raises((ValueError, TypeError), match=message):
        FOUND[message](small_embedder(encoder="mlp"))


@pytest.mark.parametrize("value", [3e38, -3e38, 1e15])
def test_huge_pixels_are_cut_off(value):
    images = np.random.default_rng(0).random((20, 4, 4), dtype=np.float32)
    embedder = small_embedder(encoder="conv").fit(images, LABELS)
    images[0, 0, 0] = value
    assert np.isfinite(embedder.transform(images)).all()


def test_a_module_that_makes_no_number_of_a_row():
    embedder = small_embedder(encoder=nn.Linear(3, 2), n_components=2).fit(ROWS, LABELS)
    rows = ROWS.copy()
    rows[7] = 3e38, -3e38, 3e38
    with torch.no_grad():
        embedder.module_.weight.fill_(10.0)
    with pytest.raises(ValueError, match="X holds row 7, whose embedding"):
        embedder.transform(rows)
