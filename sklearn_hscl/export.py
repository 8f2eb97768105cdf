"""ONNX export of a fitted embedder: preprocessing, encoder, normalisation in one model."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import DTypeLike
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklearn_hscl.data.texts import content_of, is_sentence_transformer
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.encoders.preprocessing import (
    MAX_Z_SCORE,
    Preparation,
    TablePreprocessor,
    as_float,
)
from sklearn_hscl.persistence.encoder_state import to_cpu
from sklearn_hscl.persistence.safetensors_file import atomic_file
from sklearn_hscl.runtime.global_setting import default_settings
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.training.fitted_state import FittedState

_INPUT, _OUTPUT, _BATCH_AXIS = "X", "embedding", "n_samples"
# Rows for tracing the network. The exported model takes any number of rows.
_N_TRACED_ROWS = 2


@default_settings()
def to_onnx(
    embedder: HSCLEmbedder,
    path: str | os.PathLike[str],
    *,
    dtype: DTypeLike = np.float32,
) -> None:
    """Write `transform` as an ONNX model.

    The input ``X`` has shape (n_samples, n_features) or (n_samples, channels, height,
    width), with any number of samples. The output ``embedding`` has shape
    (n_samples, n_components). The model standardises columns in float64 as
    `transform` does, and takes NaN as missing value if the encoder is built in. This
    function needs ``pip install sklearn-hscl[onnx]``. A runtime such as onnxruntime runs
    the model without this library.

    Parameters
    ----------
    embedder : HSCLEmbedder
        Embedder that was fitted on numeric features or images.
    path : str or path
        Path of the file. The file is written completely, or an existing one stays
        unchanged.
    dtype : {float32, float64, uint8}, default=float32
        Type of the input. Use float64 for values with more than seven significant digits,
        such as times in seconds, and uint8 for images of that type.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the embedder is not fitted.
    ValueError
        If a column is categorical, the embedder takes texts or graphs, `dtype` is not
        supported, or the encoder cannot be exported.
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
    _check_one_array(embedder)
    _check_numeric(embedder)
    fitted = FittedState.of(embedder)
    transform = _Transform(fitted, normalize=embedder.normalize).eval()
    ndim = len(fitted.input_shape_)
    sample = torch.zeros(
        (_N_TRACED_ROWS, *fitted.input_shape_), dtype=_input_type(dtype, ndim)
    )
    model = _export(transform, sample)
    with atomic_file(Path(path)) as file:
        file.write(model)


def _check_one_array(embedder: HSCLEmbedder) -> None:
    content = content_of(embedder.input_shape_)
    if content == "graphs":
        raise ValueError(
            "Expected an embedder of tables or images, got one of graphs, whose batches "
            "are not one array. Use `save`, or export module_ by torch.export."
        )
    if content != "texts":
        return
    if is_sentence_transformer(embedder.module_):
        remedy = (
            "Call module_.save(folder), and load it by a backend of sentence-transformers, "
            "as in SentenceTransformer(folder, backend='onnx'), or"
        )
    else:
        remedy = "Store the parts of module_ by their save_pretrained(folder), and"
    raise ValueError(
        f"Expected an embedder of tables or images, got one of texts, whose tokenizer "
        f"an ONNX model does not hold. {remedy} export the transformer alone by "
        f"torch.onnx.export."
    )


def _check_numeric(embedder: HSCLEmbedder) -> None:
    if not hasattr(embedder, "categories_"):
        return
    names = getattr(embedder, "feature_names_in_", np.arange(embedder.n_features_in_))
    categorical = names[embedder.is_categorical_].tolist()
    raise ValueError(
        f"Expected numeric columns only, as ONNX models of this library take numbers, got "
        f"the categorical columns {categorical}. Encode them before the embedder, for "
        f"example with OrdinalEncoder or OneHotEncoder, or use `save`."
    )


def _input_type(dtype: DTypeLike, ndim: int) -> torch.dtype:
    supported = {"float32": torch.float32, "float64": torch.float64}
    if ndim > 1:
        supported["uint8"] = torch.uint8
    name = np.dtype(dtype).name
    if name not in supported:
        raise ValueError(f"Expected dtype to be one of {list(supported)}, got {dtype!r}.")
    return supported[name]


class _Transform(nn.Module):
    """The part of `transform` after validation."""

    def __init__(self, fitted: FittedState, *, normalize: bool) -> None:
        super().__init__()
        self.dtype = fitted.precision.dtype
        self.prepare = _preprocessing(fitted.prepare, self.dtype)
        self.encoder = to_cpu(fitted.module_)
        self.normalize = normalize

    def forward(self, rows: Tensor) -> Tensor:
        """Embed rows (B, ...): (B, n_components)."""
        embedding = self.encoder(self.prepare(rows)).to(self.dtype)
        return l2_normalize(embedding) if self.normalize else embedding


def _preprocessing(prepare: Preparation, dtype: torch.dtype) -> nn.Module:
    if isinstance(prepare, TablePreprocessor):
        return _Standardization(prepare, dtype)
    return _Floats(dtype)


class _Floats(nn.Module):
    """Conversion to floats; uint8 images become values in [0, 1]."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, rows: Tensor) -> Tensor:
        """Convert rows (B, ...) to the type of the encoder."""
        return as_float(rows, self.dtype).to(self.dtype)


class _Standardization(nn.Module):
    """Standardisation of numeric columns, as in :class:`TablePreprocessor`."""

    magnitude: Tensor
    mean: Tensor
    std: Tensor
    lowest: Tensor
    highest: Tensor
    has_missing: Tensor

    def __init__(self, prepare: TablePreprocessor, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        buffers = vars(prepare.standardization) | {
            "has_missing": prepare.layout.has_missing
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.from_numpy(values.copy()))

    def forward(self, rows: Tensor) -> Tensor:
        """Standardise rows (B, F)."""
        numbers = rows.double()
        missing = numbers.isnan()
        numbers = numbers.maximum(self.lowest).minimum(self.highest)
        numbers = (numbers / self.magnitude - self.mean) / self.std
        known = torch.where(missing, 0.0, numbers)
        known = known.clamp(-MAX_Z_SCORE, MAX_Z_SCORE).to(self.dtype)
        return torch.where(missing & self.has_missing, torch.nan, known)


def _export(transform: _Transform, sample: Tensor) -> bytes:
    """Return the serialised ONNX model."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "to_onnx needs onnx and onnxscript: pip install sklearn-hscl[onnx]."
        ) from error
    try:
        with _silence_exporter():
            program = torch.onnx.export(
                transform,
                (sample,),
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                dynamic_shapes=({0: torch.export.Dim(_BATCH_AXIS, min=1)},),
                dynamo=True,
                verbose=False,
                external_data=False,
            )
    except Exception as error:  # a custom encoder can raise any error
        name = type(transform.encoder).__name__
        raise ValueError(
            f"The encoder {name} cannot be exported by torch.onnx: {error}"
        ) from error
    assert program is not None  # as dynamo=True
    return program.model_proto.SerializeToString()


@contextmanager
def _silence_exporter() -> Iterator[None]:
    """Silence the exporter's log messages and warnings."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
