"""Synthetic hard negatives: mixtures of the hardest ones."""

import torch
from torch import Tensor

from sklearn_hscl.runtime.normalize import unit_rows


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
    synthetic = unit_rows(mixture * first + (1 - mixture) * second)  # (..., A, S, D)
    return (synthetic @ anchors.unsqueeze(-1)).squeeze(-1)


def _rows(z: Tensor, candidates: Tensor, chance: Tensor, n_usable: Tensor) -> Tensor:
    """Pick rows of z, one of the usable candidates for each chance in [0, 1)."""
    place = (chance * n_usable).long().clamp_max(candidates.shape[-1] - 1)  # (..., A, S)
    index = candidates.gather(-1, place)  # (..., A, S)
    width = z.shape[-1]
    flat = index.flatten(-2).unsqueeze(-1).expand(*index.shape[:-2], -1, width)
    return z.gather(-2, flat).unflatten(-2, index.shape[-2:])  # (..., A, S, D)
