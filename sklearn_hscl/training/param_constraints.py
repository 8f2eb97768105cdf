"""What each parameter of HSCLEmbedder may be."""

import os
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import nn

from sklearn_hscl._sklearn_compat import HasMethods, Interval, StrOptions
from sklearn_hscl.data.categorical import FROM_DTYPE
from sklearn_hscl.encoders import ENCODERS
from sklearn_hscl.encoders.image.registry import LIBRARIES, is_library_model
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.hardening import HARDENINGS
from sklearn_hscl.losses.presets import LOSSES, REDUCTIONS
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
        return bool(super().is_satisfied_by(val)) or is_library_model(val)

    def __str__(self) -> str:
        return f"{super().__str__()}, {', '.join(f'{name}:NAME' for name in LIBRARIES)}"


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
    "temperature": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
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
