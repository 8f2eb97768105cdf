"""The embedder of tables without one part of its encoder, for ablations."""

from unittest.mock import patch

from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders import TabularEncoder, registry
from sklearn_hscl.training import prepared_data


class Unskipped(TabularEncoder):
    """Encoder without the linear skip connection."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for weights in self.skip.parameters():
            nn.init.zeros_(weights).requires_grad_(False)


class Unbinned(TabularEncoder):
    """Encoder whose numeric features are scaled and clipped, without quantile bins."""

    @classmethod
    def fit(cls, rows, cardinalities, **options):
        return super().fit(rows, cardinalities, n_bins=0, **options)


class OtherEncoder(HSCLEmbedder):
    """Embedder with another class as encoder of tables."""

    encoder_class = TabularEncoder

    def fit(self, X, y=None, **options):
        with patch.object(registry, "TabularEncoder", self.encoder_class):
            return super().fit(X, y, **options)


class WithoutSkip(OtherEncoder):
    """Embedder without the linear skip connection."""

    encoder_class = Unskipped


class WithoutBins(OtherEncoder):
    """Embedder without quantile-bin embeddings."""

    encoder_class = Unbinned


class WithoutRelevance(HSCLEmbedder):
    """Embedder without importance scaling of the columns."""

    def fit(self, X, y=None, **options):
        with patch.object(prepared_data, "feature_importance", return_value=None):
            return super().fit(X, y, **options)
