"""Image embeddings trained with the losses of the paper.

    python benchmarks/papers/images.py cpu              # Fashion-MNIST, 10,000 images, conv
    python benchmarks/papers/images.py cpu_cifar10      # CIFAR-10, 5,000 images, conv
    python benchmarks/papers/images.py cifar10          # ResNet-18 on a GPU
    python benchmarks/papers/images.py cifar100
    python benchmarks/papers/images.py cifar100 --epochs 2 --n-train 500 --n-test 200 \
        --losses H-SCL --seeds 0 --out path.jsonl       # proves the path without a GPU
    python benchmarks/papers/images.py cpu --report > benchmarks/results/images_cpu.md

Temperature (and beta, for the tilted losses) are chosen on a validation split of the
training images, with as many tries for each loss; then each loss trains on all training
images from three seeds, and is judged on the test images: logistic regression on the
embedding, weighted k-NN (k = 200, temperature 0.5), nearest class mean. The first seed
also keeps a plane of its embedding and the classes of nearest neighbours. Cells are
appended to results/images_SETTING.jsonl; those already there are skipped.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from image_data import Images, held_out, load
from image_views import views_of
from images_report import report
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import ImageTransforms
from sklearn_hscl.metrics import knn_accuracy, nearest_class_mean_accuracy

RESULTS = Path(__file__).parent.parent / "results"
SEEDS = (0, 1, 2)
TRIES = {  # four each: the tilted losses have the temperature of the paper, or one more
    "SCL": [{"temperature": t} for t in (0.1, 0.2, 0.5, 1.0)],
    "H-SCL": [
        {"temperature": 0.2, "beta": 0.5},
        *({"temperature": 0.5, "beta": beta} for beta in (0.5, 1.0, 5.0)),
    ],
    "H-SCL as published": [
        {"temperature": 0.5, "beta": beta} for beta in (0.5, 1.0, 2.0, 5.0)
    ],
    "UCL": [{"temperature": t} for t in (0.1, 0.2, 0.5, 1.0)],
    "H-UCL": [
        {"temperature": 0.2, "beta": 0.5},
        *({"temperature": 0.5, "beta": beta} for beta in (0.5, 1.0, 2.0)),
    ],
    "cross-entropy": [{"lr": lr} for lr in (5e-4, 1e-3, 2e-3, 4e-3)],
}
# With the formula of the authors' code come its views and the width of its head; their
# batches have 256 rows.
PUBLISHED = {"batch_size": 512, "n_views": 2, "projection_dim": 128}
LOSSES: dict[str, dict[str, Any]] = {
    "SCL": {"loss": "scl"},
    "H-SCL": {"loss": "hscl"},
    "H-SCL as published": {"loss": "hscl", "preset": "official"} | PUBLISHED,
    "UCL": {"loss": "ucl", "n_views": 2},
    "H-UCL": {"loss": "hucl", "n_views": 2},
    "cross-entropy": {"loss": "scl", "ce_weight": 1.0},
}
PIXELS = ("LogisticRegression on pixels", "HistGradientBoosting on pixels")

# Embedding and classes of training images, then of test images.
Labelled = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Setting:
    """Data and parameters of a benchmark."""

    dataset: str
    encoder: str
    epochs: int
    n_train: int | None = None
    n_test: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    pixels: bool = False


# Small crops, mirror images, no change of colours; bf16 halves the time.
ON_A_CPU = {
    "augment": ImageTransforms(crop=(0.7, 1.0), jitter=0.0, grey=0.0),
    "precision": "bf16",
    "n_threads": 1,
}
SETTINGS = {
    "cpu": Setting("fashion_mnist", "conv", 20, 10_000, params=ON_A_CPU, pixels=True),
    # The rate is that of the best cross-entropies on the validation images; the default is
    # 4e-3.
    "cpu_cifar10": Setting(
        "cifar10_webp", "conv", 20, 5_000, params=ON_A_CPU | {"lr": 1e-3}, pixels=True
    ),
    "cifar10": Setting(
        "cifar10_webp",
        "resnet18",
        100,
        params={
            "augment": ImageTransforms(),
            "n_views": 2,
            "batch_size": 512,
            "projection_dim": 128,
            "lr": 1e-3,
        },
    ),
}
SETTINGS["cifar100"] = replace(SETTINGS["cifar10"], dataset="cifar100_webp")
SETTINGS["cifar100_resnet50"] = replace(SETTINGS["cifar100"], encoder="resnet50")


def linear() -> Any:
    """Return the classifier of embeddings."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))


def train(
    setting: Setting, params: dict[str, Any], data: Images, seed: int
) -> tuple[Labelled, dict]:
    """Train an embedder; embed the training and the test images."""
    embedder = HSCLEmbedder(
        encoder=setting.encoder,
        max_epochs=setting.epochs,
        random_state=seed,
        **setting.params | params,
    )
    start, cpu_start = time.perf_counter(), time.process_time()
    embedder.fit(data.X_train, data.y_train)
    record = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "loss_curve": [round(value, 5) for value in embedder.loss_curve_],
    }
    embeddings = [embedder.transform(X) for X in (data.X_train, data.X_test)]
    return (embeddings[0], data.y_train, embeddings[1], data.y_test), record


def scores(labelled: Labelled) -> dict[str, float]:
    """Return the scores of an embedding on the test images."""
    train, y_train, test, y_test = labelled
    return {
        "linear": linear().fit(train, y_train).score(test, y_test),
        "knn": knn_accuracy(*labelled, n_neighbors=min(200, len(train))),
        "class_mean": nearest_class_mean_accuracy(*labelled),
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


def cells(
    setting: Setting, losses: list[str], seeds: list[int]
) -> Iterator[dict[str, Any]]:
    """Yield all cells: the tries, then the seeds, loss by loss."""
    for name in losses:
        for params in TRIES[name]:
            yield {"model": name, "stage": "choice", "params": params, "seed": 0}
        for seed in seeds:
            yield {"model": name, "stage": "test", "seed": seed}
    for name in PIXELS if setting.pixels else ():
        yield {"model": name, "stage": "test", "seed": 0}


def best_params(done: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the parameters of the best try on the validation split."""
    tries = [c for c in done if c["model"] == name and c["stage"] == "choice"]
    return max(tries, key=lambda cell: cell["linear"])["params"]


def measure(setting: Setting, cell: dict[str, Any], data: Images) -> dict[str, Any]:
    """Return the results of a cell that has its parameters."""
    model, seed = cell["model"], cell["seed"]
    if model in PIXELS:
        return of_pixels(model, data, seed)
    is_choice = cell["stage"] == "choice"
    images = held_out(data) if is_choice else data
    labelled, record = train(setting, LOSSES[model] | cell["params"], images, seed)
    kept = not is_choice and seed == SEEDS[0]
    return scores(labelled) | record | (views_of(*labelled) if kept else {})


def run(setting: Setting, path: Path, losses: list[str], seeds: list[int]) -> None:
    """Run missing cells."""
    data = load(setting.dataset, setting.n_train, setting.n_test)
    size = {"epochs": setting.epochs, "n_train": len(data.y_train)}
    if setting.n_test is not None:
        size["n_test"] = setting.n_test
    for cell in cells(setting, losses, seeds):
        cell |= size
        done = [old for old in read(path) if size.items() <= old.items()]
        if any(all(old.get(k) == v for k, v in cell.items()) for old in done):
            continue
        if cell["stage"] == "test" and cell["model"] in LOSSES:
            cell["params"] = best_params(done, cell["model"])
        cell |= measure(setting, cell, data)
        with path.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        print({k: v for k, v in cell.items() if not isinstance(v, list)}, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the stored cells."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def main() -> None:
    """Run a setting, or report on it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--n-train", type=int)
    parser.add_argument("--n-test", type=int, help="the first so many test images")
    parser.add_argument("--out", type=Path, help="other file of cells")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    setting = SETTINGS[options.setting]
    changes = {name: getattr(options, name) for name in ("epochs", "n_train", "n_test")}
    setting = replace(setting, **{name: n for name, n in changes.items() if n})
    path = options.out or RESULTS / f"images_{options.setting}.jsonl"
    if options.report:
        print(report(read(path), options.setting, path.with_suffix(".png")))
    else:
        run(setting, path, options.losses, options.seeds)


if __name__ == "__main__":
    main()
