"""Containers of X, as in the guide; sparse rows, tensors, memory maps by the chunk."""

import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from helpers import containers
from helpers.containers import NUMBERS, PASSED, Refused, data_of, rows_of
from helpers.streamed_losses import assert_stand_for_a_tensor
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders.preprocessing import Standardization, TablePreprocessor
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.training.batches.tensors import LazyRows

pytestmark = pytest.mark.usefixtures("few_trees")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 4)), np.arange(30) % 3
IMAGES = RNG.normal(size=(30, 8, 8))


def fit(X=X, y=Y, **parameters):
    return HSCLEmbedder(**({"max_epochs": 1} | parameters)).fit(X, y)


# What you can pass


def cases(role, *, refused=False):
    """Return the containers that are read, or refused, in a role."""
    return {
        container: roles[role]
        for container, roles in PASSED.items()
        if role in roles and isinstance(roles[role], Refused) == refused
    }


# Python's numbers are float64; so are those of an array of objects.
PYTHON_NUMBERS = (
    "nested list",
    "numpy array of objects",
    "pandas column of lists",
    "column of a Hugging Face Dataset",
)


@pytest.mark.parametrize("container", cases("X numbers"))
def test_numbers_are_read_from(container):
    X = cases("X numbers")[container]
    data = data_of(X)
    rows = rows_of(X)
    assert_array_equal(rows, NUMBERS)
    assert rows.dtype == (np.float64 if container in PYTHON_NUMBERS else np.float32)
    assert data.schema.columns is None or not data.schema.is_categorical.any()
    has_names = "DataFrame" in container or "pyarrow Table" in container
    if has_names and "one such" not in container:
        assert data.schema.feature_names.tolist() == containers.NAMES


@pytest.mark.parametrize("container", cases("X categories"))
def test_categories_are_read_from(container):
    X = cases("X categories")[container]
    named = not hasattr(X, "columns") and not hasattr(X, "column_names")
    data = data_of(X, **({"categorical_features": [1, 2]} if named else {}))
    expected = data_of(containers.MIXED_FRAME)
    assert_array_equal(data.train.rows, expected.train.rows)
    assert data.train.rows.dtype == expected.train.rows.dtype
    assert_array_equal(data.schema.is_categorical, [False, True, True, False])
    if not named:
        assert_array_equal(data.schema.feature_names, expected.schema.feature_names)


@pytest.mark.parametrize("container", cases("images"))
def test_images_are_read_from(container):
    rows = rows_of(cases("images")[container], channels="last")
    assert_array_equal(rows, np.moveaxis(containers.IMAGES, 3, 1))


@pytest.mark.parametrize("container", cases("X numbers", refused=True))
def test_the_way_out_of_a_refusal_is_read(container):
    refused = cases("X numbers", refused=True)[container]
    with pytest.raises((TypeError, ValueError)) as raised:
        data_of(refused.container)
    message = str(raised.value)
    assert refused.remedy in message and message.startswith("X is a ")
    assert message.count(".\n") == 0 and message.endswith(".")
    if refused.way_out is not None:
        assert_array_equal(rows_of(refused.way_out(refused.container)), NUMBERS)


def refuse_everywhere(X):
    """Yield the calls that get X, each of which must refuse it."""
    y = np.arange(len(NUMBERS)) % 2
    fitted = HSCLEmbedder(encoder="mlp", max_epochs=1).fit(NUMBERS, y)
    yield partial(fitted.fit, X, y)
    yield partial(fitted.fit_transform, X, y)
    yield partial(fitted.partial_fit, X, y)
    yield partial(fitted.transform, X)
    early = HSCLEmbedder(encoder="mlp", max_epochs=1, early_stopping=True)
    yield partial(early.fit, NUMBERS, y, X_val=X, y_val=y)


@pytest.mark.parametrize("container", ["AnnData", "TensorDict", "dict of columns"])
def test_a_container_is_refused_by_every_method(container):
    refused = cases("X numbers", refused=True)[container]
    for call in refuse_everywhere(refused.container):
        with pytest.raises(TypeError, match="X(_val)? is a .*, which is not read: pass"):
            call()


@pytest.mark.parametrize(
    "container",
    ["pyarrow Table", "pyarrow fixed-size list column", "polars column of lists"],
)
def test_containers_in_pipelines_and_searches(container):
    X, y = cases("X numbers")[container], np.arange(len(NUMBERS)) % 2
    pipe = make_pipeline(
        HSCLEmbedder(encoder="mlp", max_epochs=1, random_state=0), LogisticRegression()
    )
    grid = {"hsclembedder__beta": [0, 1]}
    for search in (GridSearchCV, BatchedGridSearchCV):
        found = search(pipe, grid, cv=2, error_score="raise").fit(X, y)
        expected = search(pipe, grid, cv=2, error_score="raise").fit(NUMBERS, y)
        assert_array_equal(found.predict_proba(X), expected.predict_proba(NUMBERS))


def test_the_guide_shows_what_is_tested():
    page = Path(__file__).parent.parent / "docs/user_guide/what_you_can_pass.rst"
    shown = page.read_text()
    assert containers.guide_table() in shown, (
        "print it: cd tests && python -m helpers.containers"
    )


SPARSE = np.where(np.abs(X) > 0.5, X, 0)


@pytest.mark.parametrize("loss", ["hscl", "hucl"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("name", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
def test_sparse_rows_of_any_format(name, kind, loss):
    rows = getattr(scipy.sparse, f"{name}_{kind}")(SPARSE)
    embedder = fit(rows, loss=loss, random_state=0)
    Z = embedder.transform(rows)
    width = 32 if loss == "hscl" else 64 + embedder.module_.width
    assert Z.shape == (30, width) and Z.dtype == np.float64
    assert_array_equal(Z, embedder.transform(SPARSE))
    if name == "csr":
        assert_array_equal(Z[3:7], embedder.transform(rows[3:7]))


def test_sparse_columns_are_scaled_and_not_centred():
    rows = np.array([[0.0, 3, np.nan, 0], [2, 3, 0, 0], [0, 3, 1e300, 0], [0, 3, 0, 0]])
    prepare = TablePreprocessor.fit(scipy.sparse.csr_array(rows))
    expected = [[0, 1, np.nan, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]]
    # Six of the twelve entries of columns that are not empty are not 0.
    np.testing.assert_allclose(prepare(rows), np.sqrt(2) * np.array(expected), rtol=1e-6)


@given(
    st.floats(0.02, 1.0),
    st.lists(st.integers(-6, 6), min_size=3, max_size=20),
    st.integers(0, 2**16),
)
def test_units_and_rarity_of_sparse_columns_do_not_matter(density, units, seed):
    rng = np.random.default_rng(seed)
    shape = (40, len(units))
    rows = rng.normal(size=shape) * (rng.random(shape) < density * rng.random(len(units)))
    rows[0, 0] = 1.0
    scaled = Standardization.fit(scipy.sparse.csr_array(rows))(rows)
    occurring = (rows != 0).any(axis=0)
    assert (scaled[:, occurring] ** 2).mean() == pytest.approx(1)
    typical = [np.sqrt((column[column != 0] ** 2).mean()) for column in scaled.T[occurring]]
    np.testing.assert_allclose(typical, typical[0])
    in_units = rows * 10.0 ** np.array(units)
    of_units = Standardization.fit(scipy.sparse.csr_array(in_units))
    np.testing.assert_allclose(of_units(in_units), scaled, atol=1e-12)


def test_sparse_rows_stand_for_a_tensor():
    rows = scipy.sparse.csr_array(SPARSE)
    dense = TablePreprocessor.fit(rows)(SPARSE)
    sparse = LazyRows(rows, TablePreprocessor.fit(rows), dense.device)
    assert len(dense) == 30
    assert_stand_for_a_tensor(sparse, dense)
    mask = torch.from_numpy(Y == 1)
    assert torch.equal(sparse.select(mask)[:], dense[mask])


def test_sparse_held_out_rows_and_modules():
    rows = scipy.sparse.csr_matrix(SPARSE)
    embedder = HSCLEmbedder(max_epochs=2, early_stopping=True, random_state=0)
    assert len(embedder.fit(rows, Y, X_val=rows, y_val=Y).history_) == 2
    module = nn.Linear(4, 2)
    of_sparse = fit(rows, encoder=module, random_state=0).transform(rows)
    assert_array_equal(
        of_sparse, fit(SPARSE, encoder=module, random_state=0).transform(SPARSE)
    )


@pytest.mark.parametrize("encoder", ["auto", "mlp", nn.Linear(4, 2)])
def test_bad_stored_values_are_named(encoder):
    rows = SPARSE.copy()
    rows[4, 2] = np.inf
    with pytest.raises(ValueError, match="Column 2 .index 2. holds inf in row 4: replace"):
        fit(scipy.sparse.csc_array(rows), encoder=encoder)
    rows[4, 2] = np.nan
    rows = scipy.sparse.csr_array(rows)
    if isinstance(encoder, str):
        assert np.isfinite(fit(rows, encoder=encoder).transform(rows)).all()
    else:
        with pytest.raises(ValueError, match="Column 2 .index 2. holds nan in row 4"):
            fit(rows, encoder=encoder)


def test_sparse_rows_are_not_frames():
    frame = pd.DataFrame({"a": ["u", "v"] * 15, "b": 1.0})
    embedder = fit(frame)
    with (
        pytest.warns(UserWarning, match="feature names"),
        pytest.raises(ValueError, match="X is sparse, but .* categorical"),
    ):
        embedder.transform(scipy.sparse.csr_array((3, 2)))
    with pytest.raises(ValueError, match="categorical_features.*sparse"):
        fit(scipy.sparse.csr_array(SPARSE), categorical_features=[0])
    with pytest.raises(ValueError, match="categorical_features.*images"):
        fit(IMAGES, categorical_features=[0])


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64]
)
def test_tensors_are_arrays(dtype):
    rows = torch.from_numpy(10 * X).to(dtype)
    array = rows.float().numpy() if dtype == torch.bfloat16 else rows.numpy()
    embedder = fit(rows, torch.from_numpy(Y), random_state=0)
    Z = embedder.transform(rows.requires_grad_() if dtype == torch.float32 else rows)
    assert isinstance(Z, np.ndarray)
    assert Z.dtype == (np.float32 if array.dtype == np.float32 else np.float64)
    assert_array_equal(Z, fit(array, random_state=0).transform(array))


def test_tensors_of_images():
    images = IMAGES.astype(np.float32)
    Z = fit(torch.from_numpy(images), random_state=0).transform(torch.from_numpy(images))
    assert_array_equal(Z, fit(images, random_state=0).transform(images))


def peak_memory(function, *arguments):
    tracemalloc.start()
    try:
        result = function(*arguments)
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("dtype", "order"),
    [(dtype, "C") for dtype in (np.float64, np.float32, np.int16, np.uint8, bool)]
    + [(np.float64, "F"), (np.uint8, "F")],
)
def test_memory_maps_are_read_by_the_chunk(tmp_path, dtype, order):
    shape = (100_000, 40)
    rows = np.memmap(tmp_path / "rows", dtype, "w+", shape=shape, order=order)
    rows[::3] = 1
    embedder = HSCLEmbedder(hidden_layer_sizes=(8,), n_components=2, max_epochs=1)
    embedder.fit(rows[:50] + RNG.normal(size=(50, 40)), np.arange(50) % 2)
    Z, peak = peak_memory(embedder.transform, rows)
    assert peak < Z.nbytes + 4e6  # the map holds up to 32e6
    assert_array_equal(Z[-3000:], embedder.transform(np.array(rows[-3000:], dtype)))


def test_sparse_rows_are_dense_by_the_chunk():
    rows = scipy.sparse.csr_array(
        scipy.sparse.random(20_000, 2_000, density=1e-3, random_state=0)
    )
    embedder = HSCLEmbedder(hidden_layer_sizes=(8,), max_epochs=1, batch_size=1024)
    embedder.fit(rows[:100], np.arange(100) % 2)  # loads what torch loads at first use
    _, peak = peak_memory(embedder.fit, rows, np.arange(20_000) % 2)
    assert peak < 0.75 * 160e6  # of dense rows in float32
    _, peak = peak_memory(embedder.transform, rows)
    assert peak < 0.75 * 160e6


@pytest.mark.parametrize("cell", [(0, 0), (40_000, 1)])
def test_infinity_in_a_long_array_is_named(cell):
    rows = np.zeros((50_000, 4))
    rows[cell] = np.inf
    with pytest.raises(ValueError, match=f"index {cell[1]}. holds inf in row {cell[0]}"):
        fit().transform(rows)


def test_sparse_frames_are_sparse_rows():
    frame = pd.DataFrame.sparse.from_spmatrix(scipy.sparse.csr_matrix(SPARSE))
    frame.columns = list("abcd")
    embedder = fit(frame, random_state=0)
    of_matrix = fit(scipy.sparse.csr_array(SPARSE), random_state=0)
    assert_array_equal(embedder.transform(frame), of_matrix.transform(SPARSE))


COOKING = """
Chop the onion and fry it in butter.
Boil the pasta in salted water.
Bake the bread in a hot oven.
Stir the soup and add more salt.
Fry the garlic in olive oil.
Add the chopped onion to the soup.
Melt the butter in a small pan.
Season the soup with salt and pepper.
Knead the dough and bake it.
Pour the sauce over the pasta.
Simmer the sauce with garlic and pepper.
Spread butter on the warm bread.
Roast the garlic in the oven.
Drain the pasta and add olive oil.
Whisk the eggs with salt and pepper.
Fry the eggs in a hot pan.
Let the dough rest before the oven.
Simmer the soup with onion and garlic.
Boil the eggs in salted water.
Serve the pasta with sauce and bread.
"""
FOOTBALL = """
The striker scored a goal in the match.
The goalkeeper saved the penalty.
The team won the match at home.
The referee gave a penalty to the team.
The coach praised the players.
A late goal decided the match.
The striker missed the penalty.
The players left the pitch after the match.
The team lost the final of the league.
The coach changed the striker at half time.
The referee stopped the match.
The goalkeeper joined the league this season.
The fans cheered every goal of the team.
The defender blocked the shot at goal.
The league season ends with a final.
The midfielder passed to the striker.
The players of the team met the fans.
The referee showed the defender a red card.
The coach left the league after the season.
The goalkeeper caught the shot.
"""


@pytest.fixture
def sentences():
    """Return training sentences, test sentences, and the topics of both."""
    rows = COOKING.strip().splitlines() + FOOTBALL.strip().splitlines()
    topic = np.repeat(["cooking", "football"], 20)
    held_out = np.arange(40) % 4 == 3
    train, test = np.compress(~held_out, rows), np.compress(held_out, rows)
    return train, test, topic[~held_out], topic[held_out]


def test_words_of_sentences_in_a_pipeline(sentences):
    train, test, y_train, y_test = sentences
    words = TfidfVectorizer(stop_words="english").fit(train)
    sparse = words.transform(test)
    assert scipy.sparse.issparse(sparse) and sparse.format == "csr"
    pipe = make_pipeline(HSCLEmbedder(random_state=0), LogisticRegression())
    pipe.fit(words.transform(train), y_train)
    assert pipe.score(sparse, y_test) >= 0.8
    assert_array_equal(pipe.predict_proba(sparse), pipe.predict_proba(sparse.toarray()))
    assert_array_equal(pipe.predict(sparse), pipe.predict(sparse.toarray()))


def test_dense_vectors_of_sentences_in_a_pipeline(sentences):
    train, test, y_train, y_test = sentences
    pipe = make_pipeline(
        TfidfVectorizer(stop_words="english"),
        TruncatedSVD(10, random_state=0),
        HSCLEmbedder(random_state=0, max_epochs=20),
        LogisticRegression(),
    )
    assert pipe.fit(train, y_train).score(test, y_test) >= 0.8


def test_one_hidden_layer_for_sparse_rows_with_classes():
    rows, mlp = scipy.sparse.csr_array(SPARSE), {"encoder": "mlp"}
    for embedder, n_layers in (
        (fit(rows, **mlp), 2),
        (fit(rows, loss="hucl"), 3),
        (fit(rows, RNG.normal(size=30), **mlp), 3),
        (fit(**mlp), 3),
        (fit(rows, hidden_layer_sizes=(8, 8, 8), **mlp), 4),
        (fit(rows, hidden_layer_sizes=np.array([8, 8]), **mlp), 3),
    ):
        layers = [m for m in embedder.module_.modules() if isinstance(m, nn.Linear)]
        assert len(layers) == n_layers


def test_rare_words_do_not_drown_the_others():
    rng = np.random.default_rng(0)
    y = np.arange(600) % 2
    frequent = rng.random((600, 20)) < 0.2 + 0.3 * (y[:, None] == np.arange(20) % 2)
    rare = rng.random((600, 800)) < 0.004
    words = scipy.sparse.csr_array(np.hstack([frequent, rare]).astype(float))
    embedder = HSCLEmbedder(encoder="mlp", random_state=0).fit(words[:300], y[:300])
    downstream = LogisticRegression().fit(embedder.transform(words[:300]), y[:300])
    assert downstream.score(embedder.transform(words[300:]), y[300:]) >= 0.85
