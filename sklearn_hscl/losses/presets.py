"""The named losses and their sources; the options that they set, and their checks."""

import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TypeGuard

from torch import Tensor

from sklearn_hscl.losses.hardening import HARDENINGS, LogHardening

REDUCTIONS = ("anchors", "pairs", "classes")


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Configuration of a loss; :class:`ContrastiveLoss` explains each option."""

    pairs: str = "label"
    """``"label"``, ``"view"``, or ``"either"``: labels if they are given, else views."""
    hardened: bool = True
    """Whether negatives are weighted by `hardening`."""
    tau_plus: float = 0.0
    negative_mass: str | float = "negatives"
    denominator: str = "negatives"
    pooling: str = "out"
    reduction: str = "anchors"
    positives: str = "all"
    detach_weights: bool = True
    n_synthetic: int = 0
    n_hardest: int = 64
    synthetic: str = "mixed"
    n_sampled: int = 0
    include_self: bool = False
    positive_beta: float = 0.0
    tilted_sum: str = "negatives"
    ce_weight: float | Tensor = 0.0
    beta: float | Tensor = 1.0
    temperature: float | Tensor = 0.5
    hardening: str | LogHardening = "exponential"
    threshold: float | Tensor = -0.25
    top_k: int = 16

    def uses(self, name: str) -> bool:
        """Return whether an option of the hardening has an effect."""
        hardenings = _HARDENINGS_WITH.get(name)
        return self.hardened and (hardenings is None or self.hardening in hardenings)


# Options of the hardening, and the hardenings that use them; None: all.
_HARDENINGS_WITH: dict[str, tuple[str, ...] | None] = {
    "hardening": None,
    "beta": ("exponential", "polynomial"),
    "threshold": ("threshold",),
    "top_k": ("top_k",),
}


# Named losses --------------------------------------------------------------------------


def ucl() -> LossOptions:
    """InfoNCE, the unsupervised contrastive loss.

    ℓ_ip = -log( e^{s_ip} / (e^{s_ip} + Σ_{j∈N_i} e^{s_ij}) ), with the other views of
    sample i as P_i and all other samples as N_i. With `tau_plus` > 0 it is the debiased
    loss (Chuang et al., NeurIPS 2020, arXiv 2007.00224): Σ_j becomes
    Q max((E_i - τ⁺ e^{s_ip}) / (1 - τ⁺), e^{-1/T}).

    Sources: van den Oord et al., arXiv 1807.03748; L_UCL of arXiv 2209.00078. With more
    than two views, each pair has its own denominator without the other positives.
    """
    return LossOptions(pairs="view", hardened=False)


def scl() -> LossOptions:
    """Supervised contrastive loss in the form of the H-SCL paper.

    ℓ_ip = -log( e^{s_ip} / (e^{s_ip} + Σ_{j∈N_i} e^{s_ij}) ), with samples of the same
    class as P_i and those of other classes as N_i. The denominator holds one positive, so
    positives do not repel each other (the form of SINCERE, arXiv 2309.14277).

    Source: L_SCL of arXiv 2209.00078. Open choices: the negative mass (the authors'
    code takes the batch size minus 2) and the reduction (theirs is over pairs).
    """
    return LossOptions(hardened=False)


def supcon() -> LossOptions:
    """Khosla's supervised contrastive loss, L_out; with ``pooling="in"``, L_in.

    L_out: mean over p∈P_i of -log( e^{s_ip} / Σ_{a≠i} e^{s_ia} ).
    L_in: -log( mean over p∈P_i of e^{s_ip} / Σ_{a≠i} e^{s_ia} ).

    Source: Khosla et al., NeurIPS 2020, arXiv 2004.11362, equations 2 and 3; averaged
    over anchors, as in the authors' code. Their code counts anchors without positives
    in that mean; here they are left out.
    """
    return LossOptions(hardened=False, denominator="all")


def hucl() -> LossOptions:
    """Contrastive learning with hard negative samples, without labels.

    ℓ_ip = -log( e^{s_ip} / (e^{s_ip} + Q_i E_i) ) with the pairs of ``ucl`` and negatives
    weighted by η. With `tau_plus` > 0, E_i becomes
    max((E_i - τ⁺ e^{s_ip}) / (1 - τ⁺), e^{-1/T}).

    Sources: Robinson et al., ICLR 2021, arXiv 2010.04592, equation 4 and their code;
    L_H-UCL of arXiv 2209.00078, which has no τ⁺. Open choices: τ⁺, and whether
    the gradient flows through η (it does in their code).
    """
    return LossOptions(pairs="view")


def hscl() -> LossOptions:
    """Supervised contrastive loss with hard negative samples.

    ℓ_ip = -log( e^{s_ip} / (e^{s_ip} + Q_i E_i) ) with the pairs of ``scl`` and negatives
    weighted by η.

    Source: L_H-SCL of arXiv 2209.00078. Open choices: η, Q_i, the reduction, and
    whether the gradient flows through η; ``preset="official"`` is the authors' choice.
    """
    return LossOptions()


def sscl() -> LossOptions:
    """Contrast with synthetic hard negatives. The printed equation was not at hand.

    The reading implemented: each anchor gets 32 synthetic negatives, mixtures of two of
    its 64 hardest ones (``losses/equation.py``), in addition to its negatives. The
    weighted and debiased loss of ``hucl`` with τ⁺ = 0.1 follows. With labels, negatives
    are samples of other classes, and τ⁺ is 0, because there are no false negatives.
    Without labels, negatives are all other samples.

    Sources: the abstract of arXiv 2304.02971 (mixing, sampling by hardness, debiasing)
    and the authors' code for the values. Open choices: the draw of mixtures, uniform
    with replacement as in that code, and Q_i, which counts the synthetic negatives.
    ``preset="official"`` is that code, with gradient through η and Q = batch size - 2 + 32.
    As stored, the code repeats hard negatives, because its line that mixes them is
    commented out: ``synthetic="copied"``.
    """
    return LossOptions(pairs="either", n_synthetic=32, tau_plus=0.1)


def schane() -> LossOptions:
    """Hard negatives and cross-entropy. The printed equation was not at hand.

    The reading of SCHaNe and CLCE implemented:
    (1 - w) L + w CE, where CE is the cross-entropy of a jointly trained
    classifier (`ce_weight` = w) and
    L_i = -log( mean over p∈P_i of e^{s_ip} / (Σ_{p∈P_i} e^{s_ip} + Q_i E_i) ) with Q_i the
    number of negatives and η exponential: Khosla's L_in with weighted negatives.

    Sources: the abstracts of arXiv 2308.14893 and 2402.14551, and an unofficial
    implementation for the form of L, with its sum over negatives taken over N_i. Open
    choices: w (0.5 here), and the weighting of dissimilar positives, which
    `positive_beta` > 0 adds. ``preset="official"`` is L of that implementation, the only
    one in public and not the authors': with gradient through η, and with
    E_i = Σ_{j≠i} e^{2 s_ij} / Σ_{j∈N_i} e^{s_ij}, a sum that includes the positives.
    """
    return LossOptions(denominator="all", pooling="in", ce_weight=0.5)


PRESETS: dict[str, Callable[[], LossOptions]] = {
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


def official(loss: str) -> LossOptions:
    """Return what the authors' code computes for a loss.

    ``hscl`` and ``scl`` follow the training code of arXiv 2209.00078: mean over all
    ordered positive pairs, Q = batch size - 2, gradient through η. ``hucl`` follows the
    code of arXiv 2010.04592: the same, with τ⁺ = 0.1 and its clamp. ``sscl`` follows the
    code of arXiv 2304.02971: as ``hucl``, with 32 synthetic negatives. ``schane`` follows
    the only public code of arXiv 2402.14551, which is not the authors'. All at T = 0.5.

    Raises
    ------
    ValueError
        If there is no such code for the loss.
    """
    options = PRESETS[loss]()
    if loss == "schane":
        return replace(options, tilted_sum="all", detach_weights=False)
    if loss not in ("scl", "hscl", "hucl", "sscl"):
        raise ValueError(
            f"preset='official' is available for 'scl', 'hscl', 'hucl', 'sscl' and "
            f"'schane', got loss={loss!r}."
        )
    return replace(
        options,
        negative_mass="batch",
        reduction="pairs",
        detach_weights=False,
        tau_plus=0.1 if loss == "hucl" else options.tau_plus,
    )


# Checks --------------------------------------------------------------------------------

# Values up to this one, and their products with others, stay in the range of float32.
_MAX_SCALE = 1e15


def check_options(options: LossOptions) -> None:
    """Raise a ValueError that names the first invalid option."""
    if not callable(options.hardening):
        check_choice("hardening", options.hardening, tuple(HARDENINGS))
    check_choice("reduction", options.reduction, REDUCTIONS)
    check_choice("denominator", options.denominator, ("negatives", "all"))
    check_choice("pooling", options.pooling, ("out", "in"))
    check_choice("positives", options.positives, ("all", "view"))
    _check_scales(options)
    check_choice("synthetic", options.synthetic, ("mixed", "copied"))
    check_choice("tilted_sum", options.tilted_sum, ("negatives", "all"))
    check_choice("include_self", options.include_self, (True, False))
    counts = (("top_k", 1), ("n_synthetic", 0), ("n_hardest", 1), ("n_sampled", 0))
    for name, least in counts:
        count = getattr(options, name)
        if not (isinstance(count, Integral) and int(count) >= least):
            raise ValueError(f"{name} must be an integer from {least} up, got {count!r}.")
    check_number("tau_plus", options.tau_plus, "in [0, 1)", lambda prior: 0 <= prior < 1)
    check_number("ce_weight", options.ce_weight, "in [0, 1]", lambda part: 0 <= part <= 1)
    _check_sampling(options)
    if options.denominator == "all" and options.tau_plus:
        raise ValueError(
            f"tau_plus must be 0 with denominator='all', got {options.tau_plus!r}: it "
            f"debiases the denominator of one positive."
        )


def _check_sampling(options: LossOptions) -> None:
    """Reject what draws of negatives cannot express."""
    if not options.n_sampled:
        return
    if not options.detach_weights:
        raise ValueError(
            f"n_sampled must be 0 with detach_weights=False, got {options.n_sampled}: no "
            f"gradient flows through the chances of draws. Pass detach_weights=True."
        )
    if options.tilted_sum == "all":
        raise ValueError(
            f"n_sampled must be 0 with tilted_sum='all', got {options.n_sampled}: only "
            f"negatives are drawn. Pass tilted_sum='negatives'."
        )


def _check_scales(options: LossOptions) -> None:
    """Check what multiplies similarities and sums; some values may be tensors."""
    if isinstance(options.negative_mass, str):
        check_choice("negative_mass", options.negative_mass, ("negatives", "batch"))
    else:
        wanted = f"above 0 and at most {_MAX_SCALE}"
        check_number(
            "negative_mass", options.negative_mass, wanted, lambda q: 0 < q <= _MAX_SCALE
        )
    least = 1 / _MAX_SCALE
    _check_range("temperature", options.temperature, least, _MAX_SCALE)
    _check_range("beta", options.beta, 0, _MAX_SCALE)
    _check_range("threshold", options.threshold, -1, 1)
    _check_range("positive_beta", options.positive_beta, 0, _MAX_SCALE)


def _check_range(name: str, value: object, least: float, largest: float) -> None:
    """Raise a ValueError unless a number, or each in a tensor, is in the range."""
    if isinstance(value, Tensor):
        is_valid = bool(((value >= least) & (value <= largest)).all())
    else:
        is_valid = _is_number(value) and least <= float(value) <= largest
    if not is_valid:
        raise ValueError(f"{name} must be from {least} to {largest}, got {value!r}.")


def check_number(
    name: str, value: object, wanted: str, is_valid: Callable[[float], bool]
) -> None:
    """Raise a ValueError with the wanted range unless the value is a number in it."""
    if not (_is_number(value) and is_valid(value)):
        raise ValueError(f"{name} must be {wanted}, got {value!r}.")


def check_unlabeled(label: object) -> None:
    """Raise a ValueError unless the label of unlabeled samples is None or an integer."""
    if not (label is None or isinstance(label, Integral)):
        raise ValueError(
            f"unlabeled_label must be None or an integer that marks unlabeled samples in "
            f"y, got {label!r}."
        )


def check_one_loss(options: LossOptions) -> None:
    """Reject tensor-valued options, which only stacked training accepts."""
    for name, value in vars(options).items():
        if isinstance(value, Tensor) and value.ndim:
            raise ValueError(
                f"loss has {name} of shape {tuple(value.shape)}, one value per batch, but "
                f"an embedder trains on one batch at a time: pass a number."
            )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise a ValueError that lists the choices unless the value is one of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}.")


# Values that are valid, but surprise ----------------------------------------------------

# Beyond, the loss is that of the hardest negative alone, or hardly changes at all.
_USUAL_TEMPERATURES = (0.005, 20.0)


def surprises(
    loss: str, options: LossOptions, given: Collection[str] = ()
) -> dict[str, str]:
    """Return messages about options without effect, and extreme ones, by name.

    Parameters
    ----------
    loss : str
        Name of the loss.
    options : LossOptions
        Its options.
    given : collection of str
        Names of options that were given, even if they have their default value.

    Returns
    -------
    dict of str
    """
    found = {}
    for name, hardenings in _HARDENINGS_WITH.items():
        value = getattr(options, name)
        is_expected = _is_expected(name, value, options.hardened)
        if options.uses(name) or (is_expected and name not in given):
            continue
        cause = f"hardening={options.hardening!r}"
        remedy = f"hardening={' or '.join(map(repr, hardenings or ()))}"
        if not options.hardened:
            cause, remedy = f"loss={loss!r}", "loss='hscl' or 'hucl'"
        found[name] = (
            f"{name}={value!r} has no effect with {cause}. Leave out {name}, or use "
            f"{remedy}."
        )
    least, largest = _USUAL_TEMPERATURES
    extremes = _extremes(options.temperature)
    if extremes is not None and not least <= extremes[0] <= extremes[1] <= largest:
        effect = "all negatives count alike, and gradients vanish"
        if extremes[0] < least:
            effect = "only the hardest negative counts, and gradients are huge"
        found["temperature"] = (
            f"temperature={options.temperature!r} is extreme: {effect}. Cosines are "
            f"divided by it. Use values from 0.05 to 1."
        )
    return found


def warn_of_surprises(messages: Iterable[str], stacklevel: int) -> None:
    """Issue a UserWarning for each message."""
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=stacklevel + 1)


def _is_expected(name: str, value: object, hardened: bool) -> bool:
    """Return whether a value promises nothing that an option without effect lacks."""
    if isinstance(value, Tensor):
        return False
    is_none = name == "beta" and value == 0 and not hardened  # which weighs as beta=0 does
    return is_none or value == getattr(LossOptions, name)


def _extremes(value: object) -> tuple[float, float] | None:
    """Return the least and the largest value of a number or tensor; None of others."""
    if isinstance(value, Tensor):
        return (value.min().item(), value.max().item()) if value.numel() else None
    return (float(value), float(value)) if _is_number(value) else None
