"""Which samples are positives and negatives of each anchor, and with what weight."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from numbers import Number
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Entries = Tensor | ArrayLike
"""Labels, targets or ids of samples, as users pass them."""


# As users pass them --------------------------------------------------------------------


def read_ids(name: str, values: Entries, z: Tensor) -> Tensor:
    """Return labels or ids as int64, in which no arithmetic of the loss wraps.

    Parameters
    ----------
    name : str
        Name of the argument, for messages.
    values : Tensor or array-like of shape (..., B)
        Integers of any type, booleans, or floats that are integers. The latter are
        accepted on a CPU only: elsewhere the check would wait for the device.
    z : Tensor of shape (..., B, D)
        Embeddings.

    Returns
    -------
    Tensor of int64, shape (..., B)
        On the device of z.
    """
    ids = read_numbers(name, values, z)
    if ids.shape[-1:] != z.shape[-2:-1] or not _broadcasts(ids.shape[:-1], z.shape[:-2]):
        raise ValueError(
            f"`{name}` of shape {tuple(ids.shape)} does not match z of shape "
            f"{tuple(z.shape)}. Pass one entry per row of z."
        )
    if ids.is_floating_point():
        _check_whole(name, ids)
    return ids.long()


def read_values(name: str, values: Entries, z: Tensor) -> Tensor:
    """Return continuous targets as floats that hold them exactly.

    Parameters are those of :func:`read_ids`, with values of shape (..., B) or (..., B, K).
    They are constants: no gradient flows to them.

    Returns
    -------
    Tensor of float32 or float64, shape (..., B, K)
        On the device of z.
    """
    targets = read_numbers(name, values, z).detach()
    if targets.ndim < 2 or targets.shape == z.shape[:-1]:
        targets = targets.unsqueeze(-1)
    _check_rows(name, targets, z)
    if targets.is_floating_point():
        return targets.float() if targets.itemsize < 4 else targets
    return targets.to(torch.float32 if z.device.type == "mps" else torch.float64)


def read_indicators(name: str, values: Entries, z: Tensor) -> Tensor:
    """Return label indicators, (..., B, K), on the device of z.

    Their range is checked on a CPU only: elsewhere the check would wait for the device.
    """
    indicators = read_numbers(name, values, z).detach()
    _check_rows(name, indicators, z)
    if not indicators.is_floating_point():
        indicators = indicators.long()  # types without sign lack comparisons
    if indicators.device.type != "cpu":
        return indicators
    wrong = indicators[(indicators < 0) | (indicators > 1)]
    if len(wrong):
        raise ValueError(
            f"Expected `{name}` to hold label indicators from 0 to 1, got {wrong[0]}. Pass "
            f"target_type='continuous' for numbers, or 'class' for class labels."
        )
    return indicators


def read_numbers(name: str, values: Entries, z: Tensor) -> Tensor:
    """Return real numbers as a tensor of their type, on the device of z.

    Raises
    ------
    TypeError
        If they are not real numbers, or some are missing.
    ValueError
        If they are a tensor on another device.
    """
    if not isinstance(values, Tensor):
        array = torch.from_numpy(_numeric_array(name, values))
        return array.to(z.device, non_blocking=True)
    if values.device != z.device:
        raise ValueError(
            f"Expected `{name}` on {z.device} like z, got it on {values.device}. Pass "
            f"{name}.to(z.device)."
        )
    if values.is_complex():
        raise TypeError(f"Expected `{name}` of real numbers, got {values.dtype}.")
    return values


def _numeric_array(name: str, values: ArrayLike) -> np.ndarray:
    """Return an array of a type of torch, in its own memory and the native byte order."""
    try:
        array = np.asarray(values)
        if array.dtype == object:  # such as of a nullable column
            array = np.asarray(array.tolist())
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Expected `{name}` to be a tensor or an array of numbers: {error}"
        ) from error
    if array.dtype.kind not in "biuf":
        entries = array.ravel().tolist()
        wrong = next((each for each in entries if not isinstance(each, Number)), array)
        raise TypeError(
            f"Expected `{name}` to hold numbers, got {wrong!r} of type "
            f"{type(wrong).__name__}. Encode labels as integers, and leave out samples "
            f"with missing ones or give them the `unlabeled_label`."
        )
    if array.dtype == np.longdouble:
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="))


def _broadcasts(leading: torch.Size, wanted: torch.Size) -> bool:
    """Return whether leading axes are those of z, or some of them missing or of size 1."""
    sizes = zip(reversed(leading), reversed(wanted), strict=False)
    return len(leading) <= len(wanted) and all(a in (1, b) for a, b in sizes)


def _check_rows(name: str, targets: Tensor, z: Tensor) -> None:
    """Raise an error unless targets (..., B, K) have one row for each row of z."""
    leading, rows = targets.shape[:-2], targets.shape[-2:-1]
    if rows != z.shape[-2:-1] or not _broadcasts(leading, z.shape[:-2]):
        raise ValueError(
            f"`{name}` of shape {tuple(targets.shape)} does not match z of shape "
            f"{tuple(z.shape)}. Pass one row of targets per row of z."
        )


def _check_whole(name: str, ids: Tensor) -> None:
    """Raise an error unless floats are integers that cannot have been rounded."""
    if ids.device.type != "cpu":
        raise TypeError(
            f"Expected `{name}` of integers, got {ids.dtype} on {ids.device}, where a "
            f"check would wait for the device. Pass {name}.long()."
        )
    limit = 2 / torch.finfo(ids.dtype).eps  # beyond it odd integers are missing
    wide = ids.detach().double()
    wrong = wide[~((wide == wide.round()) & (wide.abs() < limit))]
    if not len(wrong):
        return
    value = float(wrong[0])
    if isfinite(value) and value == round(value):
        raise ValueError(
            f"`{name}` holds {value:.0f} in {ids.dtype}, which may be another integer "
            f"that was rounded: it is exact below {limit:.0f} only. Pass integers."
        )
    remedy = "Pass integers"
    if name == "y" and not isfinite(value):
        remedy = "Leave out samples without a label, or pass an unlabeled_label for them"
    elif name == "y":
        remedy += ", or target_type='continuous' if it holds numbers"
    raise ValueError(f"Expected `{name}` to hold integers, got {value}. {remedy}.")


# Pairs ---------------------------------------------------------------------------------


class PairWeights(NamedTuple):
    """Weights over ordered pairs (anchor, sample); an anchor is not paired with itself."""

    positive: Tensor
    """π up to a factor per anchor, >= 0, shape (..., A, B)."""
    log_negative: Tensor
    """log ν, -inf for samples that are not negatives, shape (..., A, B)."""


@dataclass(frozen=True)
class ViewPairs:
    """Views of the same sample are positives, all others negatives."""

    view_ids: Tensor  # (..., B)

    @property
    def identity(self) -> Tensor:
        """Ids of the points to which the loss attracts samples, (..., B)."""
        return self.view_ids

    @property
    def groups(self) -> Tensor:
        """Ids that are equal for positives and different for negatives, (..., B)."""
        return self.view_ids

    def block(self, start: int, stop: int, dtype: torch.dtype) -> PairWeights:
        """Return the pairs of the anchors start, ..., stop - 1."""
        return _by_identity(self.view_ids, None, slice(start, stop), dtype)


@dataclass(frozen=True)
class LabelPairs:
    """Samples of the same label are positives, all others negatives."""

    labels: Tensor  # (..., B)
    view_ids: Tensor | None = None  # (..., B); if given, only views are positives

    @property
    def identity(self) -> Tensor:
        """Ids of the points to which the loss attracts samples, (..., B)."""
        return self.labels

    @property
    def groups(self) -> Tensor | None:
        """Ids that are equal for positives and different for negatives, or None."""
        return self.labels if self.view_ids is None else None

    def block(self, start: int, stop: int, dtype: torch.dtype) -> PairWeights:
        """Return the pairs of the anchors start, ..., stop - 1."""
        return _by_identity(self.labels, self.view_ids, slice(start, stop), dtype)


@dataclass(frozen=True)
class SimilarityPairs:
    """Samples i, j are positives with weight S_ij in [0, 1], negatives with 1 - S_ij."""

    targets: Tensor  # (..., B, K)
    similarity: Callable[[Tensor, slice], Tensor]  # from targets and anchors to S
    view_ids: Tensor | None = None  # (..., B); if given, only views are positives

    identity: ClassVar[None] = None
    groups: ClassVar[None] = None

    def block(self, start: int, stop: int, dtype: torch.dtype) -> PairWeights:
        """Return the pairs of the anchors start, ..., stop - 1."""
        anchors = slice(start, stop)
        # Differences of large targets need all their digits.
        targets = self.targets.to(torch.promote_types(self.targets.dtype, dtype))
        similarity = self.similarity(targets, anchors).to(dtype)  # (..., A, B)
        log_negative = torch.log1p(-similarity)
        return _without_self(similarity, log_negative, self.view_ids, anchors)


BatchPairs = ViewPairs | LabelPairs | SimilarityPairs


def jaccard(labels: Tensor, anchors: slice) -> Tensor:
    """Jaccard overlap of label sets: shared labels over labels of either.

    Parameters
    ----------
    labels : Tensor of shape (..., B, K)
        Indicator, 1 if the sample has the label. Two empty sets do not overlap.
    anchors : slice
        Anchors of the block.

    Returns
    -------
    Tensor of shape (..., A, B)
    """
    of_anchors = labels[..., anchors, :]
    shared = of_anchors @ labels.mT  # (..., A, B)
    either = of_anchors.sum(-1).unsqueeze(-1) + labels.sum(-1).unsqueeze(-2) - shared
    return shared / either.clamp_min(1)


def gaussian(values: Tensor, anchors: slice) -> Tensor:
    """Gaussian kernel exp(-|y_i - y_j|² / 2) of values in units of the bandwidth.

    Parameters
    ----------
    values : Tensor of shape (..., B, K)
        Continuous targets, divided by the bandwidth.
    anchors : slice
        Anchors of the block.

    Returns
    -------
    Tensor of shape (..., A, B)
    """
    difference = values[..., anchors, None, :] - values[..., None, :, :]
    return torch.exp(-difference.square().sum(-1) / 2)


def separate_unlabeled(y: Tensor, unlabeled: int, view_ids: Tensor | None) -> Tensor:
    """Replace the label of each unlabeled sample by a unique class.

    Parameters
    ----------
    y : Tensor of int, shape (..., B)
        Class labels.
    unlabeled : int
        Label that marks unlabeled samples.
    view_ids : Tensor of int, shape (..., B), or None
        Views of one sample share its class; None for one view per sample.

    Returns
    -------
    Tensor of int, shape (..., B)
    """
    if view_ids is None:
        view_ids = torch.arange(y.shape[-1], device=y.device)
    # Sums of labels and ids could leave the range of integers.
    unique = y.shape[-1] + _ranks(view_ids)
    return torch.where(y == unlabeled, unique, _ranks(y))


def _ranks(ids: Tensor) -> Tensor:
    """Return 0, 1, ... for the ids in their order, without waiting for the device."""
    ordered, order = ids.sort(-1)
    first = torch.zeros_like(ordered[..., :1])
    steps = (ordered[..., 1:] != ordered[..., :-1]).cumsum(-1)
    return torch.zeros_like(order).scatter(-1, order, torch.cat([first, steps], -1))


def _by_identity(
    identity: Tensor, view_ids: Tensor | None, anchors: slice, dtype: torch.dtype
) -> PairWeights:
    same = _equal(identity, anchors)  # (..., A, B)
    zero = torch.zeros(same.shape, dtype=dtype, device=same.device)
    log_negative = zero.masked_fill(same, -torch.inf)
    return _without_self(same.to(dtype), log_negative, view_ids, anchors)


def _without_self(
    positive: Tensor, log_negative: Tensor, view_ids: Tensor | None, anchors: slice
) -> PairWeights:
    """Restrict positives to views, if these are given, and exclude self-pairs."""
    if view_ids is not None:
        positive = positive * _equal(view_ids, anchors)
    every = torch.arange(positive.shape[-1], device=positive.device)  # (B,)
    itself = every[anchors].unsqueeze(-1) == every  # (A, B)
    return PairWeights(
        positive.masked_fill(itself, 0.0), log_negative.masked_fill(itself, -torch.inf)
    )


def with_self(weights: PairWeights, anchors: slice) -> PairWeights:
    """Add the pair of each anchor with itself to its positives, with weight 1."""
    every = torch.arange(weights.positive.shape[-1], device=weights.positive.device)
    itself = every[anchors].unsqueeze(-1) == every  # (A, B)
    return weights._replace(positive=weights.positive.masked_fill(itself, 1.0))


def _equal(identity: Tensor, anchors: slice) -> Tensor:
    return identity[..., anchors].unsqueeze(-1) == identity.unsqueeze(-2)
