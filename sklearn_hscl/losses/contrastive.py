"""ContrastiveLoss: the whole family as one torch module."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_hscl.losses.dispatch import KERNELS, choose_kernel, compute
from sklearn_hscl.losses.equation import LossStats
from sklearn_hscl.losses.hardening import LogHardening
from sklearn_hscl.losses.pair_sets import (
    BatchPairs,
    Entries,
    LabelPairs,
    SimilarityPairs,
    ViewPairs,
    gaussian,
    jaccard,
    read_ids,
    read_indicators,
    read_values,
    separate_unlabeled,
)
from sklearn_hscl.losses.presets import (
    LOSSES,
    PRESETS,
    LossOptions,
    check_choice,
    check_number,
    check_options,
    check_unlabeled,
    official,
    surprises,
    warn_of_surprises,
)
from sklearn_hscl.losses.supervised import (
    binary_cross_entropy,
    cross_entropy,
    squared_error,
)
from sklearn_hscl.runtime.normalize import (
    into_unit_ball,
    l2_normalize,
    refuse_nested_forward_mode,
)

TARGET_TYPES = ("class", "multilabel", "continuous")
# Options that the named loss decides on unless they are given.
_PRESET_OPTIONS = (
    "tau_plus",
    "negative_mass",
    "denominator",
    "pooling",
    "reduction",
    "positives",
    "detach_weights",
    "n_synthetic",
    "n_hardest",
    "synthetic",
    "n_sampled",
    "include_self",
    "positive_beta",
    "tilted_sum",
    "ce_weight",
)
# Options that no named loss changes.
COMMON_OPTIONS = ("beta", "temperature", "hardening", "threshold", "top_k")
# Parameters that are attributes, not options of the equation.
_ATTRIBUTES = (
    "loss",
    "preset",
    "label_smoothing",
    "target_type",
    "bandwidth",
    "unlabeled_label",
    "normalize",
    "kernel",
)
# Former and present names of values, by parameter.
_FORMER_VALUES = {"positives": {"twin": "view"}}
Params = dict[str, Any]  # by name, as in scikit-learn
_TORCH_UNLABELED = -100  # torch's default label of unlabeled samples


class ContrastiveLoss(nn.Module):
    """Contrastive loss with hard negatives: UCL, SCL, H-UCL, H-SCL and relatives.

    With unit embeddings z_i, s_ij = z_i·z_j / T, positives P_i, negatives N_i and
    hardening η::

        E_i  = Σ_{j∈N_i} η(s_ij) e^{s_ij} / Σ_{j∈N_i} η(s_ij)
        ℓ_ip = -log( e^{s_ip} / (e^{s_ip} + Q_i E_i) )

    averaged over the positives of each anchor and over anchors. Everything is
    computed in log space relative to the hardest negative, so the value and its
    gradient are finite for any finite z: in float32 for z of fewer bits, and with the
    largest number of z's type where a gradient exceeds it. Anchors without a positive
    or without a negative are skipped and counted; a batch without usable anchors gives 0.

    ``get_params`` and ``set_params`` follow scikit-learn, so a search over an embedder
    with this loss reaches its parameters, as in ``loss__beta``.

    Parameters
    ----------
    loss : str, default="hscl"
        ``"ucl"`` (InfoNCE), ``"scl"``, ``"supcon"`` (Khosla), ``"hucl"``, ``"hscl"``,
        ``"sscl"`` (synthetic hard negatives) or ``"schane"``; see
        :mod:`sklearn_hscl.losses.presets` for the formula and source of each. It
        determines all options that are None.
    beta : float or Tensor of shape (...), default=1.0
        Strength of the exponential or polynomial hardening; 0 is none. A tensor gives
        one strength per leading index of z.
    temperature : float or Tensor of shape (...), default=0.5
        Scale T of the similarities, in cosine units. 0.5 is the authors' choice.
    hardening : str or callable, default="exponential"
        η(s) = e^{βs}; ``"threshold"``: 1 if the cosine is at least `threshold`, else
        0; ``"polynomial"``: ((1 + cosine) / 2)^β; ``"top_k"``: 1 for the `top_k` hardest
        negatives, else 0; or a function that maps s, (..., A, B), to log η. An anchor
        whose negatives all have weight 0 uses its hardest one.
    threshold : float or Tensor of shape (...), default=-0.25
        Smallest cosine of the negatives that count. The authors' start value for
        e^{s} ≥ τ, τ = e^{-1/2}, is -0.25 at T = 0.5.
    top_k : int, default=16
        Number of negatives that count under ``"top_k"``.
    preset : {None, "official"}, default=None
        ``"official"`` is the loss of the authors' code of ``"hscl"``, ``"scl"``,
        ``"hucl"`` or ``"sscl"``, or of the only public code of ``"schane"``, which is not
        the authors'; options that are given override it.
    tau_plus : float in [0, 1), optional
        Class prior τ⁺ of the debiased loss: the expected fraction of false negatives,
        which it removes from E.
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
    positives : {"all", "view"}, optional
        Samples of the same class, or only views of the same sample.
    detach_weights : bool, optional
        Treat η as a constant in the gradient. False lets the gradient flow through
        it (the authors' code), which attracts easy negatives.
    n_synthetic, n_hardest : int, optional
        Number of synthetic negatives per anchor, and of the hardest ones to mix.
    synthetic : {"mixed", "copied"}, optional
        Mix two hard negatives, or repeat one, as the stored code of SSCL does.
    n_sampled : int, optional
        Number of negatives that are drawn for each positive, with replacement and chances
        η; their mean replaces E (arXiv 2311.05139, where 256 are drawn). 0, the default of
        all losses, takes the exact E. Draws are those of the fit's `random_state`, or of
        torch's global generator outside of fits. The loss is then computed on all pairs
        at once (``kernel="dense"``).
    include_self : bool, optional
        Count each anchor as a positive of itself (the code of arXiv 2311.05139), so that
        it is an anchor even where it has no other positive.
    positive_beta : float, optional
        Weight positives by e^{-positive_beta·s}, so that dissimilar ones count more; 0 is
        none. SCHaNe (arXiv 2308.14893) describes such weights, whose equation was not at
        hand. `detach_weights` applies to them as well.
    tilted_sum : {"negatives", "all"}, optional
        Whether Σ η e^s in E runs over the negatives, or over the positives as well, while
        its divisor does not (the public code of arXiv 2402.14551).
    ce_weight : float in [0, 1], optional
        Weight of the supervised loss of `logits`; the contrastive loss has the rest. It
        is the cross-entropy of class labels, the mean binary cross-entropy of label
        indicators, and the mean squared error of continuous targets. It ignores unlabeled
        samples: those of `unlabeled_label`, or, if that is None, of -100, torch's default.
    label_smoothing : float in [0, 1), default=0.0
        Fraction of the target probability that cross-entropies spread over all classes.
    target_type : {"class", "multilabel", "continuous"}, default="class"
        Type of `y`: class labels; label indicators, whose overlap is the weight of a
        positive; or continuous values, whose Gaussian kernel is the weight.
    bandwidth : float, default=1.0
        Width of that kernel, in units of y.
    unlabeled_label : int, optional
        Class label that marks unlabeled samples. Each of them is a separate class.
    normalize : bool or "ball", default=True
        Scale the rows of z to unit norm first; ``"ball"`` scales those of a norm above 1
        only, which maps into the unit ball (arXiv 2311.05139).
    kernel : {"auto", "dense", "tiled", "streaming", "triton"}, default="auto"
        Implementation: autograd on all pairs or in tiles; in closed form, with memory
        linear in the batch, on CPU or (``"triton"``) CUDA. ``"auto"`` selects the
        fastest one that the loss and the batch allow, ``"triton"`` only after it has
        agreed with autograd on a batch of the same shape.

    Attributes
    ----------
    kernel_ : str
        The kernel of the last call.

    Raises
    ------
    ValueError
        If an option is not one of those listed or out of its range, or if an input that
        the loss needs (`y`, `view_ids` or `logits`) is missing in the call.

    Warns
    -----
    UserWarning
        If `hardening`, `beta`, `threshold` or `top_k` is given, but has no effect, or if
        `temperature` is extreme.

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
        synthetic: str | None = None,
        n_sampled: int | None = None,
        include_self: bool | None = None,
        positive_beta: float | None = None,
        tilted_sum: str | None = None,
        ce_weight: float | None = None,
        label_smoothing: float = 0.0,
        target_type: str = "class",
        bandwidth: float = 1.0,
        unlabeled_label: int | None = None,
        normalize: bool | str = True,
        kernel: str = "auto",
    ) -> None:
        super().__init__()
        check_choice("loss", loss, LOSSES)
        check_choice("preset", preset, (None, "official"))
        given: Params = {
            "tau_plus": tau_plus,
            "negative_mass": negative_mass,
            "denominator": denominator,
            "pooling": pooling,
            "reduction": reduction,
            "positives": positives,
            "detach_weights": detach_weights,
            "n_synthetic": n_synthetic,
            "n_hardest": n_hardest,
            "synthetic": synthetic,
            "n_sampled": n_sampled,
            "include_self": include_self,
            "positive_beta": positive_beta,
            "tilted_sum": tilted_sum,
            "ce_weight": ce_weight,
        }
        given = {name: value for name, value in given.items() if value is not None}
        self.options = replace(
            PRESETS[loss]() if preset is None else official(loss),
            beta=beta,
            temperature=temperature,
            hardening=hardening,
            threshold=threshold,
            top_k=top_k,
            **given,
        )
        check_options(self.options)
        check_choice("target_type", target_type, TARGET_TYPES)
        check_choice("kernel", kernel, ("auto", *KERNELS))
        check_choice("normalize", normalize, (True, False, "ball"))
        check_number("bandwidth", bandwidth, "above 0", lambda width: width > 0)
        check_unlabeled(unlabeled_label)
        check_number(
            "label_smoothing", label_smoothing, "in [0, 1)", lambda part: 0 <= part < 1
        )
        self._given = tuple(given)
        self.loss = loss
        self.preset = preset
        self.label_smoothing = label_smoothing
        self.target_type = target_type
        self.bandwidth = bandwidth
        self.unlabeled_label = unlabeled_label
        self.normalize = normalize
        self.kernel = kernel
        warn_of_surprises(surprises(loss, self.options).values(), stacklevel=2)

    @property
    def requires_labels(self) -> bool:
        """Whether the loss needs labels."""
        return self.options.pairs == "label"

    @property
    def tau_plus(self) -> float | None:
        """The class prior, if it was given."""
        return self.options.tau_plus if "tau_plus" in self._given else None

    def get_params(self, deep: bool = True) -> Params:
        """Return the parameters of the constructor, by name.

        Parameters
        ----------
        deep : bool, default=True
            Ignored: no parameter has parameters.

        Returns
        -------
        dict
        """
        options, given = vars(self.options), dict.fromkeys(_PRESET_OPTIONS)
        return {
            **{name: getattr(self, name) for name in _ATTRIBUTES},
            **{name: options[name] for name in COMMON_OPTIONS},
            **given,
            **{name: options[name] for name in self._given},
        }

    @classmethod
    def from_params(cls, params: Params) -> Self:
        """Build a loss without the warnings about its parameters, which the caller issues.

        Parameters
        ----------
        params : dict
            Arguments of the constructor.

        Returns
        -------
        ContrastiveLoss
        """
        common = {name: params[name] for name in COMMON_OPTIONS if name in params}
        loss = cls(**{name: params[name] for name in params.keys() - common.keys()})
        loss.options = replace(loss.options, **common)
        check_options(loss.options)
        return loss

    def set_params(self, **params: Any) -> Self:
        """Change parameters of the constructor.

        Parameters
        ----------
        **params
            New values. If one is invalid, nothing changes.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a name is unknown, or as the constructor.
        """
        known = self.get_params()
        for name in params.keys() - known.keys():
            raise ValueError(
                f"Invalid parameter {name!r} for ContrastiveLoss. Valid parameters are: "
                f"{sorted(known)}."
            )
        changed = ContrastiveLoss.from_params(known | params)
        for name in (*_ATTRIBUTES, "options", "_given"):
            setattr(self, name, getattr(changed, name))
        return self

    def __sklearn_clone__(self) -> Self:
        """Return a copy, also of subclasses with another constructor."""
        return copy.deepcopy(self)

    def forward(
        self,
        z: Tensor,
        y: Entries | None = None,
        view_ids: Entries | None = None,
        *,
        logits: Tensor | None = None,
        return_stats: bool = False,
    ) -> Tensor | tuple[Tensor, LossStats]:
        """Compute the loss of a batch of embeddings.

        Parameters
        ----------
        z : Tensor of float, shape (..., B, D)
            Embeddings; leading axes hold independent batches. Types of less than 32 bits
            are computed in float32.
        y : Tensor or array-like of shape (..., B) or (..., B, K), optional
            Targets of type `target_type`; ignored by ``ucl`` and ``hucl``. Tensors have
            to be on the device of z. Class labels are integers of any type, booleans, or,
            on a CPU, floats that hold integers exactly.
        view_ids : Tensor or array-like of int, shape (..., B), optional
            Index of the sample that each view was made from; needed if views are the
            positives. Any numbers that class labels may be.
        logits : Tensor of shape (..., B, n_outputs), optional
            Output of a jointly trained linear head, with a column for each class or each
            column of y; needed if `ce_weight` is above 0.
        return_stats : bool, default=False
            Also return the counts of skipped anchors and of effective negatives.

        Returns
        -------
        Tensor of shape (...), or (Tensor, LossStats)
            The loss, one value per leading index.

        Raises
        ------
        TypeError
            If z is not a tensor of floats, or a target not a number.
        ValueError
            If shapes or devices differ, or labels are not integers.
        """
        _check_embeddings(z)
        if torch.is_autocast_enabled(z.device.type) or z.itemsize < 4:
            # Sums of exponentials need more than the eight bits of bfloat16.
            with torch.autocast(z.device.type, enabled=False):
                z = _Widened.apply(z) if z.itemsize < 4 else z.float()
                logits = None if logits is None else logits.float()
                return self.forward(
                    z, y, view_ids, logits=logits, return_stats=return_stats
                )
        pairs, options = self.resolve(z, y, view_ids)
        z = self.scaled(z)
        has_unit_rows = self.normalize != "ball" and bool(self.normalize)
        self.kernel_ = self.kernel
        if self.kernel == "auto":
            self.kernel_ = choose_kernel(z, pairs, options, unit_rows=has_unit_rows)
        value, stats = compute(
            *(self.kernel_, z, pairs, options),
            effective_negatives=return_stats,
            unit_rows=has_unit_rows,
        )
        if isinstance(options.ce_weight, Tensor) or options.ce_weight:
            weight = options.ce_weight
            if isinstance(weight, Tensor):
                weight = weight.to(value)
            else:
                weight = value.new_full((), weight)  # a copy would be waited for
            value = (1 - weight) * value + weight * self._supervised(logits, y, z)
        return (value, stats) if return_stats else value

    def scaled(self, z: Tensor) -> Tensor:
        """Scale embeddings (..., B, D) as `normalize` says."""
        if self.normalize == "ball":
            return into_unit_ball(z)
        return l2_normalize(z) if self.normalize else z

    def resolve(
        self, z: Tensor, y: Entries | None = None, view_ids: Entries | None = None
    ) -> tuple[BatchPairs, LossOptions]:
        """Return the inputs of the equation: the pairs of the batch, and the options.

        Parameters
        ----------
        z, y, view_ids
            As in a call.

        Returns
        -------
        BatchPairs, LossOptions
        """
        _check_embeddings(z)
        by_label = self.uses_labels(y is not None)
        options = self.options
        if by_label and options.pairs == "either" and self.tau_plus is None:
            options = replace(options, tau_plus=0.0)  # there are no false negatives
        if by_label:
            return self._pairs_by_target(z, y, view_ids), options
        if view_ids is None:
            raise self._missing("view_ids")
        return ViewPairs(read_ids("view_ids", view_ids, z)), options

    def plain_params(self) -> Params:
        """Return the parameters, with scalars of numpy and torch as Python's."""
        return {name: _plain_scalar(value) for name, value in self.get_params().items()}

    def settings(self) -> Params:
        """Return arguments of the constructor that build a loss of equal value.

        Unlike :meth:`plain_params`, they list the options of the named loss and those
        that training has changed.
        """
        options = {name: _plain_scalar(value) for name, value in vars(self.options).items()}
        del options["pairs"], options["hardened"]  # the name determines them
        options["tau_plus"] = _plain_scalar(self.tau_plus)
        return self.plain_params() | options

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Build a loss from what the two methods above return, in any version."""
        arguments = with_current_values(settings)
        arguments.pop("gave_tau_plus", None)
        by_default = not settings.get("gave_tau_plus", True)
        if by_default and PRESETS[settings["loss"]]().pairs == "either":
            arguments["tau_plus"] = None  # which depends on the labels
        return cls.from_params(arguments)

    def set_beta(self, beta: float | Tensor) -> None:
        """Change the strength of the hardening, as a schedule does between epochs."""
        self.options = replace(self.options, beta=beta)

    def uses_labels(self, labels_given: bool) -> bool:
        """Return whether labels determine the pairs, given labels or not."""
        return self.requires_labels or (labels_given and self.options.pairs == "either")

    def extra_repr(self) -> str:
        """Return the settings for the module's representation."""
        options = self.options
        return (
            f"{self.loss}, beta={options.beta}, temperature={options.temperature}, "
            f"hardening={options.hardening!r}"
        )

    def _pairs_by_target(
        self, z: Tensor, y: Entries | None, view_ids: Entries | None
    ) -> BatchPairs:
        if y is None:
            raise self._missing("y")
        needs_views = self.options.positives == "view"
        if needs_views and view_ids is None:
            raise self._missing("view_ids")
        is_read = needs_views or self.unlabeled_label is not None
        views = (
            read_ids("view_ids", view_ids, z) if is_read and view_ids is not None else None
        )
        positives = views if needs_views else None
        if self.target_type == "class":
            labels = read_ids("y", y, z)
            if self.unlabeled_label is not None:
                labels = separate_unlabeled(labels, self.unlabeled_label, views)
            return LabelPairs(labels, positives)
        if self.target_type == "multilabel":
            return SimilarityPairs(read_indicators("y", y, z), jaccard, positives)
        values = read_values("y", y, z) / self.bandwidth
        return SimilarityPairs(values, gaussian, positives)

    def _missing(self, name: str) -> ValueError:
        return ValueError(
            f"loss={self.loss!r} needs `{name}`, got None. Pass one entry per row of z, "
            f"equal for samples that are positives of each other."
        )

    def _supervised(self, logits: Tensor | None, y: Entries | None, z: Tensor) -> Tensor:
        """Return the loss of a jointly trained linear head, by the type of the targets."""
        if logits is None or y is None:
            raise ValueError(
                f"ce_weight={self.options.ce_weight} needs targets `y` and the `logits` of "
                f"a linear head. Pass both, or set ce_weight=0."
            )
        is_float = isinstance(logits, Tensor) and logits.is_floating_point()
        if not is_float or logits.shape[:-1] != z.shape[:-1]:
            raise ValueError(
                f"Expected `logits` to be a tensor of scores, one row per row of z of "
                f"shape {tuple(z.shape)}, got {_shown(logits)}. Pass the output of the "
                f"linear head for the same samples."
            )
        logits = logits.float() if logits.itemsize < 4 else logits
        if self.target_type == "class":
            unlabeled = self.unlabeled_label
            unlabeled = _TORCH_UNLABELED if unlabeled is None else unlabeled
            labels = read_ids("y", y, z)
            return cross_entropy(logits, labels, unlabeled, self.label_smoothing)
        if self.target_type == "multilabel":
            indicators = read_indicators("y", y, z)
            return binary_cross_entropy(logits, indicators, self.label_smoothing)
        return squared_error(logits, read_values("y", y, z))


def with_current_values(params: Mapping[str, object]) -> Params:
    """Replace values of parameters that had another name in earlier versions."""
    return {
        name: _FORMER_VALUES[name].get(value, value)
        if name in _FORMER_VALUES and isinstance(value, str)
        else value
        for name, value in params.items()
    }


def _check_embeddings(z: Tensor) -> None:
    if not isinstance(z, Tensor) or not z.is_floating_point() or z.ndim < 2:
        raise TypeError(
            f"Expected z to be a tensor of floats of shape (..., B, D), got {_shown(z)}. "
            f"Pass the embeddings of a batch, such as torch.as_tensor(z).float()."
        )


class _Context(Protocol):
    """Attributes of torch's context that :class:`_Widened` uses."""

    dtype: torch.dtype


class _Widened(torch.autograd.Function):
    """A tensor in float32, whose gradient stays finite in the tensor's type."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return z.float()

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: _Context, outer: Tensor) -> Tensor:
        largest = torch.finfo(ctx.dtype).max
        return outer.clamp(-largest, largest).to(ctx.dtype)

    @staticmethod
    def jvp(ctx: _Context, tangent: Tensor) -> Tensor:
        refuse_nested_forward_mode()
        return tangent.float()


def _shown(value: object) -> str:
    """Describe a value without showing its entries."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _plain_scalar(value: object) -> object:
    """Convert a scalar of numpy or torch to Python's."""
    if isinstance(value, np.generic | Tensor) and value.ndim == 0:
        return value.item()
    return value
