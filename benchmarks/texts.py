"""Real texts: the rows used of each data set, and their splits."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

FOLDER = Path(os.environ.get("SKLEARN_HSCL_DATA", "../shared/data")) / "text"
MAX_ROWS = 4000
MIN_CLASS = 2  # rows of a class that a split needs


@dataclass(frozen=True)
class Texts:
    """Texts and their labels, in the order of their embeddings."""

    texts: np.ndarray
    labels: np.ndarray


def names() -> list[str]:
    """Return the available data sets."""
    return sorted(path.stem for path in FOLDER.glob("*.parquet"))


@cache
def load(name: str) -> Texts:
    """Read at most MAX_ROWS rows of a data set, always the same ones."""
    frame = pd.read_parquet(FOLDER / f"{name}.parquet", columns=["text", "target"])
    if len(frame) > MAX_ROWS:
        rows = np.random.default_rng(0).choice(len(frame), MAX_ROWS, replace=False)
        frame = frame.iloc[np.sort(rows)]
    frame = frame[frame.groupby("target")["target"].transform("size") >= MIN_CLASS]
    return Texts(
        frame["text"].astype(str).to_numpy(), frame["target"].astype(str).to_numpy()
    )


def split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of 70 % for training and 30 % for testing, by class."""
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.3, random_state=seed, stratify=labels
    )
    return train, test


MAX_TEST_TEXTS = 1000
Few = tuple[list[str], np.ndarray, list[str], np.ndarray]


def few_texts(name: str, n_per_class: int, seed: int) -> Few:
    """Draw texts of each class to train on, and at most MAX_TEST_TEXTS to test.

    Parameters
    ----------
    name : str
        A data set; ``"trec_fine"`` has the finer classes of trec.
    n_per_class : int
        Texts of each class; 0 for all. Classes with a single text are left out.
    seed : int
        Seed of the draw, and of the split where the set has none.

    Returns
    -------
    texts, labels, test_texts, test_labels
    """
    frame = pd.read_parquet(FOLDER / f"{name.removesuffix('_fine')}.parquet")
    label = frame["fine" if name.endswith("_fine") else "target"].astype(str)
    frame = frame.assign(label=label).drop_duplicates("text")
    frame = frame[frame["text"].str.strip().str.len() > 0]
    parts = set(frame["split"]) if "split" in frame else set()
    if {"train", "test"} <= parts:
        train, test = (frame[frame["split"] == part] for part in ("train", "test"))
    else:
        train, test = train_test_split(
            frame, test_size=0.3, random_state=seed, stratify=frame["label"]
        )
    drawn = [
        some.sample(min(n_per_class or len(some), len(some)), random_state=seed)
        for _, some in train.groupby("label")
        if len(some) >= MIN_CLASS
    ]
    train = pd.concat(drawn)
    test = test[test["label"].isin(train["label"].unique())]
    test = test.sample(min(MAX_TEST_TEXTS, len(test)), random_state=seed)
    return (
        train["text"].tolist(),
        train["label"].to_numpy(dtype=str),
        test["text"].tolist(),
        test["label"].to_numpy(dtype=str),
    )
