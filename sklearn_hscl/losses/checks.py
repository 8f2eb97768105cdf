"""Errors for options of the loss that do not exist or do not go together."""

from collections.abc import Callable
from numbers import Integral, Real
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
