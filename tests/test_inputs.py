"""Bad input gets an error that names what is wrong, where, and the remedy."""

import re
import tracemalloc

import numpy as np
import pandas as pd
import polars
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_array_equal
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import FeatureCorruption, RandomShift
from sklearn_hscl.encoders.features import PreparedTable
from sklearn_hscl.training.rows import SparseRows

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 4)), np.arange(30) % 3
IMAGES = RNG.normal(size=(30, 8, 8))


def fit(X=X, y=Y, **parameters):
    return HSCLEmbedder(**({"max_epochs": 1} | parameters)).fit(X, y)


def with_cell(value, dtype=object):
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["c"] = frame["c"].astype(dtype)
    frame.loc[7, "c"] = value
    return frame


@pytest.mark.parametrize(
    ("value", "dtype", "shown"),
    [
        (np.nan, float, "Column 'c' (index 2) holds nan in row 7"),
        (np.inf, float, "Column 'c' (index 2) holds inf in row 7"),
        ("red", object, "Column 'c' (index 2) holds 'red' in row 7, not a number"),
        ("red", str, "Column 'c' (index 2) holds"),
    ],
)
def test_bad_cells_are_located(value, dtype, shown):
    with pytest.raises(ValueError, match=re.escape(shown)):
        fit(with_cell(value, dtype), encoder=nn.Linear(4, 2))


def test_remedies_for_bad_cells():
    with pytest.raises(ValueError, match="SimpleImputer"):
        fit(with_cell(np.nan, float), encoder=nn.Linear(4, 2))
    with pytest.raises(ValueError, match="OneHotEncoder.*categorical_features"):
        fit(with_cell("red"), categorical_features=None)
    with pytest.raises(ValueError, match="replace it by a number"):
        fit(with_cell(np.inf, float))


def test_bad_cells_of_arrays_lists_categories_and_polars():
    bad = X.copy()
    bad[3, 1] = np.inf
    at = re.escape("Column 1 (index 1)")
    with pytest.raises(ValueError, match=at):
        fit(bad)
    with pytest.raises(ValueError, match=at):
        fit(bad.tolist())
    with pytest.raises(ValueError, match=at):
        fit(X).transform(bad)
    frame = polars.DataFrame({"number": [1.0, 2.0], "text": ["b", "c"]})
    with pytest.raises(ValueError, match="'text' .* holds 'b'"):
        fit(frame, [0, 1], categorical_features=None)
    frame = pd.DataFrame(X, columns=list("abcd")).assign(
        colour=pd.Categorical(["red"] * 30)
    )
    with pytest.raises(ValueError, match="'colour' .* holds 'red'"):
        fit(frame, encoder=nn.Linear(5, 2))


def test_duplicate_column_names_are_told_apart():
    frame = pd.DataFrame(X, columns=list("aabb"))
    frame.iloc[4, 3] = np.inf
    with pytest.raises(ValueError, match=re.escape("Column 'b' (index 3)")):
        fit(frame)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": X[:, 0]}, "Reshape your data"),
        ({"X": X[:1], "y": Y[:1]}, "minimum of 2 is required"),
        ({"X": IMAGES.reshape(30, 2, 2, 4, 4)}, "X has 5 dimensions"),
        ({"X": IMAGES.astype(str)}, "images of dtype <U"),
        ({"X": IMAGES.reshape(30, 4, 4, 4)}, "channels='first'"),
        ({"X": np.full((30, 3, 8, 8), np.nan)}, "contains NaN or infinity, in image 0"),
        ({"X": np.zeros((30, 0, 8))}, "images without pixels"),
        ({"X": np.full((30, 2), "2020-01-01", "datetime64[D]")}, "dates or durations"),
        (
            {"X": pd.DataFrame({"day": pd.date_range("2020", periods=30), "n": 1.0})},
            "'day'",
        ),
        ({"y": None, "loss": "scl"}, "loss='scl' compares labels. Pass y, or use"),
        ({"y": None, "loss": "hscl"}, "requires y to be passed"),
        ({"y": Y[:-1]}, "inconsistent numbers of samples"),
        ({"y": np.zeros(30)}, "y holds one class only"),
        ({"y": RNG.integers(0, 5, (30, 2))}, "y is multiclass-multioutput.*loss='hucl'"),
        ({"y": np.arange(30)}, "30 different integers.*target_type='continuous'"),
        ({"y": [None, *"ab" * 14, "c"]}, "missing label in row 0"),
        ({"y": pd.Series([*"ab" * 14, None, "c"])}, "missing label in row 28"),
        ({"y": pd.Series([*"ab" * 14, None, "c"], dtype="string")}, "label in row 28"),
        ({"y": np.full(30, -1), "unlabeled_label": -1}, "unlabeled_label=-1 only"),
        ({"y": RNG.normal(size=30), "unlabeled_label": -1}, "but y is continuous"),
        ({"y": RNG.normal(size=30), "ce_weight": 0.5}, "ce_weight=0.5 needs class"),
        ({"y": np.where(Y == 0, np.nan, Y)}, "Input y contains NaN"),
        (
            {"y": np.arange(30), "n_views": 1, "target_type": "class"},
            "n_views=1 .* no two rows of one class",
        ),
        ({"loss": "ucl", "n_views": 1}, "n_views=1 .* ignores labels"),
        ({"temperature": -1.0}, "'temperature' parameter .* Got -1.0"),
        ({"temperature": 0}, "'temperature' parameter"),
        ({"beta": -0.1}, "'beta' parameter"),
        ({"threshold": 2.0}, "'threshold' parameter"),
        ({"loss": "triplet"}, "'loss' parameter .*'hscl'"),
        ({"hardening": "cubic"}, "'hardening' parameter .*'threshold'"),
        ({"encoder": "transformer"}, "'encoder' parameter .*'mlp'"),
        ({"batch_size": 1}, "'batch_size' parameter"),
        ({"y": np.eye(30)}, r"raise `batch_size` \(now 256\) or `n_views` \(now 1\)"),
        ({"validation_fraction": 1.5}, "'validation_fraction' parameter"),
        ({"hidden_layer_sizes": (16, 0)}, "hidden_layer_sizes=.* positive"),
        ({"device": "gpu"}, "device='gpu' cannot be used"),
        ({"net_params": {"optimiser__lr": 1}}, "net_params got 'optimiser__lr'"),
        ({"net_params": {"lr": 1}}, "net_params got 'lr'"),
        ({"net_params": {"module__width": 1}}, "net_params got 'module__width'"),
        ({"net_params": {"optimizer__bogus": 1}}, "net_params=.*bogus"),
        ({"net_params": {"optimizer": "SGD"}}, "optimizer='SGD'"),
        ({"net_params": {1: 2}}, "net_params got 1"),
        ({"augment": lambda rows: rows}, "function of .rows, generator."),
        ({"augment": FeatureCorruption}, "an object, not its class"),
        ({"augment": lambda rows, generator: rows.double()}, "shape and dtype"),
        ({"device": "meta"}, "device='meta' cannot be used"),
        ({"net_callbacks": ["EarlyStopping"]}, "net_callbacks"),
        ({"augment": FeatureCorruption(p=2), "loss": "ucl"}, "p must be in"),
        ({"X": IMAGES, "augment": RandomShift(3.0)}, "fraction must be in"),
        ({"X": IMAGES, "augment": FeatureCorruption()}, "use RandomShift"),
        ({"augment": RandomShift()}, "use FeatureCorruption"),
        ({"augment": lambda rows, generator: rows[:1]}, "must return a tensor"),
        ({"augment": None, "loss": "ucl"}, "augment=None"),
        (
            {"early_stopping": True, "validation_fraction": 0.99},
            "validation_fraction=0.99 leaves",
        ),
    ],
)
def test_message(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit(**arguments)


def test_width_and_shape_are_compared_with_fit():
    with pytest.raises(ValueError, match="X has 3 features, but .* expecting 4"):
        fit().transform(X[:, :3])
    embedder = fit(IMAGES)
    with pytest.raises(ValueError, match=r"shape \(1, 8, 4\), but .* \(1, 8, 8\)"):
        embedder.transform(IMAGES[:, :, :4])
    with pytest.raises(ValueError, match=r"shape \(64,\), but .* \(1, 8, 8\)"):
        embedder.transform(IMAGES.reshape(30, 64))
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\), but .* \(4,\)"):
        fit().transform(IMAGES)


class Wrong(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, rows):
        return self.function(rows)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (nn.Linear(5, 2), r"encoder=Linear failed on a batch of shape \(4, 4\)"),
        (Wrong(lambda rows: rows.sum(1)), r"one embedding per row.*got \(4,\)"),
        (Wrong(lambda rows: rows[:1]), r"one embedding per row.*got \(1, 4\)"),
        (Wrong(lambda rows: {"z": rows}), "one embedding per row.*got dict"),
        (Wrong(lambda rows: rows.long()), "return float32"),
        (Wrong(lambda rows: rows.double()), "return float32"),
        (Wrong(lambda rows: rows[:, :0]), "width 0"),
        (nn.Identity(), "trainable parameters"),
        (nn.Linear(4, 2).requires_grad_(False), "trainable parameters"),
        (
            nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False)),
            "different embeddings of a row in different batches",
        ),
        (nn.Sequential(nn.Linear(4, 2), Wrong(lambda z: z * torch.nan)), "NaN or infinity"),
        (int, "is no factory"),
        (lambda width: nn.Linear(4, width), r"needs the arguments \['width'\]"),
        (lambda: "module", "must return a torch.nn.Module, got <class 'str'>"),
    ],
)
def test_unfit_encoders(encoder, message):
    with pytest.raises(ValueError, match=message):
        fit(encoder=encoder)


def test_width_of_a_module_is_compared_with_n_components():
    with pytest.raises(ValueError, match="width 2, but n_components=3"):
        fit(encoder=nn.Linear(4, 2), n_components=3)


def test_values_beyond_float32_are_named_for_modules():
    with pytest.raises(ValueError, match="too large for float32"):
        fit(X * 1e300, encoder=nn.Linear(4, 2))


def test_divergence_is_an_error_not_a_nan():
    for parameters in (
        {},
        {"early_stopping": True},
        {"loss": "ucl", "early_stopping": True},
    ):
        for max_epochs in (1, 5):
            with pytest.raises(FloatingPointError, match="lower `lr`"):
                fit(lr=1e30, max_epochs=max_epochs, **parameters)


# Sparse rows, tensors, memory maps

SPARSE = np.where(np.abs(X) > 0.5, X, 0)


@pytest.mark.parametrize("loss", ["hscl", "hucl"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("name", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
def test_sparse_rows_of_any_format(name, kind, loss):
    rows = getattr(scipy.sparse, f"{name}_{kind}")(SPARSE)
    embedder = fit(rows, loss=loss, random_state=0)
    Z = embedder.transform(rows)
    assert Z.shape == (30, 64) and Z.dtype == np.float64
    assert_array_equal(Z, embedder.transform(SPARSE))
    if name == "csr":
        assert_array_equal(Z[3:7], embedder.transform(rows[3:7]))


def test_sparse_columns_are_scaled_and_not_centred():
    rows = np.array([[0.0, 3, np.nan, 0], [2, 3, 0, 0], [0, 3, 1e300, 0], [0, 3, 0, 0]])
    prepare = PreparedTable.of(scipy.sparse.csr_array(rows))
    expected = [[0, 1, np.nan, 0], [2, 1, 0, 0], [0, 1, 2, 0], [0, 1, 0, 0]]
    np.testing.assert_allclose(prepare(rows), expected, rtol=1e-6)


def test_sparse_rows_stand_for_a_tensor():
    rows = scipy.sparse.csr_array(SPARSE)
    dense = PreparedTable.of(rows)(SPARSE)
    sparse = SparseRows(rows, PreparedTable.of(rows), dense.device)
    index = torch.tensor([[3, 1, 2, 29], [0, 0, 7, 5]])
    assert (len(sparse), sparse.shape, sparse.ndim) == (30, dense.shape, 2)
    assert torch.equal(sparse[index[:, 0]], dense[index[:, 0]])
    assert torch.equal(sparse[2::7], dense[2::7])
    assert torch.equal(sparse.gather(0, index), dense.gather(0, index))
    assert torch.equal(torch.cat([*sparse.split(7)]), dense)
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


@pytest.mark.parametrize("encoder", ["auto", nn.Linear(4, 2)])
def test_bad_stored_values_are_named(encoder):
    rows = SPARSE.copy()
    rows[4, 2] = np.inf
    with pytest.raises(ValueError, match="Column 2 .index 2. holds inf in row 4: replace"):
        fit(scipy.sparse.csc_array(rows), encoder=encoder)
    rows[4, 2] = np.nan
    rows = scipy.sparse.csr_array(rows)
    if encoder == "auto":
        assert np.isfinite(fit(rows).transform(rows)).all()
    else:
        with pytest.raises(ValueError, match="Column 2 .index 2. holds nan in row 4"):
            fit(rows, encoder=encoder)


def test_sparse_rows_are_no_frames():
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


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint8, bool])
@pytest.mark.parametrize("order", ["C", "F"])
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
    rows = scipy.sparse.random_array((20_000, 2_000), density=1e-3, format="csr", rng=0)
    embedder = HSCLEmbedder(hidden_layer_sizes=(8,), max_epochs=1, batch_size=1024)
    _, peak = peak_memory(embedder.fit, rows, np.arange(20_000) % 2)
    assert peak < 0.75 * 160e6  # of dense rows in float32
    _, peak = peak_memory(embedder.transform, rows)
    assert peak < 0.75 * 160e6


@pytest.mark.parametrize("place", [(0, 0), (40_000, 1)])
def test_infinity_in_a_long_array_is_named(place):
    rows = np.zeros((50_000, 4))
    rows[place] = np.inf
    with pytest.raises(ValueError, match=f"index {place[1]}. holds inf in row {place[0]}"):
        fit().transform(rows)
