"""The closed form tile by tile, each pair once; in log space where it would overflow."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_hscl.losses.kernels.closed_form import (
    Result,
    Settings,
    Sums,
    Tilted,
    harden,
    push,
    repulsion,
    tilt,
)
from sklearn_hscl.losses.kernels.label_sorted import (
    Accumulator,
    Pull,
    SortedRows,
    Stack,
    cut,
    negative_count,
    pull_stack,
    pull_tiles,
    stacks,
)
from sklearn_hscl.runtime.matmul import mm_t

_HEIGHT, _WIDTH = 512, 1024  # of a tile: two megabytes stay close to the core
_KEPT = 2**23  # elements of tiles kept from the first visit for the second one
_LARGE = 128  # groups beyond this size get strips of their own


def symmetric(rows: SortedRows, weight: Tensor, mass: Tensor, settings: Settings) -> Result:
    """Compute the loss with exponentials as they are.

    Parameters
    ----------
    rows : SortedRows
        The batch in group order.
    weight, mass : Tensor of shape (B,)
        Weight of each pair of an anchor, and Q_i.
    settings : Settings
        What is asked for.

    Returns
    -------
    Result
    """
    tiles = list(_tiles(rows.bounds))
    diagonal = (k for k, tile in enumerate(tiles) if tile.rows == tile.columns)
    kept = Kept({}, {k: stacks(rows, tiles[k].rows) for k in diagonal})
    # 2^u with u = s log2(e), because torch's exp2 is several times faster than exp.
    scaled = rows.z * (math.log2(math.e) / settings.temperature)  # (B, D)
    sums = _sum_negatives(rows, scaled, tiles, settings, kept)
    gradient = Accumulator(rows.z) if settings.wants_gradient else None
    mass = mass * sums.hard / sums.plain
    pull = _pull_positives(rows, scaled, weight, mass, kept, gradient)
    asked = settings.effective_negatives
    effective = sums.plain.square() / sums.squared if asked else None
    if gradient is None:
        return Result(pull.value, None, effective)
    _push_negatives(rows, scaled, tiles, kept, sums, pull.strength, settings, gradient)
    return Result(pull.value, gradient.total.div_(settings.temperature), effective)


class Tile(NamedTuple):
    """Rows and columns of the matrix of pairs; the same ones on the diagonal."""

    rows: slice
    columns: slice


class Kept(NamedTuple):
    """What the first visit leaves for the second one, by tile."""

    tilted: dict[int, Tilted]  # as many as there is room for
    stacks: dict[int, list[Stack]]  # positives in the tiles on the diagonal


def _tiles(bounds: list[int]) -> Iterator[Tile]:
    """Tiles that cover every pair of negatives: above the diagonal once, on it twice.

    A strip of rows holds whole small groups, or a part of one large group, which has
    no negatives before the end of the group.
    """
    n_rows, first = bounds[-1], 0  # first row of the small groups not yet in a strip
    for start, stop in pairwise(bounds):
        is_large = stop - start > _LARGE
        if first < start and (is_large or stop - first > _HEIGHT):
            yield from _strip(slice(first, start), n_rows)
            first = start
        if is_large:
            for piece in cut(start, stop, _HEIGHT):
                yield from (Tile(piece, columns) for columns in cut(stop, n_rows, _WIDTH))
            first = stop
    if first < n_rows:
        yield from _strip(slice(first, n_rows), n_rows)


def _strip(strip: slice, n_rows: int) -> Iterator[Tile]:
    yield Tile(strip, strip)
    yield from (Tile(strip, columns) for columns in cut(strip.stop, n_rows, _WIDTH))


def _sum_negatives(
    rows: SortedRows, scaled: Tensor, tiles: list[Tile], settings: Settings, kept: Kept
) -> Sums:
    """First visit: sum rows and columns; keep what the second visit needs."""
    sums = _empty_sums(rows, settings)
    room = _KEPT if settings.wants_gradient else 0
    for k, tile in enumerate(tiles):
        exponent = mm_t(scaled[tile.rows], rows.z[tile.columns])  # (t, w), s log2(e)
        positives = kept.stacks.get(k, [])
        for stack in positives:
            stack.take(exponent)
        plain = tilt(exponent, settings.beta, partial(_clear, positives))
        _add_plain(sums, plain, tile, settings)
        tilted = harden(plain, exponent, settings)
        _add_both(sums.hard, tilted.hard, tile)
        room -= sum(part.numel() for part in tilted if part is not None)
        if room >= 0:
            kept.tilted[k] = tilted
    return sums


def _empty_sums(rows: SortedRows, settings: Settings) -> Sums:
    n_negatives = negative_count("negatives", rows)
    if settings.beta == 0:
        return Sums(n_negatives, torch.zeros_like(n_negatives), n_negatives)
    plain, hard = torch.zeros_like(n_negatives), torch.zeros_like(n_negatives)
    if settings.beta == 1:
        return Sums(plain, hard, hard)
    unknown = 0.0 if settings.effective_negatives else math.nan
    return Sums(plain, hard, torch.full_like(hard, unknown))


def _add_plain(sums: Sums, plain: Tensor, tile: Tile, settings: Settings) -> None:
    if settings.beta == 0:
        return  # counted, not summed
    _add_both(sums.plain, plain, tile)
    if settings.effective_negatives and sums.squared is not sums.hard:
        _add_both(sums.squared, plain.square(), tile)


def _add_both(total: Tensor, part: Tensor, tile: Tile) -> None:
    total[tile.rows] += part.sum(1)
    if tile.rows != tile.columns:
        total[tile.columns] += part.sum(0)


def _clear(positives: list[Stack], block: Tensor) -> None:
    for stack in positives:
        stack.clear(block)


def _pull_positives(
    rows: SortedRows,
    scaled: Tensor,
    weight: Tensor,
    mass: Tensor,
    kept: Kept,
    gradient: Accumulator | None,
) -> Pull:
    pull = Pull(weight.new_zeros(()), torch.zeros_like(weight))
    for stack in chain.from_iterable(kept.stacks.values()):
        pull_stack(stack, weight, mass, pull)
    for start, stop in pairwise(rows.bounds):
        if stop - start > _LARGE:
            group = slice(start, stop)
            pull_tiles(rows, scaled, group, weight, mass, pull, gradient)
    return pull


def _push_negatives(
    rows: SortedRows,
    scaled: Tensor,
    tiles: list[Tile],
    kept: Kept,
    sums: Sums,
    strength: Tensor,
    settings: Settings,
    gradient: Accumulator,
) -> None:
    """Second visit: M of every tile, times z."""
    a, b = repulsion(sums, strength, settings)
    if settings.detach_weights:  # E1 in one step, as if without tilt
        scaled, settings = scaled * (1 + settings.beta), settings._replace(beta=0.0)
    for k, tile in enumerate(tiles):
        positives = kept.stacks.get(k, [])
        tilted = kept.tilted.pop(k, None)
        if tilted is None:
            exponent = mm_t(scaled[tile.rows], rows.z[tile.columns])  # (t, w)
            plain = tilt(exponent, settings.beta, partial(_clear, positives))
            tilted = harden(plain, exponent, settings)
        block = push(tilted, partial(_outer_sum, tile), a, b)
        for stack in positives:
            stack.put(block)
        gradient.add(block, *tile)


def _outer_sum(tile: Tile, per_row: Tensor) -> Tensor:
    return per_row[tile.rows].unsqueeze(1) + per_row[tile.columns]  # (t, w)


_STRIP = 2**20  # elements of a strip of whole rows


def relative_to_hardest(
    rows: SortedRows, weight: Tensor, mass: Tensor, settings: Settings
) -> Result:
    """Compute the loss with exponentials relative to the hardest negative.

    Parameters and result are those of
    :func:`~sklearn_hscl.losses.kernels.tiled_closed_form.symmetric`.
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
