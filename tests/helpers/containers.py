"""Containers that users pass as X: read like a plain array, or refused with a remedy.

`PASSED` maps containers to what is passed in each role; tests read all of it. The user
guide shows it as a table, together with those of other test modules for other roles.
``cd tests && python -m helpers.containers`` prints it as the guide must have it.
"""

import importlib
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import scipy.sparse
import torch
from PIL import Image

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data.validation import FitInput
from sklearn_hscl.training.fitting import read_data

RNG = np.random.default_rng(0)
N = 12
NUMBERS = RNG.integers(-9, 9, (N, 3)).astype(np.float32) / 4
NAMES = ["a", "b", "c"]
MIXED = {
    "size": [1.5, None, -2.0] * 4,
    "colour": ["red", "green", None, "red"] * 3,
    "old": [True, False, None] * 4,
    "count": [3, 1, 2, 3] * 3,
}
IMAGES = RNG.integers(0, 256, (N, 8, 6, 3), dtype=np.uint8)


def data_of(X, **parameters):
    """Return what `fit` reads of X, without training."""
    embedder = HSCLEmbedder(loss="hucl", **parameters)
    return read_data(embedder, FitInput(X)).data


def rows_of(X, **parameters):
    """Return the rows that `fit` reads of X, as an array."""
    rows = data_of(X, **parameters).train.rows
    return rows.toarray() if scipy.sparse.issparse(rows) else rows[:]


@dataclass(frozen=True)
class Refused:
    """A container that is refused, and the step that its message names."""

    container: Any
    remedy: str
    """As in the message, for X."""
    way_out: Any = None
    """What the remedy makes of the container."""


def has(module):
    """Return whether a library is installed; if not, a stand-in is of the same form."""
    return importlib.util.find_spec(module) is not None


class StandIn:
    """An object with some attributes of a library's container, read by position."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return N

    def __getitem__(self, key):
        return self  # without end, as a slice of a slice


def adata():
    if not has("anndata"):
        return StandIn(X=NUMBERS, obs_names=range(N), var_names=NAMES)
    return importlib.import_module("anndata").AnnData(NUMBERS)


def sparse_in_a_file():
    csr = scipy.sparse.csr_matrix(NUMBERS)
    if not has("anndata"):
        parts = {"format": "csr", "group": None, "shape": csr.shape}
        return StandIn(to_memory=lambda: csr, **parts)
    h5py, anndata = map(importlib.import_module, ("h5py", "anndata"))
    file = h5py.File("rows", "w", driver="core", backing_store=False)
    anndata.io.write_elem(file, "X", csr)
    return anndata.io.sparse_dataset(file["X"])


def hf_dataset():
    table = pa.table(dict(zip(NAMES, NUMBERS.T, strict=True)))
    if has("datasets"):
        return importlib.import_module("datasets").Dataset(table)
    chosen = StandIn(to_pandas=table.to_pandas)
    return StandIn(select_columns=lambda names: chosen, column_names=NAMES)


def relation():
    frame = pd.DataFrame(NUMBERS, columns=NAMES)
    if has("duckdb"):
        return importlib.import_module("duckdb").from_df(frame)
    known = {"columns": NAMES, "dtypes": ["FLOAT"] * 3, "shape": (N, 3)}
    return StandIn(df=lambda: frame, fetchdf=lambda: frame, **known)


def xarray_dataset():
    columns = {name: ("n", NUMBERS[:, i]) for i, name in enumerate(NAMES)}
    if has("xarray"):
        return importlib.import_module("xarray").Dataset(columns)
    frame = pd.DataFrame(NUMBERS, columns=NAMES)
    return StandIn(data_vars=columns, to_dataframe=lambda: frame)


def tensor_dict():
    tensors = {"rows": torch.from_numpy(NUMBERS)}
    if has("tensordict"):
        return importlib.import_module("tensordict").TensorDict(tensors, batch_size=[N])

    class TensorDict(StandIn):
        def __getitem__(self, key):
            return tensors[key]

    return TensorDict(to_tensordict=lambda: None, batch_size=[N], ndim=1)


def dask_frame(frame):
    if has("dask"):
        return importlib.import_module("dask.dataframe").from_pandas(frame, npartitions=2)
    graph = {"compute": lambda: frame, "__dask_graph__": dict}
    return StandIn(columns=frame.columns, dtypes=frame.dtypes, shape=(None, 2), **graph)


def hf_column(values):
    if has("datasets"):
        dataset = importlib.import_module("datasets").Dataset.from_dict({"e": values})
        return dataset["e"]

    class Column(Sequence):
        def __len__(self):
            return len(values)

        def __getitem__(self, index):
            return values[index]

    return Column()


class Items(torch.utils.data.Dataset):
    """A torch dataset."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return torch.from_numpy(self.items[index])


def masked(values):
    """Return a masked array without missing values."""
    return np.ma.array(values, mask=np.zeros(np.shape(values), bool))


def objects(cells):
    """Return an array of objects, one for each cell."""
    return np.fromiter(cells, dtype=object, count=len(cells))


def mapped(values):
    """Return a memory map of a file that is deleted at once."""
    with tempfile.TemporaryFile() as file:
        array = np.memmap(file, values.dtype, "w+", shape=values.shape)
        array[:] = values
        return array


NUMBER_FRAME = pd.DataFrame(NUMBERS, columns=NAMES)
MIXED_FRAME = pd.DataFrame(
    {
        "size": pd.Series(MIXED["size"], dtype=float),
        "colour": pd.Series(MIXED["colour"], dtype="str"),
        "old": pd.Series(MIXED["old"], dtype="boolean"),
        "count": MIXED["count"],
    }
)
NUMBER_POLARS = pl.DataFrame(NUMBERS, schema=NAMES)
NUMBER_ARROW = pa.table(dict(zip(NAMES, NUMBERS.T, strict=True)))
MIXED_ARROW = pa.table(MIXED)
MIXED_ROWS = [list(row) for row in zip(*MIXED.values(), strict=True)]
FLAT = pa.array(NUMBERS.ravel())
FIXED = pa.FixedSizeListArray.from_arrays(FLAT, 3)
ARROW_VECTORS = pd.ArrowDtype(pa.list_(pa.float32()))
VECTOR_LISTS = pl.Series("e", [row.tolist() for row in NUMBERS], dtype=pl.List(pl.Float32))
RECORDS = np.rec.fromarrays(NUMBERS.T, names=NAMES)
PICTURES = [Image.fromarray(image) for image in IMAGES]

# For each container, what to pass in each role. Arrays and lists hold categories where
# `categorical_features` names them.
PASSED = {
    "numpy array": {
        "X numbers": NUMBERS,
        "X categories": np.array(MIXED_ROWS, dtype=object),
        "images": IMAGES,
    },
    "numpy array, big-endian": {
        "X numbers": NUMBERS.astype(">f4"),
        "images": IMAGES.astype(">u2").astype(np.uint8),
    },
    "numpy array of objects": {"X numbers": NUMBERS.astype(object)},
    "numpy masked array": {"X numbers": masked(NUMBERS), "images": masked(IMAGES)},
    "numpy memory map": {"X numbers": mapped(NUMBERS), "images": mapped(IMAGES)},
    "numpy structured or record array": {
        "X numbers": Refused(
            RECORDS,
            "pass pandas.DataFrame.from_records(X)",
            pd.DataFrame.from_records,
        )
    },
    "nested list": {
        "X numbers": [row.tolist() for row in NUMBERS],
        "X categories": MIXED_ROWS,
        "images": IMAGES.tolist(),
    },
    "list of arrays": {"X numbers": list(NUMBERS), "images": list(IMAGES)},
    "list of tensors": {
        "X numbers": [torch.from_numpy(row) for row in NUMBERS],
        "images": [torch.from_numpy(image) for image in IMAGES],
    },
    "list of images opened by Pillow": {"images": PICTURES},
    "list of dicts": {
        "X numbers": Refused(
            NUMBER_FRAME.to_dict("records"), "pass pandas.DataFrame(X)", pd.DataFrame
        )
    },
    "dict of columns": {
        "X numbers": Refused(
            dict(zip(NAMES, NUMBERS.T, strict=True)),
            "pass pandas.DataFrame(X) if its values are columns",
            pd.DataFrame,
        )
    },
    "pandas DataFrame": {"X numbers": NUMBER_FRAME, "X categories": MIXED_FRAME},
    "pandas DataFrame, nullable": {
        "X numbers": NUMBER_FRAME.convert_dtypes(),
        "X categories": MIXED_FRAME.convert_dtypes(),
    },
    "pandas DataFrame, Arrow types": {
        "X numbers": NUMBER_FRAME.convert_dtypes(dtype_backend="pyarrow"),
        "X categories": MIXED_FRAME.convert_dtypes(dtype_backend="pyarrow"),
    },
    "pandas DataFrame, sparse": {
        "X numbers": pd.DataFrame.sparse.from_spmatrix(
            scipy.sparse.csr_matrix(NUMBERS), columns=NAMES
        )
    },
    "pandas column of vectors or images": {
        "X numbers": pd.Series(list(NUMBERS)),
        "images": pd.Series(list(IMAGES)),
    },
    "pandas column of lists": {"X numbers": pd.Series(NUMBERS.tolist())},
    "pandas column of Arrow lists": {
        "X numbers": pd.Series(NUMBERS.tolist(), dtype=ARROW_VECTORS)
    },
    "pandas DataFrame of one such column": {
        "X numbers": pd.DataFrame({"e": list(NUMBERS)}),
        "images": pd.DataFrame({"image": PICTURES}),
    },
    "polars DataFrame": {"X numbers": NUMBER_POLARS, "X categories": pl.DataFrame(MIXED)},
    "polars LazyFrame": {
        "X numbers": Refused(
            NUMBER_POLARS.lazy(), "pass X.collect()", pl.LazyFrame.collect
        )
    },
    "polars column of lists": {"X numbers": VECTOR_LISTS},
    "polars column of arrays": {
        "X numbers": VECTOR_LISTS.cast(pl.Array(pl.Float32, 3)),
        "images": pl.Series(objects(list(IMAGES)), dtype=pl.Object),
    },
    "polars DataFrame of one such column": {"X numbers": VECTOR_LISTS.to_frame()},
    "pyarrow Table": {"X numbers": NUMBER_ARROW, "X categories": MIXED_ARROW},
    "pyarrow RecordBatch": {
        "X numbers": NUMBER_ARROW.to_batches()[0],
        "X categories": MIXED_ARROW.to_batches()[0],
    },
    "pyarrow RecordBatchReader": {
        "X numbers": Refused(
            NUMBER_ARROW.to_reader(), "pass X.read_all()", lambda X: X.read_all()
        )
    },
    "pyarrow list column": {
        "X numbers": pa.ListArray.from_arrays(pa.array(range(0, 3 * N + 1, 3)), FLAT)
    },
    "pyarrow fixed-size list column": {"X numbers": FIXED},
    "pyarrow chunked list column": {"X numbers": pa.chunked_array([FIXED[:5], FIXED[5:]])},
    "pyarrow Table of one such column": {"X numbers": pa.table({"e": FIXED})},
    "narwhals DataFrame": {
        "X numbers": nw.from_native(NUMBER_POLARS),
        "X categories": nw.from_native(MIXED_ARROW),
    },
    "narwhals LazyFrame": {
        "X numbers": Refused(
            nw.from_native(NUMBER_POLARS.lazy()),
            "pass X.collect()",
            lambda X: X.collect(),
        )
    },
    "narwhals column of vectors": {
        "X numbers": nw.from_native(VECTOR_LISTS, series_only=True)
    },
    "dask DataFrame": {
        "X numbers": dask_frame(NUMBER_FRAME),
        "X categories": dask_frame(MIXED_FRAME),
    },
    "SciPy sparse matrix or array": {"X numbers": scipy.sparse.csr_array(NUMBERS)},
    "sparse rows in a file of AnnData": {
        "X numbers": Refused(
            sparse_in_a_file(), "pass X.to_memory()", lambda X: X.to_memory()
        )
    },
    "torch Tensor": {
        "X numbers": torch.from_numpy(NUMBERS),
        "images": torch.from_numpy(IMAGES),
    },
    "torch Tensor, sparse": {
        "X numbers": Refused(
            torch.from_numpy(NUMBERS).to_sparse(),
            "pass X.to_dense()",
            torch.Tensor.to_dense,
        )
    },
    "torch MaskedTensor": {
        "X numbers": Refused(
            StandIn(get_mask=None, to_tensor=lambda fill: torch.from_numpy(NUMBERS)),
            "pass X.to_tensor(float('nan'))",
            lambda X: X.to_tensor(float("nan")),
        )
    },
    "torch Dataset": {"X numbers": Items(NUMBERS), "images": Items(IMAGES)},
    "torch DataLoader": {
        "X numbers": Refused(
            torch.utils.data.DataLoader(Items(NUMBERS)),
            "pass X.dataset",
            lambda X: X.dataset,
        )
    },
    "TensorDict": {
        "X numbers": Refused(
            tensor_dict(), "pass one of its tensors, X['...']", lambda X: X["rows"]
        )
    },
    "AnnData": {"X numbers": Refused(adata(), "pass X.X", lambda X: X.X)},
    "Hugging Face Dataset": {
        "X numbers": Refused(
            hf_dataset(),
            "pass some of its columns as a frame, X.select_columns([...]).to_pandas()",
            lambda X: X.select_columns(NAMES).to_pandas(),
        )
    },
    "column of a Hugging Face Dataset": {
        "X numbers": hf_column(NUMBERS.tolist()),
        "images": hf_column(PICTURES),
    },
    "DuckDB relation": {
        "X numbers": Refused(relation(), "pass X.df()", lambda X: X.df())
    },
    "xarray Dataset": {
        "X numbers": Refused(
            xarray_dataset(), "pass X.to_dataframe()", lambda X: X.to_dataframe()
        )
    },
    "set": {
        "X numbers": Refused({1, 2}, "pass an array, a data frame, a sparse matrix"),
    },
    "generator or other iterator": {
        "X numbers": Refused(iter(NUMBERS), "pass a list", list),
        "images": Refused(iter(IMAGES), "pass a list", list),
    },
}  # fmt: skip


# The table of the user guide -----------------------------------------------------------

ROLES = ("X numbers", "X categories", "images", "y", "groups")
# Modules that may have a table `PASSED` of their own, for other roles.
SOURCES = ("helpers.containers", "test_data_targets")


def all_passed():
    """Return the tables of all modules as one: container to role to what is passed."""
    merged = {}
    for source in SOURCES:
        for container, roles in getattr(
            importlib.import_module(source), "PASSED", {}
        ).items():
            merged.setdefault(container, {}).update(roles)
    return merged


def guide_table():
    """Return the table of the user guide."""
    lines = [".. list-table::", "    :header-rows: 1", ""]
    rows = [("container", *ROLES)]
    for container, roles in all_passed().items():
        cells = (roles.get(role) for role in ROLES)
        rows.append((container, *map(_cell, cells)))
    for row in rows:
        first, *others = (f"- {cell}".rstrip() for cell in row)
        lines.append(f"    * {first}")
        lines += [f"      {cell}" for cell in others]
    return "\n".join(lines) + "\n"


def _cell(given):
    if given is None:
        return ""
    return f"no: {given.remedy}" if isinstance(given, Refused) else "yes"


if __name__ == "__main__":
    print(importlib.import_module("helpers.containers").guide_table())
