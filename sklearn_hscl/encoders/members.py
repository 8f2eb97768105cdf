"""Layers of an ensemble that is computed as one stack of M members."""

from math import sqrt

import torch
from torch import Tensor, nn


class MemberLinear(nn.Module):
    """A linear map per member, with a bias of its own and weights of its own or shared.

    Parameters
    ----------
    n_members : int
        Members M.
    n_in, n_out : int
        Widths of the input and the output.
    shared : bool, default=True
        Whether all members have the same weights.
    """

    def __init__(
        self, n_members: int, n_in: int, n_out: int, *, shared: bool = True
    ) -> None:
        super().__init__()
        n_weights = 1 if shared else n_members
        self.weight = nn.Parameter(torch.randn(n_weights, n_in, n_out) / sqrt(n_in or 1))
        self.bias = nn.Parameter(torch.zeros(n_members, 1, n_out))

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (B, n_in) or (M, B, n_in) to (M, B, n_out)."""
        if len(self.weight) > 1:
            # Not in one batched product, whose bits can depend on the number of rows.
            maps = zip(
                self.bias, rows.expand(len(self.bias), -1, -1), self.weight, strict=True
            )
            return torch.stack([torch.addmm(*parts) for parts in maps])
        product = rows.flatten(0, -2) @ self.weight[0]
        return product.unflatten(0, rows.shape[:-1]) + self.bias


class ByteDropout(nn.Module):
    """Dropout whose masks are random bytes, which a CPU draws several times faster.

    Parameters
    ----------
    p : float in [0, 1)
        Share of the numbers that become 0, rounded to 1/256.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.kept = min(max(round(256 * (1 - p)), 1), 256)  # byte values, of 256

    @property
    def drops(self) -> bool:
        """Whether any number is dropped."""
        return self.kept < 256

    def forward(self, rows: Tensor) -> Tensor:
        """Drop numbers of a tensor of any shape, in training; scale the others up."""
        if not (self.training and self.drops):
            return rows
        words = torch.empty(-(-rows.numel() // 8), dtype=torch.long, device=rows.device)
        draws = words.random_(-(2**63), None).view(torch.uint8)[: rows.numel()]
        return rows * ((draws.view(rows.shape) < self.kept) * (256 / self.kept))
