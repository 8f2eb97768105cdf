"""Saving and loading: the estimator's methods, and the file without code behind them.

Pickles and files hold the same entries and arrays; a file encodes the entries as JSON.
"""

import copy
import os
import platform
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from math import prod
from pathlib import PurePath
from traceback import walk_stack
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sklearn_hscl.data.graphs import is_graph_shape, one_node
from sklearn_hscl.data.image_validation import PIXEL_RANGES
from sklearn_hscl.data.texts import OBJECT_NAME
from sklearn_hscl.encoders.text.files import is_writable
from sklearn_hscl.losses.contrastive import with_current_values
from sklearn_hscl.persistence.encoder_state import (
    CustomEncoder,
    build_custom_encoder,
    check_encoder_is_storable,
    to_cpu,
)
from sklearn_hscl.persistence.estimator_state import StoredState, estimator_state, restore
from sklearn_hscl.persistence.json_codec import (
    Json,
    JsonDecoder,
    JsonEncoder,
    NotStorable,
    string_arrays,
    take_strings,
)
from sklearn_hscl.persistence.safetensors_file import (
    read_document,
    read_file,
    write_file,
)
from sklearn_hscl.persistence.schema import (
    Arrays,
    BundleError,
    Entries,
    Params,
    check_schema,
    error_context,
)
from sklearn_hscl.runtime.global_setting import default_settings
from sklearn_hscl.training.fitted_state import (
    INPUT_ATTRIBUTES,
    SERIALIZED_ATTRIBUTES,
    FittedState,
    n_features_of,
)

_PICKLE_VERSION = 1
_DOCUMENT_SCHEMA = {
    "parameters": dict,
    "left_out": list,
    "input": dict,
    "fit": dict,
    "metrics": dict,
    "versions": dict,
    "arrays_sha256": str,
}
_LIBRARIES = ("numpy", "safetensors", "scikit-learn", "skorch", "torch")
# Attributes of the estimator that describe X, and are stored as they are.
_INPUT_ENTRIES = (*INPUT_ATTRIBUTES, "_sklearn_output_config")
# Values of a row for which a loaded encoder is tried.
_MAX_TRIED_VALUES = 2**20


class PersistenceMixin:
    """Mixin of estimators that are pickled as plain values, and copied as a whole.

    Pickle, joblib, cloudpickle and skops store the parameters, and the fit as numbers,
    strings and arrays on the CPU. They store no training row, no optimizer, and no torch
    object except a custom `encoder`.
    """

    @default_settings()
    def __getstate__(self) -> Entries:
        """Return parameters and fit as plain values."""
        stored = _hashable if _is_hashed_by_joblib() else _portable
        state = {
            name: stored(value)
            for name, value in vars(self).items()
            if name not in SERIALIZED_ATTRIBUTES
        }
        if not hasattr(self, "module_"):
            return state
        entries, arrays = estimator_state(self, has_custom_weights=False)
        is_built_in = entries["network"]["blueprint"] is not None
        encoder = None if is_built_in else stored(self.module_)
        fit = {"facts": entries, "arrays": arrays, "encoder": encoder}
        return state | {"_fit": fit | {"version": _PICKLE_VERSION}}

    @default_settings()
    def __setstate__(self, state: Entries) -> None:
        """Restore the fit on the device of the parameters if it is available."""
        attributes = dict(state)
        fit = attributes.pop("_fit", None)
        vars(self).update(attributes)
        if fit is not None:
            with error_context(f"The pickled {type(self).__name__}"):
                vars(self).update(_restore_fit(fit, vars(self)))

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        leave_out: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
        optimizer: bool = False,
    ) -> None:
        """Write the fitted embedder to one file that holds no code.

        The file is safetensors: weights and statistics of the columns as arrays;
        parameters, columns, categories, classes, history and versions of libraries as
        JSON, all with checksums. It holds no training row, and only the levels of a
        column that the encoder distinguishes, none of a single training row.

        Parameters
        ----------
        path : str or path
            Path of the file. The file is written completely, or an existing one stays
            unchanged.
        leave_out : sequence of str, default=()
            Parameters that are not stored, but passed to :meth:`load`: those that are
            code, such as a callback or a module, except an encoder of texts, see
            :ref:`texts`.
        metrics : mapping of str to float, default=None
            Metrics to store in addition to those of the best epoch.
        optimizer : bool, default=False
            Whether to store the state of the optimizer, so that ``warm_start`` and
            ``partial_fit`` continue exactly as without saving. It takes twice the size of
            the weights with AdamW. If False, they start with a new optimizer.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the embedder is not fitted.
        ValueError
            If a parameter or a level of a column cannot be stored without code, or a
            parameter is out of range. The message names it and the remedy.
        OSError
            If the file cannot be written. The embedder is unchanged.

        See Also
        --------
        sklearn_hscl.persistence.read_card : Read the description of a stored embedder.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_hscl import HSCLEmbedder
        >>> X, y = load_iris(return_X_y=True)
        >>> embedder = HSCLEmbedder(max_epochs=1).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     embedder.save(f"{folder}/iris.safetensors")
        ...     again = HSCLEmbedder.load(f"{folder}/iris.safetensors")
        >>> (again.transform(X) == embedder.transform(X)).all()
        np.True_
        """
        check_is_fitted(self)
        write_bundle(self, path, leave_out=leave_out, metrics=metrics, optimizer=optimizer)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **parameters: Any) -> Self:
        """Read an embedder from a file of :meth:`save`.

        No pickle is read, and no code of the file is executed. The contents are
        validated: checksums, names, types, shapes. A checksum detects damage, but does
        not authenticate the author of the file.

        Parameters
        ----------
        path : str or path
            Path of the file.
        **parameters
            The parameters that were left out, and optionally another `device`. An
            `encoder` provides the layers; its weights are read from the file.

        Returns
        -------
        HSCLEmbedder
            Fitted embedder, whose `transform` returns the same bits on the same type of
            device.

        Raises
        ------
        OSError
            If the file cannot be read.
        sklearn_hscl.persistence.BundleError
            If the file is damaged, was written by a later version, or is of another
            format. It is a ``ValueError`` that names the file and the fault.
        ValueError
            If a parameter that was left out is missing, or another one is passed.

        Warns
        -----
        UserWarning
            If `device` is not available; the embedder is then on the CPU.
        """
        return read_bundle(cls, path, parameters)

    def __copy__(self) -> Self:
        """Return an embedder with the same attributes."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        return other

    @default_settings()
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return an embedder with copies of all attributes, including the net."""
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other


# Pickling ----------------------------------------------------------------------------


def _restore_fit(fit: object, params: Params) -> Entries:
    """Return the fitted attributes of a pickled fit."""
    checked = check_schema(
        fit, "its fit", version=int, facts=dict, arrays=dict, encoder=nn.Module | None
    )
    encoder, pickle_version = checked["encoder"], checked["version"]
    if pickle_version != _PICKLE_VERSION:
        raise BundleError(
            f"expected pickle version {_PICKLE_VERSION}, got {pickle_version}: load it "
            f"with the version of sklearn-hscl that wrote it, and store it with `save`, "
            f"whose files later versions read"
        )
    custom = None if encoder is None else CustomEncoder(encoder, is_trained=True)
    state = StoredState(checked["facts"], checked["arrays"])
    return restore(state, params, custom_encoder=custom).attributes()


def _portable(value: object) -> object:
    """Return paths and devices as strings, which skops trusts, and modules on the CPU."""
    if isinstance(value, PurePath | torch.device):
        return str(value)
    if not isinstance(value, nn.Module):
        return value
    if any(map(is_parametrized, value.modules())):
        raise TypeError(
            "Expected an encoder that torch can pickle, got one with parametrizations such "
            "as weight_norm. Call save(path, leave_out=['encoder']) and load(path, "
            "encoder=...). In a search with n_jobs pass a function that builds the encoder."
        )
    return to_cpu(value)


def _is_hashed_by_joblib() -> bool:
    """Return whether joblib pickles for a hash, as ``Pipeline(memory=...)`` does."""
    return any(
        frame.f_globals.get("__name__") == "joblib.hashing"
        for frame, _ in walk_stack(sys._getframe())
    )


def _hashable(value: object) -> object:
    """Return a module as its structure and its arrays: tensors pickle with an address.

    Equal modules get equal hashes; tensors that are neither parameters nor buffers, and
    modules that cannot be copied, have another hash each time.
    """
    value = _portable(value)
    if not isinstance(value, nn.Module):
        return value
    tensors = [*value.parameters(), *value.buffers()]
    try:
        memo: dict[int, Any] = {id(tensor): _without_values(tensor) for tensor in tensors}
        structure = copy.deepcopy(value, memo)
        return structure, [_bytes_of(tensor) for tensor in tensors]
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return value


def _without_values(tensor: Tensor) -> Tensor:
    return tensor.detach().to("meta").requires_grad_(tensor.requires_grad)


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    values: NDArray[np.uint8] = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return values


# Writing -----------------------------------------------------------------------------


@default_settings()
def write_bundle(
    estimator: BaseEstimator,
    path: str | os.PathLike[str],
    *,
    leave_out: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
    optimizer: bool = False,
) -> None:
    """Write a fitted embedder; see :meth:`HSCLEmbedder.save` for the arguments."""
    estimator._validate_params()  # may be set since the fit, and `load` checks them
    check_encoder_is_storable(estimator.encoder, estimator.module_, leave_out)
    encode = JsonEncoder()
    state = estimator_state(estimator, optimizer=optimizer)
    attributes = vars(estimator)
    inputs = {name: attributes[name] for name in _INPUT_ENTRIES if name in attributes}
    document: dict[str, Json] = {
        "parameters": _encode_parameters(estimator, leave_out, encode),
        "left_out": list(leave_out),
        "input": _encode_fit(encode, "the description of X", inputs),
        "fit": {
            name: _encode_fit(encode, f"the entry {name} of the fit", value)
            for name, value in state.entries.items()
        },
        "metrics": _all_metrics(FittedState.of(estimator), metrics or {}),
        "versions": _versions(),
    }
    write_file(path, document, state.arrays | string_arrays(encode.strings))


def _encode_parameters(
    estimator: BaseEstimator, leave_out: Sequence[str], encode: JsonEncoder
) -> dict[str, Json]:
    params = estimator.get_params(deep=False)
    if is_writable(params["encoder"]) and is_writable(estimator.module_):
        params["encoder"] = OBJECT_NAME  # its weights before training would double the file
    unknown = set(leave_out) - params.keys()
    if unknown:
        raise ValueError(
            f"Expected leave_out to name parameters of {type(estimator).__name__}, got "
            f"{sorted(unknown)}."
        )
    stored = {}
    for name, value in params.items():
        if name in leave_out:
            continue
        try:
            stored[name] = encode(value)
        except NotStorable as error:
            raise ValueError(
                f"The parameter {name} holds {error}, which a file without code cannot "
                f"hold. Call save(path, leave_out=[{name!r}]), and pass it again to "
                f"{type(estimator).__name__}.load(path, {name}=...). Or set it to a "
                f"number, a string or an object of this library, or use pickle."
            ) from error
    return stored


def _encode_fit(encode: JsonEncoder, where: str, value: object) -> Json:
    try:
        return encode(value)
    except NotStorable as error:
        raise ValueError(
            f"A file without code cannot hold {where}, which contains {error}. Make "
            f"categories and labels strings or numbers before fit, or use pickle."
        ) from error


def _all_metrics(fitted: FittedState, metrics: Mapping[str, float]) -> dict[str, Json]:
    """Return the metrics of the best epoch and those of the user."""
    best = fitted.history_[fitted.best_epoch_ - 1]
    own = {name: best[name] for name in ("train_loss", "valid_score") if name in best}
    values = {name: float(value) for name, value in (own | dict(metrics)).items()}
    for name, value in values.items():
        if not np.isfinite(value):
            raise ValueError(f"Expected metrics to be finite, got {name}={value}.")
    return {**values}


def _versions() -> dict[str, Json]:
    libraries = {name: version(name) for name in _LIBRARIES}
    own = {"sklearn-hscl": version("sklearn-hscl"), "python": platform.python_version()}
    return {**own, **libraries}


# Reading -----------------------------------------------------------------------------


Embedder = TypeVar("Embedder", bound=BaseEstimator)


@default_settings()
def read_bundle(
    cls: type[Embedder], path: str | os.PathLike[str], passed: Params
) -> Embedder:
    """Read an embedder; see :meth:`HSCLEmbedder.load` for the arguments.

    Parameters
    ----------
    cls : type
        HSCLEmbedder or a subclass.
    path : path
        Path of the file.
    passed : mapping
        Parameters that were left out.
    """
    document, arrays = read_file(path)
    with error_context(path):
        checked = check_schema(document, "document", **_DOCUMENT_SCHEMA)
    _check_passed(cls, path, checked["left_out"], passed)
    with error_context(path):
        return _restore_embedder(cls, checked, arrays, passed)


def _check_passed(
    cls: type[BaseEstimator],
    path: str | os.PathLike[str],
    left_out: list[str],
    passed: Collection[str],
) -> None:
    missing = [name for name in left_out if name not in passed]
    if missing:
        arguments = ", ".join(f"{name}=..." for name in missing)
        raise ValueError(
            f"{path} was written without the parameters {missing}. Pass them, as in "
            f"{cls.__name__}.load(path, {arguments})."
        )
    stored = set(passed) - {*left_out, "device"}
    if stored:
        raise ValueError(
            f"{path} holds the parameters {sorted(stored)}. Load without them, and change "
            f"them with `set_params`: only `device` and parameters that were left out can "
            f"be passed."
        )


def _restore_embedder(
    cls: type[Embedder], document: Entries, arrays: Arrays, passed: Params
) -> Embedder:
    decode = JsonDecoder(take_strings(arrays))
    params = {name: decode(value) for name, value in document["parameters"].items()}
    params = with_current_values(params)
    inputs = decode(document["input"])
    entries = decode(document["fit"])
    decode.check_empty()
    estimator = _with_parameters(cls, params | dict(passed))
    params = estimator.get_params(deep=False)
    input_shape = tuple(entries["input_shape"])
    _check_inputs(inputs, n_features_of(input_shape))
    custom_encoder = None
    if entries["network"]["blueprint"] is None:
        is_double = entries["precision"] == "float64"
        dtype = torch.float64 if is_double else torch.float32
        custom_encoder = build_custom_encoder(params, passed, input_shape, dtype)
    fitted = restore(StoredState(entries, arrays), params, custom_encoder=custom_encoder)
    _try_encoder(fitted, is_built_in=custom_encoder is None)
    vars(estimator).update(inputs | fitted.attributes())
    return estimator


def _with_parameters(cls: type[Embedder], params: Entries) -> Embedder:
    unknown = params.keys() - cls().get_params(deep=False).keys()
    if unknown:
        raise BundleError(
            f"{cls.__name__} of this version lacks the parameters {sorted(unknown)[:5]}"
        )
    estimator = cls(**params)
    estimator._validate_params()
    return estimator


def _check_inputs(inputs: Entries, n_features: int) -> None:
    if not {"n_features_in_"} <= inputs.keys() <= set(_INPUT_ENTRIES):
        raise BundleError(f"unexpected input metadata: {sorted(inputs)[:5]}")
    if inputs["n_features_in_"] != n_features:
        raise BundleError("inconsistent number of features in the file")
    names = inputs.get("feature_names_in_")
    if names is not None and (
        not isinstance(names, np.ndarray) or names.shape != (n_features,)
    ):
        raise BundleError(f"expected {n_features} names of features")
    if inputs.get("_pixel_scale") not in (*PIXEL_RANGES, None):
        raise BundleError("unknown scale of the pixel values")
    if not isinstance(inputs.get("_sklearn_output_config", {}), dict):
        raise BundleError("expected the output configuration to be a dict")


def _tried_row(fitted: FittedState) -> torch.Tensor:
    """Return a prepared row of zeros, an empty text, or a graph of one node."""
    shape, dtype = fitted.input_shape_, fitted.precision.dtype
    if is_graph_shape(shape):
        return cast(torch.Tensor, one_node(shape[-1], dtype))
    sample = np.zeros((1, *shape)) if shape else np.array([""], dtype=object)
    return fitted.prepare(sample, dtype)


def _try_encoder(fitted: FittedState, *, is_built_in: bool) -> None:
    """Embed one row, so that a file that cannot produce embeddings fails on load.

    The row contains zeros, for which a custom encoder need not return finite values; of
    texts it is an empty one.
    """
    precision = fitted.precision
    if prod(fitted.input_shape_) > _MAX_TRIED_VALUES:
        return
    row = _tried_row(fitted).to(fitted.device_)
    with torch.inference_mode(), precision.autocast():
        embedding = fitted.module_(row)
    if embedding.shape != (1, fitted.n_features_out):
        raise BundleError(
            f"expected its encoder to return an embedding of shape "
            f"(1, {fitted.n_features_out}), got {tuple(embedding.shape)}: pass the encoder "
            f"that was trained"
        )
    if is_built_in and not embedding.isfinite().all():
        raise BundleError("its encoder returns infinite embeddings")


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the description of the embedder in a file, without its weights.

    Parameters
    ----------
    path : str or path
        A file of :meth:`~sklearn_hscl.HSCLEmbedder.save`.

    Returns
    -------
    dict
        ``"parameters"``, those that were stored, as JSON values; ``"left_out"``, the
        names of the others; ``"metrics"`` of the best epoch and those passed to
        ``save``; ``"versions"`` of the libraries that wrote it; ``"n_features"``.

    Raises
    ------
    OSError
        If the file cannot be read.
    BundleError
        If the file is damaged, or was not written by ``save``.

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
        checked = check_schema(document, "document", **_DOCUMENT_SCHEMA)
        names = ("parameters", "left_out", "metrics", "versions")
        n_features = checked["input"]["n_features_in_"]
        return {name: checked[name] for name in names} | {"n_features": n_features}
