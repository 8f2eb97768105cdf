"""Bad input raises an error that names the fault, its location, and the remedy."""

import re
from functools import partial

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from torch import nn
from torch.utils.data import Dataset

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import FeatureCorruption, RandomShift
from sklearn_hscl.data import validation

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 4)), np.arange(30) % 3
IMAGES = RNG.normal(size=(30, 8, 8))
for shared in (X, Y, IMAGES):
    shared.setflags(write=False)  # frames of pandas 2 write through to the array


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


def test_duplicate_column_names_are_distinguished():
    frame = pd.DataFrame(X.copy(), columns=list("aabb"))
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
        ({"y": np.zeros(30)}, r"y holds one class only \(0.0\)"),
        ({"y": np.full(30, "a")}, r"y holds one class only \('a'\)"),
        ({"y": RNG.integers(0, 5, (30, 2))}, "y is multiclass-multioutput.*loss='hucl'"),
        ({"y": np.arange(30)}, "30 different integers.*target_type='continuous'"),
        ({"y": [None, *"ab" * 14, "c"]}, "missing label in row 0"),
        ({"y": pd.Series([*"ab" * 14, None, "c"])}, "missing label in row 28"),
        ({"y": pd.Series([*"ab" * 14, None, "c"], dtype="string")}, "label in row 28"),
        ({"y": np.full(30, -1), "unlabeled_label": -1}, "unlabeled_label=-1 only"),
        ({"y": RNG.normal(size=30), "unlabeled_label": -1}, "but y is continuous"),
        ({"y": np.where(Y == 0, np.nan, Y)}, "label in row 0: drop .*unlabeled_label"),
        (
            {"y": pd.Series([0, 1, None] * 10, dtype="Int64")},
            "missing label in row 2: drop",
        ),
        (
            {"y": np.where(np.eye(30) > 0, np.nan, 1.5)[::-1]},
            "missing label in row 0: drop",
        ),
        ({"y": np.where(Y == 0, np.inf, Y)}, "Input y contains infinity"),
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
        (
            {"y": np.eye(30), "ce_weight": 0},
            r"Raise `batch_size` \(now 256\) or `n_views` \(now 1\)",
        ),
        ({"validation_fraction": 1.5}, "'validation_fraction' parameter"),
        ({"hidden_layer_sizes": (16, 0)}, "hidden_layer_sizes=.* positive"),
        ({"device": "gpu"}, "device='gpu' cannot be used"),
        ({"net_params": {"optimiser__lr": 1}}, "net_params got 'optimiser__lr'"),
        ({"net_params": {"lr": 1}}, "net_params got 'lr'"),
        ({"net_params": {"module__width": 1}}, "net_params got 'module__width'"),
        ({"net_params": {"optimizer__bogus": 1}}, "net_params=.*bogus"),
        ({"net_params": {"optimizer": "SGD"}}, "optimizer='SGD'"),
        ({"net_params": {1: 2}}, "net_params got 1"),
        (
            {"net_params": {"optimizer": torch.optim.LBFGS}},
            "got optimizer=LBFGS.* Use one such as torch.optim.AdamW",
        ),
        (
            {"net_params": {"optimizer": partial(torch.optim.LBFGS, history_size=3)}},
            "Expected net_params .* got optimizer=LBFGS",
        ),
        ({"X": csr_array(X), "encoder": "mlp", "cross_fit": 2}, "Pass a table, encoder="),
        ({"augment": lambda rows: rows}, "function of .rows, generator."),
        ({"augment": FeatureCorruption}, "an instance, not a class"),
        ({"augment": lambda rows, generator: rows.double()}, "shape and dtype"),
        ({"device": "meta"}, "device='meta' cannot be used"),
        ({"net_callbacks": ["EarlyStopping"]}, "net_callbacks"),
        ({"augment": FeatureCorruption(p=2), "loss": "ucl"}, "p must be in"),
        ({"X": IMAGES, "augment": RandomShift(3.0)}, "fraction must be in"),
        ({"X": IMAGES, "augment": FeatureCorruption()}, "Use RandomShift"),
        ({"augment": RandomShift()}, "Use FeatureCorruption"),
        ({"augment": lambda rows, generator: rows[:1]}, "must return a tensor"),
        ({"augment": None, "loss": "ucl"}, "augment=None makes the 2 views"),
        (
            {"augment": FeatureCorruption(p=0), "loss": "ucl"},
            r"augment=FeatureCorruption\(p=0\) makes the 2 views of a row equal",
        ),
        (
            {"X": IMAGES, "augment": RandomShift(0.0), "loss": "hucl"},
            r"augment=RandomShift\(fraction=0.0\) makes the 2 views",
        ),
        (
            {"augment": None, "loss": "hucl", "encoder": "tabular", "dropout": 0.0},
            "augment=None makes the 2 views",
        ),
        (
            {"early_stopping": True, "validation_fraction": 0.99},
            "validation_fraction=0.99 leaves",
        ),
    ],
)
def test_message(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit(**arguments)


def mapped(rows, path):
    rows.tofile(path)
    return np.memmap(path, rows.dtype, "r", shape=rows.shape)


class Items(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


FORMS = {
    "array": lambda rows, path: rows,
    "frame": lambda rows, path: pd.DataFrame(rows, columns=[*"abcd"]),
    "memory map": mapped,
    "dataset": lambda rows, path: Items(rows),
    "dataset of images": lambda rows, path: Items(np.stack([rows] * 4, axis=2)),
    "images": lambda rows, path: np.stack([rows] * 4, axis=2),
    "mapped images": lambda rows, path: mapped(np.stack([rows] * 4, axis=2), path),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("form", FORMS)
def test_rows_in_another_byte_order_are_the_same_rows(form, dtype, tmp_path):
    rows = (10 * X).astype(dtype)
    native = FORMS[form](rows, tmp_path / "native")
    foreign = FORMS[form](rows.astype(rows.dtype.newbyteorder(">")), tmp_path / "foreign")
    expected = fit(native, encoder="mlp", random_state=0).transform(native)
    found = fit(foreign, encoder="mlp", random_state=0).transform(foreign)
    assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


def test_dropout_makes_views_differ():
    # The built-in dropout of "tabular" is a layer of its own.
    for encoder in ("tabular", "mlp"):
        embedder = fit(augment=None, loss="hucl", encoder=encoder, dropout=0.2)
        assert np.isfinite(embedder.loss_curve_).all()


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
        (int, "to be a factory"),
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
            with pytest.raises(FloatingPointError, match="Lower `lr`"):
                fit(lr=1e30, max_epochs=max_epochs, **parameters)


class SubclassedArray(np.ndarray):
    pass


@pytest.mark.parametrize(
    ("make", "is_plain"),
    [
        (lambda X: X, True),
        (lambda X: X.astype(np.float32), True),
        (lambda X: X[::2, ::-1], True),
        (lambda X: X.round().astype(int), False),
        (lambda X: X.astype(">f8"), False),
        (lambda X: X.astype(np.float16), False),
        (lambda X: X.view(SubclassedArray), False),
        (lambda X: X[:, :3], False),
        (lambda X: X[:0], False),
        (lambda X: X[0], False),
        (lambda X: np.where(X > 0, np.nan, X), False),
        (lambda X: np.where(X > 0, np.inf, X), False),
        (lambda X: X.tolist(), False),
    ],
)
def test_checks_are_skipped_for_plain_tables_only(make, is_plain):
    assert validation._is_plain_table(make(X), (4,)) == is_plain


def test_arrays_after_a_frame_still_draw_the_warning_of_scikit_learn():
    embedder = fit(pd.DataFrame(X, columns=list("abcd")))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        embedder.transform(X)
