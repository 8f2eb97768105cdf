"""The embedder of tables without one part of its encoder, to see what the part is for."""

from unittest.mock import patch

from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders import TabularEncoder, registry
from sklearn_hscl.training import prepared_data


class Unskipped(TabularEncoder):
    """Nothing is added to what the hidden layers make of the features."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for weights in self.skip.parameters():
            nn.init.zeros_(weights).requires_grad_(False)


class Unbinned(TabularEncoder):
    """Numbers are scaled and cut off, but not embedded by quantile bins."""

    @classmethod
    def fit(cls, rows, cardinalities, **options):
        return super().fit(rows, cardinalities, n_bins=0, **options)


class OtherEncoder(HSCLEmbedder):
    """The embedder with another class in the place of its encoder of tables."""

    encoder_class = TabularEncoder

    def fit(self, X, y=None, **options):
        with patch.object(registry, "TabularEncoder", self.encoder_class):
            return super().fit(X, y, **options)


class WithoutSkip(OtherEncoder):
    """The embedder without the linear path."""

    encoder_class = Unskipped


class WithoutBins(OtherEncoder):
    """The embedder without embeddings of numbers."""

    encoder_class = Unbinned


class WithoutRelevance(HSCLEmbedder):
    """The embedder to which all columns of a wide table count alike at first."""

    def fit(self, X, y=None, **options):
        with patch.object(prepared_data, "feature_importance", return_value=None):
            return super().fit(X, y, **options)
