"""How training composed batches and compared their rows, as facts and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sklearn_hscl.augment import Augmentation
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.persistence.errors import BundleError
from sklearn_hscl.persistence.facts import check_facts
from sklearn_hscl.training.batching import SAMPLERS
from sklearn_hscl.training.views import choose_augment


@dataclass
class Comparison:
    """What a net knows of its batches and its loss, under the net's names."""

    batch_size: int
    n_views: int
    iterator_train__sampler: str
    augment: Augmentation
    criterion_: ContrastiveLoss


def comparison_state(net: Any) -> dict[str, Any]:
    """Return settled numbers and names; functions and tensors are in the parameters."""
    loss = net.criterion_.settings()
    return {
        "batch_size": int(net.batch_size),
        "n_views": int(net.n_views),
        "sampler": net.iterator_train__sampler,
        "loss": {name: value for name, value in loss.items() if _is_plain(value)},
    }


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def restore_comparison(facts: Any, params: Mapping[str, Any], ndim: int) -> Comparison:
    """Return what a net knows; the opposite of :func:`comparison_state`.

    Parameters
    ----------
    facts : dict
        What was stored.
    params : mapping
        Parameters of the embedder, for what is code.
    ndim : int
        Dimensions of the training rows.
    """
    check_facts(facts, "comparison", batch_size=int, n_views=int, sampler=str, loss=dict)
    if facts["batch_size"] < 2 or facts["n_views"] < 1 or facts["sampler"] not in SAMPLERS:
        raise BundleError(f"its batches are impossible: {facts!r:.80}")
    given = params["loss"]
    if isinstance(given, ContrastiveLoss):
        code = given.settings()
    else:
        code = {"hardening": params["hardening"]}
    return Comparison(
        facts["batch_size"],
        facts["n_views"],
        facts["sampler"],
        choose_augment(params["augment"], facts["n_views"], ndim),
        ContrastiveLoss.from_settings(code | facts["loss"]),
    )
