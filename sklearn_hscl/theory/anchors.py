"""The four losses and the margin of Assumption 1, anchor by anchor."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sklearn_hscl.losses.equation import anchor_losses, tilted_mean
from sklearn_hscl.losses.presets import PRESETS, LossOptions, check_options, per_pair
from sklearn_hscl.metrics.knn.similarity_tiles import map_blocks
from sklearn_hscl.theory.draw import Draw, PairSets

LOSSES = ("ucl", "scl", "hucl", "hscl")
# Pairs, times betas, in a block of anchors: 2 MB for each of the equation's temporaries.
_BLOCK_PAIRS = 1 << 18


class AnchorValues(NamedTuple):
    """What each anchor gives."""

    losses: dict[str, NDArray[np.float64]]
    """By the names in LOSSES, of shape (n_betas, A) each."""
    margins: NDArray[np.float64]
    """log E_Hcol - log E_H-SCL, of shape (n_betas, A)."""


def loss_options(
    name: str, betas: NDArray[np.float64], temperature: float, negative_mass: float
) -> LossOptions:
    """Return one of the four losses, with one beta per leading index.

    The negative mass is one constant for all four: with the number of negatives in its
    place, UCL would exceed SCL for having more of them.
    """
    if isinstance(negative_mass, str):
        raise ValueError(
            f"negative_mass={negative_mass!r} must be a number, the same for all four "
            f"losses, or they could not be compared."
        )
    preset = replace(PRESETS[name](), negative_mass=negative_mass)
    options = LossOptions(
        **vars(preset),
        beta=torch.from_numpy(betas),
        temperature=temperature,
        hardening="exponential",
        threshold=-0.25,
        top_k=1,
    )
    check_options(options)
    return options


def measure_anchors(draw: Draw, options: dict[str, LossOptions]) -> AnchorValues:
    """Compute losses and margins of all anchors, block by block.

    Parameters
    ----------
    draw : Draw
        Anchors, and the rows that they are compared with.
    options : dict of LossOptions
        By the names in LOSSES.

    Returns
    -------
    AnchorValues
    """
    n_betas = torch.as_tensor(options["hscl"].beta).numel()
    height = max(1, _BLOCK_PAIRS // (n_betas * len(draw.rows)))

    def measure(block: slice) -> NDArray[np.float64]:
        return _measure_block(draw, draw.pairs(block), block, options, n_betas)

    blocks = map_blocks(measure, len(draw.anchors), height)
    *losses, margins = np.concatenate(blocks, axis=-1)  # (5, n_betas, A)
    return AnchorValues(dict(zip(LOSSES, losses, strict=True)), margins)


def _measure_block(
    draw: Draw,
    pairs: PairSets,
    block: slice,
    options: dict[str, LossOptions],
    n_betas: int,
) -> NDArray[np.float64]:
    """Return the four losses and the margins: (5, n_betas, A)."""
    anchors = draw.rows[draw.anchors[block]]  # (A, D)
    values = []
    for name in LOSSES:
        by_label = options[name].pairs == "label"
        negatives = pairs.different if by_label else pairs.everything
        values.append(anchor_losses(anchors, draw.rows, negatives, options[name]).loss)
    cosine = anchors @ draw.rows.mT  # (A, P)
    temperature = per_pair(options["hscl"].temperature, cosine)
    colliding, different = (
        tilted_mean(cosine, chosen.log_negative, temperature, options["hscl"]).log_mean
        for chosen in (pairs.collisions, pairs.different)
    )
    values.append(colliding - different)
    together = [value.expand(n_betas, len(anchors)) for value in values]
    return torch.stack(together).numpy()
