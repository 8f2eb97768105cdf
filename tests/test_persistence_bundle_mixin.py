"""Pickle, joblib, cloudpickle, skops and copies return equal embedders."""

import copy
import pickle
import pickletools
import subprocess
import sys
from importlib import import_module
from io import BytesIO

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from helpers.stored_models import MODELS, N_ROWS, OWN, SMALL, fitted, frame, labels, numbers
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders.linear_path import trained_part
from sklearn_hscl.losses import ContrastiveLoss, StepBeta
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.persistence import SKOPS_TRUSTED, BundleError
from sklearn_hscl.persistence.json_codec import _CLASSES


def by_pickle(estimator):
    return pickle.loads(pickle.dumps(estimator))


def by_joblib(estimator):
    stream = BytesIO()
    joblib.dump(estimator, stream, compress=3)
    stream.seek(0)
    return joblib.load(stream)


def by_cloudpickle(estimator):
    return pickle.loads(cloudpickle.dumps(estimator))


def by_skops(estimator):
    return skops.io.loads(skops.io.dumps(estimator), trusted=list(SKOPS_TRUSTED))


WAYS = [by_pickle, by_joblib, by_cloudpickle, by_skops, copy.deepcopy, copy.copy]


@pytest.mark.parametrize("name", MODELS)
def test_every_way_gives_the_same_embedding(name):
    embedder, X, _ = fitted(name)
    expected = embedder.transform(X)
    for through in WAYS:
        if through is by_skops and name in OWN:
            continue  # which holds no code
        again = through(embedder)
        assert_array_equal(again.transform(X), expected, err_msg=through.__name__)
        assert again.history_ == embedder.history_
        for attribute in vars(embedder):
            assert hasattr(again, attribute), (through, attribute)
    again = by_pickle(embedder)
    assert_array_equal(by_pickle(again).transform(X), expected)
    assert by_pickle(clone(embedder)).get_params().keys() == embedder.get_params().keys()


@pytest.mark.parametrize("name", MODELS)
def test_small(name):
    embedder, _, _ = fitted(name)
    weights = sum(
        t.numel() * t.element_size() for t in embedder.module_.state_dict().values()
    )
    if name == "own encoder":
        weights *= 2  # those before training are a parameter
    assert len(pickle.dumps(embedder)) <= 1.2 * weights + 2**16


@pytest.mark.parametrize("name", [n for n in MODELS if n not in OWN])
def test_no_object_of_torch_in_the_pickle(name):
    embedder, _, _ = fitted(name)
    if isinstance(embedder.loss, ContrastiveLoss):
        embedder.set_params(loss="hucl")
    written = pickle.dumps(embedder)
    text = [arg for _, arg, _ in pickletools.genops(written) if isinstance(arg, str)]
    assert not any(arg.partition(".")[0] in ("torch", "skorch") for arg in text)


def test_levels_of_single_rows_stay_behind():
    embedder, X, _ = fitted("tabular")
    assert len(embedder.categories_[-1]) == N_ROWS
    written = pickle.dumps(embedder)
    assert b"Person" not in written and "grün".encode() in written
    assert len(pickle.loads(written).categories_[-1]) == 0
    assert_array_equal(pickle.loads(written).transform(X), embedder.transform(X))


@pytest.mark.parametrize("encoder", ["auto", "mlp"])
def test_rows_with_new_levels_and_gaps(encoder):
    X = frame()
    embedder = HSCLEmbedder(encoder=encoder, **SMALL).fit(X, labels())
    new = X.assign(colour="never seen", gaps=np.nan, name=None)
    assert_array_equal(by_pickle(embedder).transform(new), embedder.transform(new))


def test_functions_through_cloudpickle():
    X, y = numbers(), labels()
    embedder = HSCLEmbedder(
        encoder=lambda n_features: torch.nn.Linear(n_features, 3), **SMALL
    )
    unfitted = by_cloudpickle(embedder)
    embedder.fit(X, y)
    assert_array_equal(by_cloudpickle(embedder).transform(X), embedder.transform(X))
    assert_array_equal(unfitted.fit(X, y).transform(X), embedder.transform(X))


def test_from_gpu_to_cpu():
    embedder, X, _ = fitted("tabular of numbers")
    embedder.device_ = torch.device("cuda")  # what a fit on a GPU leaves
    embedder._precision = type(embedder._precision)("tf32", embedder.device_)
    again = by_pickle(embedder)
    assert again.device_ == torch.device("cpu") and again._precision.name == "float32"
    expected = fitted("tabular of numbers")[0].transform(X)
    assert_array_equal(again.transform(X), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there():
    embedder, X, _ = fitted("tabular of numbers")
    expected = embedder.transform(X)
    written = pickle.dumps(embedder.set_params(device="cuda:1"))
    with pytest.warns(
        UserWarning, match="device='cuda:1' is not available; loading on the CPU"
    ):
        again = pickle.loads(written)
    assert_array_equal(again.transform(X), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fitted_on_a_gpu():
    X, y = numbers(), labels()
    written = pickle.dumps(HSCLEmbedder(**SMALL).fit(X, y))
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).device_)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=written,
        capture_output=True,
        check=True,
        env={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert found.stdout.strip() == b"cpu"


@pytest.mark.parametrize("through", [by_pickle, by_skops])
@pytest.mark.parametrize("name", ["tabular", "without labels", "conv", "of numbers"])
def test_training_goes_on(name, through):
    embedder, X, y = fitted(name)
    first, second = through(embedder), through(embedder)
    before = first.transform(X)
    first.partial_fit(X, y)
    second.partial_fit(X, y)
    assert first.n_iter_ == embedder.n_iter_ + 1
    assert np.abs(first.transform(X) - before).max() > 1e-6
    assert_array_equal(first.transform(X), second.transform(X))
    warm = through(embedder).set_params(warm_start=True, max_epochs=1).fit(X, y)
    assert warm.n_iter_ == embedder.n_iter_ + 1


def test_a_deep_copy_goes_on_as_the_original():
    embedder, X, y = fitted("tabular")
    again = copy.deepcopy(embedder)
    assert trained_part(again.module_) is again.net_.module_.encoder
    assert_array_equal(
        again.partial_fit(X, y).transform(X), embedder.partial_fit(X, y).transform(X)
    )


def test_random_generators_are_left_alone():
    written = pickle.dumps(fitted("tabular")[0])
    before = torch.get_rng_state()
    pickle.loads(written)
    assert torch.equal(torch.get_rng_state(), before)


def test_mapped_by_joblib(tmp_path):
    embedder, X, y = fitted("plain mlp")
    joblib.dump(embedder, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert_array_equal(again.transform(X), embedder.transform(X))
    again.partial_fit(X, y)
    unchanged = joblib.load(tmp_path / "model.joblib")
    assert_array_equal(unchanged.transform(X), embedder.transform(X))


@pytest.mark.parametrize("search", [GridSearchCV, BatchedGridSearchCV])
@pytest.mark.parametrize("through", [by_pickle, by_joblib, copy.deepcopy])
def test_inside_of_pipelines_and_searches(search, through):
    X, y = frame(), labels()
    pipe = make_pipeline(HSCLEmbedder(**SMALL), LogisticRegression())
    grid = {"hsclembedder__beta": [0.0, 1.0]}
    fitted_search = search(pipe, grid, cv=2).fit(X, y)
    again = through(fitted_search)
    assert_array_equal(again.predict_proba(X), fitted_search.predict_proba(X))


def test_pipeline_through_skops():
    X, y = frame(), labels()
    pipe = make_pipeline(HSCLEmbedder(**SMALL), LogisticRegression()).fit(X, y)
    written = skops.io.dumps(pipe)
    needed = ["sklearn_hscl.embedder.HSCLEmbedder"]
    assert skops.io.get_untrusted_types(data=written) == needed
    again = skops.io.loads(written, trusted=needed)
    assert_array_equal(again.predict_proba(X), pipe.predict_proba(X))


def test_skops_knows_our_parameters():
    loss = ContrastiveLoss("scl", temperature=0.2)
    embedder = HSCLEmbedder(loss, beta=StepBeta(), **SMALL).fit(numbers(), labels())
    written = skops.io.dumps(embedder)
    assert set(skops.io.get_untrusted_types(data=written)) <= set(SKOPS_TRUSTED)
    again = by_skops(embedder)
    assert again.beta == embedder.beta and again.loss.options == loss.options
    again.partial_fit(numbers(), labels())


def test_skops_needs_no_type_for_a_directory_and_a_device(tmp_path):
    embedder = HSCLEmbedder(
        checkpoint_dir=tmp_path, device=torch.device("cpu"), **SMALL
    ).fit(numbers(), labels())
    needed = ["sklearn_hscl.embedder.HSCLEmbedder"]
    for written in (embedder, clone(embedder)):
        stored = skops.io.dumps(written)
        assert skops.io.get_untrusted_types(data=stored) == needed
        again = skops.io.loads(stored, trusted=needed)
        assert (again.checkpoint_dir, again.device) == (str(tmp_path), "cpu")
    assert embedder.checkpoint_dir == tmp_path


@pytest.mark.parametrize("path", SKOPS_TRUSTED)
def test_trusted_types_exist_under_the_path_that_skops_writes(path):
    module, _, name = path.rpartition(".")
    trusted = getattr(import_module(module), name)
    assert isinstance(trusted, type)
    assert (trusted.__module__, trusted.__qualname__) == (module, name)


def test_all_classes_that_bundles_store_by_name_are_trusted():
    paths = {f"{cls.__module__}.{cls.__qualname__}" for cls in _CLASSES.values()}
    assert paths <= set(SKOPS_TRUSTED)


def test_every_attribute_of_a_fit_is_stored():
    # A new one is added to training/fitted_state.py, or it is pickled as it is.
    embedder, _, _ = fitted("tabular")
    parameters = embedder.get_params(deep=False).keys()
    as_they_are = embedder.__getstate__().keys() - parameters - {"_fit"}
    assert as_they_are == {"n_features_in_", "feature_names_in_"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "expected pickle version 1, got 2"),
        ({"arrays": {}}, "missing"),
        ({"facts": {}}, "missing or unknown entries"),
        ({"encoder": 3}, "encoder of its fit has the invalid value 3"),
    ],
)
def test_pickles_of_other_versions(change, message):
    state = fitted("tabular")[0].__getstate__()
    state["_fit"] = state["_fit"] | change
    with pytest.raises(BundleError, match=message):
        HSCLEmbedder().__setstate__(state)


def test_output_of_frames_is_kept():
    embedder, X, _ = fitted("tabular")
    embedder.set_output(transform="pandas")
    for through in WAYS:
        assert isinstance(through(embedder).transform(X), pd.DataFrame)


# Hashes ------------------------------------------------------------------------------


class Counting(nn.Sequential):
    n_calls = 0  # of all instances, and not part of their state

    def forward(self, rows):
        Counting.n_calls += 1
        return super().forward(rows)


def new_module(seed=0):
    torch.manual_seed(seed)
    tied = nn.Linear(3, 3)
    tied.bias = nn.Parameter(torch.zeros(3), requires_grad=False)
    layers = nn.Linear(4, 3), nn.BatchNorm1d(3), tied, nn.ReLU(), tied, nn.Linear(3, 2)
    module = Counting(*layers)
    module.register_buffer("step", torch.tensor(1.0, dtype=torch.bfloat16))
    return module


MODULES = {
    "encoder": lambda: {"encoder": new_module()},
    "recurrent": lambda: {"encoder": nn.LSTM(4, 2)},
    "loss": lambda: {"loss": ContrastiveLoss("hscl")},
    "named": lambda: {"encoder": "mlp"},
}


@pytest.mark.parametrize("name", MODULES)
def test_equal_embedders_have_equal_hashes(name):
    torch.manual_seed(0)
    embedder = HSCLEmbedder(**MODULES[name]())
    copies = [clone(embedder), copy.deepcopy(embedder), by_pickle(embedder)]
    assert {joblib.hash(copied) for copied in copies} == {joblib.hash(embedder)}


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module[0].weight.data.add_(1),
        lambda module: module[0].weight.requires_grad_(False),
        lambda module: module[1].running_mean.add_(1),
        lambda module: module[1].eval(),
        lambda module: setattr(module[1], "eps", 0.1),
        lambda module: module.__setitem__(4, copy.deepcopy(module[2])),
    ],
)
def test_different_modules_have_different_hashes(change):
    embedder = HSCLEmbedder(encoder=new_module())
    before = joblib.hash(embedder)
    change(embedder.encoder)
    assert joblib.hash(embedder) != before


def test_a_pipeline_with_memory_fits_a_module_once(tmp_path, iris):
    X, y = iris

    def fit(seed=0):
        embedder = HSCLEmbedder(encoder=new_module(seed), max_epochs=1, random_state=0)
        pipe = make_pipeline(embedder, LogisticRegression(), memory=str(tmp_path))
        before = Counting.n_calls
        return pipe.fit(X, y), Counting.n_calls - before

    first, n_calls = fit()
    again, n_calls_again = fit()
    assert n_calls > 0 and n_calls_again == 0
    np.testing.assert_array_equal(again.predict_proba(X), first.predict_proba(X))
    assert fit(seed=1)[1] == n_calls
