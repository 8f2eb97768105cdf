"""Encoders that are code: left out of a file, and given again when it is read."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sklearn_hscl.encoders.blueprint import describe
from sklearn_hscl.encoders.library_models import build_library_model, is_library_model
from sklearn_hscl.encoders.own_module import own_module
from sklearn_hscl.encoders.pixels import PixelScaling
from sklearn_hscl.persistence.errors import BundleError


def check_left_out(estimator: Any, leave_out: Sequence[str]) -> None:
    """Raise where layers are not this library's, but the encoder is a name to be stored.

    What the name stands for is code of another library, which a file does not say to run;
    or it was set after the fit. Encoders that are no names are refused as parameters.
    """
    is_name = isinstance(estimator.encoder, str) and "encoder" not in leave_out
    if is_name and describe(estimator.module_) is None:
        name = type(estimator).__name__
        raise ValueError(
            f"The parameter encoder is {estimator.encoder!r}, but the layers of the fit "
            f"({type(estimator.module_).__name__}) are not of this library, so that a file "
            f"without code cannot hold them: save(path, leave_out=['encoder']), and pass "
            f"the encoder again as {name}.load(path, encoder=...); or use pickle."
        )


def given_encoder(
    estimator: Any, given: Mapping[str, Any], shape: tuple[int, ...]
) -> nn.Module:
    """Return the encoder that the user gives to a file without it; its weights follow.

    Parameters
    ----------
    estimator : HSCLEmbedder
        With all its parameters.
    given : mapping
        The parameters that come from the user, not from the file.
    shape : tuple of int
        Of a row.

    Returns
    -------
    nn.Module

    Raises
    ------
    BundleError
        If there is none.
    """
    encoder, n_components = estimator.encoder, estimator.n_components
    if not isinstance(encoder, str):
        return own_module(encoder, shape, n_components)
    if "encoder" not in given or not is_library_model(encoder):
        raise BundleError("it has no blueprint of its encoder")
    scaling = PixelScaling(torch.zeros(shape[0]), torch.ones(shape[0]))
    return build_library_model(encoder, scaling, n_components)
