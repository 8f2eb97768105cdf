"""Settings of the process that a caller has changed: same results, and they stay."""

import threading

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn
import torch
from helpers.settings import SETTINGS, changed, state
from numpy.testing import assert_array_equal
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.display import (
    CollapseDisplay,
    EmbeddingDisplay,
    LossCurveDisplay,
    NeighborsDisplay,
    SimilarityDisplay,
)
from sklearn_hscl.metrics import knn_accuracy, singular_value_decay
from sklearn_hscl.model_selection import BatchedGridSearchCV, hardness_path
from sklearn_hscl.runtime.global_setting import GlobalSetting, default_settings
from sklearn_hscl.theory import verify_estimator

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 5)), np.arange(60) % 3
TABLE = pd.DataFrame(X, columns=list("abcde")).assign(c=np.array(list("xyz"))[Y[::-1]])
TABLE.loc[3, "a"] = np.nan
IMAGES = RNG.integers(0, 255, (12, 8, 8), dtype=np.uint8)


# Calls -------------------------------------------------------------------------------


def embedder(encoder="mlp", **parameters):
    settings = {"max_epochs": 1, "random_state": 0}
    if isinstance(encoder, str):
        settings["hidden_layer_sizes"] = (8, 8)
    return HSCLEmbedder(encoder=encoder, **settings | parameters)


def linear(n_features):
    return nn.Linear(n_features, 4)


@pytest.fixture(scope="module")
def fitted():
    return embedder("tabular").fit(X, Y)


def fit_table(fitted, path):
    return [embedder("tabular").fit(TABLE, Y).transform(TABLE)]


def fit_and_continue(fitted, path):
    model = embedder(encoder=linear, warm_start=True).fit(X, Y)
    return [model.partial_fit(X, Y).transform(X)]


def fit_images(fitted, path):
    model = embedder("conv", hidden_layer_sizes=None, precision="bf16", max_epochs=2)
    return [model.fit(IMAGES, Y[:12]).transform(IMAGES)]


def fit_numbers(fitted, path):
    model = embedder(early_stopping=True, precision="float64")
    return [model.fit(X, target).transform(X) for target in (X[:, 0], X[:, :2])]


def resume(fitted, path):
    model = embedder(checkpoint_dir=path)
    model.fit(X, Y)
    return [model.set_params(resume=True).fit(X, Y).transform(X)]


def save(fitted, path):
    fitted.save(path / "model")
    again = HSCLEmbedder.load(path / "model")
    return [again.transform(X), again.partial_fit(X, Y).transform(X)]


def search(fitted, path):
    model = make_pipeline(embedder(), LogisticRegression())
    grid = {"hsclembedder__beta": [0.0, 1.0]}
    return BatchedGridSearchCV(model, grid, cv=2).fit(X, Y).cv_results_["mean_test_score"]


def measure(fitted, path):
    found = str(diagnose(fitted, X, Y).to_dict())
    return [
        np.frombuffer(found.encode(), np.uint8),
        knn_accuracy(X, Y, n_neighbors=3),
        singular_value_decay(X, Y),
        verify_estimator(fitted, X, Y).margins,
    ]


def draw(fitted, path):
    displays = [
        LossCurveDisplay.from_estimator(fitted),
        EmbeddingDisplay.from_estimator(fitted, X, Y, reducer=PCA(2)),
        *(
            display.from_estimator(fitted, X, Y)
            for display in (
                EmbeddingDisplay,
                CollapseDisplay,
                NeighborsDisplay,
                SimilarityDisplay,
            )
        ),
    ]
    for display in displays:
        display.figure_.canvas.draw()
    plt.close("all")
    return [displays[1].points]


TORCH = (
    fit_table,
    fit_and_continue,
    fit_images,
    fit_numbers,
    resume,
    save,
    search,
    measure,
)
CALLS = (*TORCH, draw)


@pytest.fixture(scope="module")
def expected(fitted, tmp_path_factory):
    return {call: call(fitted, tmp_path_factory.mktemp(call.__name__)) for call in CALLS}


# Settings ----------------------------------------------------------------------------


FIGURES = {
    "figures": lambda: mpl.rc_context(
        {"axes.grid": True, "figure.constrained_layout.use": True, "font.size": 4}
        | {"axes.prop_cycle": mpl.cycler(linestyle=["-", ":"]), "image.cmap": "gray"}
    ),
    "dark figures": lambda: plt.style.context("dark_background"),
    "another backend": lambda: changed(mpl.get_backend, plt.switch_backend, "pdf"),
}
USES = {
    "no gradients": TORCH,
    "inference mode": TORCH,
    "gradients off": (fit_table,),
    "float64": TORCH,
    "bfloat16": TORCH,
    "another device": CALLS,
    "autocast": CALLS,
    "autocast disabled": TORCH,
    "deterministic": TORCH,
    "anomalies": (fit_table, fit_and_continue),
    "threads": (fit_table, fit_and_continue, search),
    "medium products": TORCH,
    "high products": (fit_and_continue,),
    "errors of numpy": CALLS,
    "print options": (measure, save),
    "copy on write": (fit_table, draw),
    "strings of pandas": (fit_table,),
    "objects of pandas": (fit_table,),
    "chained assignment": (fit_table, draw),
    "polars": (fit_table,),
    "pandas as output": CALLS,
    "polars as output": CALLS,
    "finite": (fit_numbers, search),
    "routing": (search,),
    "little memory": (measure, search),
    "distances": (measure,),
    "no validation": (fit_table, search),
    "two threads of joblib": (search,),
    "forks of joblib": (search,),
    "figures": (draw,),
    "dark figures": (draw,),
    "another backend": (draw,),
    "warnings": CALLS,
}


@pytest.mark.filterwarnings("ignore:.*option is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*option is deprecated:FutureWarning")
@pytest.mark.parametrize("name", USES)
def test_results_do_not_depend_on_settings_of_the_caller(name, fitted, expected, tmp_path):
    setting = (SETTINGS | FIGURES)[name]
    if name == "polars as output":
        pytest.importorskip("polars")
    for call in USES[name]:
        (tmp_path / call.__name__).mkdir()
        with setting():
            before = state()
            found = call(fitted, tmp_path / call.__name__)
            assert state() == before
        for value, right in zip(found, expected[call], strict=True):
            assert_array_equal(np.asarray(value), right)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_modules_that_were_made_in_inference_mode():
    with torch.inference_mode():
        module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        model = embedder(encoder=module).fit(X, Y)
    assert np.isfinite(model.partial_fit(X, Y).transform(X)).all()


def test_output_of_frames_is_that_of_the_caller(fitted):
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(fitted.transform(X), pd.DataFrame)
        assert isinstance(embedder().fit_transform(X, Y), pd.DataFrame)


def test_steps_of_a_pipeline_pass_frames_on_as_in_fit():
    pytest.importorskip("polars")
    for output in ("pandas", "polars"):
        with sklearn.config_context(transform_output=output):
            scale = make_column_transformer(
                (StandardScaler(), ["b"]), remainder="passthrough"
            )
            pipe = make_pipeline(scale, embedder("tabular")).fit(TABLE, Y)
            assert pipe[-1].is_categorical_.any()
            assert diagnose(pipe, TABLE, Y)["collapse"].severity
            verify_estimator(pipe, TABLE, Y)
            hardness_path(pipe, TABLE, Y, betas=[0.0, 1.0], cv=2)
            for reducer in (None, PCA(2)):
                EmbeddingDisplay.from_estimator(pipe, TABLE, Y, reducer=reducer)
    plt.close("all")


def test_gradients_stay_as_they_were():
    with torch.no_grad(), default_settings():
        assert torch.is_grad_enabled()
    with torch.inference_mode():
        with default_settings():
            assert not torch.is_inference_mode_enabled()
            assert torch.ones(2, requires_grad=True).sum().requires_grad
        assert torch.is_inference_mode_enabled()


def test_the_last_of_several_threads_restores_a_setting():
    values = ["old"]
    setting = GlobalSetting(lambda: values[-1], values.append)
    entered, leave = threading.Event(), threading.Event()

    def use():
        with setting.set_to("new"):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=use)
    with setting.set_to("new"):
        thread.start()
        entered.wait()
    assert values == ["old", "new"]
    leave.set()
    thread.join()
    assert values == ["old", "new", "old"]


INFINITE = np.where(np.arange(300).reshape(60, 5) == 7, np.inf, X)


@pytest.mark.parametrize(
    "rows", [INFINITE, sp.csr_array(INFINITE)], ids=["dense", "sparse"]
)
@pytest.mark.parametrize("encoder", ["mlp", "auto", "tabular"])
def test_infinite_values_are_refused_where_finite_ones_are_assumed(rows, encoder):
    with sklearn.config_context(assume_finite=True):
        with pytest.raises(ValueError, match="infinity"):
            embedder(encoder).fit(rows, Y)
        fitted = embedder(encoder).fit(np.abs(X), Y)
        with pytest.raises(ValueError, match="infinity"):
            fitted.transform(rows[:5])
