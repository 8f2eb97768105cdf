"""One point in the family: what the equation needs to know."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sklearn_hscl.losses.hardening import (
    LogHardening,
    log_exponential,
    log_polynomial,
    log_threshold,
    log_top_k,
)
from sklearn_hscl.losses.presets import Preset


@dataclass(frozen=True, kw_only=True)
class LossOptions(Preset):
    """A preset with its hardening and scales."""

    beta: float | Tensor
    temperature: float | Tensor
    hardening: str | LogHardening
    threshold: float | Tensor
    top_k: int

    def log_eta(
        self, similarity: Tensor, excess: Tensor, cosine: Tensor, log_negative: Tensor
    ) -> Tensor:
        """Return log η of all pairs, up to a constant per anchor, (..., A, B)."""
        if not self.hardened:
            return torch.zeros_like(excess)
        if callable(self.hardening):
            return self._given_hardening(similarity)
        if self.hardening == "exponential":
            return log_exponential(excess, per_pair(self.beta, excess))
        if self.hardening == "polynomial":
            return log_polynomial(cosine, per_pair(self.beta, cosine))
        if self.hardening == "top_k":
            return log_top_k(excess, log_negative, self.top_k)
        return log_threshold(cosine, per_pair(self.threshold, cosine))

    def _given_hardening(self, similarity: Tensor) -> Tensor:
        assert callable(self.hardening)
        shape = tuple(similarity.shape)
        try:
            log_eta = self.hardening(similarity)
        except Exception as error:
            if "memory" in str(error) or isinstance(error, MemoryError):
                raise  # for who tries smaller batches then
            raise ValueError(
                f"hardening={self.hardening!r} failed on a tensor of shape {shape}: {error}"
            ) from error
        if not isinstance(log_eta, Tensor) or log_eta.shape != similarity.shape:
            raise ValueError(
                f"hardening={self.hardening!r} must map a tensor of shape {shape} to one "
                f"of that shape, got {getattr(log_eta, 'shape', type(log_eta))}."
            )
        return log_eta


def per_pair(value: float | Tensor, like: Tensor) -> Tensor:
    """Give a float or a (...) tensor the shape (..., 1, 1)."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)[..., None, None]
