"""Embeddings of images that are trained without labels, against their pixels.

    OMP_NUM_THREADS=1 python benchmarks/papers/images_without_labels.py
    python benchmarks/papers/images_without_labels.py --report \
        > benchmarks/results/images_without_labels.md

Each embedder trains on up to 5,000 training images without their labels. Two classifiers
then learn from the embeddings and labels of the same images, and are judged on the
official test images: the 10 nearest neighbours, and logistic regression on standardised
columns. The same classifiers get the pixels, standardised pixels and 64 principal
components, and embeddings beside the components, both scaled to a total variance of 1.
scikit-learn's digits have no official test images: a quarter is held out, of which some
served to choose the defaults. Cells are appended to results/images_without_labels.jsonl;
those already there are skipped.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from image_data import Images, load
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import ImageTransforms

sys.path.append(str(Path(__file__).parent.parent))
from cells import RESULTS, attempt, read_cells, write_cells

PATH = RESULTS / "images_without_labels.jsonl"
DATASETS = {
    "usps": "USPS, 16×16",
    "fashion_mnist": "Fashion-MNIST, 28×28",
    "cifar10_webp": "CIFAR-10, 32×32",
    "digits": "digits, 8×8",
}
HANDWRITTEN = ("digits", "usps")
N_TRAIN = 5_000
N_COMPONENTS = 64
SEEDS = (0, 1, 2)
RAW = {
    "pixels": None,
    "standardised pixels": StandardScaler(),
    "64 principal components": PCA(N_COMPONENTS, random_state=0),
}
LIMIT = 1_200  # CPU seconds of a cell


def embedders(dataset: str) -> dict[str, dict[str, Any]]:
    """Return parameters of the embedders."""
    published = ImageTransforms(flip=0.0 if dataset in HANDWRITTEN else 0.5)
    recipe = {"augment": published, "temperature": 0.2, "max_epochs": 100}
    return {
        "UCL, defaults": {"loss": "ucl"},
        "H-UCL, defaults": {"loss": "hucl"},
        "UCL, published views": {"loss": "ucl"} | recipe,
        "H-UCL, published views": {"loss": "hucl"} | recipe,
    }


def images(dataset: str) -> Images:
    """Read a data set."""
    if dataset != "digits":
        return load(dataset, N_TRAIN)
    digits = load_digits()
    X_train, X_test, y_train, y_test = train_test_split(
        digits.images, digits.target, test_size=0.25, stratify=digits.target, random_state=1
    )
    return Images(X_train, y_train, X_test, y_test)


def scores(train: np.ndarray, test: np.ndarray, data: Images) -> dict[str, float]:
    """Return the accuracy of both classifiers."""
    classifiers = {
        "knn": KNeighborsClassifier(10),
        "linear": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=100)),
    }
    return {
        name: classifier.fit(train, data.y_train).score(test, data.y_test)
        for name, classifier in classifiers.items()
    }


def of_pixels(method: str, data: Images) -> dict[str, float]:
    """Return the scores of the pixels, of which nothing is learned or little."""
    train, test = flat(data.X_train), flat(data.X_test)
    if RAW[method] is not None:
        train = RAW[method].fit_transform(train)
        test = RAW[method].transform(test)
    return scores(train, test, data)


def of_embedding(params: dict[str, Any], data: Images, seed: int) -> dict[str, float]:
    """Return the scores of an embedding, and the time of its training."""
    start = time.process_time()
    embedder = HSCLEmbedder(random_state=seed, **params).fit(data.X_train)
    seconds = time.process_time() - start
    embeddings = [embedder.transform(X) for X in (data.X_train, data.X_test)]
    pca = PCA(N_COMPONENTS, random_state=0).fit(flat(data.X_train))
    components = [pca.transform(flat(X)) for X in (data.X_train, data.X_test)]
    parts = zip(unit_variance(*embeddings), unit_variance(*components), strict=True)
    beside = scores(*map(np.hstack, parts), data)
    return (
        scores(*embeddings, data)
        | {f"{name}_beside": score for name, score in beside.items()}
        | {"cpu_seconds": seconds}
    )


def flat(images: np.ndarray) -> np.ndarray:
    """Return images as rows."""
    return images.reshape(len(images), -1).astype(float)


def unit_variance(train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    """Center both and scale them to a total variance of 1, by the training rows."""
    mean, std = train.mean(0), np.sqrt(train.var(0).sum())
    return [(rows - mean) / std for rows in (train, test)]


def run(seeds: list[int], methods: list[str] | None) -> None:
    """Add the cells that are missing."""
    done = {(c["dataset"], c["method"], c["seed"]) for c in read_cells(PATH)}
    for seed in seeds:
        for dataset in DATASETS:
            params, data = embedders(dataset), images(dataset)
            for method in [*RAW, *params]:
                is_repeated = method in RAW and seed != SEEDS[0]  # nothing is random
                is_left_out = methods is not None and method not in methods
                if (dataset, method, seed) in done or is_repeated or is_left_out:
                    continue
                if method in RAW:
                    found = attempt(lambda: of_pixels(method, data), LIMIT)  # noqa: B023
                else:
                    found = attempt(
                        lambda: of_embedding(params[method], data, seed),  # noqa: B023
                        LIMIT,
                    )
                cell = {"dataset": dataset, "method": method, "seed": seed} | found
                write_cells(PATH, [cell], "a")
                print(cell, flush=True)


def report() -> None:
    """Print the tables."""
    cells = read_cells(PATH)
    for dataset, title in DATASETS.items():
        print(f"\n## {title}\n")
        print("| | k-NN | linear | k-NN, beside | linear, beside | CPU seconds | seeds |")
        print("|---|---|---|---|---|---|---|")
        for method in [*RAW, *embedders(dataset)]:
            of_method = [
                c for c in cells if (c["dataset"], c["method"]) == (dataset, method)
            ]
            if of_method:
                print(f"| {method} | {_row(of_method)} |")


def _row(cells: list[dict[str, Any]]) -> str:
    texts = []
    for name in ("knn", "linear", "knn_beside", "linear_beside"):
        values = [100 * cell[name] for cell in cells if name in cell]
        std = f" ± {np.std(values):.1f}" if len(values) > 1 else ""
        texts.append(f"{np.mean(values):.1f}{std}" if values else "")
    seconds = [cell["cpu_seconds"] for cell in cells if "cpu_seconds" in cell]
    texts.append(f"{np.mean(seconds):.0f}" if seconds else "")
    return " | ".join([*texts, str(len(cells))])


def main() -> None:
    """Run, or report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if arguments.report:
        report()
        return
    with threadpool_limits(1):
        run(arguments.seeds, arguments.methods)


if __name__ == "__main__":
    main()
