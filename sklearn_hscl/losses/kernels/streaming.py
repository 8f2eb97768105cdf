"""The closed form on a CPU, in memory that is linear in the batch.

Small batches are computed as one matrix of pairs, others tile by tile. Exponents that
would overflow are computed in log space.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.losses.equation import LossStats, constant_mass
from sklearn_hscl.losses.kernels.closed_form import (
    ClosedFormOptions,
    ClosedFormResult,
    NegativeSums,
    PairLists,
    TiltedExponentials,
    dense_closed_form,
    differentiable_loss,
    harden,
    negative_factors,
    negative_terms,
    tilt,
)
from sklearn_hscl.losses.kernels.label_sorted import (
    AnchorFactors,
    GradientSum,
    PaddedGroups,
    PositiveTerms,
    SortedRows,
    add_small_groups,
    add_tile_of_group,
    cut,
    negative_count,
    padded_groups,
    pair_weight,
    sort_rows,
    tiles_of_group,
)
from sklearn_hscl.runtime.device import accelerator
from sklearn_hscl.runtime.matmul import mm_t
from sklearn_hscl.runtime.processes import sharers_of_pairs

# Up to this many samples the whole matrix of pairs is faster than sorted rows and tiles.
_MAX_DENSE_ROWS = 384
# Up to this derivative of a logarithm of M, the rounding of float32 similarities leaves
# gradients of generic rows correct to 2e-6; beyond, the sums are done in float64.
_MAX_SLOPE_FLOAT32 = 40.0
# Larger exponents overflow, with some room for products.
_MAX_EXPONENT_FLOAT32 = 80.0
_MAX_EXPONENT_FLOAT64 = 650.0


def streaming_loss(
    z: Tensor, groups: Tensor, options: ClosedFormOptions
) -> tuple[Tensor, LossStats]:
    """Contrastive loss with exponentially weighted negatives, in linear memory.

    Value and gradient are those of :class:`~sklearn_hscl.losses.ContrastiveLoss`. The
    gradient is computed together with the value, if `z` requires it.

    Parameters
    ----------
    z : Tensor of shape (..., B, D)
        Unit embeddings, float32 or float64; B at least 2. Leading axes hold those of the
        same samples by several models.
    groups : Tensor of int, shape (B,)
        Samples of the same group are positives of each other, all others negatives.
    options : ClosedFormOptions
        The loss configuration; `beta` and `temperature` may have shape (...).

    Returns
    -------
    Tensor of shape (...)
        The loss; 0 with a gradient of zeros if no anchor has a positive and a negative.
    LossStats

    References
    ----------
    Jiang, Nguyen, Ishwar, Aeron, "Supervised Contrastive Learning with Hard Negative
    Samples", arXiv 2209.00078.
    """
    return differentiable_loss(_value_and_gradient, z, groups, options)


def _value_and_gradient(
    z: Tensor, groups: Tensor, options: ClosedFormOptions
) -> tuple[Tensor, Tensor | None, LossStats]:
    batches = [
        replace(
            options,
            beta=beta,
            temperature=temperature,
            detach_weights=options.detach_weights or beta == 0,
        )
        for beta, temperature in zip(
            _per_batch(options.beta, z), _per_batch(options.temperature, z), strict=True
        )
    ]
    if _fits_dense(z, batches):
        joined = batches[0] if z.ndim == 2 else _joined(batches, z)
        return _few_rows(z, groups, joined)
    if z.ndim == 2:
        return _many_rows(z, groups, batches[0])
    return _one_by_one(z, groups, batches)


def _fits_dense(z: Tensor, batches: list[ClosedFormOptions]) -> bool:
    """Return whether the batches are small, and safe in float32 without a shift."""
    n_rows, negative_mass = z.shape[-2], batches[0].negative_mass
    mass = max(n_rows, 0 if isinstance(negative_mass, str) else negative_mass)
    return (
        n_rows <= _MAX_DENSE_ROWS
        and not any(map(_is_sharp, batches))
        and max(_max_exponent(each, mass) for each in batches) <= _MAX_EXPONENT_FLOAT32
    )


def _per_batch(value: float | Tensor, z: Tensor) -> list[float]:
    """Return the value for each batch on the leading axes."""
    if isinstance(value, Tensor):
        return value.expand(z.shape[:-2]).flatten().tolist()
    return [float(value)] * z[..., 0, 0].numel()


def _joined(batches: list[ClosedFormOptions], z: Tensor) -> ClosedFormOptions:
    """Join options: floats if the batches agree, else tensors (..., 1, 1)."""

    def joined(values: list[float | Tensor]) -> float | Tensor:
        if len(set(values)) == 1:
            return values[0]
        return z.new_tensor(values).view(*z.shape[:-2], 1, 1)

    return replace(
        batches[0],
        beta=joined([each.beta for each in batches]),
        temperature=joined([each.temperature for each in batches]),
        detach_weights=all(each.detach_weights for each in batches),
    )


def _one_by_one(
    z: Tensor, groups: Tensor, batches: list[ClosedFormOptions]
) -> tuple[Tensor, Tensor | None, LossStats]:
    parts = [
        _many_rows(rows, groups, options)
        for rows, options in zip(z.flatten(0, -3), batches, strict=True)
    ]
    shape = z.shape[:-2]
    stats = zip(*(part[2] for part in parts), strict=True)
    gradients = [part[1] for part in parts if part[1] is not None]
    gradient = torch.stack(gradients).view(z.shape) if gradients else None
    value = torch.stack([part[0] for part in parts]).view(shape)
    return value, gradient, LossStats(*(torch.stack(field).view(shape) for field in stats))


def _few_rows(
    z: Tensor, groups: Tensor, options: ClosedFormOptions
) -> tuple[Tensor, Tensor | None, LossStats]:
    pairs = PairLists(groups, z.dtype)
    if not pairs.has_negatives:
        gradient = torch.zeros_like(z) if options.wants_gradient else None
        value = z.new_zeros(z.shape[:-2])
        return value, gradient, _stats(pairs.usable, pairs.n_negatives, value)
    mass: Tensor | float = pairs.n_negatives
    if options.negative_mass != "negatives":
        mass = constant_mass(options.negative_mass, z.shape[-2])
    value, gradient, sums = dense_closed_form(z, pairs, mass, options)
    requested = options.effective_negatives
    effective = sums.plain.square() / sums.squared if requested else None
    return value, gradient, _stats(pairs.usable, effective, value)


def _many_rows(
    z: Tensor, groups: Tensor, options: ClosedFormOptions
) -> tuple[Tensor, Tensor | None, LossStats]:
    rows = sort_rows(z, groups)
    mass = negative_count(options.negative_mass, rows)
    factors = AnchorFactors(pair_weight(options.reduction, rows), mass)
    result = _in_safe_precision(rows, factors, options)
    usable = rows.per_row(rows.usable) > 0  # (B,)
    effective = result.effective
    effective = None if effective is None else effective.to(z.dtype)
    stats = _stats(usable, effective, result.value)
    gradient = None
    if result.gradient is not None:
        gradient = rows.unsorted(result.gradient.T.to(z.dtype).contiguous())
    return result.value.to(z.dtype), gradient, stats


def _in_safe_precision(
    rows: SortedRows, factors: AnchorFactors, options: ClosedFormOptions
) -> ClosedFormResult:
    weight, mass = factors
    if not rows.n_usable:
        gradient = torch.zeros_like(rows.z.T) if options.wants_gradient else None
        return ClosedFormResult(weight.new_zeros(()), gradient, torch.zeros_like(weight))
    # The mass is at most B if it differs between anchors.
    exponent = _max_exponent(options, max(len(weight), float(mass[0])))
    if _is_sharp(options) or exponent > _MAX_EXPONENT_FLOAT32:
        widest = accelerator(rows.z.device).widest_float
        rows = rows._replace(z=rows.z.to(widest))
        factors = AnchorFactors(weight.to(widest), mass.to(widest))
    if exponent > _MAX_EXPONENT_FLOAT64:
        return relative_to_hardest(rows, factors, options)
    return tiled_closed_form(rows, factors, options)


def _is_sharp(options: ClosedFormOptions) -> bool:
    """Return whether M changes too fast with a similarity for the rounding of float32."""
    slope = 1 + float(options.beta) * (1 if options.detach_weights else 2)
    return slope / float(options.temperature) > _MAX_SLOPE_FLOAT32


def _max_exponent(options: ClosedFormOptions, mass: float) -> float:
    """Return the largest exponent of the sums, of D/e^s and of the squared weights."""
    beta, temperature = float(options.beta), float(options.temperature)
    return max(1 + beta, 2.0, 2 * beta) / temperature + math.log(max(mass, 1.0))


def _stats(usable: Tensor, effective: Tensor | None, value: Tensor) -> LossStats:
    n_usable = usable.sum()
    skipped = (len(usable) - n_usable).expand(value.shape)
    count = torch.full_like(value, math.nan)
    if effective is not None:
        count = torch.where(usable, effective, 0.0).sum(-1) / n_usable.clamp_min(1)
        count = count.expand(value.shape)  # without a tilt it is the same for all
    return LossStats(skipped, torch.zeros_like(skipped), count)


# Tile by tile ------------------------------------------------------------------------


_TILE_HEIGHT, _TILE_WIDTH = 512, 1024  # two megabytes stay close to the core
_MAX_CACHED = 2**23  # elements of tiles cached from the first visit for the second one
_MAX_SMALL_GROUP = 128  # larger groups get strips of their own


def tiled_closed_form(
    rows: SortedRows, factors: AnchorFactors, options: ClosedFormOptions
) -> ClosedFormResult:
    """Compute value and gradient without a shift of the exponents.

    Parameters
    ----------
    rows : SortedRows
        The batch in group order.
    factors : AnchorFactors
        c_i and Q_i.
    options : ClosedFormOptions
        The loss configuration, of one batch.

    Returns
    -------
    ClosedFormResult
    """
    # 2^u with u = s log2(e), because torch's exp2 is several times faster than exp.
    scaled = rows.z * (math.log2(math.e) / options.temperature)  # (B, D)
    sharers = sharers_of_pairs()
    share = slice(None) if sharers is None else slice(sharers.rank, None, sharers.size)
    batch = _TiledBatch(rows, scaled, list(_tiles(rows.bounds))[share], options, share)
    cache = TileCache.with_positives(batch)
    sums = _sum_negatives(batch, cache)
    if sharers is not None:
        sharers.add_up(_accumulated(sums, options))
    gradient = GradientSum(rows.z) if options.wants_gradient else None
    factors = factors._replace(mass=factors.mass * sums.hard / sums.plain)
    terms = _sum_positives(batch, factors, cache, gradient)
    if sharers is not None:
        sharers.add_up(terms)
    requested = options.effective_negatives
    effective = sums.plain.square() / sums.squared if requested else None
    if gradient is None:
        return ClosedFormResult(terms.value, None, effective)
    _add_negatives(batch, cache, sums, terms.strength, gradient)
    if sharers is not None:
        sharers.add_up([gradient.total])
    return ClosedFormResult(
        terms.value, gradient.total.div_(options.temperature), effective
    )


class Tile(NamedTuple):
    """Rows and columns of the matrix of pairs; the same ones on the diagonal."""

    rows: slice
    columns: slice


@dataclass(frozen=True)
class _TiledBatch:
    """The batch and the tiles in which its pairs are visited."""

    rows: SortedRows
    scaled: Tensor  # (B, D), z log2(e) / T
    tiles: list[Tile]  # of this process, if several share the pairs
    options: ClosedFormOptions
    share: slice  # which tiles of large groups are those of this process


@dataclass(frozen=True)
class TileCache:
    """Results of the first visit that the second one reuses, by index of the tile."""

    positives: dict[int, list[PaddedGroups]]  # of the tiles on the diagonal
    tilted: dict[int, TiltedExponentials] = field(default_factory=dict)  # if there is room

    @classmethod
    def with_positives(cls, batch: _TiledBatch) -> "TileCache":
        """Return a cache that holds the positives only."""
        return cls(
            {
                k: padded_groups(batch.rows, tile.rows)
                for k, tile in enumerate(batch.tiles)
                if tile.rows == tile.columns
            }
        )


def _tiles(bounds: list[int]) -> Iterator[Tile]:
    """Yield tiles that cover all pairs of negatives: once above the diagonal, twice on it.

    A strip of rows holds whole small groups, or a part of one large group, which has
    no negatives before the end of the group.
    """
    n_rows, first = bounds[-1], 0  # first row of the small groups not yet in a strip
    for start, stop in pairwise(bounds):
        is_large = stop - start > _MAX_SMALL_GROUP
        if first < start and (is_large or stop - first > _TILE_HEIGHT):
            yield from _strip(slice(first, start), n_rows)
            first = start
        if is_large:
            for piece in cut(start, stop, _TILE_HEIGHT):
                yield from (
                    Tile(piece, columns) for columns in cut(stop, n_rows, _TILE_WIDTH)
                )
            first = stop
    if first < n_rows:
        yield from _strip(slice(first, n_rows), n_rows)


def _strip(strip: slice, n_rows: int) -> Iterator[Tile]:
    yield Tile(strip, strip)
    yield from (Tile(strip, columns) for columns in cut(strip.stop, n_rows, _TILE_WIDTH))


def _sum_negatives(batch: _TiledBatch, cache: TileCache) -> NegativeSums:
    """First visit: sum rows and columns; cache what the second visit needs."""
    options = batch.options
    sums = _empty_sums(batch.rows, options)
    room = _MAX_CACHED if options.wants_gradient else 0
    for k, tile in enumerate(batch.tiles):
        exponent = mm_t(batch.scaled[tile.rows], batch.rows.z[tile.columns])  # (t, w), u
        positives = cache.positives.get(k, [])
        for groups in positives:
            groups.take(exponent)
        plain = tilt(exponent, options.beta, partial(_clear, positives))
        _add_plain(sums, plain, tile, options)
        tilted = harden(plain, exponent, options)
        _add_both(sums.hard, tilted.hard, tile)
        room -= sum(part.numel() for part in tilted if part is not None)
        if room >= 0:
            cache.tilted[k] = tilted
    return sums


def _empty_sums(rows: SortedRows, options: ClosedFormOptions) -> NegativeSums:
    n_negatives = negative_count("negatives", rows)
    if options.beta == 0:
        return NegativeSums(n_negatives, torch.zeros_like(n_negatives), n_negatives)
    plain, hard = torch.zeros_like(n_negatives), torch.zeros_like(n_negatives)
    if options.beta == 1:
        return NegativeSums(plain, hard, hard)
    initial = 0.0 if options.effective_negatives else math.nan
    return NegativeSums(plain, hard, torch.full_like(hard, initial))


def _accumulated(sums: NegativeSums, options: ClosedFormOptions) -> list[Tensor]:
    """Return those sums that tiles were added to, rather than counted."""
    if options.beta == 0:
        return [sums.hard]
    return [sums.plain, sums.hard] + [sums.squared] * (sums.squared is not sums.hard)


def _add_plain(
    sums: NegativeSums, plain: Tensor, tile: Tile, options: ClosedFormOptions
) -> None:
    if options.beta == 0:
        return  # counted, not summed
    _add_both(sums.plain, plain, tile)
    if options.effective_negatives and sums.squared is not sums.hard:
        _add_both(sums.squared, plain.square(), tile)


def _add_both(total: Tensor, part: Tensor, tile: Tile) -> None:
    total[tile.rows] += part.sum(1)
    if tile.rows != tile.columns:
        total[tile.columns] += part.sum(0)


def _clear(positives: list[PaddedGroups], block: Tensor) -> None:
    for groups in positives:
        groups.clear(block)


def _sum_positives(
    batch: _TiledBatch,
    factors: AnchorFactors,
    cache: TileCache,
    gradient: GradientSum | None,
) -> PositiveTerms:
    """Sum the positives; add M z of large groups, and cache M of small ones."""
    weight, rows = factors.weight, batch.rows
    terms = PositiveTerms(weight.new_zeros(()), torch.zeros_like(weight))
    for groups in chain.from_iterable(cache.positives.values()):
        add_small_groups(groups, factors, terms)
    large = [ends for ends in pairwise(rows.bounds) if ends[1] - ends[0] > _MAX_SMALL_GROUP]
    tiles = [tile for ends in large for tile in tiles_of_group(*ends)]
    for tile in tiles[batch.share]:
        add_tile_of_group(rows, batch.scaled, tile, factors, terms, gradient)
    return terms


def _add_negatives(
    batch: _TiledBatch,
    cache: TileCache,
    sums: NegativeSums,
    strength: Tensor,
    gradient: GradientSum,
) -> None:
    """Second visit: add M of every tile, times z."""
    scaled, options = batch.scaled, batch.options
    a, b = negative_factors(sums, strength, options)
    if options.detach_weights:  # E1 in one step, as if without hardening
        scaled, options = scaled * (1 + options.beta), replace(options, beta=0.0)
    for k, tile in enumerate(batch.tiles):
        positives = cache.positives.get(k, [])
        tilted = cache.tilted.pop(k, None)
        if tilted is None:
            exponent = mm_t(scaled[tile.rows], batch.rows.z[tile.columns])  # (t, w)
            plain = tilt(exponent, options.beta, partial(_clear, positives))
            tilted = harden(plain, exponent, options)
        block = negative_terms(tilted, partial(_outer_sum, tile), a, b)
        for groups in positives:
            groups.put(block)
        gradient.add(block, *tile)


def _outer_sum(tile: Tile, per_row: Tensor) -> Tensor:
    return per_row[tile.rows].unsqueeze(1) + per_row[tile.columns]  # (t, w)


# In log space ------------------------------------------------------------------------


_MAX_STRIP = 2**20  # elements of a strip of whole rows


def relative_to_hardest(
    rows: SortedRows, factors: AnchorFactors, options: ClosedFormOptions
) -> ClosedFormResult:
    """Compute value and gradient with exponentials relative to the hardest negative.

    Parameters and result are those of :func:`tiled_closed_form`.
    """
    weight, mass = factors
    gradient = torch.zeros_like(rows.z)
    value, effective = weight.new_zeros(()), torch.zeros_like(weight)
    n_rows = len(weight)
    for strip in cut(0, n_rows, max(_MAX_STRIP // n_rows, 1)):
        similarity = mm_t(rows.z[strip], rows.z) / options.temperature  # (t, B)
        mean = _mean_in_log_space(similarity, rows, strip, options)
        odds = (mass[strip].log() + mean.log_mean).unsqueeze(1) - similarity
        per_pair = _pair_weights(rows, weight, strip)
        value += (per_pair * torch.logaddexp(odds.new_zeros(()), odds)).sum()
        effective[strip] = mean.effective
        if options.wants_gradient:
            attraction = per_pair.mul_(odds.sigmoid_())
            strength = attraction.sum(1, keepdim=True)
            half = mean.derivative.mul_(strength).sub_(attraction)  # M = half + half.T
            gradient[strip] += half @ rows.z
            gradient += half.T @ rows.z[strip]
    gradient /= options.temperature
    return ClosedFormResult(
        value, gradient.T if options.wants_gradient else None, effective
    )


def _pair_weights(rows: SortedRows, weight: Tensor, strip: slice) -> Tensor:
    pairs = _same_group(rows, strip)
    pairs[:, strip].fill_diagonal_(False)
    return pairs * weight[strip].unsqueeze(1)


def _same_group(rows: SortedRows, strip: slice) -> Tensor:
    group = rows.per_row(np.arange(len(rows.sizes)))  # (B,)
    return group[strip].unsqueeze(1) == group  # (t, B)


class _LogSpaceMean(NamedTuple):
    log_mean: Tensor  # (t,), log E
    derivative: Tensor  # (t, B), of log E with respect to s
    effective: Tensor  # (t,)


def _mean_in_log_space(
    similarity: Tensor, rows: SortedRows, strip: slice, options: ClosedFormOptions
) -> _LogSpaceMean:
    beta = options.beta
    same = _same_group(rows, strip)
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
    if not options.detach_weights:
        hard.mul_(1 + beta).sub_(plain.mul_(beta / sum_plain))
    return _LogSpaceMean(log_mean, hard, effective)
