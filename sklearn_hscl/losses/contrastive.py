"""ContrastiveLoss: the whole family as one torch module."""

from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sklearn_hscl.losses.dispatch import KERNELS, choose_kernel, compute
from sklearn_hscl.losses.equation import LossStats
from sklearn_hscl.losses.hardening import LogHardening
from sklearn_hscl.losses.pair_sets import Targets, unlabelled_as_own
from sklearn_hscl.losses.presets import (
    LOSSES,
    PRESETS,
    LossOptions,
    check_choice,
    check_number,
    check_options,
    official,
)
from sklearn_hscl.runtime.normalize import l2_normalize

TARGET_TYPES = ("class", "multilabel", "continuous")
# Arguments that are no options of the equation.
_OWN_SETTINGS = (
    "loss",
    "label_smoothing",
    "target_type",
    "bandwidth",
    "unlabeled_label",
    "normalize",
    "kernel",
)


class ContrastiveLoss(nn.Module):
    """Contrastive loss with hard negatives: UCL, SCL, H-UCL, H-SCL and neighbours.

    With unit embeddings z_i, s_ij = z_i·z_j / T, positives P_i, negatives N_i and
    hardening η::

        E_i  = Σ_{j∈N_i} η(s_ij) e^{s_ij} / Σ_{j∈N_i} η(s_ij)
        ℓ_ip = -log( e^{s_ip} / (e^{s_ip} + Q_i E_i) )

    averaged over the positives of each anchor and over anchors. Everything is
    computed in log space with the hardest negative taken out, so the value and its
    gradient are finite for any finite z. Anchors without a positive or without a
    negative are skipped and counted; a batch without usable anchors gives 0.

    Parameters
    ----------
    loss : str, default="hscl"
        ``"ucl"`` (InfoNCE), ``"scl"``, ``"supcon"`` (Khosla), ``"hucl"``, ``"hscl"``,
        ``"sscl"`` (synthetic hard negatives) or ``"schane"``; see
        :mod:`sklearn_hscl.losses.presets` for the formula and source of each. It
        decides on all options that are None.
    beta : float or Tensor of shape (...), default=1.0
        Strength of the exponential or polynomial tilt; 0 is no tilt. A tensor gives one
        strength per leading index of z.
    temperature : float or Tensor of shape (...), default=0.5
        Scale T of the similarities, in cosine units. 0.5 is the authors' choice.
    hardening : str or callable, default="exponential"
        η(s) = e^{βs}; ``"threshold"``: 1 where the cosine is at least `threshold`, else
        0; ``"polynomial"``: ((1 + cosine) / 2)^β; ``"top_k"``: 1 for the `top_k` hardest
        negatives, else 0; or a function that maps s, (..., A, B), to log η. An anchor
        whose negatives all have weight 0 uses its hardest one.
    threshold : float or Tensor of shape (...), default=-0.25
        Cosine from which a negative counts. The authors' start value for
        e^{s} ≥ τ, τ = e^{-1/2}, is -0.25 at T = 0.5.
    top_k : int, default=16
        Negatives that count under ``"top_k"``.
    preset : {None, "official"}, default=None
        ``"official"``: what the authors' code of ``"hscl"``, ``"scl"`` or ``"hucl"``
        computes; options that are given override it.
    tau_plus : float in [0, 1), optional
        Share of negatives that are expected to be positives, which the debiased loss
        takes out of E.
    negative_mass : {"negatives", "batch"} or float, optional
        Q_i: the number of negatives of the anchor, the batch size minus 2 (the authors'
        code), or a constant.
    denominator : {"negatives", "all"}, optional
        Whether the denominator holds one positive, or all of them (Khosla).
    pooling : {"out", "in"}, optional
        Average the losses of an anchor's positives, or its positives' e^s.
    reduction : {"anchors", "pairs", "classes"}, optional
        Mean over anchors, over all ordered positive pairs (the authors' code; large
        classes weigh more), or over classes of the mean over their anchors.
    positives : {"all", "twin"}, optional
        Rows of the same class, or only views of the same row.
    detach_weights : bool, optional
        Treat η as a constant in the gradient. False lets the gradient flow through
        it (the authors' code), which pulls easy negatives closer.
    n_synthetic, n_hardest : int, optional
        Synthetic negatives of each anchor, and the hardest ones they are mixed from.
    ce_weight : float in [0, 1], optional
        Share of the cross-entropy of `logits`; the contrastive loss has the rest. Rows
        without label have no part in it: those of `unlabeled_label`, or of -100, torch's
        own mark, where that is None.
    label_smoothing : float in [0, 1), default=0.0
        Share of the probability that the cross-entropy wants spread over all classes.
    target_type : {"class", "multilabel", "continuous"}, default="class"
        What `y` holds: class labels; label indicators, whose overlap is the weight of
        a positive; or numbers, where a Gaussian kernel is.
    bandwidth : float, default=1.0
        Width of that kernel, in units of y.
    unlabeled_label : int, optional
        Class label that marks rows without label: each is a class of its own.
    normalize : bool, default=True
        Scale the rows of z to unit length first.
    kernel : {"auto", "dense", "tiled", "streaming", "triton"}, default="auto"
        How to compute it: autograd on all pairs or in tiles; in closed form, with
        memory linear in the batch, on CPU or (``"triton"``) CUDA. ``"auto"`` takes
        the fastest way that the loss and the batch allow.

    Attributes
    ----------
    kernel_ : str
        The kernel of the last call.

    Raises
    ------
    ValueError
        If an option is not one of those listed or out of its range, or what the loss
        needs (`y`, `view_ids` or `logits`) is missing in the call.

    References
    ----------
    Jiang, Nguyen, Ishwar, Aeron, "Supervised Contrastive Learning with Hard Negative
    Samples", arXiv 2209.00078.

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.losses import ContrastiveLoss
    >>> z = torch.eye(4, 2).roll(1, 0) + 0.1
    >>> loss = ContrastiveLoss("hscl", beta=1.0, temperature=0.5)
    >>> loss(z, torch.tensor([0, 0, 1, 1])).ndim
    0
    """

    kernel_: str

    def __init__(
        self,
        loss: str = "hscl",
        *,
        beta: float | Tensor = 1.0,
        temperature: float | Tensor = 0.5,
        hardening: str | LogHardening = "exponential",
        threshold: float | Tensor = -0.25,
        top_k: int = 16,
        preset: str | None = None,
        tau_plus: float | None = None,
        negative_mass: str | float | None = None,
        denominator: str | None = None,
        pooling: str | None = None,
        reduction: str | None = None,
        positives: str | None = None,
        detach_weights: bool | None = None,
        n_synthetic: int | None = None,
        n_hardest: int | None = None,
        ce_weight: float | None = None,
        label_smoothing: float = 0.0,
        target_type: str = "class",
        bandwidth: float = 1.0,
        unlabeled_label: int | None = None,
        normalize: bool = True,
        kernel: str = "auto",
    ) -> None:
        super().__init__()
        given = {
            "tau_plus": tau_plus,
            "negative_mass": negative_mass,
            "denominator": denominator,
            "pooling": pooling,
            "reduction": reduction,
            "positives": positives,
            "detach_weights": detach_weights,
            "n_synthetic": n_synthetic,
            "n_hardest": n_hardest,
            "ce_weight": ce_weight,
        }
        given = {name: value for name, value in given.items() if value is not None}
        check_choice("loss", loss, LOSSES)
        check_choice("preset", preset, (None, "official"))
        named = PRESETS[loss]() if preset is None else official(loss)
        self.loss = loss
        self.options = LossOptions(
            **(vars(named) | given),
            beta=beta,
            temperature=temperature,
            hardening=hardening,
            threshold=threshold,
            top_k=top_k,
        )
        check_options(self.options)
        check_choice("target_type", target_type, TARGET_TYPES)
        check_choice("kernel", kernel, ("auto", *KERNELS))
        check_number("bandwidth", bandwidth, "above 0", lambda width: width > 0)
        check_number(
            "label_smoothing", label_smoothing, "in [0, 1)", lambda share: 0 <= share < 1
        )
        self.tau_plus = tau_plus
        self.label_smoothing = label_smoothing
        self.target_type = target_type
        self.bandwidth = bandwidth
        self.unlabeled_label = unlabeled_label
        self.normalize = normalize
        self.kernel = kernel

    @property
    def requires_labels(self) -> bool:
        """Whether the loss cannot do without labels."""
        return self.options.pairs == "label"

    def forward(
        self,
        z: Tensor,
        y: Tensor | None = None,
        view_ids: Tensor | None = None,
        *,
        logits: Tensor | None = None,
        return_stats: bool = False,
    ) -> Tensor | tuple[Tensor, LossStats]:
        """Compute the loss of a batch of embeddings.

        Parameters
        ----------
        z : Tensor of shape (..., B, D)
            Embeddings; leading axes hold independent batches.
        y : Tensor of shape (..., B) or (..., B, K), optional
            Targets, as `target_type` says; ignored by ``ucl`` and ``hucl``.
        view_ids : Tensor of int, shape (..., B), optional
            Index of the row that each view was made from; needed where views are the
            positives.
        logits : Tensor of shape (..., B, n_classes), optional
            Output of a classifier trained along; needed where `ce_weight` is above 0.
        return_stats : bool, default=False
            Also return what was skipped and how many negatives count.

        Returns
        -------
        Tensor of shape (...), or (Tensor, LossStats)
            The loss, one value per leading index.
        """
        if torch.is_autocast_enabled(z.device.type):
            # Sums of exponentials need more than the eight bits of bfloat16.
            with torch.autocast(z.device.type, enabled=False):
                z = z.float()
                logits = None if logits is None else logits.float()
                return self.forward(
                    z, y, view_ids, logits=logits, return_stats=return_stats
                )
        targets, options = self.resolve(z, y, view_ids)
        z = l2_normalize(z) if self.normalize else z
        self.kernel_ = self.kernel
        if self.kernel == "auto":
            self.kernel_ = choose_kernel(z, targets, options)
        value, stats = compute(
            self.kernel_, z, targets, options, effective_negatives=return_stats
        )
        if isinstance(options.ce_weight, Tensor) or options.ce_weight:
            share = torch.as_tensor(options.ce_weight, dtype=value.dtype)
            share = share.to(value.device)
            value = (1 - share) * value + share * self._cross_entropy(logits, y)
        return (value, stats) if return_stats else value

    def resolve(
        self, z: Tensor, y: Tensor | None = None, view_ids: Tensor | None = None
    ) -> tuple[Targets, LossOptions]:
        """Settle what the equation takes: who is positive of whom, and the options.

        Parameters
        ----------
        z, y, view_ids : Tensor
            As in a call.

        Returns
        -------
        Targets, LossOptions
        """
        by_label = self.uses_labels(y is not None)
        options = self.options
        if by_label and options.pairs == "either" and self.tau_plus is None:
            options = replace(options, tau_plus=0.0)  # no negative is a false one
        targets = self._targets(z, y, view_ids) if by_label else self._views(z, view_ids)
        return targets, options

    def settings(self) -> dict[str, Any]:
        """Return what :meth:`from_settings` makes an equal loss of.

        Single numbers of numpy and torch are numbers of Python's in it.
        """
        chosen = vars(self.options).copy()
        del chosen["pairs"], chosen["hardened"]  # which follow from the name
        own = {name: getattr(self, name) for name in _OWN_SETTINGS}
        own["gave_tau_plus"] = self.tau_plus is not None
        return {name: _plain_number(value) for name, value in (chosen | own).items()}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build a loss from what :meth:`settings` returned."""
        gave_tau_plus = settings.pop("gave_tau_plus")
        loss = cls(**settings)
        loss.tau_plus = settings["tau_plus"] if gave_tau_plus else None
        return loss

    def set_beta(self, beta: float | Tensor) -> None:
        """Change the strength of the tilt, as a schedule does between epochs."""
        self.options = replace(self.options, beta=beta)

    def uses_labels(self, labels_given: bool) -> bool:
        """Whether labels decide on the pairs, if labels are given or not."""
        return self.requires_labels or (labels_given and self.options.pairs == "either")

    def extra_repr(self) -> str:
        """Describe the settings in the module's representation."""
        options = self.options
        return (
            f"{self.loss}, beta={options.beta}, temperature={options.temperature}, "
            f"hardening={options.hardening!r}"
        )

    def _views(self, z: Tensor, view_ids: Tensor | None) -> Targets:
        ids = self._required("view_ids", view_ids, z)
        return Targets(identity=ids, vectors=None, kernel="", twins=None)

    def _targets(self, z: Tensor, y: Tensor | None, view_ids: Tensor | None) -> Targets:
        y = self._required("y", y, z)
        twins = None
        if self.options.positives == "twin":
            twins = self._required("view_ids", view_ids, z)
        if self.target_type == "class":
            if self.unlabeled_label is not None:
                y = unlabelled_as_own(y, self.unlabeled_label, view_ids)
            return Targets(identity=y, vectors=None, kernel="", twins=twins)
        if self.target_type == "multilabel":
            return Targets(identity=None, vectors=y, kernel="overlap", twins=twins)
        values = y if y.ndim > 1 and y.shape != z.shape[:-1] else y.unsqueeze(-1)
        values = values / self.bandwidth
        return Targets(identity=None, vectors=values, kernel="gaussian", twins=twins)

    def _required(self, name: str, value: Tensor | None, z: Tensor) -> Tensor:
        if value is None:
            raise ValueError(
                f"loss={self.loss!r} needs `{name}`, got None: pass one entry per row of "
                f"z, equal for rows that are positives of each other."
            )
        one_each = self.target_type == "class" or name == "view_ids"
        if one_each and value.shape[-1:] != z.shape[-2:-1]:
            raise ValueError(
                f"`{name}` of shape {tuple(value.shape)} does not fit z of shape "
                f"{tuple(z.shape)}: pass one entry per row of z."
            )
        return value

    def _cross_entropy(self, logits: Tensor | None, y: Tensor | None) -> Tensor:
        if logits is None or y is None or self.target_type != "class":
            raise ValueError(
                f"ce_weight={self.options.ce_weight} needs class labels `y` and the "
                f"`logits` of a classifier: pass both, or set ce_weight=0."
            )
        unlabelled = TORCH_MARK if self.unlabeled_label is None else self.unlabeled_label
        return cross_entropy(logits, y, unlabelled, self.label_smoothing)


def _plain_number(value: Any) -> Any:
    """Return a single number of numpy's or torch's as one of Python's."""
    is_number = isinstance(value, np.generic | Tensor) and value.ndim == 0
    return value.item() if is_number else value


TORCH_MARK = -100  # torch's own label of rows without label


def cross_entropy(
    logits: Tensor, y: Tensor, unlabelled: int, label_smoothing: float
) -> Tensor:
    """Mean cross-entropy over the rows that have a label; 0 where none has.

    Parameters
    ----------
    logits : Tensor of shape (..., B, n_classes)
        Output of the classifier.
    y : Tensor of int, shape (..., B) or (B,)
        Class codes.
    unlabelled : int
        Code of rows without label.
    label_smoothing : float in [0, 1)
        Share of the probability that is spread over all classes.

    Returns
    -------
    Tensor of shape (...)
        One value per leading index.
    """
    labelled = y != unlabelled
    safe = torch.where(labelled, y, 0).expand(logits.shape[:-1])  # (..., B)
    losses = functional.cross_entropy(
        logits.flatten(0, -2),
        safe.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
    ).view(safe.shape)
    labelled = labelled.expand(safe.shape)
    return (losses * labelled).sum(-1) / labelled.sum(-1).clamp_min(1)
