"""Small embedders for tests of stacks, and the comparison with single fits."""

from numpy.testing import assert_allclose
from sklearn.base import clone

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.model_selection.fit_and_score import TrainingSamples, fit_batched


def embedder(**parameters):
    settings = {
        "encoder": "mlp",
        "hidden_layer_sizes": (16, 16),
        "n_components": 8,
        "projection_dim": 6,
        "batch_size": 64,
        "max_epochs": 4,
        "random_state": 0,
        "precision": "float64",
    }
    if not isinstance(parameters.get("encoder", "mlp"), str):
        settings["hidden_layer_sizes"] = None  # of no effect
    return HSCLEmbedder(**(settings | parameters))


def tabular(**parameters):
    settings = {"encoder": "tabular", "n_members": 3, "projection_dim": None}
    return embedder(**(settings | parameters))


def compare(base, candidates, X, y, atol=1e-9):
    """Fit copies of `base` with these parameters as a stack; compare with single fits."""
    together = [clone(base).set_params(**params) for params in candidates]
    outcomes = fit_batched(together, TrainingSamples(X, y, seed=0))
    assert [outcome.reason for outcome in outcomes] == [None] * len(outcomes)
    for stacked, outcome in zip(together, outcomes, strict=True):
        assert outcome.error is None
        assert_same_fit(stacked, clone(stacked).fit(X, y), X, atol)
    return together


def assert_same_fit(stacked, alone, X, atol=1e-9):
    found, expected = stacked.module_.state_dict(), alone.module_.state_dict()
    assert list(found) == list(expected)
    for name, weight in expected.items():
        assert_allclose(found[name], weight, rtol=0, atol=atol, err_msg=name)
    assert (stacked.n_iter_, stacked.best_epoch_) == (alone.n_iter_, alone.best_epoch_)
    for epoch, other in zip(stacked.history_, alone.history_, strict=True):
        assert list(epoch) == list(other)
        for name in set(epoch) - {"dur"}:
            assert_allclose(epoch[name], other[name], rtol=atol, atol=atol, err_msg=name)
    assert_allclose(stacked.transform(X), alone.transform(X), rtol=0, atol=1e2 * atol)
    fitted = {name for name in vars(alone) if name.endswith("_")}
    assert fitted == {name for name in vars(stacked) if name.endswith("_")}
