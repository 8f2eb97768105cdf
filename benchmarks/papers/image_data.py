"""Images of the benchmark: read, cut to size, split."""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

DATA = Path(os.environ.get("SKLEARN_HSCL_DATA", "../shared/data")) / "images"


class Images(NamedTuple):
    """Training and test images."""

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def load(dataset: str, n_train: int | None, n_test: int | None = None) -> Images:
    """Read the images, optionally a stratified part of the training images."""
    with np.load(DATA / f"{dataset}.npz") as file:
        if "blob" in file:
            images = decoded(file["blob"], file["offsets"], range(len(file["y"])))
            train = file["split"] == 0
            data = Images(
                images[train], file["y"][train], images[~train], file["y"][~train]
            )
        else:
            data = Images(*(file[name] for name in Images._fields))
    data = data._replace(X_test=data.X_test[:n_test], y_test=data.y_test[:n_test])
    if n_train is None or n_train >= len(data.y_train):
        return data
    X, _, y, _ = train_test_split(
        data.X_train,
        data.y_train,
        train_size=n_train,
        stratify=data.y_train,
        random_state=0,
    )
    return data._replace(X_train=X, y_train=y)


def decoded(blob: np.ndarray, offsets: np.ndarray, indices: Iterable[int]) -> np.ndarray:
    """Return images (n, H, W, C) of files that are stored end to end."""
    from PIL import Image

    files = (blob[offsets[i] : offsets[i + 1]].tobytes() for i in indices)
    images = (Image.open(io.BytesIO(file)).convert("RGB") for file in files)
    return np.stack([np.asarray(image) for image in images])


def held_out(data: Images) -> Images:
    """Replace the test images by a fifth of the training images."""
    X_train, X_test, y_train, y_test = train_test_split(
        data.X_train, data.y_train, test_size=0.2, stratify=data.y_train, random_state=1
    )
    return Images(X_train, y_train, X_test, y_test)
