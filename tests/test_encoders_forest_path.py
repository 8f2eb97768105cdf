"""Scores of forests beside the embedding: where they are, and where they are kept."""

import pickle
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders.forest_path import ForestPath
from sklearn_hscl.encoders.inference import _layouts, _shapes
from sklearn_hscl.encoders.linear_path import LinearPath
from sklearn_hscl.encoders.tabular.forests import grow_forests
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.training import prepared_data

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 5))
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 1] ** 2 > 1)
RARE = (X[:, 0] + X[:, 1] > 2.3).astype(int)
FEW = np.where(np.arange(240) % 6, -1, CLASSES)
MIXED = pd.DataFrame(X[:, :3], columns=list("abc")).assign(
    color=np.array(["red", "green", "blue"])[CLASSES]
)
MIXED.loc[::7, "b"] = np.nan


def fit(X, y=None, **params):
    params = {"max_epochs": 2, "random_state": 0} | params
    return HSCLEmbedder(**params).fit(X, y)


USED = {
    "classes": (X, CLASSES, {}, 3),
    "two classes": (X, CLASSES > 0, {}, 2),
    "mixed columns": (MIXED, CLASSES, {}, 3),
    "one member": (X, CLASSES, {"n_members": 1}, 3),
    "float64": (X, CLASSES, {"precision": "float64"}, 3),
    "all samples in training": (X, CLASSES, {"early_stopping": False}, 3),
    "held-out samples": (X, CLASSES, {"early_stopping": True}, 3),
    "own loss": (X, CLASSES, {"loss": ContrastiveLoss("scl")}, 3),
}


@pytest.mark.parametrize(("X", "y", "params", "width"), USED.values(), ids=USED)
def test_scores_follow_the_embedding(X, y, params, width, tmp_path):
    embedder = fit(X, y, **params)
    assert isinstance(embedder.module_, ForestPath)
    trained = embedder.net_.module_.n_components
    embedding = embedder.transform(X)
    assert embedding.shape == (len(X), trained + width)
    assert len(embedder.get_feature_names_out()) == embedding.shape[1]
    spreads = [np.sqrt(p.var(0).sum()) for p in np.split(embedding, [trained], axis=1)]
    rtol = 0.1 if params.get("early_stopping") is True else 1e-3
    factor = 2 * spreads[1] / spreads[0]
    expected = 2.0 ** round(np.log2(factor))
    assert_allclose(factor, expected, rtol=rtol)
    has_folds = "n_members" not in params and params.get("early_stopping") is not False
    assert expected in ((1, 2, 4) if has_folds else (1,))
    alone = fit(X, y, **params, n_components=trained)
    assert_allclose(alone.transform(X), embedding[:, :trained], rtol=1e-4, atol=1e-5)
    embedder.save(tmp_path / "file")
    copies = pickle.loads(pickle.dumps(embedder)), HSCLEmbedder.load(tmp_path / "file")
    for copy in copies:
        assert_array_equal(copy.transform(X), embedding)
        again = copy.set_params(warm_start=True).fit(X, y)
        assert_allclose(  # the scores are kept
            again.transform(X)[:, trained:], embedding[:, trained:], rtol=1e-5, atol=1e-6
        )


UNUSED = {
    "a width": {"n_components": 32},
    "folds": {"cross_fit": 3},
    "mlp": {"encoder": "mlp"},
    "labels ignored": {"loss": "ucl", "encoder": "tabular"},
    "few labels": {"y": FEW, "unlabeled_label": -1},
    "numbers": {"y": X[:, 0], "target_type": "continuous"},
}


@pytest.mark.parametrize("params", UNUSED.values(), ids=UNUSED)
def test_other_fits_have_no_forests(params):
    embedder = fit(X, **({"y": CLASSES} | params))
    assert not any(isinstance(part, ForestPath) for part in embedder.module_.modules())


def test_a_first_chunk_has_no_forests_and_further_fits_keep_the_width():
    embedder = HSCLEmbedder(max_epochs=1, random_state=0)
    embedder.partial_fit(X[:120], CLASSES[:120], classes=[0, 1, 2])
    assert embedder.transform(X).shape[1] == 32
    assert fit(X, CLASSES).partial_fit(X, CLASSES).transform(X).shape[1] == 35


def test_rare_classes_have_a_linear_map_as_well(tmp_path):
    embedder = fit(X, RARE)
    assert isinstance(embedder.module_, LinearPath)
    assert isinstance(embedder.module_.encoder, ForestPath)
    embedder.save(tmp_path / "file")
    copy = HSCLEmbedder.load(tmp_path / "file")
    assert_array_equal(copy.transform(X), embedder.transform(X))
    again = copy.set_params(warm_start=True).fit(X, RARE)
    assert again.transform(X).shape == embedder.transform(X).shape


def test_bands_that_a_short_training_misses_are_in_the_scores():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(600, 3))
    y = (np.sin(9 * rows[:, 0]) > 0).astype(int)

    def accuracy(**params):
        model = make_pipeline(HSCLEmbedder(random_state=0, **params), LogisticRegression())
        return model.fit(rows[:400], y[:400]).score(rows[400:], y[400:])

    assert accuracy(max_epochs=2) > accuracy(max_epochs=2, n_components=32) + 0.1


def test_rows_keep_their_bits_in_any_batch():
    embedder = fit(MIXED, CLASSES)
    alone = np.vstack([embedder.transform(MIXED[i : i + 1]) for i in range(20)])
    assert_array_equal(alone, embedder.transform(MIXED)[:20])


def test_candidates_of_a_search_share_their_forests():
    pipeline = make_pipeline(
        HSCLEmbedder(max_epochs=1, random_state=0), LogisticRegression()
    )
    grid = {"hsclembedder__beta": [0.5, 2]}
    search = BatchedGridSearchCV(pipeline, grid, cv=2)
    with patch.object(prepared_data, "grow_forests", wraps=grow_forests) as grow:
        search.fit(X, CLASSES)
    assert grow.call_count == 3  # a fold each, and all samples
    found = search.best_estimator_[0].transform(X)
    beta = search.best_params_["hsclembedder__beta"]
    assert_allclose(found, fit(X, CLASSES, max_epochs=1, beta=beta).transform(X), rtol=1e-5)


def test_a_warm_start_may_change_the_precision(tmp_path):
    for y in (CLASSES, RARE, X[:, 0] + 0.3):
        params = {} if y.dtype == int else {"target_type": "continuous"}
        embedder = fit(X, y, warm_start=True, **params)
        before = embedder.module_
        embedder.set_params(precision="float64").fit(X, y).save(tmp_path / "file")
        copy = HSCLEmbedder.load(tmp_path / "file")
        assert_array_equal(copy.transform(X), embedder.transform(X))
        assert all(part.dtype != torch.float64 for part in before.buffers())


def test_a_further_fit_does_not_share_its_scores():
    embedder = fit(X, CLASSES)
    before = embedder.module_
    after = embedder.partial_fit(X, CLASSES).module_
    after.double()
    assert before.forests.threshold.dtype == before.scale.dtype == torch.float32


def test_a_further_fit_measures_no_batches():
    fit(X, CLASSES)
    measured = len(_layouts._built_in)
    fit(X, CLASSES, random_state=1)
    assert len(_layouts._built_in) == measured


def test_fits_share_the_layout_of_their_batches():
    first, second = (fit(X, CLASSES, random_state=seed).module_ for seed in (0, 1))
    assert len(first.forests.left) != len(second.forests.left)
    assert tuple(_shapes(first)) == tuple(_shapes(second))
