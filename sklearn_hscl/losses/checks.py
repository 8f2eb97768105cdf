"""Errors for options of the loss that do not exist or do not go together."""

from numbers import Real
from typing import Any

import torch

from sklearn_hscl.losses.hardening import HARDENINGS
from sklearn_hscl.losses.options import LossOptions
from sklearn_hscl.losses.reduction import REDUCTIONS

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
    if isinstance(options.negative_mass, str):
        check_choice("negative_mass", options.negative_mass, ("negatives", "batch"))
    elif not _is_number(options.negative_mass) or not 0 < options.negative_mass <= HUGE:
        raise ValueError(
            f"negative_mass must be above 0 and at most {HUGE}, got "
            f"{options.negative_mass!r}."
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
    if not 0 <= options.tau_plus < 1:
        raise ValueError(f"tau_plus must be in [0, 1), got {options.tau_plus!r}.")
    if not 0 <= options.ce_weight <= 1:
        raise ValueError(f"ce_weight must be in [0, 1], got {options.ce_weight!r}.")
    if options.denominator == "all" and options.tau_plus:
        raise ValueError(
            "tau_plus debiases the denominator of one positive: with "
            "denominator='all' it must be 0."
        )


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
