"""The equation: losses of a block of anchors against all rows, in log space.

With s_ij = z_i·z_j / T, negative weights ν, positive weights π and hardening η::

    log E_i = log Σ_j ν_ij η(s_ij) e^{s_ij} - log Σ_j ν_ij η(s_ij)
    ℓ_ip    = log( e^{s_ip} + D_ip ) - s_ip,   D_ip = Q_i E_i, or as `denominator` says
"""

from math import log, log1p
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_hscl.losses.options import LossOptions, per_pair
from sklearn_hscl.losses.synthetic import synthetic_cosines
from sklearn_hscl.losses.targets import Pairs


class AnchorLosses(NamedTuple):
    """What a block of anchors gives; every field has shape (..., A)."""

    loss: Tensor
    """Mean over the anchor's positives; meaningless where not usable."""
    positive_mass: Tensor
    """Total weight of the positives."""
    usable: Tensor
    """Whether there are a positive and a negative."""
    fell_back: Tensor
    """Whether no negative had any weight, so that the hardest one was used."""
    effective_negatives: Tensor
    """(Σ ν η)² / Σ (ν η)²."""


class TiltedMean(NamedTuple):
    """Tilted mean of e^s over each anchor's negatives."""

    log_mean: Tensor  # (..., A)
    log_weight: Tensor  # (..., A, B), log νη
    fell_back: Tensor  # (..., A)


def anchor_losses(
    anchors: Tensor, z: Tensor, pairs: Pairs, options: LossOptions
) -> AnchorLosses:
    """Compute the losses of some anchors.

    Parameters
    ----------
    anchors : Tensor of shape (..., A, D)
        Unit embeddings, some rows of z.
    z : Tensor of shape (..., B, D)
        Unit embeddings of the batch.
    pairs : Pairs
        Weights of positives and negatives, (..., A, B).
    options : LossOptions
        The point in the family.

    Returns
    -------
    AnchorLosses
    """
    temperature = per_pair(options.temperature, z)
    cosine = anchors @ z.mT  # (..., A, B)
    negatives = _with_synthetic(anchors, z, cosine, pairs.log_negative, options)
    tilted = tilted_mean(*negatives, temperature, options)
    log_negative = negatives[1]
    log_mass = _log_mass(log_negative, z.shape[-2], options)  # (..., A)
    similarity = cosine / temperature
    share, positive = _positives(similarity, pairs.positive, options)
    if options.denominator == "all":
        log_total = _log_sum_of_all(similarity, pairs.positive, tilted.log_mean + log_mass)
        pair_loss = log_total - positive
    else:
        log_mean = tilted.log_mean.unsqueeze(-1)
        if options.tau_plus:
            log_mean = _debiased(log_mean, positive, temperature, options.tau_plus)
        log_odds = log_mass.unsqueeze(-1) + log_mean - positive
        # logaddexp, not softplus, which is linear above 20 and so loses digits.
        pair_loss = torch.logaddexp(torch.zeros_like(log_odds), log_odds)
    mass = pairs.positive.sum(-1)
    log_weight = tilted.log_weight.detach()
    log_count = 2 * log_weight.logsumexp(-1) - (2 * log_weight).logsumexp(-1)
    return AnchorLosses(
        loss=(share * pair_loss).sum(-1),
        positive_mass=mass,
        usable=(mass > 0) & ~log_negative.isneginf().all(-1),
        fell_back=tilted.fell_back,
        effective_negatives=log_count.exp(),
    )


def tilt_weights(anchors: Tensor, z: Tensor, pairs: Pairs, options: LossOptions) -> Tensor:
    """Compute how much each negative counts: the weights ν η, which sum to 1.

    Parameters are those of :func:`anchor_losses`.

    Returns
    -------
    Tensor of shape (..., A, B + n_synthetic)
        0 where the row is no negative; meaningless for anchors without any.
    """
    temperature = per_pair(options.temperature, z)
    negatives = _with_synthetic(anchors, z, anchors @ z.mT, pairs.log_negative, options)
    return tilted_mean(*negatives, temperature, options).log_weight.softmax(-1)


def _with_synthetic(
    anchors: Tensor, z: Tensor, cosine: Tensor, log_negative: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor]:
    """Append synthetic negatives to cosines and log ν: (..., A, B + n_synthetic)."""
    if not options.n_synthetic:
        return cosine, log_negative
    absent = log_negative.isneginf()
    hardness = cosine.detach().masked_fill(absent, -torch.inf)
    synthetic = synthetic_cosines(
        anchors, z, hardness, options.n_hardest, options.n_synthetic
    )
    lonely = absent.all(-1, keepdim=True)  # nothing to mix
    log_synthetic = torch.zeros_like(synthetic).masked_fill(lonely, -torch.inf)
    log_negative = log_negative.expand(cosine.shape)
    return torch.cat([cosine, synthetic], -1), torch.cat([log_negative, log_synthetic], -1)


def tilted_mean(
    cosine: Tensor, log_negative: Tensor, temperature: Tensor, options: LossOptions
) -> TiltedMean:
    """Average e^s over the negatives of each anchor, with weights νη.

    Parameters
    ----------
    cosine : Tensor of shape (..., A, B)
        Of anchors and rows.
    log_negative : Tensor of shape (..., A, B)
        log ν, -inf where the row is no negative.
    temperature : Tensor of shape (..., 1, 1)
        Scale of the cosine.
    options : LossOptions
        The tilt.

    Returns
    -------
    TiltedMean
    """
    absent = log_negative.isneginf()
    similarity = cosine / temperature
    hardest = similarity.detach().masked_fill(absent, -torch.inf).amax(-1, keepdim=True)
    hardest = hardest.masked_fill(hardest.isinf(), 0.0)  # anchors without negatives
    excess = similarity - hardest  # <= 0 on the negatives, (..., A, B)
    log_eta = options.log_eta(similarity, excess, cosine, log_negative)
    if options.detach_weights:
        log_eta = log_eta.detach()
    log_weight = (log_eta + log_negative).masked_fill(absent, -torch.inf)
    dead = log_weight.isneginf().all(-1, keepdim=True)  # no negative has any weight
    lonely = absent.all(-1, keepdim=True)  # there is none
    # Rows without negatives must stay finite, or their NaN gradient would spread.
    use_all = lonely | (dead & ~absent & (excess.detach() >= 0))
    log_weight = torch.where(use_all, 0.0, log_weight)
    excess = excess.masked_fill(absent & ~lonely, 0.0)
    log_mean = (log_weight + excess).logsumexp(-1) - log_weight.logsumexp(-1)
    fell_back = (dead & ~lonely).squeeze(-1)
    return TiltedMean(hardest.squeeze(-1) + log_mean, log_weight, fell_back)


def _log_mass(log_negative: Tensor, n_rows: int, options: LossOptions) -> Tensor:
    if options.negative_mass == "negatives":
        mass = log_negative.exp().sum(-1)  # (..., A)
        return torch.where(mass > 0, mass, 1.0).log()
    constant = options.negative_mass
    if constant == "batch":
        constant = max(n_rows - 2, 1) + options.n_synthetic
    return torch.full_like(log_negative[..., 0], float(constant)).log()


def _positives(
    similarity: Tensor, positive: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor]:
    """Return shares π and similarities, of each positive or of their pooled one."""
    mass = positive.sum(-1, keepdim=True)
    share = positive / torch.where(mass > 0, mass, 1.0)  # (..., A, B)
    if options.pooling == "out":
        return share, similarity
    lonely = mass == 0
    log_share = torch.where(lonely, 0.0, share.log())
    pooled = (log_share + similarity).logsumexp(-1, keepdim=True)  # (..., A, 1)
    return (~lonely).to(share.dtype), pooled


def _log_sum_of_all(similarity: Tensor, positive: Tensor, log_negatives: Tensor) -> Tensor:
    """Logarithm of Q E plus the sum of e^s over all positives, (..., A, 1)."""
    absent = positive == 0
    similarity = similarity.masked_fill(absent & ~absent.all(-1, keepdim=True), -torch.inf)
    return torch.logaddexp(similarity.logsumexp(-1), log_negatives).unsqueeze(-1)


def _debiased(
    log_mean: Tensor, positive: Tensor, temperature: Tensor, tau_plus: float
) -> Tensor:
    """Logarithm of max((E - τ⁺ e^{s_ip}) / (1 - τ⁺), e^{-1/T}), (..., A, B)."""
    log_share = log(tau_plus) + positive - log_mean  # of E that is expected to be positive
    partly = log_share < 0
    rest = torch.where(partly, log_share, -1.0).expm1().neg().log()  # log(1 - share)
    debiased = torch.where(partly, log_mean + rest - log1p(-tau_plus), -torch.inf)
    return torch.maximum(debiased, -1 / temperature)
