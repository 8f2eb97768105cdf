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
