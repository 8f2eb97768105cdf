"""Real tables, their halves and their splits."""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector
from sklearn.model_selection import train_test_split

FOLDER = Path(os.environ.get("SKLEARN_HSCL_DATA", "../shared/data")) / "tabular"
TUNE = [
    "anneal",
    "cardiotocography",
    "cmc",
    "default_credit",
    "electricity",
    "eucalyptus",
    "hepatic_injury_qsar",
    "ilpd",
    "leaf_id_flavia",
    "marketing_income",
    "obesity_levels",
    "oil_spill",
    "phoneme",
    "tic_tac_toe",
    "weight_lifting_exercise",
    "wine_quality_white",
]
LARGEST = [  # of the development half
    "default_credit",
    "eeg_eye_state",
    "electricity",
    "magic_telescope",
    "mammography",
    "occupancy_detection",
    "poker_hand_train",
    "shuttle",
    "weather_noaa",
    "weight_lifting_exercise",
]
NUMBERS = make_column_selector(dtype_include="number")
CATEGORIES = make_column_selector(dtype_include="category")
MIN_CLASS = 2  # rows of a class that a split needs


@dataclass(frozen=True)
class Tier:
    """Tables, their maximum number of rows, and splits."""

    confirmation: bool
    max_rows: float
    seeds: tuple[int, ...]
    only: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the available tables of this tier."""
        names = sorted(path.stem for path in FOLDER.glob("*.parquet"))
        return [
            name
            for name in names
            if is_confirmation(name) == self.confirmation
            and (not self.only or name in self.only)
        ]


TIERS = {
    "tune": Tier(confirmation=False, max_rows=1000, seeds=(0,), only=tuple(TUNE)),
    "ablate": Tier(confirmation=False, max_rows=3000, seeds=(0,)),
    "full": Tier(confirmation=False, max_rows=inf, seeds=(0,), only=tuple(LARGEST)),
    "confirm": Tier(confirmation=True, max_rows=3000, seeds=(0, 1)),
}


@dataclass(frozen=True)
class Split:
    """Training and test rows; y holds the class codes 0, 1, …"""

    X_train: pd.DataFrame
    X_test: pd.DataFrame
    y_train: np.ndarray
    y_test: np.ndarray
    key: str  # of the rows' indices
    dropped_classes: int


def is_confirmation(name: str) -> bool:
    """Return whether a table belongs to the confirmation half."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2 == 1


@lru_cache(maxsize=64)
def load_split(name: str, tier: str, seed: int) -> Split:
    """Read a table, reduce it to the tier's rows and split it 70/30 by class."""
    frame = pd.read_parquet(FOLDER / f"{name}.parquet")
    labels = frame.pop("target").astype(str).to_numpy()
    words = frame.columns.difference(frame.select_dtypes("number").columns)
    frame = frame.astype(dict.fromkeys(words, "category"))
    rows = np.arange(len(frame))
    if len(rows) > TIERS[tier].max_rows:
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(rows, int(TIERS[tier].max_rows), replace=False))
    kept, counts = np.unique(labels[rows], return_counts=True)
    kept = kept[counts >= MIN_CLASS]
    rows = rows[np.isin(labels[rows], kept)]
    y = np.searchsorted(kept, labels)  # of the kept rows
    train, test = train_test_split(
        rows, test_size=0.3, random_state=seed, stratify=labels[rows]
    )
    indices = np.concatenate([train, [-1], test]).astype("<i8")
    return Split(
        X_train=frame.iloc[train].reset_index(drop=True),
        X_test=frame.iloc[test].reset_index(drop=True),
        y_train=y[train],
        y_test=y[test],
        key=hashlib.sha256(indices.tobytes()).hexdigest()[:12],
        dropped_classes=len(np.unique(labels)) - len(kept),
    )
