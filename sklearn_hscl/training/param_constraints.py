"""What each parameter of HSCLEmbedder may be, and which values draw a warning."""

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from itertools import takewhile
from numbers import Integral, Real
from traceback import walk_stack
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import nn

from sklearn_hscl._sklearn_compat import HasMethods, Interval, StrOptions
from sklearn_hscl.data.categorical import FROM_DTYPE
from sklearn_hscl.data.texts import NAME_PREFIX, encoder_label, reads_texts
from sklearn_hscl.encoders import ENCODERS
from sklearn_hscl.encoders.image.registry import LIBRARIES, is_library_model
from sklearn_hscl.losses import BetaSchedule, ContrastiveLoss
from sklearn_hscl.losses.contrastive import COMMON_OPTIONS
from sklearn_hscl.losses.hardening import HARDENINGS
from sklearn_hscl.losses.presets import (
    LOSSES,
    PRESETS,
    REDUCTIONS,
    LossOptions,
    surprises,
    warn_of_surprises,
)
from sklearn_hscl.reports.training_report import is_below_floor
from sklearn_hscl.runtime.precision import PRECISIONS
from sklearn_hscl.training.batches.batch_sampler import SAMPLERS
from sklearn_hscl.training.loop.learning_rate import SCHEDULES

# Up to what fits into the integers of all libraries below.
LARGEST = 2**31 - 1
POSITIVE = Interval(Integral, 1, LARGEST, closed="both")


class EncoderNames(StrOptions):
    """Names of built-in encoders, and of models of other libraries.

    Parameters
    ----------
    options : set of str
        Names of the former.
    """

    def is_satisfied_by(self, val: Any) -> bool:
        """Say whether this is such a name."""
        is_text_model = isinstance(val, str) and reads_texts(val) and val != NAME_PREFIX
        return bool(super().is_satisfied_by(val)) or is_library_model(val) or is_text_model

    def __str__(self) -> str:
        libraries = (*(f"{library}:" for library in LIBRARIES), NAME_PREFIX)
        return f"{super().__str__()}, {', '.join(f'{name}NAME' for name in libraries)}"


CONSTRAINTS: dict[str, list[Any]] = {
    # Loss
    "loss": [StrOptions({"auto", *LOSSES}), ContrastiveLoss],
    "preset": [StrOptions({"official"}), None],
    "hardening": [StrOptions(set(HARDENINGS)), callable],
    "beta": [
        Interval(Real, 0, None, closed="left"),
        StrOptions({"auto"}),
        HasMethods("beta_at"),
    ],
    "threshold": [Interval(Real, -1, 1, closed="both")],
    "top_k": [POSITIVE],
    "temperature": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"}), None],
    "tau_plus": [Interval(Real, 0, 1, closed="left"), None],
    "negative_mass": [
        StrOptions({"negatives", "batch"}),
        Interval(Real, 0, None, closed="neither"),
        None,
    ],
    "reduction": [StrOptions(set(REDUCTIONS)), None],
    "detach_weights": ["boolean", None],
    "positives": [StrOptions({"all", "view"}), None],
    "ce_weight": [Interval(Real, 0, 1, closed="both"), None],
    "target_type": [StrOptions({"auto", "class", "multilabel", "continuous"})],
    "unlabeled_label": [Integral, str, np.nan, None],
    # Encoder and embedding
    "encoder": [EncoderNames({"auto", *ENCODERS}), nn.Module, callable],
    "hidden_layer_sizes": ["array-like", None],
    "dropout": [Interval(Real, 0, 1, closed="left"), None],
    "freeze": ["array-like", None],
    "n_components": [POSITIVE, None],
    "n_members": [POSITIVE, None],
    "projection_dim": [StrOptions({"auto"}), POSITIVE, None],
    "normalize": ["boolean"],
    "channels": [StrOptions({"auto", "first", "last"})],
    "cross_fit": [Interval(Integral, 2, LARGEST, closed="both"), None],
    "categorical_features": [StrOptions({FROM_DTYPE}), "array-like", None],
    # Views and batches
    "augment": [StrOptions({"auto"}), callable, None],
    "n_views": [StrOptions({"auto"}), POSITIVE],
    "batch_size": [Interval(Integral, 2, LARGEST, closed="both"), None],
    "device_batch_size": [StrOptions({"auto"}), POSITIVE],
    "sampler": [StrOptions(set(SAMPLERS))],
    # Optimization
    "max_epochs": [POSITIVE, None],
    "lr": [Interval(Real, 0, None, closed="neither"), None],
    "lr_schedule": [StrOptions({"auto", *SCHEDULES}), callable],
    "lr_backoff": [Interval(Real, 0, 1, closed="neither"), None],
    "weight_decay": [Interval(Real, 0, None, closed="left"), None],
    "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
    # Early stopping
    "early_stopping": [StrOptions({"auto"}), "boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [POSITIVE, None],
    "tol": [Interval(Real, 0, None, closed="left")],
    # Runtime
    "device": [str, torch.device],
    "precision": [StrOptions({"auto", *PRECISIONS})],
    "compile": ["boolean"],
    "n_threads": [POSITIVE, None],
    "random_state": ["random_state"],
    "warm_start": ["boolean"],
    "checkpoint_dir": [str, os.PathLike, None],
    "resume": ["boolean"],
    "verbose": ["verbose"],
    # skorch
    "net_params": [dict, None],
    "net_callbacks": ["array-like", None],
}


# Values that are valid, but surprise ----------------------------------------------------

# Beyond, steps of AdamW destroy what was learned, or vanish in the rounding of weights.
_USUAL_RATES = (1e-8, 1.0)
# Further parameters that a loss by name takes from the embedder, as COMMON_OPTIONS; a
# ContrastiveLoss has its own.
_OF_PRESET = (
    "preset", "tau_plus", "negative_mass", "reduction", "detach_weights", "positives",
    "ce_weight",
)  # fmt: skip
# Parameters of layers, with the value that promises nothing, and the encoders that have
# such layers. Encoders of images that have none refuse the first two.
_OF_LAYERS: dict[str, tuple[object, str]] = {
    "hidden_layer_sizes": (None, "'tabular', 'mlp' or 'conv'"),
    "dropout": (0.0, "'tabular', 'mlp' or 'conv'"),
    "n_members": (1, "'tabular'"),
}
_is_announced: ContextVar[bool] = ContextVar("_is_announced", default=False)


def surprising_params(
    params: Mapping[str, Any], given: Collection[str] = ()
) -> dict[str, str]:
    """Return messages about parameters without effect, and extreme ones, by name.

    Parameters
    ----------
    params : mapping
        Parameters of an embedder; invalid ones are left to the checks of the fit.
    given : collection of str
        Names of parameters that were given, even if they have their default value; those
        of a loss in the form ``loss__beta``.

    Returns
    -------
    dict of str
    """
    loss = params["loss"]
    found: dict[str, str] = {}
    if isinstance(loss, ContrastiveLoss):
        found = _unused_beside_loss(params, given)
        own = {name.removeprefix("loss__") for name in given if name.startswith("loss__")}
        messages = surprises(loss.loss, loss.options, own) if own else {}
        found |= {f"loss__{name}": messages[name] for name in own & messages.keys()}
    elif loss in ("auto", *LOSSES):
        preset = PRESETS["hscl" if loss == "auto" else str(loss)]()
        chosen = {
            name: params[name] for name in COMMON_OPTIONS if not _is_open(params[name])
        }
        options = replace(preset, **chosen)
        found = surprises(str(loss), options, given)
    found |= _unused_by_encoder(params)
    lr, (least, largest) = params["lr"], _USUAL_RATES
    if isinstance(lr, Real) and not least <= float(lr) <= largest:
        effect = "destroy what was learned" if float(lr) > largest else "change no weight"
        found["lr"] = (
            f"lr={lr!r} is extreme: its steps {effect}. Use values from 1e-4 to 1e-1."
        )
    return found


def _unused_beside_loss(
    params: Mapping[str, object], given: Collection[str]
) -> dict[str, str]:
    """Return messages about parameters that a ContrastiveLoss replaces by its own."""
    defaults = {name: getattr(LossOptions, name) for name in COMMON_OPTIONS}
    defaults |= dict.fromkeys(_OF_PRESET)
    return {
        name: f"{name}={params[name]!r} has no effect, as loss is a ContrastiveLoss with "
        f"its own {name}. Leave out {name}, or set loss__{name}."
        for name, default in defaults.items()
        # Schedules set the beta of every loss, and "auto" raises an error.
        if not (isinstance(params[name], BetaSchedule) or _is_open(params[name]))
        and (name in given or params[name] != default)
    }


def _unused_by_encoder(params: Mapping[str, Any]) -> dict[str, str]:
    """Return messages about parameters of layers that the encoder does not have."""
    encoder = params["encoder"]
    has_name = isinstance(encoder, str) and not reads_texts(encoder)
    if has_name and encoder in ("auto", "tabular"):
        return {}
    unused = ["n_members"] if has_name else list(_OF_LAYERS)
    return {
        name: f"{name}={params[name]!r} has no effect with encoder="
        f"{encoder_label(encoder)}. Leave out {name}, or use encoder={having}."
        for name, (silent, having) in _OF_LAYERS.items()
        if name in unused and not _is_one_of(params[name], (None, silent))
    }


def _is_one_of(value: object, numbers: Collection[object]) -> bool:
    """Return whether a value is None or a number among others; arrays are not."""
    return (value is None or isinstance(value, Real)) and value in numbers


def _is_open(value: object) -> bool:
    """Return whether a value is left to the encoder, or to be selected."""
    return value is None or (isinstance(value, str) and value == "auto")


def warn_of_params(estimator: BaseEstimator) -> None:
    """Warn of parameters that have no effect, and of extreme ones of the loss."""
    messages = surprising_params(estimator.get_params(deep=False))
    _warn([messages[name] for name in messages if name != "lr"])


def warn_of_lr(estimator: BaseEstimator) -> None:
    """Warn of an extreme learning rate, after a training that it did not break."""
    messages = surprising_params(estimator.get_params(deep=False))
    _warn([messages[name] for name in messages if name == "lr"])


def warn_if_below_floor(estimator: BaseEstimator) -> None:
    """Warn if held-out rows say that the embedding is worse than X, beyond chance."""
    found = getattr(estimator, "held_out_readout_", None)
    if found is None or not is_below_floor(found):
        return
    embedding, rows = (
        (found[f"{name}_neighbors"] + found[f"{name}_linear"]) / 2
        for name in ("embedding", "rows")
    )
    _warn(
        [
            f"Held-out targets are read out worse from the embedding than from X itself: "
            f"mean R2 of k-NN and ridge {embedding:.2f} against {rows:.2f}. Train on more "
            f"rows, try another `encoder` or `lr`, or use X beside the embedding, as by "
            f"FeatureUnion."
        ]
    )


def _warn(messages: list[str]) -> None:
    if not _is_announced.get():
        warn_user(messages)


def warn_user(messages: Iterable[str]) -> None:
    """Issue a UserWarning for each message, which points at the code of the user."""
    warn_of_surprises(messages, stacklevel=_level_of_caller())


# Where decorators of ours and of scikit-learn are.
_INSIDE = ("sklearn_hscl", "sklearn", "contextlib")


def _level_of_caller() -> int:
    """Return how many calls lie between `warn_user` and the code of the user."""
    names = (f.f_globals.get("__name__", "") for f, _ in walk_stack(sys._getframe(1)))
    inside = takewhile(lambda name: name.partition(".")[0] in _INSIDE, names)
    return 1 + sum(1 for _ in inside)


@contextmanager
def announced() -> Iterator[None]:
    """Omit these warnings in the block: a search has issued them for all candidates."""
    token = _is_announced.set(True)
    try:
        yield
    finally:
        _is_announced.reset(token)
