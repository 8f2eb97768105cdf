"""The equation of the loss, for a block of anchors; synthetic negatives and reduction."""

from math import log, log1p
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_hscl.losses.pair_sets import Pairs
from sklearn_hscl.losses.presets import LossOptions, per_pair
from sklearn_hscl.runtime.normalize import l2_normalize


def synthetic_cosines(
    anchors: Tensor, z: Tensor, hardness: Tensor, n_hardest: int, n_synthetic: int
) -> Tensor:
    """Cosines of each anchor with synthetic negatives of its own.

    Each synthetic negative is a n_1 + (1 - a) n_2, scaled to unit length, where n_1 and
    n_2 are drawn with replacement from the anchor's hardest negatives and a from
    U(0, 1). It is a constant for the gradient, as in MoCHi, SynCo and the code of SSCL;
    the anchor is not.

    Parameters
    ----------
    anchors : Tensor of shape (..., A, D)
        Unit embeddings of the anchors.
    z : Tensor of shape (..., B, D)
        Unit embeddings of all rows.
    hardness : Tensor of shape (..., A, B)
        Similarity of the negatives, -inf elsewhere.
    n_hardest : int
        How many of the hardest negatives are mixed; anchors with fewer use those.
    n_synthetic : int
        Number of synthetic negatives of each anchor.

    Returns
    -------
    Tensor of shape (..., A, n_synthetic)
        Meaningless for anchors without negatives, which are skipped.
    """
    hardest = hardness.topk(min(n_hardest, hardness.shape[-1]))
    n_usable = hardest.values.isfinite().sum(-1, keepdim=True).clamp_min(1)  # (..., A, 1)
    shape = (*anchors.shape[:-1], n_synthetic)
    mixture, *chances = torch.rand((3, *shape), dtype=z.dtype, device=z.device)
    first, second = (
        _rows(z.detach(), hardest.indices, chance, n_usable) for chance in chances
    )
    mixture = mixture.unsqueeze(-1)  # (..., A, S, 1)
    synthetic = l2_normalize(mixture * first + (1 - mixture) * second)  # (..., A, S, D)
    return (synthetic @ anchors.unsqueeze(-1)).squeeze(-1)


def _rows(z: Tensor, candidates: Tensor, chance: Tensor, n_usable: Tensor) -> Tensor:
    """Pick rows of z, one of the usable candidates for each chance in [0, 1)."""
    place = (chance * n_usable).long().clamp_max(candidates.shape[-1] - 1)  # (..., A, S)
    index = candidates.gather(-1, place)  # (..., A, S)
    width = z.shape[-1]
    flat = index.flatten(-2).unsqueeze(-1).expand(*index.shape[:-2], -1, width)
    return z.gather(-2, flat).unflatten(-2, index.shape[-2:])  # (..., A, S, D)


class LossStats(NamedTuple):
    """Counts over a batch; every field has shape (...)."""

    skipped_anchors: Tensor
    """Anchors left out because they have no positive or no negative."""
    hardest_fallbacks: Tensor
    """Anchors whose negatives all had weight 0, so that the hardest one was used."""
    effective_negatives: Tensor
    """Mean over anchors of (Σ η)² / Σ η²: how many negatives really count."""


def anchor_weights(reduction: str, positive_mass: Tensor, usable: Tensor) -> Tensor:
    """Weights over anchors that sum to 1 (to 0 where no anchor is usable).

    Parameters
    ----------
    reduction : {"anchors", "pairs", "classes"}
        Every usable anchor, every positive pair, or every class weighs the same.
    positive_mass : Tensor of shape (..., B)
        Number (or total weight) of each anchor's positives.
    usable : Tensor of bool, shape (..., B)
        Anchors that have a positive and a negative.

    Returns
    -------
    Tensor of shape (..., B)
    """
    weight = usable.to(positive_mass.dtype)
    if reduction == "pairs":
        weight = weight * positive_mass
    if reduction == "classes":
        weight = weight / (1 + positive_mass)  # the anchor belongs to its class, too
    tiny = torch.finfo(weight.dtype).tiny
    return weight / weight.sum(-1, keepdim=True).clamp_min(tiny)


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
