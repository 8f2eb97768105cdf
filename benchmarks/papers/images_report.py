"""Table and figures of the image benchmark."""

from pathlib import Path
from typing import Any

import numpy as np
from image_views import most_confused
from images_plots import learning_curves, neighbors, planes

SCORES = {"linear": "linear readout", "knn": "k-NN", "class_mean": "nearest class mean"}


def report(cells: list[dict[str, Any]], setting: str, picture: Path) -> str:
    """Return the table as markdown; draw the figures.

    Parameters
    ----------
    cells : list of dict
        Results of the cells.
    setting : str
        Its name.
    picture : Path
        File of the learning curves; the other figures are written to the same folder.
    """
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    tested = {
        model: [c for c in cells if c["model"] == model and c["stage"] == "test"]
        for model in models
    }
    tested = {model: found for model, found in tested.items() if found}
    if not tested:
        return f"No cells of {setting} yet."
    header = ["model", *SCORES.values(), "seconds of a fit", "chosen on validation images"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [row(model, found) for model, found in tested.items()]
    first = next(iter(tested.values()))[0]
    title = (
        f"# Images: {setting}\n\n`python benchmarks/papers/images.py {setting}`: "
        f"{first['n_train']:,} training images, {first['epochs']} epochs; accuracy in % on "
        f"the test images, mean ± standard deviation over seeds.\n"
    )
    return "\n".join([title, *lines, *figures(tested, picture)])


def figures(tested: dict[str, list[dict[str, Any]]], picture: Path) -> list[str]:
    """Draw all figures; return their markdown."""
    learning_curves(tested, picture)
    lines = ["", f"![Learning curves]({picture.name})"]
    cells = {model: found[0] for model, found in tested.items() if "plane" in found[0]}
    if not cells:
        return lines
    drawn = ((planes, "Two principal components"), (neighbors, "Classes of neighbours"))
    for draw, title in drawn:
        beside = picture.with_name(f"{picture.stem}_{draw.__name__}.png")
        draw(cells, beside)
        lines.append(f"![{title}]({beside.name})")
    lines += [
        "",
        "Classes whose ten nearest training images are most often of another:",
        "",
    ]
    for model, cell in cells.items():
        pairs = most_confused(cell["neighbors"])
        text = ", ".join(f"{i} by {j} ({fraction / 10:.1f} %)" for i, j, fraction in pairs)
        lines.append(f"- {model}: {text or 'none'}")
    return lines


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
