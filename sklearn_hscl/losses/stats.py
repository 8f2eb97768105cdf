"""What a batch looked like to the loss."""

from typing import NamedTuple

from torch import Tensor


class LossStats(NamedTuple):
    """Counts over a batch; every field has shape (...)."""

    skipped_anchors: Tensor
    """Anchors left out because they have no positive or no negative."""
    hardest_fallbacks: Tensor
    """Anchors whose negatives all had weight 0, so that the hardest one was used."""
    effective_negatives: Tensor
    """Mean over anchors of (Σ η)² / Σ η²: how many negatives really count."""
