"""The equation with autograd: all anchors at once, or block by block."""

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sklearn_hscl.losses.equation import (
    AnchorLosses,
    LossStats,
    anchor_losses,
    anchor_weights,
)
from sklearn_hscl.losses.pair_sets import BatchPairs
from sklearn_hscl.losses.presets import LossOptions

# Pairs in a block: 16 MB of float32 for each of the equation's temporaries.
BLOCK_PAIRS = 1 << 22


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
    return _reduced(_block(z, 0, z.shape[-2], pairs, options), options)


def tiled_loss(
    z: Tensor, pairs: BatchPairs, options: LossOptions
) -> tuple[Tensor, LossStats]:
    """Compute the same in memory that is linear in B, for every configuration.

    Blocks of anchors are computed one after the other, and once more for the gradient.
    Parameters and results are those of :func:`dense_loss`.
    """
    n_rows = z.shape[-2]
    pairs_per_anchor = z[..., 0].numel()  # samples of all batches on the leading axes
    height = max(1, BLOCK_PAIRS // pairs_per_anchor)
    blocks = [
        checkpoint(
            partial(_block, pairs=pairs, options=options),
            z,
            start,
            min(start + height, n_rows),
            use_reentrant=False,
        )
        for start in range(0, n_rows, height)
    ]
    joined = AnchorLosses(*(torch.cat(parts, -1) for parts in zip(*blocks, strict=True)))
    return _reduced(joined, options)


def _block(
    z: Tensor, start: int, stop: int, pairs: BatchPairs, options: LossOptions
) -> AnchorLosses:
    weights = pairs.block(start, stop, z.dtype)
    return anchor_losses(z[..., start:stop, :], z, weights, options)


def _reduced(anchors: AnchorLosses, options: LossOptions) -> tuple[Tensor, LossStats]:
    usable = anchors.usable
    weights = anchor_weights(options.reduction, anchors.positive_mass, usable)
    value = (weights * torch.where(usable, anchors.loss, 0.0)).sum(-1)
    counts = torch.where(usable, anchors.effective_negatives, 0.0)
    return value, LossStats(  # all batches may share their pairs
        skipped_anchors=(~usable).sum(-1).expand(value.shape),
        hardest_fallbacks=anchors.fell_back.sum(-1).expand(value.shape),
        effective_negatives=counts.sum(-1) / usable.sum(-1).clamp_min(1),
    )
