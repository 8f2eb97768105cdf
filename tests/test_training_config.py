"""The table "Defaults by encoder" of the user guide against the defaults in use."""

import pickle
import re
from ast import literal_eval
from dataclasses import fields
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from helpers.graphs import rings_and_stars
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.encoders.mlp import MLPEncoder
from sklearn_hscl.encoders.tabular.encoder import TabularEncoder
from sklearn_hscl.export import to_onnx
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.training import config
from sklearn_hscl.training.config import (
    CONVOLUTION,
    GRAPHS,
    NO_LABELS,
    PLAIN,
    PRETRAINED,
    SPARSE,
    TABULAR,
    UNLABELED_IMAGES,
)

GUIDE = Path(__file__).parent.parent / "docs/user_guide/encoders.rst"
COLUMNS = [
    TABULAR,
    CONVOLUTION,
    SPARSE,
    PLAIN,
    PRETRAINED,
    GRAPHS,
    NO_LABELS,
    UNLABELED_IMAGES,
]
SIZES = ["n_components", "hidden_layer_sizes"]  # defaults of the encoders themselves


def table():
    """Yield the parameter of each row, and its values in the columns."""
    text = GUIDE.read_text().partition(".. _encoder_defaults:")[2]
    text = text.partition(".. list-table::")[2].partition("\n\n- ")[0]
    for row in re.split(r"\n    \* - ", text)[2:]:
        name, *cells = re.split(r"\n      - ", row.strip())
        yield name.replace("``", ""), [literal_eval(cell) for cell in cells]


ROWS = dict(table())


def test_the_table_lists_every_default_of_an_encoder():
    listed = {name for name in ROWS if "samples" not in name}
    named = {field.name for field in fields(TABULAR)} & set(HSCLEmbedder().get_params())
    assert listed == named | set(SIZES)


@pytest.mark.parametrize("name", sorted(set(ROWS) - set(SIZES)))
def test_values_of_the_table(name):
    if name.startswith("max_epochs"):
        n_rows = int(name.split()[1].replace(",", ""))
        expected = [
            column.epochs(n_rows, ceil(n_rows / column.batch_size)) for column in COLUMNS
        ]
    else:
        expected = [getattr(column, name) for column in COLUMNS]
    assert ROWS[name] == expected


def test_sizes_of_texts_are_those_of_their_module():
    assert [ROWS[name][COLUMNS.index(PRETRAINED)] for name in SIZES] == [None, None]


@pytest.mark.parametrize(
    "column", [k for k, c in enumerate(COLUMNS) if c is not PRETRAINED]
)
def test_sizes_of_the_table(column):
    dense, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    encoder, X = [
        ("tabular", dense),
        ("conv", dense.repeat(64, axis=1).reshape(40, 3, 8, 8)),
        ("mlp", scipy.sparse.csr_array(dense)),
        ("mlp", dense),
        None,
        ("gin", rings_and_stars()[0]),
        ("mlp", dense),
        ("mlp", dense.repeat(64, axis=1).reshape(40, 3, 8, 8)),
    ][column]
    loss = "hucl" if COLUMNS[column] in (NO_LABELS, UNLABELED_IMAGES) else "hscl"
    embedder = HSCLEmbedder(loss, encoder=encoder, max_epochs=1)
    sizes = {name: ROWS[name][column] for name in SIZES}
    by_default, explicit = (
        [weight.shape for weight in fitted.fit(X, y).module_.parameters()]
        for fitted in (embedder, HSCLEmbedder(**embedder.get_params() | sizes))
    )
    assert by_default == explicit


# Sparse rows ---------------------------------------------------------------------------


def counts(n_rows, n_columns, density):
    """Return sparse rows in this density, and two classes."""
    rows = scipy.sparse.random_array((n_rows, n_columns), density=density, rng=0)
    return rows.tocsr(), np.arange(n_rows) % 2


@pytest.mark.parametrize(
    ("shape", "params", "expected"),
    [
        ((60, 30, 0.2), {}, TabularEncoder),
        ((60, 400, 0.016), {}, TabularEncoder),
        ((60, 400, 0.014), {}, MLPEncoder),  # almost empty, as texts are
        ((60, 400, 0.014), {"encoder": "tabular"}, TabularEncoder),
        ((60, 30, 0.2), {"encoder": "mlp"}, MLPEncoder),
        ((60, 30, 0.2), {"loss": "hucl"}, MLPEncoder),
    ],
)
def test_encoder_of_sparse_rows(shape, params, expected):
    X, y = counts(*shape)
    embedder = HSCLEmbedder(max_epochs=1, **params).fit(X, y)
    assert type(embedder.net_.module_.encoder) is expected


def test_large_sparse_rows_stay_sparse(monkeypatch):
    X, y = counts(60, 30, 0.2)
    for limit, expected in ((4 * 60 * 30, TabularEncoder), (4 * 60 * 30 - 1, MLPEncoder)):
        monkeypatch.setattr(config, "_MAX_DENSE_BYTES", limit)
        embedder = HSCLEmbedder(max_epochs=1).fit(X, y)
        assert type(embedder.net_.module_.encoder) is expected


@pytest.fixture(scope="module")
def as_dense():
    """Return sparse rows with explicit zeros, classes, and an embedder of dense rows."""
    X, y = counts(80, 20, 0.3)
    X.data[::7] = 0.0
    return X, y, HSCLEmbedder(max_epochs=2, random_state=0).fit(X.toarray(), y)


def save_and_load(embedder, X, y, folder):
    embedder.fit(X, y).save(folder / "model")
    return HSCLEmbedder.load(folder / "model")


FITS = {
    "fit": lambda embedder, X, y, folder: embedder.fit(X, y),
    "matrix of columns": lambda embedder, X, y, folder: embedder.fit(X.tocsc(), y),
    "save and load": save_and_load,
    "pickle": lambda embedder, X, y, folder: pickle.loads(pickle.dumps(embedder.fit(X, y))),
}


@pytest.mark.parametrize("encoder", ["auto", "tabular"])
@pytest.mark.parametrize("way", FITS)
def test_sparse_rows_are_embedded_as_dense_ones(as_dense, way, encoder, tmp_path):
    X, y, expected = as_dense
    embedder = HSCLEmbedder(encoder=encoder, max_epochs=2, random_state=0)
    embedder = FITS[way](embedder, X, y, tmp_path)
    Z = expected.transform(X.toarray())
    np.testing.assert_array_equal(embedder.transform(X), Z)
    np.testing.assert_array_equal(embedder.transform(X.toarray()), Z)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("fit_transform", {"cross_fit": 2}),
        ("fit_transform", {"early_stopping": True}),
        ("fit_transform", {"beta": "auto"}),
    ],
)
def test_what_is_done_with_sparse_rows_is_done_with_dense_ones(as_dense, method, params):
    X, y, _ = as_dense
    embedder = HSCLEmbedder(max_epochs=2, random_state=0, **params)
    found = [getattr(embedder, method)(rows, y) for rows in (X, X.toarray())]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("form", [scipy.sparse.csr_array, np.asarray])
def test_held_out_rows_of_sparse_rows(as_dense, form):
    X, y, _ = as_dense
    embedder = HSCLEmbedder(max_epochs=3, random_state=0)
    held_out = form(X[:20].toarray())
    embedder.fit(X[20:], y[20:], X_val=held_out, y_val=y[:20])
    dense = clone(embedder).fit(
        X[20:].toarray(), y[20:], X_val=X[:20].toarray(), y_val=y[:20]
    )
    found, expected = (
        [(epoch["train_loss"], epoch["valid_loss"]) for epoch in fitted.history_]
        for fitted in (embedder, dense)
    )
    assert found == expected


def test_diagnosis_and_export_of_sparse_rows(as_dense, tmp_path):
    X, y, dense = as_dense
    embedder = HSCLEmbedder(max_epochs=2, random_state=0).fit(X, y)
    found, expected = diagnose(embedder, X, y), diagnose(dense, X.toarray(), y)
    assert found.to_dict() == expected.to_dict()
    pytest.importorskip("onnx")
    for fitted, name in ((embedder, "sparse"), (dense, "dense")):
        to_onnx(fitted, tmp_path / name)
    assert (tmp_path / "sparse").read_bytes() == (tmp_path / "dense").read_bytes()


def test_the_first_chunk_chooses_the_encoder():
    few, y = counts(60, 400, 0.02)
    empty, _ = counts(60, 400, 0.001)
    for first, second, expected in (
        (few, empty, TabularEncoder),
        (empty, few, MLPEncoder),
        (few, few.toarray(), TabularEncoder),
    ):
        embedder = HSCLEmbedder(random_state=0).partial_fit(first, y).partial_fit(second, y)
        assert type(embedder.module_) is expected
        assert len(embedder.history_) == 2


def test_searches_share_sparse_rows_of_several_encoders(as_dense):
    X, y, _ = as_dense
    pipe = make_pipeline(HSCLEmbedder(max_epochs=2, random_state=0), LogisticRegression())
    name = "hsclembedder"
    grid = {f"{name}__encoder": ["auto", "mlp"], f"{name}__beta": [0.0, 1.0]}
    searches = [
        kind(pipe, grid, cv=2).fit(X, y) for kind in (BatchedGridSearchCV, GridSearchCV)
    ]
    scores = [search.cv_results_["mean_test_score"] for search in searches]
    np.testing.assert_allclose(*scores, atol=0.03)
