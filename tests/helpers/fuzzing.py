"""Anything that might be passed to an embedder, and what may come of it.

A case is some X, some y, some parameters, and some rows to transform. Whatever they are,
each call works, with finite embeddings, or raises one of `ALLOWED` with a message that
says what is wrong; and a call that failed leaves a fitted embedder as it was.
"""

import copy
import re
import warnings
from datetime import date, timedelta
from decimal import Decimal

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import torch
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import NotFittedError

from helpers.settings import SETTINGS, state
from helpers.targets import FRAMES, forms_of
from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss, LinearBeta

ALLOWED = (ValueError, TypeError, NotFittedError)
# What a message is about: a parameter, or a part of the data.
SUBJECTS = re.compile(
    r"\b(X|y|X_val|y_val|groups?|columns?|rows?|samples?|features?|labels?|class(es)?|"
    r"targets?|fit(ted)?|arrays?|images?|data(type)?|parameters?|names?|loss|"
    + "|".join(HSCLEmbedder().get_params())
    + r")\b",
    re.IGNORECASE,
)

# Values ------------------------------------------------------------------------------

TAME = st.floats(-10, 10, width=32)
WILD = st.sampled_from(
    [0.0, -0.0, 1e-45, 1e-300, 1e-5, 1e15, 3e38, -3e38, 1e39, 1e300, -1.7e308]
)
GAPS = st.sampled_from([np.nan, np.inf, -np.inf])
TEXTS = st.sampled_from(["a", "b", "", "nan", "1", "ä", "\x00", "None", "a" * 50])
ODD = st.sampled_from(
    [None, pd.NA, pd.NaT, np.nan, True, 1, 2**70, 1j, "a", b"a", (1, 2), [1], {}, {1},
     object, date(2020, 1, 1), timedelta(1), Decimal("1.5"), np.float32(1), -1]
)  # fmt: skip


def numbers(n, *, tame=False):
    """Columns of n numbers, most of them everyday ones."""
    some = TAME if tame else st.one_of(TAME, TAME, TAME, WILD)
    with_gaps = st.one_of(TAME, TAME, TAME, GAPS)
    choices = [
        st.lists(some, min_size=n, max_size=n),
        st.lists(st.integers(-3, 3), min_size=n, max_size=n),
        st.just([1.0] * n),
    ]
    if not tame:
        choices.append(st.lists(with_gaps, min_size=n, max_size=n))
    return st.one_of(choices)


def columns(n):
    """Columns of n values of any kind, as (kind, values)."""
    return st.one_of(
        numbers(n).map(lambda v: ("number", v)),
        numbers(n, tame=True).map(lambda v: ("number", v)),
        st.lists(TEXTS, min_size=n, max_size=n).map(lambda v: ("text", v)),
        st.lists(st.booleans(), min_size=n, max_size=n).map(lambda v: ("bool", v)),
        st.just([f"id{i}" for i in range(n)]).map(lambda v: ("text", v)),
        st.lists(ODD, min_size=n, max_size=n).map(lambda v: ("odd", v)),
        st.just([date(2020, 1, 1)] * n).map(lambda v: ("date", v)),
        st.just([None] * n).map(lambda v: ("odd", v)),
    )


NAMES = st.one_of(
    st.sampled_from(["a", "b", "c", "d", "e", "", "0"]),
    st.integers(0, 3),
    st.just(None),
    st.tuples(st.just("a"), st.just(1)),
)


@st.composite
def pandas_frames(draw, n):
    """Frames of mixed columns, whose names may be of any type, equal or missing."""
    n_columns = draw(st.integers(0, 5))
    parts = {}
    for index in range(n_columns):
        kind, values = draw(columns(n))
        series = pd.Series(values, dtype=object if kind == "odd" else None)
        if kind == "text" and draw(st.booleans()):
            series = series.astype("category")
        if kind == "number" and draw(st.booleans()):
            series = _as_type(series, draw(st.sampled_from(["Float64", "float32", "f2"])))
        parts[index] = series
    frame = pd.DataFrame(parts, index=draw(st.sampled_from([range(n), [7] * n])))
    if not draw(st.booleans()):
        frame.columns = [f"c{index}" for index in range(n_columns)]
    else:
        frame.columns = draw(st.lists(NAMES, min_size=n_columns, max_size=n_columns))
    return frame


def _as_type(series, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return series.astype(dtype)


@st.composite
def polars_frames(draw, n):
    """Frames of polars, of columns that polars can hold."""
    parts = {}
    for index in range(draw(st.integers(0, 4))):
        kind, values = draw(columns(n))
        if kind != "odd":
            values = [None if draw(st.integers(0, 20)) == 0 else v for v in values]
            parts[f"c{index}"] = pl.Series(values, strict=False)
    return pl.DataFrame(parts)


@st.composite
def arrays(draw, n):
    """Arrays of any type and number of dimensions."""
    n_columns = draw(st.sampled_from([0, 1, 2, 3, 4, 7]))
    values = np.array(
        [draw(numbers(n, tame=draw(st.booleans()))) for _ in range(n_columns)],
        dtype=np.float64,
    ).reshape(n_columns, n).T  # fmt: skip
    dtype = draw(
        st.sampled_from(
            ["f8", "f8", "f8", "f4", "f2", "i8", "i1", "u1", "?", "c16", "O", "U9", "M8[s]",
             "S3", "g", ">f8"]
        )
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dtype == "M8[s]":
            values = np.nan_to_num(values).clip(-9, 9).astype("i8")
        values = values.astype(dtype)
    form = draw(st.sampled_from(["plain"] * 6 + ["fortran", "strided", "locked", "list"]))
    if form == "fortran":
        return np.asfortranarray(values)
    if form == "strided":
        return np.repeat(values, 2, axis=0)[::2]
    if form == "locked":
        values.flags.writeable = False
    return values.tolist() if form == "list" else values


@st.composite
def images(draw, n):
    """Stacks of small images, or of what looks like them."""
    shape = draw(
        st.sampled_from([(4, 4), (4, 4, 1), (1, 4, 4), (3, 4, 4), (4, 3, 3), (5, 5, 5),
                         (0, 4), (1, 1), (4, 4, 3, 2), (2, 2)])
    )  # fmt: skip
    dtype = draw(st.sampled_from(["u1", "f4", "f8", "i4", "?", "c8"]))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    stack = (rng.random((n, *shape)) * 255).astype(dtype)
    if stack.dtype.kind == "f" and stack.size and draw(st.integers(0, 4)) == 0:
        stack.flat[draw(st.integers(0, stack.size - 1))] = draw(GAPS)
    return stack


@st.composite
def sparse_rows(draw, n):
    """Sparse matrices and arrays of all formats."""
    values = np.array([draw(numbers(n, tame=draw(st.booleans()))) for _ in range(3)])
    values[draw(st.integers(0, 2))] = 0.0
    kind = draw(
        st.sampled_from([sparse.csr_matrix, sparse.csc_array, sparse.coo_array,
                         sparse.lil_matrix, sparse.csr_array, sparse.dia_array])
    )  # fmt: skip
    return kind(values.T.reshape(n, 3))


def no_tables(n):
    """Return what is no table at all."""
    return st.sampled_from(
        [None, 1.0, "rows", [], {}, {"a": [1] * n}, list(range(n)), np.zeros(n),
         np.array(1),
         [[1, 2], [3]] * n, (["a"] * 3,) * n, pd.Series(range(n), dtype=float), object(),
         [None] * n, [["x", 1.0]] * n, np.zeros((n, 2, 2, 2, 2)), iter([1]), [[]] * n,
         [f"picture{i}.png" for i in range(n)], np.ma.masked_array(np.ones((n, 2)))]
    )  # fmt: skip


@st.composite
def arrow_tables(draw, n):
    """Tables and batches of Arrow, bare or in narwhals or pandas."""
    frame = draw(polars_frames(n))
    table = frame.to_arrow()
    form = draw(st.sampled_from(["table", "batch", "narwhals", "pandas"]))
    if form == "batch":
        return table.combine_chunks().to_batches()[0] if len(table) else table
    if form == "narwhals":
        return nw.from_native(draw(st.sampled_from([frame, table])))
    return table.to_pandas(types_mapper=pd.ArrowDtype) if form == "pandas" else table


@st.composite
def vectors(draw, n):
    """Columns of vectors, some of which are missing or of another length."""
    inside = st.one_of(TAME, TAME, TAME, st.none())
    usual = st.lists(inside, min_size=2, max_size=2)
    odd = st.one_of(st.none(), st.lists(TAME, max_size=3))
    cells = draw(st.lists(usual, min_size=n, max_size=n))
    if cells and draw(st.integers(0, 2)) == 0:
        cells[draw(st.integers(0, n - 1))] = draw(odd)
    column = pa.array(cells, pa.list_(pa.float32()))
    series = pl.Series("e", cells, dtype=pl.List(pl.Float32))
    return draw(
        st.sampled_from(
            [column, pa.chunked_array([column]), pa.table({"e": column}), series,
             series.to_frame(), pd.Series(cells), pd.DataFrame({"e": cells}), cells,
             pd.Series(cells, dtype=pd.ArrowDtype(column.type)),
             nw.from_native(series, series_only=True)]
        )
    )  # fmt: skip


@st.composite
def sparse_parts(draw, n):
    """CSR rows with entries in several parts, in any order, some of them 0."""
    counts = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    n_parts = sum(counts)
    indices = draw(st.lists(st.integers(0, 2), min_size=n_parts, max_size=n_parts))
    data = draw(st.lists(st.one_of(st.just(0.0), TAME), min_size=n_parts, max_size=n_parts))
    dtype = draw(st.sampled_from(["f8", "f4", "i4", "u1", "?"]))
    values = np.abs(np.array(data)).astype(dtype)
    indptr = np.cumsum([0, *counts])
    rows = sparse.csr_array((values, np.array(indices, int), indptr), shape=(n, 3))
    return draw(
        st.sampled_from([rows, rows.tocsc(), rows.tocoo(), sparse.csr_matrix(rows)])
    )


@st.composite
def masked_arrays(draw, n):
    """Arrays with masked entries."""
    values = np.array([draw(numbers(n)) for _ in range(3)], float).reshape(3, n).T
    mask = draw(st.lists(st.booleans(), min_size=3 * n, max_size=3 * n))
    dtype = draw(st.sampled_from(["f8", "f4", "i8", "O", ">f8"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = values.astype(dtype)
    return np.ma.array(values, mask=np.reshape(mask, (n, 3)))


def tensors(n):
    """Tensors of torch."""
    return arrays(n).filter(
        lambda a: isinstance(a, np.ndarray) and a.dtype.str[1:] in ("f8", "f4", "i8", "b1")
    ).map(lambda a: torch.from_numpy(a.astype(a.dtype.newbyteorder("="))))  # fmt: skip


def rows(n):
    """Any X of n rows, or of no rows that could be counted."""
    return st.one_of(
        pandas_frames(n), pandas_frames(n), arrays(n), arrays(n), images(n), sparse_rows(n),
        polars_frames(n), no_tables(n), tensors(n), arrow_tables(n), vectors(n),
        sparse_parts(n), masked_arrays(n),
    )  # fmt: skip


def fine_rows(n):
    """Rows that can be used, where there are enough of them."""
    values = np.random.default_rng(n).normal(size=(n, 3))
    return st.sampled_from(
        [values, values.astype(np.float32), values.tolist(), pl.DataFrame(values),
         pd.DataFrame(values).add_prefix("c"), np.round(values).astype(int),
         sparse.csr_array(np.round(values)),
         torch.from_numpy(values), np.random.default_rng(n).random((n, 4, 4)),
         pd.DataFrame({"a": values[:, 0], "b": np.resize(["x", "y", None], n)})]
    )  # fmt: skip


# Labels ------------------------------------------------------------------------------


@st.composite
def labels(draw, n):
    """Any y for n rows, and some for another number of rows."""
    n = draw(st.sampled_from([n] * 12 + [n + 1, 0, 1]))
    codes = [i % draw(st.integers(1, 4)) for i in range(n)]
    odd = draw(st.lists(ODD, min_size=n, max_size=n))
    floats = draw(numbers(n))
    names = np.array(["x", "y", "z", "w"])[codes] if n else np.array([], dtype=str)
    return draw(
        st.sampled_from(
            [None, np.array(codes), codes, codes, names, names, names.tolist(),
             pd.Series(names), pd.Series(names).astype("category"), pl.Series(codes),
             pd.Series(codes, dtype="Int64"), np.array(codes, dtype=bool),
             np.array(codes, dtype=float), np.array(codes) - 1, np.array(floats), floats,
             np.array(codes)[:, None], np.eye(4)[codes], np.eye(4, dtype=int)[codes],
             np.array(odd, dtype=object) if _is_flat(odd) else odd, odd,
             np.where(np.arange(n) % 2, names, None), np.arange(n),
             [2**62 + c for c in codes], np.array(codes, dtype=complex), "labels", 1, {},
             np.array(codes, dtype="M8[s]"),
             np.zeros((n, 0)), np.zeros((n, 2, 2)), [[c] for c in codes],
             [["a"], ["b", "c"]] * (n // 2), sparse.eye(4).tocsr()[codes] if n else None,
             torch.tensor(codes), pd.DataFrame({"label": codes}),
             np.array(codes, dtype="S1"),
             [float("nan")] * n, [1e300 * c for c in codes], np.array(codes, np.float16)]
        )
    )  # fmt: skip


def _is_flat(values):
    return not any(isinstance(value, tuple | list | dict | set) for value in values)


# Parameters --------------------------------------------------------------------------

JUNK = st.sampled_from(
    [None, -1, 0, 1, 2, 0.5, -0.5, 1e-300, 1e300, np.nan, np.inf, -np.inf, "auto", "", "x",
     True, False, [], [1], (8,), (0,), (-1,), ["a"], {}, {"a": 1}, object(),
     np.float32(0.5), np.int64(3), 1j, np.array([1.0]), np.zeros((2, 2)), b"x", int,
     torch.nn.Identity(),
     torch.nn.Identity, torch.nn.Linear(3, 2), len, LinearBeta(0, 2), lambda x: x,
     2**63, ContrastiveLoss("scl"), np.random.RandomState(0)]
)  # fmt: skip
GOOD = {
    "loss": ["ucl", "scl", "hucl", "hscl", "supcon", "sscl", "schane", "auto"],
    "preset": ["official"],
    "hardening": ["exponential", "threshold", "polynomial", "top_k"],
    "beta": [0, 1.0, 5, 100, 1000.0, LinearBeta(0, 2)],
    "threshold": [-1, 0, 1.0],
    "temperature": [0.01, 0.2, 10.0],
    "tau_plus": [0, 0.1, 0.9],
    "negative_mass": ["negatives", "batch", 3.0],
    "reduction": ["anchors", "pairs", "classes"],
    "detach_weights": [True, False],
    "positives": ["all", "view"],
    "ce_weight": [0, 0.5, 1],
    "target_type": ["class", "multilabel", "continuous"],
    "unlabeled_label": [-1, 0, "x"],
    "encoder": ["mlp", "tabular", "conv", "auto", torch.nn.Linear(3, 2)],
    "hidden_layer_sizes": [(4,), (4, 4), [8], ()],
    "n_members": [1, 3],
    "projection_dim": [None, 3],
    "normalize": [True],
    "channels": ["first", "last"],
    "cross_fit": [2, 3],
    "categorical_features": [None, [0], ["a"], ["c0", "c1"], [True, False, False]],
    "augment": [None, "auto"],
    "n_views": [1, 2, 3],
    "device_batch_size": [1, 3, 8],
    "sampler": ["stratified", "balanced", "shuffle"],
    "lr": [1e-3, 1.0, 1e30, 1e-30],
    "lr_schedule": ["cosine", "warm_up", "constant"],
    "lr_backoff": [0.1],
    "clip_norm": [1.0, 1e-30],
    "early_stopping": [True, False],
    "validation_fraction": [0.01, 0.5, 0.99],
    "precision": ["float64", "float32", "bf16", "tf32"],
    "random_state": [0, None],
    "net_params": [{"optimizer__eps": 1e-6}, {"optimizer": torch.optim.SGD}, {"x": 1}],
    "resume": [True],
}
# Kept small: what takes long, or writes to disk, is no question of these cases.
FIXED = ("max_epochs", "batch_size", "n_components", "compile", "verbose", "net_callbacks",
         "checkpoint_dir", "device", "n_threads")  # fmt: skip


@st.composite
def parameters(draw):
    """Parameters of an embedder: mostly sensible, sometimes not."""
    chosen = {}
    for name in draw(st.lists(st.sampled_from(sorted(GOOD)), max_size=3, unique=True)):
        junk = draw(st.integers(0, 7)) == 0
        chosen[name] = draw(JUNK if junk else st.sampled_from(GOOD[name]))
    return chosen


def small_embedder(**changes):
    """Return an embedder that fits in milliseconds."""
    settings = {"max_epochs": 1, "batch_size": 8, "n_components": 3, "random_state": 0}
    encoder = changes.get("encoder", "auto")
    if isinstance(encoder, str):
        settings["hidden_layer_sizes"] = (4,)
    if encoder in ("auto", "tabular"):
        settings["n_members"] = 2
    return HSCLEmbedder(**(settings | changes))


# Rows to transform ---------------------------------------------------------------------


@st.composite
def other_rows(draw, X):
    """Rows like those of a fit, changed in one way, or quite others."""
    change = draw(
        st.sampled_from(["none", "none", "one", "order", "drop", "rename", "double", "type",
                         "gap", "empty", "new", "other"])
    )  # fmt: skip
    n_rows = X.shape[0] if hasattr(X, "shape") and len(X.shape) else 0
    if change == "other" or n_rows == 0:
        return draw(rows(draw(st.integers(0, 5))))
    if isinstance(X, pd.DataFrame):
        return _changed_frame(X, change, draw)
    if isinstance(X, np.ndarray) and X.ndim > 1:
        return _changed_array(X, change, draw)
    return X[:1] if change == "one" and not sparse.issparse(X) else X


def _changed_frame(X, change, draw):
    X = X.copy()
    if change == "one":
        return X.iloc[:1]
    if change == "empty":
        return X.iloc[:0]
    if change == "order":
        return X.iloc[:, ::-1]
    if change == "drop":
        return X.iloc[:, :-1]
    if change == "rename":
        return X.set_axis([f"{name}!" for name in X.columns], axis=1)
    if change == "double":
        return pd.concat([X, X], axis=1)
    if change == "type":
        return X.astype(draw(st.sampled_from([object, str])))
    if change in ("gap", "new") and X.shape[1]:
        X = X.astype(object)
        X.isetitem(0, [draw(ODD if change == "gap" else TEXTS)] * len(X))
    return X


def _changed_array(X, change, draw):
    if change == "one":
        return X[:1]
    if change == "empty":
        return X[:0]
    if change == "order":
        return X[:, ::-1]
    if change == "drop":
        return X[:, :-1]
    if change == "double":
        return np.concatenate([X, X], axis=1)
    if change == "type" and X.dtype.kind != "c":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return X.astype(draw(st.sampled_from(["f4", "O", "U9", "f8"])))
    if change == "gap" and X.dtype.kind == "f" and X.size:
        X = X.copy()
        with np.errstate(over="ignore"):
            X.flat[0] = draw(st.one_of(GAPS, WILD))
    return X


# Cases ---------------------------------------------------------------------------------


class ViolationError(AssertionError):
    """Something came of a case that must not."""


def attempt(function, *arguments):
    """Call a function; return (result, error), or raise a violation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return function(*arguments), None
        except ALLOWED as error:
            if not SUBJECTS.search(str(error)):
                raise ViolationError(f"names nothing: {error!r}") from error
            return None, error
        except RuntimeWarning as error:
            raise ViolationError(f"warns: {error!r}") from error
        except Exception as error:
            raise ViolationError(f"raises {error!r}") from error


def check_embedding(embedding, X):
    """Raise a violation where the rows of X have no finite embedding."""
    if embedding is None:
        return
    n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
    if embedding.shape[0] != n_rows or not np.isfinite(np.asarray(embedding)).all():
        raise ViolationError(f"embeds {X!r} as {embedding!r}")


def try_fit(draw):
    """Fit anything, and transform anything else."""
    n = draw(st.sampled_from([0, 1, 2, 3, 5, 9, 20, 41]))
    fine = draw(st.sampled_from(["X", "y", "y", "neither"]))
    X = draw(fine_rows(n) if fine == "X" else rows(n))
    y = np.arange(n) % 2 if fine == "y" else draw(labels(n))
    embedder = small_embedder(**draw(parameters()))
    fitted, _ = attempt(embedder.fit, X, y)
    if fitted is None:
        if hasattr(embedder, "module_") or hasattr(embedder, "n_features_in_"):
            raise ViolationError("a failed fit left something")
        return "refused"
    check_embedding(attempt(fitted.transform, X)[0], X)
    others = draw(other_rows(X))
    check_embedding(attempt(fitted.transform, others)[0], others)
    return "fitted"


X_BASE = np.random.default_rng(0).normal(size=(20, 3))
Y_BASE = np.arange(20) % 2
_base = {}


def base():
    """Return a fitted embedder, and what it makes of its rows."""
    if not _base:
        _base["embedder"] = small_embedder().fit(X_BASE, Y_BASE)
        _base["embedding"] = _base["embedder"].transform(X_BASE)
    return _base["embedder"], _base["embedding"]


def try_refit(draw):
    """Fit a fitted embedder again: if that fails, it is as it was before."""
    n = draw(st.sampled_from([0, 1, 3, 20]))
    changes = draw(parameters()) | {"warm_start": draw(st.booleans())}
    name = draw(st.sampled_from(["fit", "fit", "partial_fit"]))
    X, y = draw(
        st.one_of(
            st.tuples(st.just(X_BASE), labels(20)),
            st.tuples(fine_rows(20), st.just(Y_BASE)),
            st.tuples(rows(n), labels(n)),
        )
    )
    embedder, embedding = base()
    before = embedder.get_params()
    embedder.set_params(**changes)
    try:
        _, error = attempt(getattr(embedder, name), X, y)
    finally:
        embedder.set_params(**before)
    if error is None:
        _base.clear()
        return "fitted"
    if not np.array_equal(embedder.transform(X_BASE), embedding):
        raise ViolationError(f"a failed fit changed the previous one: {error!r}")
    return "refused"


def try_parameters(draw):
    """Set anything as parameter, and fit everyday rows."""
    names = [name for name in HSCLEmbedder().get_params() if name not in FIXED]
    name = draw(st.sampled_from([*names, "x", "net__lr", ""]))
    value = draw(st.one_of(JUNK, st.sampled_from(GOOD.get(name, [0]))))
    embedder = small_embedder()
    done, _ = attempt(lambda: embedder.set_params(**{name: value}))
    if done is None:
        return "refused"
    fitted, _ = attempt(embedder.fit, X_BASE, Y_BASE)
    if fitted is None:
        return "refused"
    check_embedding(attempt(fitted.transform, X_BASE)[0], X_BASE)
    return "fitted"


def try_held_out(draw):
    """Pass anything as held-out rows or groups."""
    n = draw(st.sampled_from([1, 2, 5]))
    changes = {"early_stopping": draw(st.sampled_from([True, "auto"]))} | draw(parameters())
    fine = draw(st.booleans())
    held_out = {
        "X_val": draw(fine_rows(n) if fine else rows(n)),
        "y_val": draw(labels(n)) if fine else np.arange(n) % 2,
    }
    groups = {"groups": draw(st.one_of(labels(20), labels(20), labels(3)))}
    arguments = draw(st.sampled_from([held_out, groups, groups, held_out | groups]))
    embedder = small_embedder(**changes)
    fitted, _ = attempt(lambda: embedder.fit(X_BASE, Y_BASE, **arguments))
    if fitted is None:
        return "refused"
    check_embedding(attempt(fitted.transform, X_BASE)[0], X_BASE)
    return "fitted"


# The same in other words ---------------------------------------------------------------


# Warnings as errors change what a call does, and a number of threads may change the last
# bits, as documented; the others take seconds, or use processes.
FUZZED_SETTINGS = sorted(
    SETTINGS.keys()
    - {"warnings", "threads", "anomalies", "two threads of joblib", "forks of joblib"}
)


def check_same(found, plain, what):
    """Raise a violation where an outcome is not that of the plain case."""
    same = found == plain if isinstance(plain, str) else np.array_equal(found, plain)
    if not same:
        raise ViolationError(f"{what}: {found!r} in place of {plain!r}")


def fitting(X, y, changes, **arguments):
    """Return a function that fits a new embedder, and embeds its rows."""

    def fit():
        embedder = small_embedder(**copy.deepcopy(changes) | {"random_state": 0})
        return np.asarray(embedder.fit(X, y, **arguments).transform(X))

    return fit


def result(fit):
    """Return an embedding, or the name of the type of the error."""
    embedding, error = attempt(fit)
    return embedding if error is None else type(error).__name__


def try_setting(draw):
    """Change a setting of the process: the result and the setting stay as they are."""
    name, n = draw(st.sampled_from(FUZZED_SETTINGS)), draw(st.sampled_from([3, 9, 20]))
    X, y = draw(
        st.one_of(
            st.tuples(fine_rows(n), st.just(np.arange(n) % 2)),
            st.tuples(fine_rows(n), labels(n)),
            st.tuples(rows(n), st.just(np.arange(n) % 2)),
        )
    )
    fit = fitting(X, y, draw(parameters()))
    plain = result(fit)
    with SETTINGS[name]():
        before = state()
        found = result(fit)
        changed = [key for key, value in state().items() if value != before[key]]
    if changed:
        raise ViolationError(f"{name}: {changed} changed")
    if not (name == "no validation" and isinstance(plain, str)):
        check_same(found, plain, name)
    return "refused" if isinstance(plain, str) else "fitted"


@st.composite
def plain_targets(draw, n):
    """Labels, numbers or indicators in an array, as (kind, values)."""
    texts = st.sampled_from(
        draw(st.sampled_from([["red", "green"], ["", "nan", "ä", "1"]]))
    )
    cells = {
        "integers": st.integers(0, draw(st.integers(1, 6))),
        "strings": texts,
        "bools": st.booleans(),
        "numbers": TAME,
        "indicators": st.lists(st.integers(0, 1), min_size=3, max_size=3),
        "several numbers": st.lists(TAME, min_size=2, max_size=2),
    }
    kind = draw(st.sampled_from(sorted(cells)))
    return kind, np.array(draw(st.lists(cells[kind], min_size=n, max_size=n)))


def try_form(draw):
    """Pass y or groups in another container or type: the result stays as it is."""
    kind, y = draw(plain_targets(20))
    form = draw(st.sampled_from(sorted(forms_of(kind))))
    role = draw(st.sampled_from(["y", "y", "y_val", "groups"]))
    changes = draw(parameters()) | {"early_stopping": role != "y"}

    def fit(values):
        if role == "groups":
            return fitting(X_BASE, Y_BASE, changes, groups=values)
        held_out = {"X_val": X_BASE, "y_val": values} if role == "y_val" else {}
        return fitting(X_BASE, values, changes, **held_out)

    plain, found = result(fit(y)), result(fit(forms_of(kind)[form](y)))
    has_columns = form in FRAMES or form == "tensor column"  # which groups may not have
    if not (role == "groups" and has_columns and found == "ValueError"):
        check_same(found, plain, f"{role} as {form} of {kind}")
    return "refused" if isinstance(plain, str) else "fitted"


KINDS = {
    "fit, transform": try_fit,
    "fit again": try_refit,
    "set_params": try_parameters,
    "held-out rows, groups": try_held_out,
    "settings of the process": try_setting,
    "forms of y, groups": try_form,
}
