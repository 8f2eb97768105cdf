"""Export of a fitted embedder to ONNX: preparation of rows, encoder and scaling in one."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.encoders.preprocessing import (
    LARGEST_Z_SCORE,
    Preparation,
    TablePreprocessor,
    as_float,
)
from sklearn_hscl.persistence.mixin import on_host
from sklearn_hscl.persistence.safetensors_file import replacing
from sklearn_hscl.runtime.normalize import l2_normalize

INPUT, OUTPUT, ROWS = "X", "embedding", "n_samples"
# Rows on which the exporter traces the network, and the exported one is not fixed to.
_SAMPLE_ROWS = 2


def to_onnx(
    embedder: HSCLEmbedder,
    path: str | os.PathLike[str],
    *,
    dtype: DTypeLike = np.float32,
) -> None:
    """Write the whole of `transform` as an ONNX model.

    The model has one input, ``X`` of shape (n_samples, n_features) or
    (n_samples, channels, height, width), with any number of rows, and one output,
    ``embedding`` of shape (n_samples, n_components). It standardises columns in float64 as
    `transform` does, and takes NaN for missing values where the encoder is built in. This
    function needs ``pip install sklearn-hscl[onnx]``; what runs the model, such as
    onnxruntime, needs nothing of this library.

    Parameters
    ----------
    embedder : HSCLEmbedder
        Fitted on numbers or images.
    path : str or path
        Where. The file appears whole, or a former one stays as it was.
    dtype : {float32, float64, uint8}, default=float32
        Type of the input: float64 where numbers have more than seven digits that count,
        such as times in seconds; uint8 for images that `transform` gets as such.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the embedder was not fitted.
    ValueError
        If a column is categorical, `dtype` is another, or the encoder cannot be exported.
    ImportError
        If onnx or onnxscript is not installed.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.export import to_onnx
    >>> X, y = load_iris(return_X_y=True)
    >>> embedder = HSCLEmbedder(max_epochs=1).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_onnx(embedder, f"{folder}/iris.onnx")
    """
    check_is_fitted(embedder)
    _check_numeric(embedder)
    transform = _Transform(embedder).eval()
    sample = torch.zeros(
        (_SAMPLE_ROWS, *embedder.input_shape_),
        dtype=_input_type(dtype, len(embedder.input_shape_)),
    )
    program = _exported(transform, sample)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(program.model_proto.SerializeToString())


def _check_numeric(embedder: HSCLEmbedder) -> None:
    if not hasattr(embedder, "categories_"):
        return
    where = np.flatnonzero(embedder.is_categorical_).tolist()
    names = getattr(embedder, "feature_names_in_", np.arange(embedder.n_features_in_))
    raise ValueError(
        f"ONNX models of this library take numbers, but the columns "
        f"{[names[index] for index in where]} are categorical: encode them in front, for "
        f"example by OrdinalEncoder or OneHotEncoder, and fit the embedder on numbers; or "
        f"use `save`."
    )


def _input_type(dtype: DTypeLike, ndim: int) -> torch.dtype:
    known = {"float32": torch.float32, "float64": torch.float64}
    if ndim > 1:
        known["uint8"] = torch.uint8
    name = np.dtype(dtype).name
    if name not in known:
        raise ValueError(f"dtype={dtype!r} must be one of {list(known)} for this embedder.")
    return known[name]


class _Transform(nn.Module):
    """All that `transform` does with validated rows."""

    def __init__(self, embedder: HSCLEmbedder) -> None:
        super().__init__()
        self.prepare = _preparation(embedder._prepare, embedder._precision.dtype)
        self.encoder = on_host(embedder.module_)
        self.dtype = embedder._precision.dtype
        self.normalize = embedder.normalize

    def forward(self, rows: Tensor) -> Tensor:
        """Embed rows (B, ...): (B, n_components)."""
        embedding = self.encoder(self.prepare(rows)).to(self.dtype)
        return l2_normalize(embedding) if self.normalize else embedding


def _preparation(prepare: Preparation, dtype: torch.dtype) -> nn.Module:
    return (
        _Table(prepare, dtype) if isinstance(prepare, TablePreprocessor) else _Floats(dtype)
    )


class _Floats(nn.Module):
    """Rows as they are, uint8 images from 0 to 1."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, rows: Tensor) -> Tensor:
        """Give rows (B, ...) the type of the encoder."""
        return as_float(rows, self.dtype).to(self.dtype)


class _Table(nn.Module):
    """Standardised numbers, in the arithmetic of :class:`TablePreprocessor`."""

    magnitude: Tensor
    mean: Tensor
    spread: Tensor
    lowest: Tensor
    highest: Tensor
    has_missing: Tensor

    def __init__(self, prepare: TablePreprocessor, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        numbers = prepare.numbers
        for name, values in vars(numbers).items():
            self._remember(name, values)
        self._remember("has_missing", prepare.layout.has_missing)

    def _remember(self, name: str, values: NDArray[Any]) -> None:
        self.register_buffer(name, torch.from_numpy(values.copy()))

    def forward(self, rows: Tensor) -> Tensor:
        """Prepare rows (B, F)."""
        numbers = rows.double()
        missing = numbers.isnan()
        numbers = numbers.maximum(self.lowest).minimum(self.highest)
        numbers = (numbers / self.magnitude - self.mean) / self.spread
        known = torch.where(missing, 0.0, numbers)
        known = known.clamp(-LARGEST_Z_SCORE, LARGEST_Z_SCORE).to(self.dtype)
        return torch.where(missing & self.has_missing, torch.nan, known)


def _exported(transform: nn.Module, sample: Tensor) -> Any:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "to_onnx needs onnx and onnxscript: pip install sklearn-hscl[onnx]."
        ) from error
    try:
        with _silence():
            return torch.onnx.export(
                transform,
                (sample,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim(ROWS, min=1)},),
                dynamo=True,
                verbose=False,
                external_data=False,
            )
    except Exception as error:  # whatever a user's encoder makes of it
        name = type(transform.encoder).__name__
        raise ValueError(
            f"The encoder {name} cannot be exported by torch.onnx: {error}"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep to itself what the exporter says of itself, and of libraries that it misses."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
