"""A linear map of the row beside its trained embedding: no simple signal is lost."""

import copy
from math import prod
from typing import Self, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklearn_hscl.augment.graph_rows import Graphs
from sklearn_hscl.encoders.forest_path import ForestPath
from sklearn_hscl.encoders.inference import embed_tensor
from sklearn_hscl.encoders.mlp import OneHotColumns
from sklearn_hscl.encoders.options import IndexableRows
from sklearn_hscl.encoders.preprocessing import ColumnLayout, as_float
from sklearn_hscl.runtime.precision import Precision

Floats = NDArray[np.float64]
# Spread of the linear part, relative to that of the trained part. Without targets, training
# knows little of them, and neighbors in tables are those of the rows.
_SPREAD, _SPREAD_WITHOUT_TARGETS = 1.0, {"table": 4.0, "images": 1.0}
# The map is fitted to at most so many rows and values, but to _MIN_ROWS in any case.
_MAX_ROWS, _MAX_VALUES, _MIN_ROWS = 4096, 2**22, 512
# Rows for each principal component that predictions of targets are made of: with fewer
# rows, training rows would be predicted much better than new ones.
_ROWS_PER_COMPONENT = 8
_MAX_PREDICTIONS = 16
# Where classes are few, components of all rows follow the predictions.
_SPREAD_OF_FEW, _MAX_COMPONENTS_OF_FEW = 0.5, 64
# With classes for all rows, the trained part is halved: it fits training rows better than
# new ones. Words of texts it fits at once, if hardly a row is of another class.
_SCALE_OF_TRAINED, _SCALE_OF_RARE_TEXTS = 0.5, 1 / 16
# Fewer rows outside the largest class are rare; components of all rows then show what
# training takes for equal.
_MAX_RARE, _SPREAD_OF_RARE = 0.06, 2.0
_MAX_COMPONENTS = {"table": 256, "images": 64}  # without targets
_SMALLEST = 1e-12  # variance of a component, relative to the largest
_ALPHAS = np.logspace(-2, 5, 15)  # of the ridge


class LinearPath(nn.Module):
    """The embedding by a trained encoder, followed by a linear map of the same row.

    Parameters
    ----------
    encoder : nn.Module
        Maps (B, ...) to (B, n_components).
    layout : ColumnLayout or None
        Layout of the columns of preprocessed tables; None for images.
    weight : Tensor of shape (n_inputs, K)
        Map of the one-hot encoded columns, or of the pixels.
    bias : Tensor of shape (K,)
        Added to it.
    """

    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self, encoder: nn.Module, layout: ColumnLayout | None, weight: Tensor, bias: Tensor
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.inputs = linear_inputs(layout)
        self.register_buffer(
            "scale", torch.ones((), dtype=weight.dtype, device=weight.device)
        )
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    @property
    def width(self) -> int:
        """Width K of the linear part."""
        return int(self.weight.shape[1])

    @classmethod
    def empty(
        cls,
        encoder: nn.Module,
        input_shape: tuple[int, ...],
        layout: ColumnLayout | None,
        width: int,
    ) -> Self:
        """Return a path of this width on the meta device, whose map is loaded later."""
        inputs = linear_inputs(layout)
        n_inputs = inputs.width if isinstance(inputs, OneHotColumns) else prod(input_shape)
        weight = torch.empty(n_inputs, width, device="meta")
        return cls(encoder, layout, weight, torch.empty(width, device="meta"))

    def around(
        self, encoder: nn.Module, dtype: torch.dtype, device: torch.device
    ) -> "LinearPath":
        """Return a copy beside another encoder, of its type and on its device."""
        if isinstance(self.encoder, ForestPath):
            encoder = self.encoder.around(encoder, dtype, device)
        other = copy.copy(self)
        other._buffers = dict(self._buffers)
        other._modules = {"encoder": encoder, "inputs": copy.deepcopy(self.inputs)}
        return other.to(device, dtype)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (B, ...) to (B, n_components + K)."""
        return torch.cat([self.scale * self.encoder(rows), self.linear(rows)], dim=1)

    def linear(self, rows: Tensor) -> Tensor:
        """Map rows (B, ...) to the linear part, (B, K)."""
        return torch.addmm(self.bias, self.inputs(rows).to(self.weight), self.weight)


Paths = LinearPath | ForestPath
"""What may stand beside a trained encoder."""


def trained_part(encoder: nn.Module) -> nn.Module:
    """Return the trained encoder, without the paths beside it."""
    while isinstance(encoder, Paths):
        encoder = encoder.encoder
    return encoder


def path_width(encoder: nn.Module) -> int:
    """Return the width of the paths beside an encoder, 0 without any."""
    width = 0
    while isinstance(encoder, Paths):
        width, encoder = width + encoder.width, encoder.encoder
    return width


def linear_inputs(layout: ColumnLayout | None) -> nn.Module:
    """Return the map of prepared rows to the inputs of the linear map."""
    if layout is None or layout.is_plain:
        return nn.Flatten()
    return OneHotColumns(layout)


def fit_linear_path(
    encoder: nn.Module,
    layout: ColumnLayout | None,
    rows: IndexableRows,
    targets: Tensor | None,
    precision: Precision,
    axes: Floats | None = None,
) -> LinearPath:
    """Fit the linear map that follows a trained encoder.

    With targets, it predicts them by ridge regression on principal components of the
    row; more than 16 predictions are reduced to 16 components. Without targets, it holds
    the principal components themselves, and both where some rows have no class or classes
    are rare.

    Parameters
    ----------
    encoder : nn.Module
        Trained.
    layout : ColumnLayout or None
        As in :class:`LinearPath`.
    rows : Tensor of shape (n, ...), or rows that are read by index
        Training rows, prepared.
    targets : Tensor of shape (n,) or (n, K), or None
        Class codes, -1 for no label; label indicators; or numbers.
    precision : Precision
        Types of numbers.
    axes : ndarray of shape (n_inputs, q), optional
        Map of prepared rows to principal components of all rows; None to compute those
        of some rows.

    Returns
    -------
    LinearPath
    """
    every, is_given = torch.arange(rows.shape[0]), axes is not None
    # With axes, some dense rows are enough for means and spreads.
    sampled = rows[some_of(every, _MIN_ROWS) if is_given else _sample(every, rows)]
    values = input_values(sampled, layout)
    mean = values.mean(0)
    centred = values - mean
    del values  # as large as the centred ones
    axes = _principal_axes(centred) if axes is None else axes
    if not axes.size:  # all rows are equal
        axes = np.zeros((centred.shape[1], 1))
    index = torch.arange(0) if targets is None else labelled_indices(targets)
    if targets is None or not len(index):
        kind = "images" if len(rows.shape) > 2 else "table"
        basis = axes if is_given else axes[:, : _MAX_COMPONENTS[kind]]
        parts = [(basis, _SPREAD_WITHOUT_TARGETS[kind])]
    else:
        # Coordinates on given axes are few: more rows fit into memory.
        known = some_of(index, _MAX_ROWS) if is_given else _sample(index, rows)
        predictions = _predictions_of_rows(axes, mean, layout, rows, known, targets)
        parts = [(predictions, _SPREAD)]
        if spread := _spread_of_components(targets):
            parts.append((axes[:, :_MAX_COMPONENTS_OF_FEW], spread))
    # In host memory, as not every device has float64.
    trained = embed_tensor(encoder, sampled, precision).cpu().double().numpy()
    size = np.sqrt(trained.var(0).sum())
    weight = np.hstack([b * spread * size * _inverse(centred @ b) for b, spread in parts])
    factor = 1.0
    if is_given and size and _are_classes_of_all(targets):
        factor = 1 / size  # texts have rows of unit norm, as linear models expect them
    if targets is None and len(rows.shape) == 2:
        # Components at their own scale, which is the one that linear models expect.
        factor = _inverse(centred @ weight) / (_inverse(centred @ parts[0][0]) or 1.0)
    path = _path(encoder, layout, factor * weight, mean, sampled.device, precision)
    path.scale.fill_(factor * _scale_of_trained(targets, is_text_like=is_given))
    return path


def _predictions_of_rows(
    axes: Floats,
    mean: Floats,
    layout: ColumnLayout | None,
    rows: IndexableRows,
    known: Tensor,
    targets: Tensor,
) -> Floats:
    """Return the map of rows to predictions of targets, which known rows have, (F, K)."""
    leading = axes[:, : max(1, len(known) // _ROWS_PER_COMPONENT)]
    coordinates = [
        (input_values(rows[part], layout) - mean) @ leading
        for part in known.split(_MIN_ROWS)
    ]
    y = targets[known.to(targets.device)].cpu().numpy()
    return leading @ _predictions(np.vstack(coordinates), y)


def _path(
    encoder: nn.Module,
    layout: ColumnLayout | None,
    weight: Floats,
    mean: Floats,
    device: torch.device,
    precision: Precision,
) -> LinearPath:
    """Return the path whose linear part is 0 for the mean row."""
    tensors = (
        torch.from_numpy(np.ascontiguousarray(part)).to(device, precision.dtype)
        for part in (weight, -mean @ weight)
    )
    path = LinearPath(encoder, layout, *tensors)
    path.inputs.to(device)
    return path


def input_values(rows: Tensor, layout: ColumnLayout | None) -> Floats:
    """Return the inputs of the linear map of some rows, (n, n_inputs).

    Of graphs, which have no linear map, they are the sums over nodes of their features.
    """
    if isinstance(rows, Graphs):
        sums: Floats = rows.sum_of_nodes(rows.nodes).cpu().double().numpy()
        return sums
    values: Floats = linear_inputs(layout)(as_float(rows.cpu())).double().numpy()
    return values


def labelled_indices(targets: Tensor) -> Tensor:
    """Return the indices of rows with targets: all but those of the class code -1."""
    if targets.ndim > 1:
        return torch.arange(len(targets))
    return (targets >= 0).nonzero()[:, 0].cpu()


def _are_classes_of_all(targets: Tensor | None) -> TypeGuard[Tensor]:
    return targets is not None and targets.ndim == 1 and bool((targets >= 0).all())


def _scale_of_trained(targets: Tensor | None, *, is_text_like: bool) -> float:
    if not _are_classes_of_all(targets):
        return 1.0
    is_rare_text = is_text_like and has_rare_classes(targets)
    return _SCALE_OF_RARE_TEXTS if is_rare_text else _SCALE_OF_TRAINED


def _spread_of_components(targets: Tensor) -> float:
    """Return the spread of the components that follow predictions, 0 for none."""
    if not _are_classes_of_all(targets):
        return _SPREAD_OF_FEW if targets.ndim == 1 else 0.0
    return _SPREAD_OF_RARE if has_rare_classes(targets) else 0.0


def has_rare_classes(codes: Tensor | NDArray[np.int64]) -> bool:
    """Return whether hardly any row of known class is outside the largest class."""
    codes = np.asarray(codes.cpu() if isinstance(codes, Tensor) else codes)
    counts = np.bincount(codes[codes >= 0])
    return bool(counts.size and 0 < counts.sum() - counts.max() < _MAX_RARE * counts.sum())


def _sample(index: Tensor, rows: IndexableRows) -> Tensor:
    """Return some of the indices, as many as the map is fitted to."""
    n_values = max(1, int(np.prod(rows.shape[1:])))
    n_rows = max(_MIN_ROWS, min(_MAX_ROWS, _MAX_VALUES // n_values))
    return some_of(index, n_rows)


def some_of(index: Tensor, most: int) -> Tensor:
    """Return `most` of the indices in order, drawn at random, as rows may be periodic."""
    if len(index) <= most:
        return index
    drawn = np.random.default_rng(0).choice(len(index), most, replace=False)
    return index[torch.from_numpy(np.sort(drawn))]


def _principal_axes(centred: Floats) -> Floats:
    """Return the directions of the rows' variance in decreasing order, (F, q)."""
    if len(centred) < centred.shape[1]:
        # Products of rows are fewer than products of columns.
        variances, vectors = np.linalg.eigh(centred @ centred.T)
        axes = centred.T @ vectors
    else:
        variances, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, variances > _SMALLEST * max(variances[-1], 1e-300)][:, ::-1]
    axes = axes / np.linalg.norm(axes, axis=0)
    return axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])


def _predictions(coordinates: Floats, targets: Floats) -> Floats:
    """Return the map of principal components (n, q) to predictions of targets, (q, K)."""
    from sklearn.linear_model import RidgeCV  # most imports of the package fit nothing

    if targets.ndim == 1:
        targets = (targets[:, None] == np.unique(targets)).astype(np.float64)
    deviations = targets - targets.mean(0)
    ridge = RidgeCV(_ALPHAS, fit_intercept=False).fit(coordinates, deviations)
    weight: Floats = ridge.coef_.reshape(deviations.shape[1], -1).T
    if weight.shape[1] > _MAX_PREDICTIONS:
        weight = weight @ _principal_axes(coordinates @ weight)[:, :_MAX_PREDICTIONS]
    return weight


def _inverse(linear: Floats) -> float:
    """Return one over the root of the total variance; 0 for constants."""
    own = float(np.sqrt(linear.var(0).sum()))
    return 1 / own if own else 0.0
