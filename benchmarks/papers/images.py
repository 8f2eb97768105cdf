"""How good are embeddings of images by the losses of the paper?

    python benchmarks/papers/images.py cpu              # Fashion-MNIST, 10,000 images, conv
    python benchmarks/papers/images.py cifar10          # ResNet-18 on a GPU
    python benchmarks/papers/images.py cifar100
    python benchmarks/papers/images.py cifar10 --epochs 2 --n-train 256   # proves the path
    python benchmarks/papers/images.py cpu --report > benchmarks/results/images_cpu.md

Temperature (and beta, for the tilted losses) are chosen on a validation split of the
training images, with as many tries for each loss; then each loss trains on all training
images from three seeds, and is judged on the test images: logistic regression on the
embedding, weighted k-NN (k = 200, temperature 0.5), nearest class mean. Cells are
appended to results/images_SETTING.jsonl; those already there are skipped.
"""

import argparse
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from images_report import report
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import PictureTransforms
from sklearn_hscl.metrics import knn_accuracy, nearest_class_mean_accuracy

DATA = Path(os.environ.get("SKLEARN_HSCL_DATA", "../shared/data")) / "images"
RESULTS = Path(__file__).parent.parent / "results"
SEEDS = (0, 1, 2)
TRIES = {  # three each: the tilted losses start from the temperature of the paper
    "SCL": [{"temperature": t} for t in (0.1, 0.2, 0.5)],
    "H-SCL": [
        {"temperature": 0.2, "beta": 0.5},
        {"temperature": 0.5, "beta": 1.0},
        {"temperature": 0.5, "beta": 5.0},
    ],
    "UCL": [{"temperature": t} for t in (0.1, 0.2, 0.5)],
    "H-UCL": [
        {"temperature": 0.2, "beta": 0.5},
        {"temperature": 0.5, "beta": 0.5},
        {"temperature": 0.5, "beta": 1.0},
    ],
    "cross-entropy": [{"lr": lr} for lr in (1e-3, 2e-3, 4e-3)],
}
LOSSES: dict[str, dict[str, Any]] = {
    "SCL": {"loss": "scl"},
    "H-SCL": {"loss": "hscl"},
    "UCL": {"loss": "ucl", "n_views": 2},
    "H-UCL": {"loss": "hucl", "n_views": 2},
    "cross-entropy": {"loss": "scl", "ce_weight": 1.0},
}
PIXELS = ("LogisticRegression on pixels", "HistGradientBoosting on pixels")


class Images(NamedTuple):
    """Training and test images."""

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True)
class Setting:
    """What is trained on what."""

    dataset: str
    encoder: str
    epochs: int
    n_train: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    pixels: bool = False


SETTINGS = {
    "cpu": Setting("fashion_mnist", "conv", 30, 10_000, pixels=True),
    "cifar10": Setting(
        "cifar10_webp",
        "resnet18",
        100,
        params={
            "augment": PictureTransforms(),
            "n_views": 2,
            "batch_size": 512,
            "projection_dim": 128,
            "lr": 1e-3,
        },
    ),
}
SETTINGS["cifar100"] = Setting(
    "cifar100_webp", "resnet18", 100, params=SETTINGS["cifar10"].params
)


def load(dataset: str, n_train: int | None) -> Images:
    """Read the images; a stratified part of the training images, if asked for."""
    with np.load(DATA / f"{dataset}.npz") as file:
        if "blob" in file:
            images = _decoded(file["blob"], file["offsets"])
            train = file["split"] == 0
            data = Images(
                images[train], file["y"][train], images[~train], file["y"][~train]
            )
        else:
            data = Images(*(file[name] for name in Images._fields))
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


def _decoded(blob: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    from PIL import Image

    pictures = (
        Image.open(io.BytesIO(blob[start:stop].tobytes())).convert("RGB")
        for start, stop in pairwise(offsets)
    )
    return np.stack([np.asarray(picture) for picture in pictures])


def linear() -> Any:
    """Make the classifier that judges embeddings."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))


def evaluate(setting: Setting, params: dict[str, Any], data: Images, seed: int) -> dict:
    """Train an embedder; return its scores on the test images."""
    embedder = HSCLEmbedder(
        encoder=setting.encoder,
        max_epochs=setting.epochs,
        random_state=seed,
        **setting.params | params,
    )
    start = time.perf_counter()
    embedder.fit(data.X_train, data.y_train)
    seconds = time.perf_counter() - start
    train, test = embedder.transform(data.X_train), embedder.transform(data.X_test)
    labelled = (train, data.y_train, test, data.y_test)
    return {
        "linear": linear().fit(train, data.y_train).score(test, data.y_test),
        "knn": knn_accuracy(*labelled, n_neighbors=min(200, len(train))),
        "class_mean": nearest_class_mean_accuracy(*labelled),
        "seconds": seconds,
        "loss_curve": [round(value, 5) for value in embedder.loss_curve_],
    }


def of_pixels(name: str, data: Images, seed: int) -> dict[str, Any]:
    """Score a classifier on the pixels."""
    boosting = HistGradientBoostingClassifier(random_state=seed)
    classifier = linear() if name.startswith("Logistic") else boosting
    start = time.perf_counter()
    classifier.fit(data.X_train.reshape(len(data.X_train), -1), data.y_train)
    seconds = time.perf_counter() - start
    score = classifier.score(data.X_test.reshape(len(data.X_test), -1), data.y_test)
    return {"linear": score, "seconds": seconds}


def held_out(data: Images) -> Images:
    """Take a fifth of the training images in place of the test images."""
    X_train, X_test, y_train, y_test = train_test_split(
        data.X_train, data.y_train, test_size=0.2, stratify=data.y_train, random_state=1
    )
    return Images(X_train, y_train, X_test, y_test)


def cells(setting: Setting, losses: list[str]) -> Iterator[dict[str, Any]]:
    """Yield what is to be measured: all tries, then the seeds, loss by loss."""
    for name in losses:
        for params in TRIES[name]:
            yield {"model": name, "stage": "choice", "params": params, "seed": 0}
        for seed in SEEDS:
            yield {"model": name, "stage": "test", "seed": seed}
    for name in PIXELS if setting.pixels else ():
        yield {"model": name, "stage": "test", "seed": 0}


def best_params(done: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the try that was best on the validation split."""
    tries = [c for c in done if c["model"] == name and c["stage"] == "choice"]
    return max(tries, key=lambda cell: cell["linear"])["params"]


def run(setting: Setting, path: Path, losses: list[str]) -> None:
    """Run the cells that are not there yet."""
    data = load(setting.dataset, setting.n_train)
    for cell in cells(setting, losses):
        done = read(path)
        if any(all(old.get(k) == v for k, v in cell.items()) for old in done):
            continue
        if cell["model"] in PIXELS:
            cell |= of_pixels(cell["model"], data, cell["seed"])
        elif cell["stage"] == "choice":
            params = LOSSES[cell["model"]] | cell["params"]
            cell |= evaluate(setting, params, held_out(data), cell["seed"])
        else:
            cell["params"] = best_params(done, cell["model"])
            params = LOSSES[cell["model"]] | cell["params"]
            cell |= evaluate(setting, params, data, cell["seed"])
        cell |= {"epochs": setting.epochs, "n_train": len(data.y_train)}
        with path.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        print({k: v for k, v in cell.items() if k != "loss_curve"}, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the cells that are there."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def main() -> None:
    """Run a setting, or report on it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--n-train", type=int)
    parser.add_argument("--out", type=Path, help="other file of cells")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    setting = SETTINGS[options.setting]
    changes = {"epochs": options.epochs, "n_train": options.n_train}
    setting = Setting(**vars(setting) | {k: v for k, v in changes.items() if v})
    path = options.out or RESULTS / f"images_{options.setting}.jsonl"
    if options.report:
        print(report(read(path), options.setting, path.with_suffix(".png")))
    else:
        run(setting, path, options.losses)


if __name__ == "__main__":
    main()
