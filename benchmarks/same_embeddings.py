"""Record the embeddings of fixed-seed fits, and compare another version with them.

    python benchmarks/same_embeddings.py record before.npz
    ... change the code ...
    python benchmarks/same_embeddings.py check before.npz

A change that claims to keep behaviour passes `check` with the same bits. Bits differ
between processors and versions of torch, so compare on the machine that recorded. Products
by oneDNN are off, because a stopwatch chooses them.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

os.environ["SKLEARN_HSCL_FAST_GEMM"] = "0"  # before the import

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.model_selection import BatchedGridSearchCV

TESTS = Path(__file__).parent.parent / "tests"
FIXED = {"random_state": 0, "n_threads": 1, "max_epochs": 4}


def fit_table():
    X, y = load_breast_cancer(return_X_y=True)
    return HSCLEmbedder(**FIXED).fit(X, y).transform(X)


def fit_categories():
    rng = np.random.default_rng(0)
    X, y = load_iris(return_X_y=True)
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["colour"] = pd.Categorical(np.where(rng.random(150) < 0.7, y, 3).astype(str))
    frame["size"] = np.where(rng.random(150) < 0.1, None, rng.choice(["s", "m"], 150))
    frame.loc[rng.random(150) < 0.2, "a"] = np.nan
    embedder = HSCLEmbedder(**FIXED | {"max_epochs": 8}).fit(frame, y)
    return embedder.transform(frame)


def fit_images():
    digits = load_digits()
    images = digits.images[:400].astype(np.float32)
    return HSCLEmbedder(**FIXED).fit(images, digits.target[:400]).transform(images)


def fit_sparse():
    X, y = load_digits(return_X_y=True)
    rows = csr_array(X[:500])
    return HSCLEmbedder(**FIXED).fit(rows, y[:500]).transform(rows)


def fit_own_module():
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 5)
    )
    X, y = load_iris(return_X_y=True)
    return HSCLEmbedder(encoder=encoder, beta=2.0, **FIXED).fit(X, y).transform(X)


def fit_hucl():
    X, _ = load_digits(return_X_y=True)
    return HSCLEmbedder("hucl", **FIXED).fit(X[:600]).transform(X[:600])


def fit_several_labels():
    X, y = load_digits(return_X_y=True)
    Y = np.column_stack([y % 2 == 0, y > 4, y % 3 == 0]).astype(int)
    return HSCLEmbedder(**FIXED).fit(X[:500], Y[:500]).transform(X[:500])


def fit_numbers():
    X, y = load_diabetes(return_X_y=True)
    return HSCLEmbedder(**FIXED).fit(X, y).transform(X)


def fit_cross_fit():
    X, y = load_iris(return_X_y=True)
    embedder = HSCLEmbedder(cross_fit=3, **FIXED)
    groups = np.arange(150) // 5
    return np.concatenate(
        [embedder.fit_transform(X, y, groups=groups), embedder.transform(X)]
    )


def fit_partial():
    X, y = load_digits(return_X_y=True)
    embedder = HSCLEmbedder(**FIXED)
    for start in range(0, 900, 300):
        part = slice(start, start + 300)
        embedder.partial_fit(X[part], y[part], classes=range(10))
    return embedder.transform(X[:300])


def fit_batched_search():
    X, y = load_breast_cancer(return_X_y=True)
    pipe = make_pipeline(HSCLEmbedder(**FIXED), LogisticRegression(max_iter=2000))
    grid = {"hsclembedder__beta": [0, 2], "hsclembedder__temperature": [0.2, 0.5]}
    search = BatchedGridSearchCV(pipe, grid, cv=2).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    return np.append(search.predict_proba(X).ravel(), scores)


def embed_with_bundles():
    """Return the embeddings of training rows by the stored models of every format."""
    sys.path.insert(0, str(TESTS))
    from helpers.write_bundles import rows_of

    paths = sorted(TESTS.glob("data/format_*/*.safetensors"))
    models = [(HSCLEmbedder.load(path), rows_of(path.stem)) for path in paths]
    return np.concatenate([model.transform(rows).ravel() for model, rows in models])


FITS = {
    name: function
    for name, function in sorted(globals().items())
    if name.startswith(("fit_", "embed_"))
}


def main():
    command, file = sys.argv[1:]
    results = {name: function() for name, function in FITS.items()}
    if command == "record":
        np.savez(file, **results)
        return
    before = np.load(file)
    differing = [
        n for n in FITS if not np.array_equal(before[n], results[n], equal_nan=True)
    ]
    for name in differing:
        old, new = before[name], results[name]
        if old.shape != new.shape:
            print(name, "has shape", new.shape, "instead of", old.shape)
        else:
            print(name, "differs by up to", np.abs(old - new).max())
    sys.exit(f"{len(differing)} of {len(FITS)} differ" if differing else 0)


if __name__ == "__main__":
    main()
