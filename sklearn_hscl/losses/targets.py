"""Which rows are positives and which are negatives of each anchor."""

from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Boolean masks over ordered pairs (anchor, other row)."""

    positives: Tensor  # (..., B, B)
    negatives: Tensor  # (..., B, B)


def pairs_by_identity(identity: Tensor) -> Pairs:
    """Rows that share an identity are positives, all others are negatives.

    With class labels as identity this is SCL / H-SCL; with the index of the row
    that a view was made from it is UCL / H-UCL.
    """
    same = identity.unsqueeze(-1) == identity.unsqueeze(-2)  # (..., B, B)
    itself = torch.eye(same.shape[-1], dtype=torch.bool, device=same.device)
    return Pairs(positives=same & ~itself, negatives=~same)
