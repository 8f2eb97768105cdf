"""How an embedder leaves the process: copies, pickles and bundles."""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Self

import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_hscl.persistence.bundle import read_bundle, write_bundle
from sklearn_hscl.persistence.estimator_state import State, fitted_state, restore
from sklearn_hscl.persistence.schema import BundleError, check_facts, error_context
from sklearn_hscl.training.fitted_state import SERIALIZED_ATTRIBUTES

PICKLE_VERSION = 1


class PersistenceMixin:
    """Mixin of estimators that are stored as plain values, and copied whole.

    Pickle, joblib, cloudpickle and skops get the parameters, and a fit taken apart into
    numbers, strings and arrays on the host: no training row, nothing of the optimizer, no
    torch object except an `encoder` of the user's.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Return parameters and fit in plain values."""
        state = {
            name: _portable(value)
            for name, value in vars(self).items()
            if name not in SERIALIZED_ATTRIBUTES
        }
        if not hasattr(self, "module_"):
            return state
        facts, arrays = fitted_state(vars(self))
        encoder = None
        if facts["network"]["blueprint"] is None:
            encoder = on_host(self.module_)
            arrays = {k: v for k, v in arrays.items() if not k.startswith("encoder.")}
        fit = {"facts": facts, "arrays": arrays, "encoder": encoder}
        return state | {"_fit": fit | {"version": PICKLE_VERSION}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the fit again, on the device of the parameters if it is there."""
        attributes = dict(state)
        fit = attributes.pop("_fit", None)
        vars(self).update(attributes)
        if fit is not None:
            with error_context(f"The pickled {type(self).__name__}"):
                vars(self).update(_fitted(fit, vars(self)))

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        leave_out: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
        optimizer: bool = False,
    ) -> None:
        """Write the fitted embedder to one file that holds no code.

        The file is safetensors: weights and what is known of the columns as arrays;
        parameters, columns, categories, classes, the history and versions of libraries as
        JSON, all with checksums. It holds no training row, and of the levels of a column
        those that the encoder tells from others: none of a single training row.

        Parameters
        ----------
        path : str or path
            Where. The file appears whole, or a former one stays as it was.
        leave_out : sequence of str, default=()
            Parameters that are not stored, but passed to :meth:`load`: those that are
            code, such as a module or a callback.
        metrics : mapping of str to float, default=None
            Figures to keep with the embedder, beside those of its best epoch.
        optimizer : bool, default=False
            Whether to store what the optimizer remembers, for ``warm_start`` and
            ``partial_fit`` to go on as if nothing had happened; it takes twice the
            weights with AdamW. Without, they start with a new optimizer.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the embedder was not fitted.
        ValueError
            If a parameter, or a level of a column, is no plain value, or a parameter is
            out of range; the message names it and says what to do.
        OSError
            If the file cannot be written. The embedder is as it was.

        See Also
        --------
        sklearn_hscl.persistence.read_card : What a file says of its embedder.

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

        No pickle is read and no code executed that comes from the file, and what it holds
        is checked: checksums, names, types, shapes. A checksum tells damage, not who
        wrote the file.

        Parameters
        ----------
        path : str or path
            The file.
        **parameters
            The parameters that were left out, and `device` where it shall be another.
            An `encoder` gives the layers; its weights are read from the file.

        Returns
        -------
        HSCLEmbedder
            Fitted; `transform` gives the same bits on the same kind of device.

        Raises
        ------
        OSError
            If the file cannot be read.
        sklearn_hscl.persistence.BundleError
            If it is damaged, was written by a later version, or is something else; a
            ``ValueError`` whose message names the file and what is wrong.
        ValueError
            If a parameter that was left out is missing, or another is passed.

        Warns
        -----
        UserWarning
            If `device` is not there: the embedder then lies on the CPU.
        """
        return read_bundle(cls, path, parameters)

    def __copy__(self) -> Self:
        """Return an embedder with the same attributes."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return an embedder with copies of all attributes, those of training too."""
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        vars(other).update(copy.deepcopy(vars(self), memo))
        if hasattr(other, "net_"):  # which copies its module by itself
            vars(other)["module_"] = other.net_.module_.encoder
        return other


def _fitted(fit: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    check_facts(
        fit, "its fit", version=int, facts=dict, arrays=dict, encoder=nn.Module | None
    )
    if fit["version"] != PICKLE_VERSION:
        raise BundleError(
            f"it has the form {fit['version']}, and this version of sklearn-hscl knows "
            f"{PICKLE_VERSION}: load it with the version that wrote it, and store it by "
            f"`save`, whose files later versions read"
        )
    encoder = fit["encoder"]  # with its weights
    stored = State(fit["facts"], fit["arrays"])
    return restore(stored, params, encoder=encoder, is_trained=encoder is not None)


def _portable(value: Any) -> Any:
    """Return a path or a device as a string, which skops trusts; a module on the host."""
    return str(value) if isinstance(value, PurePath | torch.device) else on_host(value)


def on_host(value: Any) -> Any:
    """Return a module whose weights lie on the host; anything else as it is."""
    if not isinstance(value, nn.Module):
        return value
    tensors = [*value.parameters(), *value.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return value
    return copy.deepcopy(value).cpu()
