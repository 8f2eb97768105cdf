"""Few real images a class to train on, and others to test."""

import numpy as np
from papers.image_data import DATA, decoded

MAX_TEST_IMAGES = 1000
Few = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def few_images(name: str, n_per_class: int, seed: int) -> Few:
    """Draw images of each class to train on, and MAX_TEST_IMAGES to test.

    Parameters
    ----------
    name : str
        ``"cifar10"`` or ``"cifar100"``; with ``"_dev"``, for choices, other images of the
        training part are those to test.
    n_per_class : int
        Images of each class.
    seed : int
        Seed of the draw.

    Returns
    -------
    images (n, H, W, C), labels, test_images, test_labels
    """
    with np.load(DATA / f"{name.removesuffix('_dev')}_webp.npz") as file:
        blob, offsets = file["blob"], file["offsets"]
        is_train, y = file["split"] == 0, file["y"]
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.flatnonzero(is_train))
    train = np.concatenate([order[y[order] == c][:n_per_class] for c in np.unique(y)])
    rest = (
        np.setdiff1d(order, train) if name.endswith("_dev") else np.flatnonzero(~is_train)
    )
    test = rng.permutation(rest)[:MAX_TEST_IMAGES]
    images = [decoded(blob, offsets, some) for some in (train, test)]
    return images[0], y[train], images[1], y[test]
