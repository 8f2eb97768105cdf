"""Rows whose neighbours agree on another label."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.diagnostics.subject import Subject
from sklearn_hscl.findings.finding import Finding
from sklearn_hscl.metrics.nearest_rows import nearest_rows

N_NEIGHBORS = 10
# Share of the neighbours that have to agree on one other class, and may have the row's.
_AGREE, _OWN = 0.8, 0.1
# Rows that a class needs for its neighbours to be asked.
_SMALLEST_CLASS = 5
# Share of suspects from which it is more than a few slips.
_MANY = 0.01
# How many the summary names.
_NAMED = 8


def find_label_errors(
    train: Subject, held_out: Subject | None, classes: NDArray[Any] | None
) -> Finding:
    """List rows whose nearest training rows agree on another class.

    Parameters
    ----------
    train : Subject
        Rows whose neighbours vote, and the rows that are judged.
    held_out : Subject or None
        More rows to be judged.
    classes : ndarray or None
        Names of the classes, where the embedder knows them.
    """
    labelled = train.labelled
    if labelled is None:
        return Finding.not_applicable(
            "labels",
            "Without one class label for each row no neighbour can disagree: pass y, if "
            "there are classes.",
        )
    places, rows, codes = labelled
    if len(rows) <= N_NEIGHBORS or len(np.unique(codes)) < 2:
        return Finding.not_applicable(
            "labels", f"It takes more than {N_NEIGHBORS} rows, of two classes at least."
        )
    suspects, votes = _suspects(rows, codes)
    values: dict[str, Any] = {
        "rows": places[suspects].tolist(),
        "neighbours_say": _named(votes, classes),
        "n_judged": len(rows),
    }
    n_suspects, n_judged = len(suspects), len(rows)
    if held_out is not None and held_out.labelled is not None:
        asked, queries, own = held_out.labelled
        suspects, votes = _suspects(rows, codes, queries, own)
        values["held_out_rows"] = asked[suspects].tolist()
        values["held_out_neighbours_say"] = _named(votes, classes)
        n_suspects, n_judged = n_suspects + len(suspects), n_judged + len(queries)
    return _judge(values, n_suspects, n_judged)


def _judge(values: dict[str, Any], n_suspects: int, n_judged: int) -> Finding:
    summary = (
        f"For {n_suspects} of {n_judged} rows at least {_AGREE:.0%} of the {N_NEIGHBORS} "
        f"nearest rows agree on another class"
    )
    if values["rows"]:
        named = ", ".join(map(str, values["rows"][:_NAMED]))
        more = ", …" if len(values["rows"]) > _NAMED else ""
        summary += f" (rows {named}{more})"
    severity = "warning" if n_suspects > _MANY * n_judged else "ok"
    advice = (
        "look at these rows (`values['rows']`) and correct or drop wrong labels; rows that "
        "were not trained on show more of them, as training draws wrong labels to their "
        "class: pass X_val, or rows that another fold was fitted on."
    )
    return Finding("labels", severity, f"{summary}.", advice, values)


def _suspects(
    rows: NDArray[Any],
    codes: NDArray[np.int64],
    queries: NDArray[Any] | None = None,
    own: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return places of suspects, the surest first, and the class of their neighbours."""
    places, _ = nearest_rows(rows, N_NEIGHBORS, queries)
    own = codes if own is None else own
    sizes = np.bincount(codes, minlength=max(codes.max(), own.max()) + 1)
    neighbours = codes[places]  # (q, k)
    share_of_own = (neighbours == own[:, None]).mean(1)
    votes, share = _majority(neighbours)
    wrong = (votes != own) & (share >= _AGREE) & (share_of_own <= _OWN)
    wrong &= sizes[own] >= _SMALLEST_CLASS
    found = np.flatnonzero(wrong)
    found = found[np.argsort(-share[found], kind="stable")]
    return found, votes[found]


def _majority(
    neighbours: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the most frequent code of each row (q, k), and its share."""
    ordered = np.sort(neighbours, axis=1)
    equal = ordered[:, :, None] == ordered[:, None, :]
    counts = equal.sum(2)  # (q, k)
    first = counts.argmax(1)
    rows = np.arange(len(ordered))
    return ordered[rows, first], counts[rows, first] / ordered.shape[1]


def _named(codes: NDArray[np.int64], classes: NDArray[Any] | None) -> list[Any]:
    return (codes if classes is None else classes[codes]).tolist()
