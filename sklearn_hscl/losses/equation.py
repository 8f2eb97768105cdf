"""The equation of the loss for a block of anchors: one section per axis of the family.

Shapes: A anchors of the block, B samples of the batch, D dimensions; leading axes hold
independent batches.
"""

from math import log, log1p
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_hscl.losses.hardening import HardeningInput, log_eta
from sklearn_hscl.losses.pair_sets import BatchPairs, PairWeights, with_self
from sklearn_hscl.losses.presets import LossOptions
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.random_state import generator_of_fit


class LossStats(NamedTuple):
    """Counts over a batch; every field has shape (...)."""

    skipped_anchors: Tensor
    """Anchors left out because they have no positive or no negative."""
    hardest_fallbacks: Tensor
    """Anchors whose negatives all had weight 0, so that the hardest one was used."""
    effective_negatives: Tensor
    """Mean over anchors of (Σ η)² / Σ η²: the effective number of negatives."""


class AnchorLosses(NamedTuple):
    """Losses and counts of a block of anchors; every field has shape (..., A)."""

    loss: Tensor
    """Mean over the anchor's positives; meaningless for unusable anchors."""
    positive_mass: Tensor
    """Total weight of the positives."""
    usable: Tensor
    """Whether there are a positive and a negative."""
    fell_back: Tensor
    """Whether no negative had any weight, so that the hardest one was used."""
    effective_negatives: Tensor
    """(Σ ν η)² / Σ (ν η)²."""


def anchor_losses(
    anchors: Tensor, z: Tensor, pairs: PairWeights, options: LossOptions
) -> AnchorLosses:
    """Compute the losses of some anchors.

    Parameters
    ----------
    anchors : Tensor of shape (..., A, D)
        Unit embeddings, some rows of z.
    z : Tensor of shape (..., B, D)
        Unit embeddings of the batch.
    pairs : PairWeights
        Weights of positives and negatives, (..., A, B).
    options : LossOptions
        The loss configuration.

    Returns
    -------
    AnchorLosses
    """
    temperature = per_pair(options.temperature, z)
    cosine = anchors @ z.mT  # (..., A, B)
    negatives = _with_synthetic(anchors, z, cosine, pairs.log_negative, options)
    tilted = tilted_mean(*negatives, temperature, options, pairs.positive)
    log_negative = negatives[1]
    log_mass = _log_mass(log_negative, z.shape[-2], options).unsqueeze(-1)  # (..., A, 1)
    similarity = cosine / temperature
    pi, positive = _pooled_positives(similarity, pairs.positive, options)
    log_mean = tilted.log_mean.unsqueeze(-1)  # (..., A, 1)
    if options.n_sampled:
        log_weight = tilted.log_weight
        log_mean = sampled_log_mean(negatives[0] / temperature, log_weight, pi, options)
    if options.denominator == "all":
        log_total = _log_sum_of_all(similarity, pairs.positive, log_mean + log_mass)
        pair_loss = log_total - positive
    else:
        scales = log_mass, temperature
        pair_loss = _one_positive_loss(positive, log_mean, *scales, options.tau_plus)
    mass = pairs.positive.sum(-1)
    log_weight = tilted.log_weight.detach()
    log_count = 2 * log_weight.logsumexp(-1) - (2 * log_weight).logsumexp(-1)
    return AnchorLosses(
        loss=(pi * pair_loss).sum(-1),
        positive_mass=mass,
        usable=(mass != 0) & ~log_negative.isneginf().all(-1),
        fell_back=tilted.fell_back,
        effective_negatives=log_count.exp(),
    )


def tilt_weights(
    anchors: Tensor, z: Tensor, pairs: PairWeights, options: LossOptions
) -> Tensor:
    """Compute the weights ν η of the negatives, which sum to 1.

    Parameters are those of :func:`anchor_losses`.

    Returns
    -------
    Tensor of shape (..., A, B + n_synthetic)
        0 for samples that are not negatives; meaningless for anchors without any.
    """
    temperature = per_pair(options.temperature, z)
    negatives = _with_synthetic(anchors, z, anchors @ z.mT, pairs.log_negative, options)
    return tilted_mean(*negatives, temperature, options).log_weight.softmax(-1)


def per_pair(value: float | Tensor, like: Tensor) -> Tensor:
    """Give a float or a (...) tensor the shape (..., 1, 1)."""
    if isinstance(value, Tensor):
        return value.to(like)[..., None, None]
    return like.new_full((1, 1), value)  # a copy from the host would be waited for


# The loss of a batch -------------------------------------------------------------------


def dense_loss(
    z: Tensor, pairs: BatchPairs, options: LossOptions
) -> tuple[Tensor, LossStats]:
    """Compute the loss with (..., B, B) temporaries.

    Parameters
    ----------
    z : Tensor of shape (..., B, D)
        Unit embeddings.
    pairs : BatchPairs
        Positives and negatives of each anchor.
    options : LossOptions
        The loss configuration.

    Returns
    -------
    Tensor of shape (...), LossStats
    """
    return reduced_loss(block_losses(z, 0, z.shape[-2], pairs, options), options)


def block_losses(
    z: Tensor, start: int, stop: int, pairs: BatchPairs, options: LossOptions
) -> AnchorLosses:
    """Compute the losses of the anchors start, ..., stop - 1."""
    weights = block_weights(pairs, slice(start, stop), z.dtype, options)
    return anchor_losses(z[..., start:stop, :], z, weights, options)


def block_weights(
    pairs: BatchPairs, anchors: slice, dtype: torch.dtype, options: LossOptions
) -> PairWeights:
    """Return the pairs of some anchors, with themselves if these are positives."""
    weights = pairs.block(anchors.start, anchors.stop, dtype)
    return with_self(weights, anchors) if options.include_self else weights


def reduced_loss(anchors: AnchorLosses, options: LossOptions) -> tuple[Tensor, LossStats]:
    """Average the losses of all anchors of a batch."""
    usable = anchors.usable
    others = anchors.positive_mass
    if options.include_self and options.reduction == "classes":
        others = others - 1  # which counts the anchor itself
    weights = anchor_weights(options.reduction, others, usable)
    value = (weights * torch.where(usable, anchors.loss, 0.0)).sum(-1)
    counts = torch.where(usable, anchors.effective_negatives, 0.0)
    return value, LossStats(  # all batches may share their pairs
        skipped_anchors=(~usable).sum(-1).expand(value.shape),
        hardest_fallbacks=anchors.fell_back.sum(-1).expand(value.shape),
        effective_negatives=counts.sum(-1) / usable.sum(-1).clamp_min(1),
    )


# Hardening: the tilted mean E ----------------------------------------------------------


class TiltedMean(NamedTuple):
    """Tilted mean of e^s over each anchor's negatives."""

    log_mean: Tensor  # (..., A)
    log_weight: Tensor  # (..., A, B), log νη
    fell_back: Tensor  # (..., A)


def tilted_mean(
    cosine: Tensor,
    log_negative: Tensor,
    temperature: Tensor,
    options: LossOptions,
    positive: Tensor | None = None,
) -> TiltedMean:
    """Average e^s over the negatives of each anchor, with weights νη.

    With ``tilted_sum="all"`` the sum of η e^s runs over the positives as well, and is
    divided by the sum of νη over the negatives alone.

    Parameters
    ----------
    cosine : Tensor of shape (..., A, B)
        Cosines of anchors and samples.
    log_negative : Tensor of shape (..., A, B)
        log ν, -inf for samples that are not negatives.
    temperature : Tensor of shape (..., 1, 1)
        Scale of the cosine.
    options : LossOptions
        The loss configuration.
    positive : Tensor of shape (..., A, B'), optional
        Weights of positives, needed for that sum; synthetic negatives follow them.

    Returns
    -------
    TiltedMean
    """
    absent = log_negative.isneginf()
    similarity = cosine / temperature
    hardest = similarity.detach().masked_fill(absent, -torch.inf).amax(-1, keepdim=True)
    hardest = hardest.masked_fill(hardest.isinf(), 0.0)  # anchors without negatives
    excess = similarity - hardest  # <= 0 on the negatives, (..., A, B)
    log_eta = _log_eta(similarity, excess, cosine, log_negative, options)
    log_weight = (log_eta + log_negative).masked_fill(absent, -torch.inf)
    zero_weight = log_weight.isneginf().all(-1, keepdim=True)
    no_negatives = absent.all(-1, keepdim=True)
    # Anchors without negatives must stay finite, or their NaN gradient would spread.
    use_all = no_negatives | (zero_weight & ~absent & (excess.detach() >= 0))
    log_weight = torch.where(use_all, 0.0, log_weight)
    log_summands = log_weight + excess.masked_fill(absent & ~no_negatives, 0.0)
    if options.tilted_sum == "all" and positive is not None:
        n_rows = positive.shape[-1]
        log_positive = positive.log() + (log_eta + excess)[..., :n_rows]
        log_positive = log_positive.masked_fill(no_negatives, -torch.inf)
        log_summands = torch.cat([log_summands, log_positive], -1)
    log_mean = log_summands.logsumexp(-1) - log_weight.logsumexp(-1)
    fell_back = (zero_weight & ~no_negatives).squeeze(-1)
    return TiltedMean(hardest.squeeze(-1) + log_mean, log_weight, fell_back)


def _log_eta(
    similarity: Tensor,
    excess: Tensor,
    cosine: Tensor,
    log_negative: Tensor,
    options: LossOptions,
) -> Tensor:
    if not options.hardened:
        return torch.zeros_like(excess)
    beta, threshold = (per_pair(each, cosine) for each in (options.beta, options.threshold))
    values = log_eta(
        options.hardening,
        HardeningInput(
            similarity, excess, cosine, log_negative, beta, threshold, options.top_k
        ),
    )
    return values.detach() if options.detach_weights else values


# Negative mass: the factor Q -----------------------------------------------------------


def constant_mass(negative_mass: str | float, n_rows: int) -> float:
    """Return Q if it is the same for all anchors: B - 2, at least 1, or a given value."""
    return float(max(n_rows - 2, 1) if negative_mass == "batch" else negative_mass)


def _log_mass(log_negative: Tensor, n_rows: int, options: LossOptions) -> Tensor:
    """Return log Q, (..., A); 0 for anchors without negatives."""
    if options.negative_mass == "negatives":
        mass = log_negative.exp().sum(-1)  # (..., A)
        return torch.where(mass > 0, mass, 1.0).log()
    mass_per_anchor = constant_mass(options.negative_mass, n_rows)
    if options.negative_mass == "batch":
        mass_per_anchor += options.n_synthetic
    return torch.full_like(log_negative[..., 0], mass_per_anchor).log()


# Pooling: the positives in the numerator -----------------------------------------------


def _pooled_positives(
    similarity: Tensor, positive: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor]:
    """Return weights π and similarities, of each positive or of their pooled one."""
    mass = positive.sum(-1, keepdim=True)
    pi = positive / torch.where(mass > 0, mass, 1.0)  # (..., A, B)
    no_positives = mass == 0
    log_pi = torch.where(no_positives, 0.0, pi.log())
    if options.positive_beta:
        scaled = options.positive_beta * similarity
        scaled = scaled.detach() if options.detach_weights else scaled
        log_pi = (log_pi - scaled).log_softmax(-1)
        pi = log_pi.exp().masked_fill(no_positives, 0.0)
    if options.pooling == "out":
        return pi, similarity
    pooled = (log_pi + similarity).logsumexp(-1, keepdim=True)  # (..., A, 1)
    return (~no_positives).to(pi.dtype), pooled


# Denominator: Q E with one positive, or with all of them -------------------------------


def _one_positive_loss(
    positive: Tensor,
    log_mean: Tensor,
    log_mass: Tensor,
    temperature: Tensor,
    tau_plus: float,
) -> Tensor:
    """Return -log( e^{s_ip} / (e^{s_ip} + Q E) ), (..., A, B) or (..., A, 1)."""
    if tau_plus:
        log_mean = _debiased(log_mean, positive, temperature, tau_plus)
    log_odds = log_mass + log_mean - positive
    # logaddexp, not softplus, which is linear above 20 and so loses digits.
    return torch.logaddexp(torch.zeros_like(log_odds), log_odds)


def _debiased(
    log_mean: Tensor, positive: Tensor, temperature: Tensor, tau_plus: float
) -> Tensor:
    """Return log max((E - τ⁺ e^{s_ip}) / (1 - τ⁺), e^{-1/T}), (..., A, B)."""
    log_fraction = log(tau_plus) + positive - log_mean  # of E expected to be positive
    partly = log_fraction < 0
    rest = torch.where(partly, log_fraction, -1.0).expm1().neg().log()  # log(1 - fraction)
    debiased = torch.where(partly, log_mean + rest - log1p(-tau_plus), -torch.inf)
    return torch.maximum(debiased, -1 / temperature)


def _log_sum_of_all(similarity: Tensor, positive: Tensor, log_negatives: Tensor) -> Tensor:
    """Return the logarithm of Q E plus the sum of e^s over all positives.

    Its shape is that of log Q E: (..., A, 1), or (..., A, B) if positives have their own.
    """
    absent = positive == 0
    similarity = similarity.masked_fill(absent & ~absent.all(-1, keepdim=True), -torch.inf)
    return torch.logaddexp(similarity.logsumexp(-1, keepdim=True), log_negatives)


# Reduction: from anchors to one number -------------------------------------------------


def anchor_weights(reduction: str, positive_mass: Tensor, usable: Tensor) -> Tensor:
    """Return weights of the anchors that sum to 1, or to 0 without usable anchors.

    Parameters
    ----------
    reduction : {"anchors", "pairs", "classes"}
        Every usable anchor, every positive pair, or every class has the same weight.
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


# Sampled negatives ---------------------------------------------------------------------


def sampled_log_mean(
    similarity: Tensor, log_weight: Tensor, pi: Tensor, options: LossOptions
) -> Tensor:
    """Average e^s over negatives that are drawn for each positive.

    Each positive gets `n_sampled` draws with replacement, with the chances νη, which are
    constants in the gradient. The expected mean is that of :func:`tilted_mean`.

    Parameters
    ----------
    similarity : Tensor of shape (..., A, N)
        s of the anchors and samples, and synthetic negatives.
    log_weight : Tensor of shape (..., A, N)
        log νη, -inf for samples that are not negatives.
    pi : Tensor of shape (..., A, B) or (..., A, 1)
        Weights of positives, or of their pooled one; 0 elsewhere.
    options : LossOptions
        The loss configuration.

    Returns
    -------
    Tensor of the shape of `pi`, with the leading axes of `similarity`
        Meaningless where pi is 0.
    """
    present = (pi > 0).expand(*similarity.shape[:-1], pi.shape[-1])
    slot = (present.cumsum(-1) - 1).clamp_min(0)  # which draws are those of a positive
    n_slots = int(slot.max()) + 1
    chances = log_weight.detach().softmax(-1)  # (..., A, N)
    chances = torch.where(chances.isfinite(), chances, 1.0)  # of NaN, which the loss keeps
    drawn = torch.multinomial(
        chances.flatten(0, -2),
        n_slots * options.n_sampled,
        replacement=True,
        generator=generator_of_fit(similarity.device),
    ).view(*similarity.shape[:-1], -1)
    picked = similarity.gather(-1, drawn).unflatten(-1, (n_slots, options.n_sampled))
    log_means = picked.logsumexp(-1) - log(options.n_sampled)  # (..., A, n_slots)
    return log_means.gather(-1, slot)


# Synthetic negatives -------------------------------------------------------------------


def _with_synthetic(
    anchors: Tensor, z: Tensor, cosine: Tensor, log_negative: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor]:
    """Append synthetic negatives to cosines and log ν: (..., A, B + n_synthetic)."""
    if not options.n_synthetic:
        return cosine, log_negative
    absent = log_negative.isneginf()
    hardness = cosine.detach().masked_fill(absent, -torch.inf)
    counts = options.n_hardest, options.n_synthetic
    mixes = options.synthetic == "mixed"
    synthetic = synthetic_cosines(anchors, z, hardness, *counts, mixes=mixes)
    no_negatives = absent.all(-1, keepdim=True)  # nothing to mix
    log_synthetic = torch.zeros_like(synthetic).masked_fill(no_negatives, -torch.inf)
    log_negative = log_negative.expand(cosine.shape)
    return torch.cat([cosine, synthetic], -1), torch.cat([log_negative, log_synthetic], -1)


def synthetic_cosines(
    anchors: Tensor,
    z: Tensor,
    hardness: Tensor,
    n_hardest: int,
    n_synthetic: int,
    *,
    mixes: bool = True,
) -> Tensor:
    """Return the cosines of each anchor with its synthetic negatives.

    Each synthetic negative is a n_1 + (1 - a) n_2, scaled to unit norm. n_1 and n_2 are
    drawn with replacement from the anchor's hardest negatives, and a from U(0, 1). The
    gradient treats it, but not the anchor, as a constant, as in MoCHi, SynCo and the code
    of SSCL.

    Parameters
    ----------
    anchors : Tensor of shape (..., A, D)
        Unit embeddings of the anchors.
    z : Tensor of shape (..., B, D)
        Unit embeddings of all samples.
    hardness : Tensor of shape (..., A, B)
        Similarity of the negatives, -inf elsewhere.
    n_hardest : int
        Number of hardest negatives to mix; anchors with fewer negatives use all of them.
    n_synthetic : int
        Number of synthetic negatives per anchor.
    mixes : bool, default=True
        Whether to mix n_1 and n_2; False repeats n_1, as the stored code of SSCL does.

    Returns
    -------
    Tensor of shape (..., A, n_synthetic)
        Meaningless for anchors without negatives, which are skipped.
    """
    hardest = hardness.topk(min(n_hardest, hardness.shape[-1]))
    n_usable = hardest.values.isfinite().sum(-1, keepdim=True).clamp_min(1)  # (..., A, 1)
    shape = (*anchors.shape[:-1], n_synthetic)
    mixture, *chances = torch.rand(
        (3, *shape), dtype=z.dtype, device=z.device, generator=generator_of_fit(z.device)
    )
    first, second = (
        _sample_rows(z.detach(), hardest.indices, chance, n_usable) for chance in chances
    )
    mixture = mixture.unsqueeze(-1) if mixes else 1.0  # (..., A, S, 1)
    synthetic = l2_normalize(mixture * first + (1 - mixture) * second)  # (..., A, S, D)
    return (synthetic @ anchors.unsqueeze(-1)).squeeze(-1)


def _sample_rows(z: Tensor, candidates: Tensor, chance: Tensor, n_usable: Tensor) -> Tensor:
    """Pick rows of z, one of the usable candidates for each chance in [0, 1)."""
    drawn = (chance * n_usable).long().clamp_max(candidates.shape[-1] - 1)  # (..., A, S)
    index = candidates.gather(-1, drawn)  # (..., A, S)
    width = z.shape[-1]
    flat = index.flatten(-2).unsqueeze(-1).expand(*index.shape[:-2], -1, width)
    return z.gather(-2, flat).unflatten(-2, index.shape[-2:])  # (..., A, S, D)
