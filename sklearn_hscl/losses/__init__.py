"""Contrastive losses for plain torch: one equation, every member of the family.

Nothing here knows scikit-learn; :class:`ContrastiveLoss` takes embeddings and
labels and returns a scalar.
"""

from sklearn_hscl.losses.contrastive import ContrastiveLoss, LossStats

__all__ = ["ContrastiveLoss", "LossStats"]
