"""Searches in stacks give what scikit-learn's searches give, key by key."""

import pickle

import numpy as np
import pandas as pd
import pytest
from helpers.searches import (
    BETAS,
    SMOOTHINGS,
    embedder,
    fit_both,
    neighbors,
    pipeline,
    reasons,
    without_times,
)
from scipy.stats import loguniform
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from sklearn_hscl.losses import ContrastiveLoss, LinearBeta
from sklearn_hscl.model_selection import BatchedGridSearchCV, BatchedRandomizedSearchCV

MANY = ["accuracy", "neg_log_loss"]

# Estimators and grids: what is searched, and the reasons for fitting alone.
SEARCHES = {
    "numbers of a pipeline": (
        pipeline(),
        {"embed__beta": [0.0, 2.0], "embed__temperature": [0.2, 0.5]},
        [""],
    ),
    "every step at once": (
        pipeline(),
        {
            "scale__with_mean": [True, False],
            "embed__beta": [0.0, 4.0],
            "classify__var_smoothing": [1e-9, 1.0],
        },
        [""],
    ),
    "steps after only": (pipeline(), SMOOTHINGS, ["no other candidate"]),
    "exchanged steps around it": (
        pipeline(),
        {
            "scale": [MinMaxScaler(), "passthrough"],
            "embed__beta": [0.0, 4.0],
            "classify": [GaussianNB(), KNeighborsClassifier()],
        },
        [""],
    ),
    "forms": (pipeline(), {"embed__hidden_layer_sizes": [[3], [5, 5]], **BETAS}, [""]),
    "list of grids": (
        pipeline(),
        [
            {"embed__lr": [1e-3, 1e-2], "embed__beta": [0, 1.0]},
            {"embed__n_components": [3]},
        ],
        ["", "no other candidate"],
    ),
    "list of grids over losses": (
        pipeline(),
        [{"embed__lr": [1e-3, 1e-2], "embed__beta": [0, 1.0]}, {"embed__loss": ["scl"]}],
        [""],
    ),
    "embedder first": (
        Pipeline([("embed", embedder()), ("classify", GaussianNB())]),
        BETAS | {"embed__weight_decay": [0.0, 0.1]},
        [""],
    ),
    "several steps": (
        Pipeline(
            [
                ("scale", StandardScaler()),
                ("reduce", PCA(3)),
                ("embed", embedder()),
                ("rescale", MinMaxScaler()),
                ("classify", GaussianNB()),
            ]
        ),
        BETAS | {"reduce__n_components": [2, 3], "rescale": [None, MinMaxScaler()]},
        [""],
    ),
    "schedules": (pipeline(), {"embed__beta": [LinearBeta(0, 2), 1.0]}, [""]),
    "early stopping": (
        pipeline(early_stopping=True, max_epochs=5, ce_weight=0.5),
        {"embed__tol": [0.0, 1.0], "embed__n_iter_no_change": [1, 9]},
        [""],
    ),
    "tabular": (
        pipeline(encoder="tabular", n_members=2, dropout=0.1),
        {"embed__ce_weight": [0.2, 0.7], "embed__temperature": [0.2, 0.5]},
        [""],
    ),
    "no embedder": (
        GaussianNB(),
        {"var_smoothing": [0.1, 1.0]},
        ["Expected an HSCLEmbedder"],
    ),
    "exchanged embedder": (
        pipeline(),
        {"embed": [embedder(beta=3.0), PCA(2), "passthrough"]},
        ["its parameters replace the embedder", "no other candidate"],
    ),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_same_results(iris, name):
    estimator, grid, expected = SEARCHES[name]
    found = reasons(fit_both(estimator, grid, *iris, cv=2, return_train_score=True))
    assert len(found) == len(expected)
    assert all(map(str.startswith, found, sorted(expected)))


@pytest.mark.filterwarnings("ignore:beta=.* has no effect")
def test_bare_embedder(iris):
    grid = {"beta": [0.0, 2.0], "threshold": [-0.5, 0.5]}
    search = fit_both(
        embedder(hardening="threshold"),
        grid,
        *iris,
        scoring=neighbors,
        cv=StratifiedKFold(3),
    )
    assert reasons(search) == [""]
    assert search.transform(iris[0]).shape == (150, 4)


def test_randomized_search(iris):
    search = fit_both(
        pipeline(), {"embed__beta": loguniform(0.1, 10)} | SMOOTHINGS, *iris,
        kind=BatchedRandomizedSearchCV, n_iter=4, random_state=0,
    )  # fmt: skip
    assert reasons(search) == [""]


def several(estimator, X, y):
    """Score as a dict, which searches see only after the first fit."""
    predicted = estimator.predict(X)
    return {"right": accuracy_score(y, predicted), "wrong": -np.mean(y != predicted)}


def second(table):
    """Choose a candidate, as `refit` may."""
    return 1


OPTIONS = {
    "several, no refit": {"scoring": MANY, "refit": False},
    "several": {"scoring": MANY, "refit": "neg_log_loss"},
    "several, refit by a function": {
        "scoring": MANY,
        "refit": second,
        "return_train_score": True,
    },
    "dict": {"scoring": {"right": make_scorer(accuracy_score)}, "refit": "right"},
    "function": {"scoring": several, "refit": "wrong"},
    "function, no refit": {"scoring": several, "refit": False},
    "refit by a function": {"refit": second},
    "no refit": {"refit": False},
    "by name": {"scoring": "f1_macro"},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_scores_and_refit(iris, options):
    fit_both(pipeline(), BETAS, *iris, **OPTIONS[options])


def test_groups(iris):
    groups = np.arange(150) % 4
    search = fit_both(
        pipeline(), BETAS, *iris, cv=GroupKFold(4), fit_params={"groups": groups}
    )
    assert reasons(search) == [""]


def test_splits_as_iterable(iris):
    splits = list(ShuffleSplit(2, random_state=0).split(iris[0]))
    fit_both(pipeline(), BETAS, *iris, cv=splits)
    masks = [tuple(np.isin(np.arange(150), part) for part in split) for split in splits]
    fit_both(pipeline(), BETAS, *iris, cv=masks)
    ours = BatchedGridSearchCV(pipeline(), BETAS, cv=iter(splits))
    assert ours.fit(*iris).n_splits_ == 2


@pytest.mark.parametrize("place", ["first", "after a step"])
def test_frames_and_labels_of_strings(iris, place):
    X = pd.DataFrame(iris[0], columns=["a", "b", "c", "d"])
    X["kind"] = pd.Categorical(np.where(iris[0][:, 0] > 6, "long", "short"))
    y = pd.Series(np.array(["x", "y", "z"])[iris[1]], index=range(5, 155))
    estimator = Pipeline([("embed", embedder()), ("classify", GaussianNB())])
    if place == "after a step":
        X = X.drop(columns="kind")
        estimator = pipeline().set_output(transform="pandas")
    search = fit_both(estimator, BETAS, X, y, cv=3)
    assert reasons(search) == [""]
    assert list(search.classes_) == ["x", "y", "z"]


def test_without_labels(iris):
    def spread(estimator, X, y=None):
        return float(estimator.transform(X).std())

    fit_both(embedder(loss="hucl"), {"beta": [0.0, 2.0]}, iris[0], None, scoring=spread)


def test_regression_draws_no_warning_of_classes():
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = (10 * X[:, 0]).round().astype(int)  # few folds hold all of them
    estimator = make_pipeline(embedder(loss="hucl"), Ridge())
    fit_both(estimator, {"hsclembedder__beta": [0.0, 1.0]}, X, y)


def test_cached_steps(iris, tmp_path):
    estimator = pipeline().set_params(memory=str(tmp_path))
    assert reasons(fit_both(estimator, BETAS | SMOOTHINGS, *iris)) == [""]


def test_random_state_that_is_drawn(iris):
    search = BatchedGridSearchCV(
        pipeline(random_state=None), {"embed__beta": [1.0, 1]} | SMOOTHINGS
    ).fit(*iris)
    assert reasons(search) == [""]
    scores = [search.cv_results_[f"split{k}_test_score"] for k in range(5)]
    assert np.isfinite(scores).all()


def test_random_state_instance(iris):
    estimator = pipeline(random_state=np.random.RandomState(4))
    fit_both(estimator, BETAS | {"embed__n_components": [3, 4]}, *iris)
    fit_both(estimator, {"embed__beta": [2.0]}, *iris)


@pytest.mark.parametrize("verbose", [0, 3, 10])
def test_verbose(iris, verbose, capsys):
    printed = []
    for kind in (BatchedGridSearchCV, GridSearchCV):
        kind(pipeline(), BETAS, cv=2, verbose=verbose, return_train_score=True).fit(*iris)
        printed.append(without_times(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert bool(printed[0]) == (verbose > 0)


def test_nested(iris):
    search = BatchedGridSearchCV(pipeline(), BETAS, cv=2)
    original = GridSearchCV(pipeline(), BETAS, cv=2)
    found, expected = (cross_val_score(each, *iris, cv=2) for each in (search, original))
    np.testing.assert_array_equal(found, expected)


def test_parameters_copies_and_pickles(iris):
    search = BatchedGridSearchCV(pipeline(), BETAS, cv=2)
    original = GridSearchCV(pipeline(), BETAS, cv=2)
    assert list(search.get_params()) == list(original.get_params())
    search.fit(*iris)
    assert not hasattr(clone(search), "best_params_")
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(iris[0]), search.predict(iris[0]))
    assert again.batched_ == search.batched_
    assert again.score(*iris) == search.score(*iris)
    assert "BatchedGridSearchCV" in search._repr_html_()


def test_estimator_and_grid_are_left_alone(iris):
    estimator, grid = pipeline(), {"embed__beta": [0.0, 3.0], "scale": [StandardScaler()]}
    BatchedGridSearchCV(estimator, grid, cv=2).fit(*iris)
    assert not hasattr(grid["scale"][0], "mean_")
    assert not hasattr(estimator["embed"], "module_")
    assert not hasattr(estimator["scale"], "mean_")


def test_routed_metadata(iris):
    weight = np.random.default_rng(0).uniform(size=150)
    with config_context(enable_metadata_routing=True):
        estimator = pipeline()
        estimator["classify"].set_fit_request(sample_weight=True)
        estimator["scale"].set_fit_request(sample_weight=False)
        weighted = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        search = fit_both(
            estimator, BETAS, *iris, scoring=weighted, fit_params={"sample_weight": weight}
        )
        assert reasons(search) == ["fit got parameters: ['sample_weight']"]
        groups = {"groups": np.arange(150) % 3}
        estimator = pipeline()
        estimator["embed"].set_fit_request(groups=False)
        search = fit_both(estimator, BETAS, *iris, cv=GroupKFold(3), fit_params=groups)
        assert reasons(search) == [""]


def test_parameters_of_fit(iris):
    weight = np.random.default_rng(0).uniform(size=150)
    search = fit_both(
        pipeline(), BETAS, *iris, fit_params={"classify__sample_weight": weight}
    )
    assert reasons(search) == ["fit got parameters: ['classify__sample_weight']"]


SILENT_GRIDS = {
    "beta": (
        {"hardening": "threshold"},
        {"beta": [0.0, 1.0, 5.0]},
        r"beta=0.0 has no effect with hardening='threshold'.*\(In 3 of 3 candidates",
    ),
    "mixed": (
        {},
        {"loss": ["scl", "hscl"], "beta": [1.0, 5.0]},
        r"beta=1.0 has no effect with loss='scl'.*\(In 2 of 4 candidates",
    ),
    "loss object": (
        {"loss": ContrastiveLoss()},
        {"beta": [1.0, 5.0]},
        r"beta=1.0 has no effect, as loss is a Contr.*loss__beta.*\(In 2 of 2 candidates",
    ),
    "of the loss": (
        {"loss": ContrastiveLoss(hardening="threshold")},
        {"loss__beta": [1.0, 5.0]},
        r"beta=1.0 has no effect with hardening='threshold'.*\(In 2 of 2 candidates",
    ),
    "single fits": (
        {"cross_fit": 2, "encoder": "tabular", "early_stopping": "auto"},
        {"temperature": [0.5, 1e4]},
        r"temperature=10000.0 is extreme.*\(In 1 of 2 candidates",
    ),
    "members": (
        {"encoder": "mlp"},
        {"n_members": [1, 2, 3]},
        r"n_members=2 has no effect with encoder='mlp'.*\(In 2 of 3 candidates",
    ),
    "rate": ({}, {"lr": [50.0, 70.0]}, r"lr=50.0 is extreme.*\(In 2 of 2 candidates"),
}


@pytest.mark.parametrize(
    ("params", "grid", "message"), SILENT_GRIDS.values(), ids=SILENT_GRIDS
)
def test_one_warning_for_values_that_surprise(iris, params, grid, message):
    grid = {f"embed__{name}": values for name, values in grid.items()}
    n_jobs = 2 if "cross_fit" in params else 1  # also of the workers
    search = BatchedGridSearchCV(pipeline(**params), grid, cv=2, n_jobs=n_jobs)
    with pytest.warns(UserWarning, match=message) as caught:
        search.fit(*iris)
    assert len(caught) == 1


def test_usual_values_draw_no_warning(iris):
    grid = {"embed__beta": [0.0, 5.0], "embed__temperature": [0.1, 1.0]}
    BatchedGridSearchCV(pipeline(), grid, cv=2).fit(*iris)
