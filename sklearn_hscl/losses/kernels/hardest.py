"""Value and gradient relative to each anchor's hardest negative, in strips of rows.

For tilts so sharp that exponentials would overflow without a shift. The shift differs
from row to row, so this way has no symmetry to use and takes about twice as long.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.losses.kernels.closed_form import Result, Settings
from sklearn_hscl.losses.kernels.label_sorted import SortedRows, cut
from sklearn_hscl.runtime.matmul import mm_t

_STRIP = 2**20  # elements of a strip of whole rows


def relative_to_hardest(
    rows: SortedRows, weight: Tensor, mass: Tensor, settings: Settings
) -> Result:
    """Compute the loss with exponentials relative to the hardest negative.

    Parameters and result are those of
    :func:`~sklearn_hscl.losses.kernels.symmetric.symmetric`.
    """
    gradient = torch.zeros_like(rows.z)
    value, effective = weight.new_zeros(()), torch.zeros_like(weight)
    n_rows = len(weight)
    for strip in cut(0, n_rows, max(_STRIP // n_rows, 1)):
        similarity = mm_t(rows.z[strip], rows.z) / settings.temperature  # (t, B)
        mean = _tilted_mean(similarity, rows, strip, settings)
        odds = (mass[strip].log() + mean.log_mean).unsqueeze(1) - similarity
        share = _pair_weights(rows, weight, strip)
        value += (share * torch.logaddexp(odds.new_zeros(()), odds)).sum()
        effective[strip] = mean.effective
        if settings.wants_gradient:
            pull = share.mul_(odds.sigmoid_())
            push = mean.derivative.mul_(pull.sum(1, keepdim=True)).sub_(pull)
            gradient[strip] += push @ rows.z
            gradient += push.T @ rows.z[strip]
    gradient /= settings.temperature
    return Result(value, gradient.T if settings.wants_gradient else None, effective)


def _pair_weights(rows: SortedRows, weight: Tensor, strip: slice) -> Tensor:
    group = rows.per_row(np.arange(len(rows.sizes)))  # (B,)
    pairs = group[strip].unsqueeze(1) == group  # (t, B)
    pairs[:, strip].fill_diagonal_(False)
    return pairs * weight[strip].unsqueeze(1)


class _TiltedMean(NamedTuple):
    log_mean: Tensor  # (t,), log E
    derivative: Tensor  # (t, B), of log E with respect to s
    effective: Tensor  # (t,)


def _tilted_mean(
    similarity: Tensor, rows: SortedRows, strip: slice, settings: Settings
) -> _TiltedMean:
    beta = settings.beta
    group = rows.per_row(np.arange(len(rows.sizes)))  # (B,)
    same = group[strip].unsqueeze(1) == group  # (t, B)
    excess = similarity.masked_fill(same, -math.inf)
    hardest = excess.amax(1, keepdim=True)  # (t, 1)
    excess -= hardest
    hard = ((1 + beta) * excess).exp()
    # A similarity of -inf times a beta of zero would be NaN.
    plain = (beta * excess).exp_() if beta else (~same).to(excess.dtype)
    sum_hard, sum_plain = hard.sum(1, keepdim=True), plain.sum(1, keepdim=True)
    effective = (sum_plain.square() / plain.square().sum(1, keepdim=True)).squeeze(1)
    log_mean = (hardest + sum_hard.log() - sum_plain.log()).squeeze(1)
    hard /= sum_hard
    if not settings.detach_weights:
        hard.mul_(1 + beta).sub_(plain.mul_(beta / sum_plain))
    return _TiltedMean(log_mean, hard, effective)
