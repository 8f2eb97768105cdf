"""Labels, numbers and indicators in the containers and types that users pass as y."""

from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import torch
from scipy.sparse import coo_matrix, csr_array

CODES = np.arange(12) % 3
LABELS = {
    "integers": CODES + 5,
    "strings": np.array(["red", "green", "blue"])[CODES],
    "bools": CODES == 1,
    "numbers": np.linspace(-1, 2, 12) ** 3,
    "indicators": np.eye(3, dtype=int)[CODES],
    "several numbers": np.random.default_rng(0).normal(size=(12, 2)),
}
FRAMES = ("frame", "polars frame", "arrow table", "narwhals frame", "lists of one")
ONE_COLUMN = [name for name, values in LABELS.items() if values.ndim == 1]
ARROW_TYPES = {
    "integers": "int8",
    "strings": "string",
    "bools": "bool",
    "numbers": "double",
}
NULLABLE = {
    "integers": "Int8",
    "strings": "string",
    "bools": "boolean",
    "numbers": "Float64",
}


def string_enums(y):
    members = {f"member{i}": value for i, value in enumerate(np.unique(y).tolist())}
    text = Enum("Text", members, type=str)  # str() of it differs from its value
    return object_array([text(value) for value in y])


def arrow(y, **options):
    return pa.array(y.tolist(), **options)


def object_array(values):
    return np.fromiter(values, dtype=object, count=len(values))


ANY_COLUMN = {
    "list": lambda y: y.tolist(),
    "tuple": lambda y: tuple(y.tolist()),
    "objects": lambda y: y.astype(object),
    "list of numpy scalars": list,
    "index": pd.Index,
    "series": lambda y: pd.Series(y, index=range(50, 50 + len(y))),
    "frame": lambda y: pd.DataFrame({"y": y}),
    "lists of one": lambda y: y[:, None].tolist(),
    "category": lambda y: pd.Categorical(y),
    "unused levels": lambda y: pd.Series(pd.Categorical(y, [*np.unique(y), *"xyz"])),
    "ordered": lambda y: pd.Series(pd.Categorical(y, np.unique(y)[::-1], ordered=True)),
    "polars": lambda y: pl.Series(y.tolist()),
    "polars frame": lambda y: pl.DataFrame({"y": y.tolist()}),
    "arrow": arrow,
    "arrow chunks": lambda y: pa.chunked_array([arrow(y[:5]), arrow(y[5:])]),
    "arrow table": lambda y: pa.table({"y": arrow(y)}),
    "arrow dictionary": lambda y: arrow(y).dictionary_encode(),
    "narwhals": lambda y: nw.from_native(pl.Series(y.tolist()), series_only=True),
    "narwhals frame": lambda y: nw.from_native(pl.DataFrame({"y": y.tolist()})),
    "masked without mask": np.ma.array,
    "memory": lambda y: y[::-1].copy()[::-1],
}
BY_KIND = {
    "nullable": lambda y, kind: pd.Series(y, dtype=NULLABLE[kind]),
    "arrow dtype": lambda y, kind: pd.Series(
        y, dtype=pd.ArrowDtype(pa.type_for_alias(ARROW_TYPES[kind]))
    ),
    "arrow dictionary dtype": lambda y, kind: pd.Series(
        arrow(y).dictionary_encode(),
        dtype=pd.ArrowDtype(arrow(y).dictionary_encode().type),
    ),
}
SPECIAL = {
    "StringDType": ("strings", lambda y: y.astype(np.dtypes.StringDType())),
    "polars categories": ("strings", lambda y: pl.Series(y.tolist(), dtype=pl.Categorical)),
    "polars enum": (
        "strings",
        lambda y: pl.Series(y.tolist(), dtype=pl.Enum(list(set(y)))),
    ),
    "string enums": (
        "strings",
        string_enums,
    ),
    "big-endian strings": ("strings", lambda y: y.astype(">U5")),
    "big-endian": ("integers", lambda y: y.astype(">i4")),
    "unsigned": ("integers", lambda y: y.astype(np.uint8)),
    "float labels": ("integers", lambda y: y.astype(np.float16)),
    "long floats": ("numbers", lambda y: y.astype(np.longdouble)),
    "big-endian numbers": ("numbers", lambda y: y.astype(">f8")),
    "decimals": ("numbers", lambda y: [Decimal(v) for v in y.tolist()]),
    "decimal labels": ("integers", lambda y: pd.Series([Decimal(v) for v in y.tolist()])),
    "arrow decimals": ("integers", lambda y: arrow(y, type=pa.decimal128(5, 1))),
    "fractions": ("numbers", lambda y: [Fraction(v) for v in y.tolist()]),
    "bools and integers": ("integers", lambda y: [*y.tolist()[:-1], np.int8(y[-1])]),
    "sparse column": ("integers", lambda y: pd.Series(y, dtype="Sparse[int]")),
    "sparse numbers": ("numbers", lambda y: pd.arrays.SparseArray(y)),
    "sparse matrix": ("indicators", csr_array),
    "coordinates": ("indicators", lambda y: coo_matrix(y.astype(bool))),
    "indicator frame": ("indicators", pd.DataFrame),
    "mixed frame": (
        "indicators",
        lambda y: pd.DataFrame({"a": y[:, 0] > 0, "b": y[:, 1], "c": y[:, 2] * 1.0}),
    ),
    "nullable frame": ("indicators", lambda y: pd.DataFrame(y).astype("Int64")),
    "sparse frame": ("indicators", lambda y: pd.DataFrame(y).astype("Sparse[int]")),
    "polars indicators": ("indicators", pl.DataFrame),
    "arrow indicators": (
        "indicators",
        lambda y: pa.table(dict(zip("abc", y.T, strict=True))),
    ),
    "lists of lists": ("indicators", lambda y: y.tolist()),
    "tuples": ("indicators", lambda y: [*map(tuple, y.tolist())]),
    "object indicators": ("indicators", lambda y: y.astype(object)),
    "bool indicators": ("indicators", lambda y: y > 0),
    "list of arrays": ("several numbers", list),
    "number frame": ("several numbers", pd.DataFrame),
    "float matrix": ("several numbers", lambda y: torch.tensor(y).requires_grad_()),
    "tensor": ("integers", torch.tensor),
    "list of tensors": ("integers", lambda y: list(torch.tensor(y))),
    "series of tensors": ("integers", lambda y: pd.Series(object_array(torch.tensor(y)))),
    "tensor column": ("integers", lambda y: torch.tensor(y)[:, None]),
    "bf16 labels": ("integers", lambda y: torch.tensor(y).bfloat16()),
    "bool tensor": ("bools", torch.tensor),
    "requires grad": ("numbers", lambda y: torch.tensor(y).requires_grad_()),
    "list that requires grad": (
        "numbers",
        lambda y: list(torch.tensor(y).requires_grad_()),
    ),
    "sparse tensor": ("indicators", lambda y: torch.tensor(y).to_sparse()),
    "float8 tensor": ("integers", lambda y: torch.tensor(y * 1.0).to(torch.float8_e5m2)),
}


def forms_of(kind):
    """Return the functions that put y of a kind into each container or type."""
    forms = {name: make for name, (of, make) in SPECIAL.items() if of == kind}
    if kind in ONE_COLUMN:
        by_kind = {name: partial(make, kind=kind) for name, make in BY_KIND.items()}
        forms |= ANY_COLUMN | by_kind
    return forms
