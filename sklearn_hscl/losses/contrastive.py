"""The one contrastive loss: UCL, SCL, H-UCL and H-SCL are settings of it."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sklearn_hscl.losses.hardening import (
    HARDENINGS,
    log_exponential,
    log_threshold,
)
from sklearn_hscl.losses.reduction import REDUCTIONS, pair_weights
from sklearn_hscl.losses.targets import pairs_by_identity

# Which parts of the family use labels for their pairs, and which tilt the negatives.
BY_LABEL = frozenset({"scl", "hscl"})
HARDENED = frozenset({"hucl", "hscl"})
LOSSES = ("ucl", "scl", "hucl", "hscl")
NEGATIVE_MASSES = ("negatives", "batch")


class LossStats(NamedTuple):
    """What a batch looked like to the loss; every field has shape (...)."""

    skipped_anchors: Tensor
    """Anchors left out because they have no positive or no negative."""
    hardest_fallbacks: Tensor
    """Anchors whose negatives all had weight 0, so that the hardest one was used."""
    effective_negatives: Tensor
    """Mean over anchors of (Σ η)² / Σ η²: how many negatives really count."""


class TiltedMean(NamedTuple):
    """Logarithm of the tilted mean of e^s over each anchor's negatives."""

    log_mean: Tensor  # (..., B)
    log_eta: Tensor  # (..., B, B), -inf outside the negatives
    fell_back: Tensor  # (..., B)


class ContrastiveLoss(nn.Module):
    """Contrastive loss with hard negatives, for unit embeddings z_i.

    With s_ij = z_i·z_j / T, negatives N_i, positives P_i and hardening η::

        E_i  = Σ_{j∈N_i} η(s_ij) e^{s_ij} / Σ_{j∈N_i} η(s_ij)
        ℓ_ip = -log( e^{s_ip} / (e^{s_ip} + Q_i E_i) )

    averaged over the positives of each anchor and over anchors. Everything is
    computed in log space with the hardest negative taken out, so the value and its
    gradient are finite for any finite z. Anchors without a positive or without a
    negative are skipped and counted; a batch without usable anchors gives 0.

    Parameters
    ----------
    loss : {"ucl", "scl", "hucl", "hscl"}, default="hscl"
        ``ucl``: positives are the views of the same row, negatives all other rows
        (InfoNCE). ``scl``: positives share the label, negatives have another label.
        ``hucl`` and ``hscl`` tilt the negatives of these two by the hardening.
    beta : float or Tensor of shape (...), default=1.0
        Strength of the exponential tilt on the scaled similarity s; 0 is no tilt.
        A tensor gives one strength per leading index of z.
    temperature : float or Tensor of shape (...), default=0.5
        Scale T of the similarities, in cosine units. 0.5 is the authors' choice.
    hardening : {"exponential", "threshold"}, default="exponential"
        η(s) = e^{βs}, or 1 where the cosine is at least `threshold` and else 0. An
        anchor without a negative above the threshold uses its hardest negative.
    threshold : float or Tensor of shape (...), default=-0.25
        Cosine from which a negative counts. The authors' start value for
        e^{s} ≥ τ, τ = e^{-1/2}, is -0.25 at T = 0.5.
    negative_mass : {"negatives", "batch"} or float, default="negatives"
        Q_i: the number of negatives |N_i|, the batch size minus 2 (the authors'
        code), or a constant.
    reduction : {"anchors", "pairs", "classes"}, default="anchors"
        Mean over anchors, over all ordered positive pairs (the authors' code; large
        classes weigh more), or over classes of the mean over their anchors.
    detach_weights : bool, default=True
        Treat η as a constant in the gradient. False lets the gradient flow through
        it (default of the authors' code), which pulls easy negatives closer.
    normalize : bool, default=True
        Scale the rows of z to unit length first.

    Raises
    ------
    ValueError
        If an option is not one of those listed, or if `y` (``scl``, ``hscl``) or
        `view_ids` (``ucl``, ``hucl``) is missing in the call.

    References
    ----------
    Jiang, Nguyen, Ishwar, Aeron, "Supervised Contrastive Learning with Hard Negative
    Samples", arXiv 2209.00078: the four losses and the hardening functions.
    Robinson, Chuang, Sra, Jegelka, "Contrastive Learning with Hard Negative Samples",
    ICLR 2021: H-UCL (here without its debiasing term).

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.losses import ContrastiveLoss
    >>> z = torch.eye(4, 2).roll(1, 0) + 0.1
    >>> loss = ContrastiveLoss("hscl", beta=1.0, temperature=0.5)
    >>> loss(z, torch.tensor([0, 0, 1, 1])).ndim
    0
    """

    def __init__(
        self,
        loss: str = "hscl",
        *,
        beta: float | Tensor = 1.0,
        temperature: float | Tensor = 0.5,
        hardening: str = "exponential",
        threshold: float | Tensor = -0.25,
        negative_mass: str | float = "negatives",
        reduction: str = "anchors",
        detach_weights: bool = True,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        _check_option("loss", loss, LOSSES)
        _check_option("hardening", hardening, HARDENINGS)
        _check_option("reduction", reduction, REDUCTIONS)
        if isinstance(negative_mass, str):
            _check_option("negative_mass", negative_mass, NEGATIVE_MASSES)
        self.loss = loss
        self.beta = beta
        self.temperature = temperature
        self.hardening = hardening
        self.threshold = threshold
        self.negative_mass = negative_mass
        self.reduction = reduction
        self.detach_weights = detach_weights
        self.normalize = normalize

    @property
    def by_label(self) -> bool:
        """Whether labels decide on positives and negatives."""
        return self.loss in BY_LABEL

    def forward(
        self,
        z: Tensor,
        y: Tensor | None = None,
        view_ids: Tensor | None = None,
        return_stats: bool = False,
    ) -> Tensor | tuple[Tensor, LossStats]:
        """Compute the loss of a batch of embeddings.

        Parameters
        ----------
        z : Tensor of shape (..., B, D)
            Embeddings; leading axes hold independent batches.
        y : Tensor of shape (..., B) or (B,), optional
            Integer class labels; needed by ``scl`` and ``hscl``, else ignored.
        view_ids : Tensor of shape (..., B) or (B,), optional
            Index of the row that each view was made from; needed by ``ucl`` and
            ``hucl``, else ignored.
        return_stats : bool, default=False
            Also return what was skipped and how many negatives count.

        Returns
        -------
        Tensor of shape (...), or (Tensor, LossStats)
            The loss, one value per leading index.
        """
        positives, negatives = pairs_by_identity(self._identity(y, view_ids))
        z = unit_rows(z) if self.normalize else z
        cosine = z @ z.mT  # (..., B, B)
        similarity = cosine / _per_pair(self.temperature, z)
        tilted = self._tilted_mean(similarity, cosine, negatives)
        log_denominator = self._log_mass(negatives, z) + tilted.log_mean  # (..., B)
        # logaddexp, not softplus, which is linear above 20 and so loses digits.
        pair_loss = torch.logaddexp(
            torch.zeros_like(similarity), log_denominator.unsqueeze(-1) - similarity
        )  # (..., B, B)
        usable = positives.any(-1) & negatives.any(-1)  # (..., B)
        weights = pair_weights(self.reduction, positives, usable, z.dtype)
        value = (weights * pair_loss).sum((-1, -2))
        if return_stats:
            return value, _stats(tilted, usable)
        return value

    def extra_repr(self) -> str:
        """Describe the settings in the module's representation."""
        return (
            f"{self.loss}, beta={self.beta}, temperature={self.temperature}, "
            f"hardening={self.hardening!r}"
        )

    def _identity(self, y: Tensor | None, view_ids: Tensor | None) -> Tensor:
        name, identity = ("y", y) if self.by_label else ("view_ids", view_ids)
        if identity is None:
            raise ValueError(
                f"loss={self.loss!r} needs `{name}`, got None: pass one integer per "
                f"row of z, equal for rows that are positives of each other."
            )
        return identity

    def _log_eta(self, excess: Tensor, cosine: Tensor) -> Tensor:
        if self.loss not in HARDENED:
            return torch.zeros_like(excess)
        if self.hardening == "exponential":
            return log_exponential(excess, _per_pair(self.beta, excess))
        return log_threshold(cosine, _per_pair(self.threshold, cosine))

    def _tilted_mean(
        self, similarity: Tensor, cosine: Tensor, negatives: Tensor
    ) -> TiltedMean:
        hardest = similarity.detach().masked_fill(~negatives, -torch.inf).amax(-1, True)
        hardest = hardest.masked_fill(hardest.isinf(), 0.0)  # (..., B, 1), no negatives
        excess = similarity - hardest  # <= 0 on the negatives
        log_eta = self._log_eta(excess, cosine).masked_fill(~negatives, -torch.inf)
        if self.detach_weights:
            log_eta = log_eta.detach()
        dead = log_eta.isneginf().all(-1, keepdim=True)  # no negative has any weight
        is_hardest = negatives & (excess.detach() >= 0)
        log_eta = torch.where(dead & is_hardest, 0.0, log_eta)
        # Rows without negatives must stay finite, or their NaN gradient would spread.
        lonely = ~negatives.any(-1, keepdim=True)  # (..., B, 1)
        log_eta = torch.where(lonely, 0.0, log_eta)
        excess = excess.masked_fill(~(negatives | lonely), 0.0)
        log_mean = (log_eta + excess).logsumexp(-1) - log_eta.logsumexp(-1)
        fell_back = (dead & ~lonely).squeeze(-1)
        return TiltedMean(hardest.squeeze(-1) + log_mean, log_eta, fell_back)

    def _log_mass(self, negatives: Tensor, z: Tensor) -> Tensor:
        if self.negative_mass == "negatives":
            return negatives.sum(-1).clamp_min(1).to(z.dtype).log()  # (..., B)
        n_rows = z.shape[-2]
        mass = max(n_rows - 2, 1) if self.negative_mass == "batch" else self.negative_mass
        return torch.as_tensor(mass, dtype=z.dtype, device=z.device).log()


def unit_rows(z: Tensor) -> Tensor:
    """Scale rows to unit length; rows of zeros stay zero, with a finite gradient."""
    largest = z.detach().abs().amax(-1, keepdim=True)
    z = z / torch.where(largest > 0, largest, 1.0)  # no overflow in the squares
    length = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return z / torch.where(length > 0, length, 1.0)


def _per_pair(value: float | Tensor, like: Tensor) -> Tensor:
    """Give a float or a (...) tensor the shape (..., 1, 1)."""
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return tensor[..., None, None]


def _stats(tilted: TiltedMean, usable: Tensor) -> LossStats:
    log_eta = tilted.log_eta.detach()
    log_count = 2 * log_eta.logsumexp(-1) - (2 * log_eta).logsumexp(-1)  # (..., B)
    n_usable = usable.sum(-1)
    count = torch.where(usable, log_count.exp(), 0.0).sum(-1) / n_usable.clamp_min(1)
    return LossStats(
        skipped_anchors=(~usable).sum(-1),
        hardest_fallbacks=tilted.fell_back.sum(-1),
        effective_negatives=count,
    )


def _check_option(name: str, value: object, options: tuple[str, ...]) -> None:
    if value not in options:
        raise ValueError(f"{name} must be one of {list(options)}, got {value!r}.")
