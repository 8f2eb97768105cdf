"""What stands for the skorch net after loading."""

from dataclasses import dataclass

import torch
from skorch.history import History

from sklearn_hscl.encoders.base import ContrastiveModule
from sklearn_hscl.persistence.comparison import Comparison


@dataclass
class StoredNet(Comparison):
    """What a stored embedder keeps of the net that trained it, by the net's names.

    Attributes
    ----------
    module_ : ContrastiveModule
        Encoder, projection head and classifier.
    history : skorch.history.History
        One entry per epoch.
    optimizer_ : torch.optim.Optimizer or None
        Where its state was stored.
    """

    module_: ContrastiveModule
    history: History
    optimizer_: torch.optim.Optimizer | None = None

    @property
    def plain_module(self) -> ContrastiveModule:
        """The module, which is not compiled."""
        return self.module_
