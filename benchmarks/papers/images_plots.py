"""Figures of the image benchmark, from its cells."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

Tested = dict[str, list[dict[str, Any]]]


def learning_curves(tested: Tested, picture: Path) -> None:
    """Draw the loss over epochs, as a fraction of its first value."""
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    for model, found in tested.items():
        if "loss_curve" in found[0]:
            curves = np.array([cell["loss_curve"] for cell in found])
            fractions = (curves / curves[:, :1]).mean(0)  # (epochs,)
            ax.plot(range(1, len(fractions) + 1), fractions, label=model)
    ax.set(xlabel="Epoch", ylabel="Training loss / that of the first epoch")
    figure.legend(loc="outside right upper")
    _save(figure, picture)


def planes(first: dict[str, dict[str, Any]], picture: Path) -> None:
    """Draw test images in the first two principal components of each embedding."""
    figure, axes = _row_of(first)
    for ax, (model, cell) in zip(axes, first.items(), strict=True):
        points = np.array(cell["plane"])
        ax.scatter(*points.T, c=cell["plane_y"], s=4, cmap="tab10")
        ax.set(title=model, xticks=[], yticks=[], aspect="equal")
    _save(figure, picture)


def neighbors(first: dict[str, dict[str, Any]], picture: Path) -> None:
    """Draw the classes of the nearest training images, class by class."""
    figure, axes = _row_of(first)
    for ax, (model, cell) in zip(axes, first.items(), strict=True):
        fractions = np.array(cell["neighbors"]) / 1000
        image = ax.imshow(fractions, vmin=0, vmax=1, cmap="viridis")
        ax.set(title=model, xlabel="Class of neighbours")
    axes[0].set(ylabel="Class of test images")
    figure.colorbar(image, ax=axes, label="Share")
    _save(figure, picture)


def _row_of(first: dict[str, Any]) -> tuple[Any, Any]:
    size = (3 * len(first) + 1, 3.3)
    figure, axes = plt.subplots(1, len(first), figsize=size, layout="constrained")
    return figure, np.atleast_1d(axes)


def _save(figure: Any, picture: Path) -> None:
    figure.savefig(picture, dpi=120)
    plt.close(figure)
