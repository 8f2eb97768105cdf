"""The named losses, with their sources."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from sklearn_hscl.losses.hardening import (
    HARDENINGS,
    LogHardening,
    log_exponential,
    log_polynomial,
    log_threshold,
    log_top_k,
)

REDUCTIONS = ("anchors", "pairs", "classes")


@dataclass(frozen=True)
class Preset:
    """Settings of a loss; :class:`ContrastiveLoss` explains each of them."""

    pairs: str = "label"
    """``"label"``, ``"view"``, or ``"either"``: labels where given, else views."""
    hardened: bool = True
    tau_plus: float = 0.0
    negative_mass: str | float = "negatives"
    denominator: str = "negatives"
    pooling: str = "out"
    reduction: str = "anchors"
    positives: str = "all"
    detach_weights: bool = True
    n_synthetic: int = 0
    n_hardest: int = 64
    ce_weight: float = 0.0


def ucl() -> Preset:
    """InfoNCE, the unsupervised contrastive loss.

    ℓ_ip = -log( e^{s_ip} / (e^{s_ip} + Σ_{j∈N_i} e^{s_ij}) ), where P_i holds the other
    views of row i and N_i all other rows. With `tau_plus` > 0 it is the debiased loss
    (Chuang et al., NeurIPS 2020, arXiv 2007.00224): Σ_j becomes
    Q max((E_i - τ⁺ e^{s_ip}) / (1 - τ⁺), e^{-1/T}).

    Sources: van den Oord et al., arXiv 1807.03748; L_UCL of arXiv 2209.00078. With more
    than two views, each pair has its own denominator without the other positives.
    """
    return Preset(pairs="view", hardened=False)


def scl() -> Preset:
    """Supervised contrastive loss in the form of the H-SCL paper.

    ℓ_ip = -log( e^{s_ip} / (e^{s_ip} + Σ_{j∈N_i} e^{s_ij}) ), where P_i holds the rows of
    the same class and N_i those of other classes: one positive in the denominator, so
    positives do not repel each other (the form of SINCERE, arXiv 2309.14277).

    Source: L_SCL of arXiv 2209.00078. Left to choice: the negative mass (the authors'
    code takes the batch size minus 2) and the reduction (theirs is over pairs).
    """
    return Preset(hardened=False)


def supcon() -> Preset:
    """Khosla's supervised contrastive loss, L_out; with ``pooling="in"``, L_in.

    L_out: mean over p∈P_i of -log( e^{s_ip} / Σ_{a≠i} e^{s_ia} ).
    L_in: -log( mean over p∈P_i of e^{s_ip} / Σ_{a≠i} e^{s_ia} ).

    Source: Khosla et al., NeurIPS 2020, arXiv 2004.11362, equations 2 and 3; averaged
    over anchors, as in the authors' code. Their code counts anchors without positives
    in that mean; here they are left out.
    """
    return Preset(hardened=False, denominator="all")


def hucl() -> Preset:
    """Contrastive learning with hard negative samples, without labels.

    ℓ_ip = -log( e^{s_ip} / (e^{s_ip} + Q_i E_i) ) with the pairs of ``ucl`` and negatives
    tilted by η. With `tau_plus` > 0, E_i becomes
    max((E_i - τ⁺ e^{s_ip}) / (1 - τ⁺), e^{-1/T}).

    Sources: Robinson et al., ICLR 2021, arXiv 2010.04592, equation 4 and their code;
    L_H-UCL of arXiv 2209.00078, which is without τ⁺. Left to choice: τ⁺, and whether
    the gradient flows through η (it does in their code).
    """
    return Preset(pairs="view")


def hscl() -> Preset:
    """Supervised contrastive loss with hard negative samples.

    ℓ_ip = -log( e^{s_ip} / (e^{s_ip} + Q_i E_i) ) with the pairs of ``scl`` and negatives
    tilted by η.

    Source: L_H-SCL of arXiv 2209.00078. Left to choice: η, Q_i, the reduction, and
    whether the gradient flows through η; ``preset="official"`` is the authors' choice.
    """
    return Preset()


def sscl() -> Preset:
    """Contrast with synthetic hard negatives. The printed equation was not at hand.

    The reading implemented: each anchor gets 32 synthetic negatives, mixtures of two of
    its 64 hardest ones (``losses/equation.py``), appended to its
    negatives; the tilted and debiased loss of ``hucl`` with τ⁺ = 0.1 follows. With
    labels, negatives are rows of other classes, and τ⁺ is 0, as none is a false
    negative; without, all other rows.

    Sources: the abstract of arXiv 2304.02971 (mixing, sampling by hardness, debiasing)
    and the authors' code for the numbers. Left to choice: the draw of mixtures, uniform
    with replacement as in that code, and that Q_i counts the synthetic negatives.
    """
    return Preset(pairs="either", n_synthetic=32, tau_plus=0.1)


def schane() -> Preset:
    """Hard negatives and cross-entropy. The printed equation was not at hand.

    The reading of SCHaNe and CLCE implemented:
    (1 - w) L + w CE, where CE is the cross-entropy of a classifier trained along
    (`ce_weight` = w) and
    L_i = -log( mean over p∈P_i of e^{s_ip} / (Σ_{p∈P_i} e^{s_ip} + Q_i E_i) ) with Q_i the
    number of negatives and η the exponential tilt: Khosla's L_in with weighted negatives.

    Sources: the abstracts of arXiv 2308.14893 and 2402.14551, and an unofficial
    implementation for the form of L, with its sum over negatives taken over N_i. Left to
    choice: w (0.5 here), and the weighting of dissimilar positives, which is left out.
    """
    return Preset(denominator="all", pooling="in", ce_weight=0.5)


PRESETS: dict[str, Callable[[], Preset]] = {
    "ucl": ucl,
    "scl": scl,
    "supcon": supcon,
    "hucl": hucl,
    "hscl": hscl,
    "sscl": sscl,
    "schane": schane,
}
LOSSES = tuple(PRESETS)
REQUIRE_LABELS = frozenset(name for name in PRESETS if PRESETS[name]().pairs == "label")


def official(loss: str) -> Preset:
    """Return what the authors' code computes for a loss.

    ``hscl`` and ``scl`` follow the training code of arXiv 2209.00078: mean over all
    ordered positive pairs, Q = batch size - 2, gradient through η. ``hucl`` follows the
    code of arXiv 2010.04592: the same, with τ⁺ = 0.1 and its clamp. All at T = 0.5.

    Raises
    ------
    ValueError
        For other losses, which have no such code.
    """
    if loss not in ("scl", "hscl", "hucl"):
        raise ValueError(
            f"preset='official' is known for 'scl', 'hscl' and 'hucl', got loss={loss!r}."
        )
    return replace(
        PRESETS[loss](),
        negative_mass="batch",
        reduction="pairs",
        detach_weights=False,
        tau_plus=0.1 if loss == "hucl" else 0.0,
    )


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


# Up to here numbers and their products with others stay in the range of float32.
HUGE = 1e15


def check_options(options: LossOptions) -> None:
    """Raise a ValueError that names the first option that cannot be."""
    if not callable(options.hardening):
        check_choice("hardening", options.hardening, HARDENINGS)
    check_choice("reduction", options.reduction, REDUCTIONS)
    check_choice("denominator", options.denominator, ("negatives", "all"))
    check_choice("pooling", options.pooling, ("out", "in"))
    check_choice("positives", options.positives, ("all", "twin"))
    _check_scales(options)
    for name, least in (("top_k", 1), ("n_synthetic", 0), ("n_hardest", 1)):
        count = getattr(options, name)
        if not (isinstance(count, Integral) and int(count) >= least):
            raise ValueError(f"{name} must be an integer from {least} up, got {count!r}.")
    check_number("tau_plus", options.tau_plus, "in [0, 1)", lambda share: 0 <= share < 1)
    check_number("ce_weight", options.ce_weight, "in [0, 1]", lambda share: 0 <= share <= 1)
    if options.denominator == "all" and options.tau_plus:
        raise ValueError(
            "tau_plus debiases the denominator of one positive: with "
            "denominator='all' it must be 0."
        )


def _check_scales(options: LossOptions) -> None:
    """Check the numbers that multiply similarities and sums; some may be tensors."""
    if isinstance(options.negative_mass, str):
        check_choice("negative_mass", options.negative_mass, ("negatives", "batch"))
    else:
        wanted = f"above 0 and at most {HUGE}"
        check_number(
            "negative_mass", options.negative_mass, wanted, lambda mass: 0 < mass <= HUGE
        )
    for name, value, valid in (
        ("temperature", options.temperature, lambda t: (t >= 1 / HUGE) & (t <= HUGE)),
        ("beta", options.beta, lambda b: (b >= 0) & (b <= HUGE)),
        ("threshold", options.threshold, lambda t: t.abs() <= 1),
    ):
        value = float(value) if _is_number(value) else value  # of any size
        is_number = isinstance(value, float | torch.Tensor)
        if not is_number or not valid(torch.as_tensor(value)).all():
            raise ValueError(f"{name} is out of range, got {value!r}.")


def check_number(name: str, value: Any, wanted: str, valid: Callable[[Any], bool]) -> None:
    """Raise a ValueError that says what is wanted, where the value is no such number."""
    if not (_is_number(value) and valid(value)):
        raise ValueError(f"{name} must be {wanted}, got {value!r}.")


def check_one_loss(options: LossOptions) -> None:
    """Raise where options are those of several batches, of which training has one."""
    for name, value in vars(options).items():
        if isinstance(value, torch.Tensor) and value.ndim:
            raise ValueError(
                f"loss has {name} of shape {tuple(value.shape)}, a number for each of "
                f"several batches, but an embedder trains on one at a time: pass a number."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_choice(name: str, value: Any, options: tuple[Any, ...]) -> None:
    """Raise a ValueError that lists the choices, where the value is none of them."""
    if value not in options:
        raise ValueError(f"{name} must be one of {list(options)}, got {value!r}.")
