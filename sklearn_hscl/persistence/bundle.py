"""One file without code: what goes in, and what is checked on the way out."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from sklearn_hscl.data.image_validation import PIXEL_RANGES
from sklearn_hscl.data.validation import INPUT_ATTRIBUTES
from sklearn_hscl.losses.contrastive import with_current_values
from sklearn_hscl.persistence.encoder_state import check_left_out, given_encoder
from sklearn_hscl.persistence.estimator_state import State, fitted_state, restore
from sklearn_hscl.persistence.json_codec import (
    Decoder,
    Encoder,
    NotStorable,
    pool_arrays,
    pool_strings,
)
from sklearn_hscl.persistence.safetensors_file import (
    read_arrays,
    read_document,
    write_container,
)
from sklearn_hscl.persistence.schema import BundleError, check_facts, error_context

LIBRARIES = ("numpy", "safetensors", "scikit-learn", "skorch", "torch")
# Values of a row on which a loaded encoder is tried.
MOST_TRIED = 2**20
# What fit knows of the input beside the covered attributes.
INPUT = (*INPUT_ATTRIBUTES, "_sklearn_output_config")


def write_bundle(
    estimator: BaseEstimator,
    path: str | os.PathLike[str],
    *,
    leave_out: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
    optimizer: bool = False,
) -> None:
    """Write a fitted embedder; :meth:`HSCLEmbedder.save` says what the arguments are."""
    estimator._validate_params()  # may have been set since, and are checked by `load`
    check_left_out(estimator, leave_out)
    encode = Encoder()
    state = fitted_state(vars(estimator), optimizer=optimizer)
    kept = {name: vars(estimator)[name] for name in INPUT if name in vars(estimator)}
    document = {
        "parameters": _parameters(estimator, leave_out, encode),
        "left_out": list(leave_out),
        "input": _encoded(encode, "what fit knows of X", kept),
        "fit": {
            name: _encoded(encode, f"what fit knows: {name}", fact)
            for name, fact in state.facts.items()
        },
        "metrics": _metrics(estimator, metrics),
        "versions": _versions(),
    }
    write_container(path, document, state.arrays | pool_arrays(encode.pool))


def _parameters(
    estimator: BaseEstimator, leave_out: Sequence[str], encode: Encoder
) -> dict[str, Any]:
    params = estimator.get_params(deep=False)
    unknown = set(leave_out) - params.keys()
    if unknown:
        raise ValueError(f"leave_out names {sorted(unknown)}, which are no parameters.")
    stored = {}
    for name, value in params.items():
        if name in leave_out:
            continue
        try:
            stored[name] = encode(value)
        except NotStorable as error:
            raise ValueError(
                f"The parameter {name} holds {error}, which a file without code cannot "
                f"hold: save(path, leave_out=[{name!r}]), and pass it again as "
                f"{type(estimator).__name__}.load(path, {name}=...); or set it to a value "
                f"that is a number, a string or an object of this library; or use pickle."
            ) from error
    return stored


def _encoded(encode: Encoder, what: str, value: Any) -> Any:
    try:
        return encode(value)
    except NotStorable as error:
        raise ValueError(
            f"A file without code cannot hold {what}, which has {error}: make categories "
            f"and labels strings or numbers before fit, or use pickle."
        ) from error


def _metrics(
    estimator: BaseEstimator, metrics: Mapping[str, float] | None
) -> dict[str, float]:
    """Return figures of training, and those of the user's."""
    best = estimator.history_[estimator.best_epoch_ - 1]
    names = ("train_loss", "valid_score")
    figures = {name: float(best[name]) for name in names if name in best}
    figures |= {name: float(value) for name, value in (metrics or {}).items()}
    for name, value in figures.items():
        if not np.isfinite(value):
            raise ValueError(f"metrics holds {name}={value}: pass finite numbers.")
    return figures


def _versions() -> dict[str, str]:
    from sklearn_hscl import __version__

    found = {name: version(name) for name in LIBRARIES}
    return {"sklearn-hscl": __version__, "python": platform.python_version(), **found}


def read_bundle(
    kind: type[Any], path: str | os.PathLike[str], given: Mapping[str, Any]
) -> Any:
    """Read an embedder; :meth:`HSCLEmbedder.load` says what the arguments are.

    Parameters
    ----------
    kind : type
        HSCLEmbedder, or a class derived from it.
    path : path
        The file.
    given : mapping
        Parameters that were left out.
    """
    document = read_document(path)
    with error_context(path):
        check_facts(document, "document", **PARTS)
    _check_given(kind, path, document["left_out"], given)
    arrays = read_arrays(path, document)
    with error_context(path):
        return _restored(kind, document, arrays, given)


PARTS = {
    "parameters": dict,
    "left_out": list,
    "input": dict,
    "fit": dict,
    "metrics": dict,
    "versions": dict,
    "arrays_sha256": str,
}


def _check_given(
    kind: type[Any],
    path: str | os.PathLike[str],
    left_out: list[str],
    given: Mapping[str, Any],
) -> None:
    missing = [name for name in left_out if name not in given]
    if missing:
        arguments = ", ".join(f"{name}=..." for name in missing)
        raise ValueError(
            f"{path} was written without the parameters {missing}: pass them, as in "
            f"{kind.__name__}.load(path, {arguments})."
        )
    unasked = given.keys() - {*left_out, "device"}
    if unasked:
        raise ValueError(
            f"{path} holds the parameters {sorted(unasked)}: load without them, and change "
            f"them by `set_params`. Only `device` and what was left out can be passed."
        )


def _restored(
    kind: type[Any],
    document: dict[str, Any],
    arrays: dict[str, NDArray[Any]],
    given: Mapping[str, Any],
) -> Any:
    decode = Decoder(pool_strings(arrays))
    params = {name: decode(value) for name, value in document["parameters"].items()}
    params = with_current_values(params)
    kept = decode(document["input"])
    facts = decode(document["fit"])
    decode.check_empty()
    estimator = _with_parameters(kind, params | dict(given))
    _check_input(kept, facts["input_shape"][0])
    state = State(facts, arrays)
    encoder = None
    if facts["network"]["blueprint"] is None:
        encoder = given_encoder(estimator, given, tuple(facts["input_shape"]))
        double = facts["precision"] == "float64"
        encoder = encoder.to(torch.float64 if double else torch.float32)
    vars(estimator).update(kept)
    vars(estimator).update(
        restore(state, estimator.get_params(deep=False), encoder=encoder)
    )
    _try(estimator, is_built_in=encoder is None)
    return estimator


def _with_parameters(kind: type[Any], params: dict[str, Any]) -> Any:
    unknown = params.keys() - kind().get_params(deep=False).keys()
    if unknown:
        raise BundleError(
            f"it has the parameters {sorted(unknown)[:5]}, which {kind.__name__} of this "
            f"version does not know"
        )
    estimator = kind(**params)
    estimator._validate_params()
    return estimator


def _check_input(kept: dict[str, Any], n_features: int) -> None:
    if not {"n_features_in_"} <= kept.keys() <= set(INPUT):
        raise BundleError(f"it knows {sorted(kept)[:5]} of the input")
    if kept["n_features_in_"] != n_features:
        raise BundleError(f"its rows have {n_features} features, or others")
    names = kept.get("feature_names_in_")
    if names is not None and (
        not isinstance(names, np.ndarray) or names.shape != (n_features,)
    ):
        raise BundleError("it does not name all features")
    if kept.get("_pixel_scale") not in (*PIXEL_RANGES, None):
        raise BundleError("its images are on an unknown scale")
    if not isinstance(kept.get("_sklearn_output_config", {}), dict):
        raise BundleError("its output has no configuration")


def _try(estimator: Any, *, is_built_in: bool) -> None:
    """Embed a row, as a file could hold what no embedding comes of.

    It is a row of zeros, of which an encoder of the user's need not make numbers.
    """
    shape, precision = estimator.input_shape_, estimator._precision
    if prod(shape) > MOST_TRIED:
        return
    row = estimator._prepare(np.zeros((1, *shape)), precision.dtype)
    with torch.inference_mode(), precision.autocast():
        embedding = estimator.module_(row.to(estimator.device_))
    if embedding.shape != (1, estimator._n_features_out):
        raise BundleError(
            f"its encoder returns embeddings of shape {tuple(embedding.shape)}, not "
            f"(1, {estimator._n_features_out}): pass the encoder that was trained"
        )
    if is_built_in and not embedding.isfinite().all():
        raise BundleError("its encoder returns infinite embeddings")


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a file of :meth:`~sklearn_hscl.HSCLEmbedder.save` says of its embedder.

    Weights are not read, and nothing is built.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    dict
        ``"parameters"``, those that were stored, as JSON has them; ``"left_out"``, the
        names of the others; ``"metrics"``: figures of the best epoch and those passed to
        ``save``; ``"versions"`` of the libraries that wrote it; ``"n_features"``.

    Raises
    ------
    OSError
        If the file cannot be read.
    BundleError
        If it is no such file, or damaged.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.persistence import read_card
    >>> embedder = HSCLEmbedder(max_epochs=1).fit(*load_iris(return_X_y=True))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     embedder.save(f"{folder}/iris.safetensors", metrics={"accuracy": 0.95})
    ...     read_card(f"{folder}/iris.safetensors")["metrics"]["accuracy"]
    0.95
    """
    document = read_document(path)
    with error_context(path):
        check_facts(document, "document", **PARTS)
        names = ("parameters", "left_out", "metrics", "versions")
        n_features = document["input"]["n_features_in_"]
        return {name: document[name] for name in names} | {"n_features": n_features}
