"""Assumption 1 and the inequality of the paper on real images and tables.

    python benchmarks/papers/theory.py
    python benchmarks/papers/theory.py --report > benchmarks/results/theory.md

As in the authors' check, encoders are trained by H-UCL (and, beyond it, by H-SCL) with
beta 1 and temperature 0.5, positives are the other views of a row, and all four losses are
estimated after each epoch with one negative mass. There is no projection head, so that
what is measured is what was trained. Rows are 1,000 training rows, and 1,000 held-out
rows, in two views each; 500 anchors, each with 1,998 negatives. Before the first epoch
weights are as drawn. After the last one the strength of the tilt is varied, also with the
labels shuffled: what chance would give. Cells are appended to results/theory.jsonl; those
already there are skipped.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from images import load
from sklearn.model_selection import train_test_split
from theory_report import report

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import FeatureCorruption, ImageTransforms
from sklearn_hscl.theory import TheoryEstimate, TheoryMonitor, verify_estimator
from sklearn_hscl.theory.estimate import MEASURES

sys.path.append(str(Path(__file__).parent.parent))
from cells import RESULTS, read_cells, write_cells
from tables import is_confirmation, load_split

SEEDS = (0, 1)
EPOCHS = 15
IMAGES = ("fashion_mnist", "usps", "cifar10_webp")
TABLES = ("cardiotocography", "mfeat_zernike", "wine_quality_white")
N_TRAIN_IMAGES = 2000
N_MEASURED = 1000
BETA = 1.0
BETAS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
TEMPERATURE = 0.5
DRAW = {"max_anchors": 500, "max_negatives": None, "temperature": TEMPERATURE}
COMMON = {
    "beta": BETA,
    "temperature": TEMPERATURE,
    "projection_dim": None,
    "batch_size": 128,  # twice the steps of 256 from few rows
    "n_views": 2,
}
SETTINGS = {
    "images": COMMON | {"encoder": "conv", "hidden_layer_sizes": (16,)},
    "tables": COMMON | {"encoder": "mlp"},
}


class Rows(NamedTuple):
    """Training and held-out samples, and their augmentation."""

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    augment: Any


class Measured(NamedTuple):
    """Two views of some samples."""

    X: np.ndarray
    y: np.ndarray
    view_ids: np.ndarray


def read_rows(name: str, seed: int) -> Rows:
    """Read images, or a table of the development half."""
    if name in IMAGES:
        data = load(name, N_TRAIN_IMAGES)
        arrays = [data.X_train, data.y_train, data.X_test, data.y_test]
        arrays[::2] = (_channels_first(images) for images in arrays[::2])
        return Rows(*arrays, ImageTransforms())
    assert not is_confirmation(name)
    split = load_split(name, "ablate", seed)
    X_train, X_test = (
        frame.to_numpy(np.float32) for frame in (split.X_train, split.X_test)
    )
    return Rows(X_train, split.y_train, X_test, split.y_test, FeatureCorruption())


def _channels_first(images: np.ndarray) -> np.ndarray:
    """Return images in [0, 1] of shape (n, C, H, W), as augmentations require."""
    images = images if images.dtype == np.float32 else images / np.float32(255)
    images = images.reshape(*images.shape[:3], -1)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)


def two_views(X: np.ndarray, y: np.ndarray, rows: Rows, seed: int) -> Measured:
    """Draw samples by class, and two views of each."""
    if len(y) > N_MEASURED:
        X, _, y, _ = train_test_split(X, y, train_size=N_MEASURED, random_state=seed)
    augment = rows.augment.fitted(torch.from_numpy(rows.X_train))
    generator = torch.Generator().manual_seed(seed)
    images = torch.from_numpy(X)
    views = torch.cat([augment(images, generator), augment(images, generator)])
    return Measured(views.numpy(), np.tile(y, 2), np.tile(np.arange(len(y)), 2))


def measure(name: str, training: str, seed: int) -> Iterator[dict[str, Any]]:
    """Train, and yield the estimates on training and on held-out samples."""
    rows = read_rows(name, seed)
    measured = {
        "training": two_views(rows.X_train, rows.y_train, rows, seed),
        "held-out": two_views(rows.X_test, rows.y_test, rows, seed),
    }
    monitors = {
        kind: TheoryMonitor(some.X, some.y, betas=[BETA], view_ids=some.view_ids, **DRAW)
        for kind, some in measured.items()
    }
    settings = SETTINGS["images" if name in IMAGES else "tables"]
    settings = settings | {"loss": training, "augment": rows.augment, "random_state": seed}
    start = time.process_time()
    before = _train(rows, monitors, **settings, max_epochs=1, lr=1e-12)[1]
    embedder, along = _train(rows, monitors, **settings, max_epochs=EPOCHS)
    cell = {
        "dataset": name,
        "training": training,
        "seed": seed,
        "n_train": len(rows.y_train),
        "n_classes": len(np.unique(rows.y_train)),
        "seconds": time.process_time() - start,
    }
    for kind, some in measured.items():
        yield cell | {
            "rows": kind,
            "n_measured": len(some.y) // 2,
            "epochs": _numbers(before[kind], along[kind]),
            **along_betas(embedder, some, seed),
        }


def along_betas(embedder: HSCLEmbedder, some: Measured, seed: int) -> dict[str, Any]:
    """Vary the tilt, also with shuffled labels."""
    shuffled = np.random.default_rng(seed).permutation(some.y[: len(some.y) // 2])
    labels = {"betas": some.y, "shuffled": np.tile(shuffled, 2)}
    views = {"view_ids": some.view_ids, **DRAW}
    return {
        kind: _numbers(verify_estimator(embedder, some.X, y, BETAS, **views))
        for kind, y in labels.items()
    }


def _train(
    rows: Rows, monitors: dict[str, TheoryMonitor], **settings: Any
) -> tuple[HSCLEmbedder, dict[str, TheoryEstimate]]:
    embedder = HSCLEmbedder(**settings).set_callbacks(*monitors.values())
    embedder.fit(rows.X_train, rows.y_train)
    return embedder, {kind: each.along_epochs() for kind, each in monitors.items()}


def _numbers(*estimates: TheoryEstimate) -> dict[str, list]:
    """Return estimates as a flat list: value, low and high of each measure."""
    return {
        name: [
            np.concatenate([getattr(e, name)[end] for e in estimates]).round(5).tolist()
            for end in range(3)
        ]
        for name in MEASURES
    }


def run(path: Path) -> None:
    """Compute missing cells."""
    for name in (*TABLES, *IMAGES):
        for training in ("hucl", "hscl"):
            for seed in SEEDS:
                key = {"dataset": name, "training": training, "seed": seed}
                if any(key.items() <= cell.items() for cell in read_cells(path)):
                    continue
                for cell in measure(name, training, seed):
                    write_cells(path, [cell], "a")
                    fraction = cell["epochs"]["assumption"][0]
                    print(key, cell["rows"], round(cell["seconds"]), fraction, flush=True)


def main() -> None:
    """Compute missing cells, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "theory.jsonl")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        print(report(read_cells(options.out), BETAS, options.out))
    else:
        run(options.out)


if __name__ == "__main__":
    main()
