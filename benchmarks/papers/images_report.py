"""Table and learning curves of the benchmark of images."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

SCORES = {"linear": "linear readout", "knn": "k-NN", "class_mean": "nearest class mean"}


def report(cells: list[dict[str, Any]], setting: str, picture: Path) -> str:
    """Return the table as markdown; draw the learning curves.

    Parameters
    ----------
    cells : list of dict
        What was measured.
    setting : str
        Its name.
    picture : Path
        Where to put the figure.
    """
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    tested = {
        model: [c for c in cells if c["model"] == model and c["stage"] == "test"]
        for model in models
    }
    tested = {model: found for model, found in tested.items() if found}
    if not tested:
        return f"No cells of {setting} yet."
    draw(tested, picture)
    header = ["model", *SCORES.values(), "seconds of a fit", "chosen on validation images"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [row(model, found) for model, found in tested.items()]
    first = next(iter(tested.values()))[0]
    title = (
        f"# Images: {setting}\n\n`python benchmarks/papers/images.py {setting}`: "
        f"{first['n_train']:,} training images, {first['epochs']} epochs; accuracy in % on "
        f"the test images, mean ± standard deviation over seeds.\n"
    )
    return "\n".join([title, *lines, "", f"![Learning curves]({picture.name})"])


def row(model: str, found: list[dict[str, Any]]) -> str:
    """Return a row of the table."""
    columns = [model]
    for score in SCORES:
        values = [100 * cell[score] for cell in found if score in cell]
        spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        columns.append(f"{np.mean(values):.2f}{spread}" if values else "–")
    columns.append(f"{np.median([cell['seconds'] for cell in found]):.0f}")
    params = found[0].get("params", {})
    columns.append(", ".join(f"{k}={v}" for k, v in params.items()) or "–")
    return f"| {' | '.join(columns)} |"


def draw(tested: dict[str, list[dict[str, Any]]], picture: Path) -> None:
    """Draw the loss over epochs, as a share of its first value."""
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    for model, found in tested.items():
        if "loss_curve" in found[0]:
            curves = np.array([cell["loss_curve"] for cell in found])
            ax.plot((curves / curves[:, :1]).mean(0), label=model)
    ax.set(xlabel="Epoch", ylabel="Training loss / that of the first epoch")
    ax.legend()
    figure.savefig(picture, dpi=120)
    plt.close(figure)
