"""Mixin of the estimator: save and load, pickling and copying."""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Self

import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_hscl.persistence.bundle import read_bundle, write_bundle
from sklearn_hscl.persistence.encoder_state import ENCODER_PREFIX, CustomEncoder, to_cpu
from sklearn_hscl.persistence.estimator_state import StoredState, estimator_state, restore
from sklearn_hscl.persistence.schema import (
    BundleError,
    Entries,
    Params,
    check_schema,
    error_context,
)
from sklearn_hscl.training.fitted_state import SERIALIZED_ATTRIBUTES

_PICKLE_VERSION = 1


class PersistenceMixin:
    """Mixin of estimators that are pickled as plain values, and copied as a whole.

    Pickle, joblib, cloudpickle and skops store the parameters, and the fit as numbers,
    strings and arrays on the CPU. They store no training row, no optimizer, and no torch
    object except a custom `encoder`.
    """

    def __getstate__(self) -> Entries:
        """Return parameters and fit as plain values."""
        state = {
            name: _portable(value)
            for name, value in vars(self).items()
            if name not in SERIALIZED_ATTRIBUTES
        }
        if not hasattr(self, "module_"):
            return state
        entries, arrays = estimator_state(self)
        encoder = None
        if entries["network"]["blueprint"] is None:
            encoder = to_cpu(self.module_)
            arrays = {k: v for k, v in arrays.items() if not k.startswith(ENCODER_PREFIX)}
        fit = {"facts": entries, "arrays": arrays, "encoder": encoder}
        return state | {"_fit": fit | {"version": _PICKLE_VERSION}}

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
            code, such as a module or a callback.
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

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return an embedder with copies of all attributes, including the net."""
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        vars(other).update(copy.deepcopy(vars(self), memo))
        if hasattr(other, "net_"):  # the net copies its module without the memo
            vars(other)["module_"] = other.net_.module_.encoder
        return other


def _restore_fit(fit: object, params: Params) -> Entries:
    """Return the fitted attributes of a pickled fit."""
    checked = check_schema(
        fit, "its fit", version=int, facts=dict, arrays=dict, encoder=nn.Module | None
    )
    version, encoder = checked["version"], checked["encoder"]
    if version != _PICKLE_VERSION:
        raise BundleError(
            f"expected pickle version {_PICKLE_VERSION}, got {version}: load it with the "
            f"version of sklearn-hscl that wrote it, and store it with `save`, whose files "
            f"later versions read"
        )
    custom = None if encoder is None else CustomEncoder(encoder, is_trained=True)
    state = StoredState(checked["facts"], checked["arrays"])
    return restore(state, params, custom_encoder=custom).attributes()


def _portable(value: object) -> object:
    """Return paths and devices as strings, which skops trusts, and modules on the CPU."""
    if isinstance(value, PurePath | torch.device):
        return str(value)
    return to_cpu(value) if isinstance(value, nn.Module) else value
