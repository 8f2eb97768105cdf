"""scikit-learn's own checks, for every loss, with no expected failure."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses.presets import LOSSES

pytestmark = pytest.mark.usefixtures("few_trees")
VARIANTS = [HSCLEmbedder(loss, max_epochs=2) for loss in ("auto", *LOSSES)] + [
    HSCLEmbedder(max_epochs=2, hardening="threshold"),
    HSCLEmbedder("hucl", max_epochs=2, early_stopping=True),
    HSCLEmbedder("hscl", max_epochs=2, early_stopping=True, projection_dim=8),
    HSCLEmbedder("scl", max_epochs=2, normalize=False, n_views=2, n_components=3),
    HSCLEmbedder("hscl", max_epochs=2, categorical_features=None),  # on unrounded numbers
    HSCLEmbedder("hucl", max_epochs=2, categorical_features=None),
    HSCLEmbedder("hscl", max_epochs=2, encoder="mlp"),
    HSCLEmbedder("hucl", max_epochs=2, encoder="tabular"),
]


class WithoutLabels(HSCLEmbedder):
    """Embedder that is checked as a user without labels would call it."""

    def fit(self, X, y=None):
        """Fit without the labels that the checks pass."""
        return super().fit(X)

    def partial_fit(self, X, y=None, classes=None):
        """Go on without them."""
        return super().partial_fit(X)


@parametrize_with_checks(VARIANTS, xfail_strict=True)
def test_labelled(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [WithoutLabels(loss, max_epochs=2) for loss in ("auto", "ucl", "hucl", "sscl")],
    xfail_strict=True,
)
def test_unlabelled(estimator, check):
    check(estimator)


@pytest.mark.parametrize("loss", ["auto", *LOSSES])
def test_only_supervised_losses_require_y(loss):
    required = HSCLEmbedder(loss).__sklearn_tags__().target_tags.required
    assert required == (loss in ("scl", "supcon", "hscl", "schane"))
