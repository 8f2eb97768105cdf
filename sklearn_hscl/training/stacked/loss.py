"""The losses of all models of a stack, as one function of their projections."""

import copy
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from inspect import isroutine
from typing import Any

import torch
from torch import Tensor

from sklearn_hscl.losses import ContrastiveLoss, LossStats
from sklearn_hscl.losses.presets import LossOptions

# Options in which losses may differ that are computed by one call, with a value for each.
_NUMERIC_OPTIONS = ("beta", "temperature", "threshold", "ce_weight")


class StackedLoss:
    """Losses of several models, the first axis of what they are called with.

    Losses that differ in numbers only are computed by one call. Each further kind of
    loss, such as another hardening, takes a call of its own.

    Parameters
    ----------
    losses : sequence of ContrastiveLoss
        One for each model K.
    device : torch.device
        Device of the projections.
    """

    def __init__(self, losses: Sequence[ContrastiveLoss], device: torch.device) -> None:
        groups: dict[Hashable, list[int]] = {}
        for k, loss in enumerate(losses):
            groups.setdefault(_kind(loss), []).append(k)
        self.parts = [
            (
                torch.tensor(indices, device=device),
                _joint([losses[k] for k in indices], device),
            )
            for indices in groups.values()
        ]
        order = torch.cat([indices for indices, _ in self.parts])
        self.order = order.argsort()  # from groups back to models

    def __call__(
        self,
        z: Tensor,
        y: Tensor | None = None,
        *,
        view_ids: Tensor | None = None,
        logits: Tensor | None = None,
        return_stats: bool = True,
    ) -> tuple[Tensor, LossStats]:
        """Compute the losses of a batch.

        Parameters
        ----------
        z : Tensor of shape (K, ..., B, D)
            Projections by each model.
        y, view_ids, return_stats
            As in :class:`~sklearn_hscl.losses.ContrastiveLoss`.
        logits : Tensor of shape (K, ..., B, n_classes) or None
            Class scores by each model.

        Returns
        -------
        value : Tensor of shape (K, ...)
        stats : LossStats
        """
        if len(self.parts) == 1:
            return self._part(0, z, y, view_ids, logits)
        values, stats = zip(
            *(
                self._part(
                    i, z[index], y, view_ids, None if logits is None else logits[index]
                )
                for i, (index, _) in enumerate(self.parts)
            ),
            strict=True,
        )
        fields = (torch.cat(field)[self.order] for field in zip(*stats, strict=True))
        return torch.cat(values)[self.order], LossStats(*fields)

    def _part(
        self,
        i: int,
        z: Tensor,
        y: Tensor | None,
        view_ids: Tensor | None,
        logits: Tensor | None,
    ) -> tuple[Tensor, LossStats]:
        return self.parts[i][1](z, y, view_ids=view_ids, logits=logits, return_stats=True)


def _kind(loss: ContrastiveLoss) -> Hashable:
    """Return what losses must have in common to be computed by one call."""
    fixed = tuple(
        (name, comparable(value))
        for name, value in vars(loss.options).items()
        if name not in _NUMERIC_OPTIONS
    )
    return loss.loss, loss.label_smoothing, loss.target_type, fixed


def comparable(value: Hashable) -> Hashable:
    """Return the class of a callable object, as copies of it are not equal."""
    return value if not callable(value) or isroutine(value) else type(value)


def _joint(losses: Sequence[ContrastiveLoss], device: torch.device) -> ContrastiveLoss:
    """Return one loss with a value of each numeric option for each model."""
    options = [loss.options for loss in losses]
    # Options are annotated as floats, and may be tensors in stacks only.
    values: dict[str, Any] = {
        name: _joint_option(options, name, device) for name in _NUMERIC_OPTIONS
    }
    joint = copy.copy(losses[0])
    joint.options = replace(options[0], **values)
    return joint


def _joint_option(
    options: Sequence[LossOptions], name: str, device: torch.device
) -> float | Tensor:
    """Return the values of an option in all models.

    ``ce_weight`` is a float if it is the same in all.
    """
    values = [getattr(option, name) for option in options]
    if len(Counter(values)) == 1 and name == "ce_weight":
        return values[0]
    return torch.tensor(values, dtype=torch.float64, device=device)
