"""TabularEncoder: an ensemble of residual networks that share most weights.

The module goes from the layers of the ensemble, through the features of columns, to the
encoder itself.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from sklearn_hscl.encoders.options import EncoderConfig, StoredEncoder
from sklearn_hscl.encoders.tabular.column_statistics import (
    ColumnStatistics,
    clip_to_range,
    robust_scale,
)
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.runtime.random_state import ByteDropout

# Ensemble layers -----------------------------------------------------------------------


class MemberLinear(nn.Module):
    """A linear map per member, with its own bias, and its own or shared weights.

    Parameters
    ----------
    n_members : int
        Number of members M.
    n_in, n_out : int
        Widths of the input and the output.
    shared : bool, default=True
        Whether all members have the same weights.
    """

    def __init__(
        self, n_members: int, n_in: int, n_out: int, *, shared: bool = True
    ) -> None:
        super().__init__()
        n_weights = 1 if shared else n_members
        self.weight = nn.Parameter(torch.randn(n_weights, n_in, n_out) / sqrt(n_in or 1))
        self.bias = nn.Parameter(torch.zeros(n_members, 1, n_out))

    def forward(self, rows: Tensor, member: int | None = None) -> Tensor:
        """Map rows (B, n_in) or (M, B, n_in) to (M, B, n_out); by one member M is 1."""
        bias: Tensor = self.bias
        weight: Tensor = self.weight
        if member is not None:
            bias = bias[member : member + 1]
            weight = weight[member : member + 1] if len(weight) > 1 else weight
        if len(weight) > 1 and rows.ndim == 2:
            joined = weight.transpose(0, 1).flatten(1)  # (n_in, M * n_out)
            product = (rows @ joined).unflatten(1, (len(weight), -1))
            return product.transpose(0, 1) + bias
        if len(weight) > 1:
            # The bits of one batched product could depend on the number of rows.
            maps = zip(bias, rows, weight, strict=True)
            return torch.stack([torch.addmm(*parts) for parts in maps])
        product = rows.flatten(0, -2) @ weight[0]
        return product.unflatten(0, rows.shape[:-1]) + bias


# Features of columns -------------------------------------------------------------------

# Scaled values are softly clipped at this many interquartile ranges.
_SOFT_LIMIT = 3.0
# Wide tables have fewer bins and narrower embeddings per column, so that all numeric
# columns together have about this many of each. Below _MIN_BINS there are none.
_MAX_TOTAL_BINS, _MAX_TOTAL_WIDTH, _MIN_BINS = 4096, 1024, 4

# Buffers of NumericFeatures, which keep their names in files, and their statistics.
_NUMERIC_BUFFERS = {
    "numeric": "numeric",
    "center": "center",
    "scale": "scale",
    "gappy": "with_missing",
    "left": "left",
    "per_width": "inv_width",
}


class NumericFeatures(nn.Module):
    """Features of numeric columns: scaled values, missing indicators, embedded bins.

    Parameters
    ----------
    columns : ColumnStatistics
        Statistics of the columns.
    column_width : int
        Width of the embedding of a column.
    """

    numeric: Tensor
    center: Tensor
    scale: Tensor
    gappy: Tensor
    left: Tensor
    per_width: Tensor

    def __init__(self, columns: ColumnStatistics, column_width: int) -> None:
        super().__init__()
        for name, statistic in _NUMERIC_BUFFERS.items():
            self.register_buffer(name, getattr(columns, statistic).clone())
        n_columns, n_bins = columns.left.shape
        column_width = min(column_width, _MAX_TOTAL_WIDTH // max(n_columns, 1))
        self.width = n_columns + len(columns.with_missing)
        self.weight: nn.Parameter | None = None
        if n_columns and n_bins and column_width:
            weight = torch.randn(n_columns, n_bins, column_width) / sqrt(n_bins)
            self.weight = nn.Parameter(weight)
            self.width += n_columns * column_width

    @property
    def columns(self) -> Tensor:
        """Indices of the columns that the features come from, (width,)."""
        n_embedded = self.width - len(self.numeric) - len(self.gappy)
        per_column = n_embedded // max(len(self.numeric), 1)
        embedded = self.numeric.repeat_interleave(per_column)
        return torch.cat([self.numeric, self.numeric[self.gappy], embedded])

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (B, F) to features (B, width)."""
        values = clip_to_range(rows[:, self.numeric])  # (B, K)
        missing = values.isnan()
        u = robust_scale(values, self.center, self.scale).nan_to_num(0.0)
        u = u.to(self.left.dtype)
        parts = [u / (1 + (u / _SOFT_LIMIT) ** 2).sqrt(), missing[:, self.gappy].to(u)]
        if self.weight is not None:
            # By column, as products of many small matrices want them.
            by_column = u.T.contiguous().unsqueeze(-1)  # (K, B, 1)
            filled = by_column - self.left.unsqueeze(1)  # (K, B, n_bins)
            filled.mul_(self.per_width.unsqueeze(1)).clamp_(0, 1)
            filled.sub_(0.5 * (self.per_width > 0).to(filled).unsqueeze(1))
            filled.masked_fill_(missing.T.unsqueeze(-1), 0.0)
            embedded = torch.bmm(filled, self.weight)  # (K, B, width)
            parts.append(embedded.transpose(0, 1).flatten(1))
        return torch.cat(parts, 1)


class CategoricalFeatures(nn.Module):
    """Features of categorical columns: an embedding per category, and one if missing.

    Parameters
    ----------
    columns : ColumnStatistics
        Statistics of the columns.
    column_width : int
        Width of the embedding of a column.
    """

    categorical: Tensor
    missing_code: Tensor
    offset: Tensor

    def __init__(self, columns: ColumnStatistics, column_width: int) -> None:
        super().__init__()
        n_codes = columns.cardinalities + 2  # unknown, known ..., missing
        self.register_buffer("categorical", columns.categorical.clone())
        self.register_buffer("missing_code", columns.cardinalities + 1)
        self.register_buffer("offset", n_codes.cumsum(0) - n_codes)
        vectors = torch.randn(int(n_codes.sum()), column_width)
        vectors[self.offset] = 0.0  # of unknown categories
        self.vectors = nn.Parameter(vectors)
        self.width = len(n_codes) * column_width

    @property
    def columns(self) -> Tensor:
        """Indices of the columns that the features come from, (width,)."""
        return self.categorical.repeat_interleave(self.vectors.shape[1])

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (B, F) to features (B, width)."""
        values = rows[:, self.categorical]  # (B, C)
        values = torch.where(values.isnan(), self.missing_code, values)
        known = (values >= 0) & (values <= self.missing_code)
        codes = torch.where(known, values, 0).long() + self.offset
        return functional.embedding(codes, self.vectors).flatten(1)


# The encoder ---------------------------------------------------------------------------


class TabularEncoder(nn.Module):
    """Ensemble of residual networks that share most weights, for dense tables.

    Numeric columns are scaled robustly and clipped softly. A piecewise linear encoding by
    quantile bins, times a matrix per column, is added to these features. Categories are
    looked up. Each member multiplies the features by its own weights, which start as
    random signs. Residual layers follow, with shared weights and a bias per member, then a
    linear map per member. A linear map of the features, one per member, is added. Members
    have embeddings of norm 1, and their mean is multiplied by the buffer ``output_scale``.
    :meth:`scale_by_importance` makes some columns count more from the start.

    Parameters
    ----------
    columns : ColumnStatistics
        Statistics of the columns; :meth:`fit` computes them.
    n_components : int, default=32
        Width of a member's embedding.
    n_members : int, default=4
        Number of members M; 1 is an ordinary network.
    width : int, default=128
        Width of the hidden layers.
    n_layers : int, default=3
        Number of hidden layers.
    column_width : int, default=8
        Width of the embedding of a column.
    dropout : float in [0, 1), default=0.15
        Fraction of hidden units that are dropped in each training step.
    pooling : {"mean", "concat"}, default="mean"
        Whether the embedding of a row is the mean over the members, or their
        concatenation times 1 / sqrt(M).

    Examples
    --------
    >>> import torch
    >>> from sklearn_hscl.encoders import TabularEncoder
    >>> rows = torch.tensor([[0.5, 1.0], [torch.nan, 2.0], [1.5, 0.0]])
    >>> encoder = TabularEncoder.fit(rows, cardinalities=[0, 2], n_components=4)
    >>> encoder(rows).shape
    torch.Size([3, 4])
    """

    output_scale: Tensor

    def __init__(
        self,
        columns: ColumnStatistics,
        *,
        n_components: int = 32,
        n_members: int = 4,
        width: int = 128,
        n_layers: int = 3,
        column_width: int = 8,
        dropout: float = 0.15,
        pooling: str = "mean",
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "concat"):
            raise ValueError(f"pooling must be 'mean' or 'concat', got {pooling!r}.")
        self.numbers = NumericFeatures(columns, column_width)
        self.categories = CategoricalFeatures(columns, column_width)
        n_inputs = self.numbers.width + self.categories.width
        signs = torch.randint(0, 2, (n_members, 1, n_inputs)) * 2.0 - 1
        self.weights = nn.Parameter(signs)  # of the features, (M, 1, n_inputs)
        sizes = [n_inputs] + [width] * n_layers
        self.layers = nn.ModuleList(
            MemberLinear(n_members, *pair) for pair in pairwise(sizes)
        )
        self.last = MemberLinear(n_members, sizes[-1], n_components, shared=False)
        # A shared one would fit the rows that a member does not see, if columns are many.
        self.skip = MemberLinear(n_members, n_inputs, n_components, shared=False)
        self.dropout = ByteDropout(dropout)
        self.register_buffer("output_scale", torch.ones(()))
        self.pooling = pooling

    @property
    def n_members(self) -> int:
        """Number of members M."""
        return len(self.weights)

    @classmethod
    def fit(
        cls,
        rows: Tensor,
        cardinalities: Sequence[int],
        *,
        has_missing: ArrayLike | None = None,
        n_bins: int = 24,
        **options: int | float | str,
    ) -> Self:
        """Build an untrained encoder with the column statistics of the training rows.

        Parameters
        ----------
        rows : Tensor of shape (n, F), float32 or float64
            Training rows: numbers, and category codes 1, 2, ...; NaN for missing values.
        cardinalities : sequence of F int
            0 for a numeric column, else its number of categories.
        has_missing : array-like of F bool, optional
            Mask of the columns that can have missing values; None for those that have
            some.
        n_bins : int, default=24
            Number of quantile bins of a numeric column; 0 for none.
        **options : int, float or str
            Further parameters of the class.

        Returns
        -------
        TabularEncoder
        """
        n_numeric = sum(size == 0 for size in cardinalities)
        n_bins = min(n_bins, _MAX_TOTAL_BINS // max(n_numeric, 1))
        n_bins = n_bins if n_bins >= _MIN_BINS else 0
        columns = ColumnStatistics.fit(rows, cardinalities, n_bins, has_missing)
        return cls(columns, **options)  # type: ignore[arg-type]

    @torch.no_grad()
    def scale_by_importance(self, importance: Tensor) -> None:
        """Multiply the initial weights of the features.

        Parameters
        ----------
        importance : Tensor of shape (M, F)
            Factor of each column for each member.
        """
        columns = torch.cat([self.numbers.columns, self.categories.columns])  # (n_inputs,)
        factors = importance.to(self.weights)[:, columns]  # (M, n_inputs)
        self.weights.mul_(factors.unsqueeze(1))
        self.skip.weight.mul_(factors.unsqueeze(-1))

    def forward(self, rows: Tensor) -> Tensor:
        """Embed rows.

        Parameters
        ----------
        rows : Tensor of shape (B, F)
            Numbers and category codes, in the dtype of the training rows. NaN marks
            missing values, and code 0 categories that are unknown from training.

        Returns
        -------
        Tensor of shape (B, n_components), or (B, n_members * n_components)
        """
        z = self.members(rows)  # (M, B, n_components)
        if self.pooling == "mean":
            return self.output_scale * z.mean(0)
        return self.output_scale * z.transpose(0, 1).flatten(1) / sqrt(len(z))

    def members(self, rows: Tensor, member: int | None = None) -> Tensor:
        """Embed rows (B, F) by each member, with norm 1: (M, B, n_components).

        If one member is given, M is 1.
        """
        features = torch.cat([self.numbers(rows), self.categories(rows)], 1)  # (B, I)
        weights = self.weights if member is None else self.weights[member : member + 1]
        first, *others = self.layers
        hidden = self._activate(first(features * weights, member))  # (M, B, width)
        for layer in others:
            hidden = hidden + self._activate(layer(hidden, member))
        return l2_normalize(self.last(hidden, member) + self.skip(features, member))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: object
    ) -> None:
        """Load states of earlier versions, whose members shared the map of the features."""
        name = f"{prefix}skip.weight"
        if name in state_dict and state_dict[name].shape[:1] == (1,):
            state_dict[name] = state_dict[name].repeat(self.n_members, 1, 1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _activate(self, hidden: Tensor) -> Tensor:
        return self.dropout(functional.silu(hidden))

    def get_config(self) -> EncoderConfig:
        """Return the arguments that the encoder was built with."""
        return {
            "n_components": self.last.weight.shape[-1],
            "n_members": len(self.weights),
            "width": self.last.weight.shape[1],
            "n_layers": len(self.layers),
            "column_width": self.categories.vectors.shape[1],
            "kept": self.dropout.n_retained,
            "pooling": self.pooling,
        }

    @classmethod
    def from_config(cls, config: EncoderConfig, stored: StoredEncoder) -> Self:
        """Build the encoder of a config, whose weights are loaded later."""
        config = dict(config)
        n_retained = config.pop("kept")
        encoder = cls(_stored_statistics(stored), **config, dropout=0.0)
        encoder.dropout.n_retained = n_retained
        return encoder


def _stored_statistics(stored: StoredEncoder) -> ColumnStatistics:
    """Read scales and bins from the state; the other statistics follow from the layout."""
    layout, tensors = stored.layout, stored.tensors
    if layout is None:
        raise ValueError("the layout of the columns is missing")
    sizes = torch.from_numpy(layout.n_levels)
    can_miss = torch.from_numpy(layout.has_missing[layout.n_levels == 0])
    return ColumnStatistics(
        numeric=(sizes == 0).nonzero()[:, 0],
        categorical=sizes.nonzero()[:, 0],
        cardinalities=sizes[sizes > 0],
        center=tensors["numbers.center"],
        scale=tensors["numbers.scale"],
        left=tensors["numbers.left"],
        inv_width=tensors["numbers.per_width"],
        with_missing=can_miss.nonzero()[:, 0],
    )


class AllMembers(nn.Module):
    """Concatenated embeddings of a row by all members.

    Parameters
    ----------
    encoder : TabularEncoder
        Trained encoder.
    """

    def __init__(self, encoder: TabularEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (B, F) to (B, M * n_components)."""
        z = self.encoder.output_scale * self.encoder.members(rows)  # (M, B, D)
        return z.transpose(0, 1).flatten(1)
