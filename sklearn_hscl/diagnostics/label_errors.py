"""Rows whose neighbours agree on another label."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.diagnostics.sample import Subject
from sklearn_hscl.metrics.knn.top_k import nearest_rows
from sklearn_hscl.reports.finding import Finding

N_NEIGHBORS = 10
# Share of the neighbours that have to agree on one other class, and may have the row's.
_AGREE, _OWN = 0.8, 0.1
# Rows that a class needs for its neighbours to be asked.
_SMALLEST_CLASS = 5
# Share of rows whose neighbours have to vote for their label, for others to be suspects.
_TRUSTED = 0.7
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
    if train.labelled is None:
        return _none(
            "Without one class label for each row no neighbour can disagree: pass y, if "
            "there are classes."
        )
    places, rows, codes = train.labelled
    if len(rows) <= N_NEIGHBORS or len(np.unique(codes)) < 2:
        return _none(f"It takes more than {N_NEIGHBORS} rows, of two classes at least.")
    votes = _Votes.of(rows, codes)
    if votes.agreement < _TRUSTED:
        return _none(
            f"Neighbours vote for the label of {votes.agreement:.0%} of the rows, too few "
            f"to blame the labels of the others."
        )
    values: dict[str, Any] = {
        "rows": places[votes.suspects].tolist(),
        "neighbours_say": _named(votes, classes),
        "agreement": votes.agreement,
    }
    n_suspects, n_judged = len(votes.suspects), len(rows)
    if held_out is not None and held_out.labelled is not None:
        asked, queries, own = held_out.labelled
        votes = _Votes.of(rows, codes, queries, own)
        values["held_out_rows"] = asked[votes.suspects].tolist()
        values["held_out_neighbours_say"] = _named(votes, classes)
        n_suspects, n_judged = n_suspects + len(votes.suspects), n_judged + len(queries)
    return _judge(values | {"n_judged": n_judged}, n_suspects, n_judged)


def _none(reason: str) -> Finding:
    return Finding.not_applicable("labels", reason)


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


@dataclass(frozen=True)
class _Votes:
    """What the nearest rows of some rows say about their classes."""

    classes: NDArray[np.int64]
    """Most frequent class, (q,)."""
    own: NDArray[np.int64]
    """Class by the label, (q,)."""
    suspects: NDArray[np.int64]
    """Places of rows with a likely label error, the surest first."""

    @property
    def agreement(self) -> float:
        """Share of rows whose neighbours vote for their label."""
        return float((self.classes == self.own).mean())

    @classmethod
    def of(
        cls,
        rows: NDArray[Any],
        codes: NDArray[np.int64],
        queries: NDArray[Any] | None = None,
        own: NDArray[np.int64] | None = None,
    ) -> "_Votes":
        """Ask the nearest of the rows about queries, or about each row itself."""
        places, _ = nearest_rows(rows, N_NEIGHBORS, queries)
        own = codes if own is None else own
        sizes = np.bincount(codes, minlength=max(codes.max(), own.max()) + 1)
        neighbours = codes[places]  # (q, k)
        votes, share = _majority(neighbours)
        share_of_own = (neighbours == own[:, None]).mean(1)
        wrong = (votes != own) & (share >= _AGREE) & (share_of_own <= _OWN)
        suspects = np.flatnonzero(wrong & (sizes[own] >= _SMALLEST_CLASS))
        surest_first = np.argsort(-share[suspects], kind="stable")
        return cls(votes, own, suspects[surest_first])


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


def _named(votes: _Votes, classes: NDArray[Any] | None) -> list[Any]:
    """Return what the neighbours of the suspects say, by the names of the classes."""
    codes = votes.classes[votes.suspects]
    return (codes if classes is None else classes[codes]).tolist()
