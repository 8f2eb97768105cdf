"""Modules that torch allows: fitted, copied, pickled, stored, searched and resumed."""

import copy
import pickle

import numpy as np
import pytest
import torch
from joblib import parallel_config
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.nn.utils import parametrizations, prune

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.persistence import BundleError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 6)).astype(np.float32), np.arange(60) % 2


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.last = nn.Linear(6, 3)

    def forward(self, rows):
        return self.last(self.second(self.first(rows).relu()))


class Masked(nn.Module):
    """A softmax over some columns, whose mask is a buffer or a frozen weight."""

    def __init__(self, *, as_buffer):
        super().__init__()
        self.linear = nn.Linear(6, 3)
        mask = torch.tensor([0.0, 0.0, 0.0, 0.0, -torch.inf, -torch.inf])
        if as_buffer:
            self.register_buffer("mask", mask)
        else:
            self.mask = nn.Parameter(mask, requires_grad=False)

    def forward(self, rows):
        return self.linear(torch.softmax(rows + self.mask, 1))


class Selected(nn.Module):
    """Columns that a frozen weight of integers or bools selects."""

    def __init__(self, selected):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.selected = nn.Parameter(torch.tensor(selected), requires_grad=False)

    def forward(self, rows):
        return self.linear(rows[:, self.selected])


class WithBuffer(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("value", value)
        self.register_buffer("nothing", None)
        self.register_buffer("temporary", torch.ones(3), persistent=False)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, rows):
        factor = self.value.to(torch.complex64).abs().sum() if len(self.value) else 1.0
        return self.linear(rows) * self.scale * self.temporary * factor


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.weight = nn.Parameter(torch.randn(6, 6, dtype=torch.complex64))

    def forward(self, rows):
        return self.linear((rows.to(torch.complex64) @ self.weight).abs())


class ExtraState(nn.Linear):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        assert state == {"version": 1}


def between(layer):
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(6, 3))


def pruned():
    layer = nn.Linear(6, 6)
    prune.l1_unstructured(layer, "weight", 0.5)
    return between(layer)


MODULES = {
    "weight_norm": lambda: between(parametrizations.weight_norm(nn.Linear(6, 6))),
    "spectral_norm": lambda: between(parametrizations.spectral_norm(nn.Linear(6, 6))),
    "orthogonal": lambda: between(parametrizations.orthogonal(nn.Linear(6, 6))),
    "tied weights": Tied,
    "mask as buffer": lambda: Masked(as_buffer=True),
    "mask as weight": lambda: Masked(as_buffer=False),
    "integers as weight": lambda: Selected([0, 1, 3, 5]),
    "bools as weight": lambda: Selected([True, True, False, True, False, True]),
    "complex weight": Complex,
    "extra state": lambda: ExtraState(6, 3),
    **{
        f"{dtype} as buffer": lambda dtype=dtype: WithBuffer(torch.ones(2).to(dtype))
        for dtype in (
            torch.bool,
            torch.int8,
            torch.int64,
            torch.uint16,
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.complex64,
        )
    },
    "empty buffer": lambda: WithBuffer(torch.ones(0)),
}
PARAMETRIZED = ("weight_norm", "spectral_norm", "orthogonal")
CANNOT_BE_PICKLED = (*PARAMETRIZED, "torch.uint16 as buffer")  # torch cannot read it
CANNOT_BE_SAVED = ("complex weight", "torch.complex64 as buffer", "extra state")


def embedder(encoder, **parameters):
    settings = {"max_epochs": 2, "random_state": 0, "weight_decay": 0.1}
    return HSCLEmbedder(encoder=encoder, **settings | parameters)


@pytest.mark.parametrize("name", MODULES)
def test_every_way_gives_the_same_embedding(name, tmp_path):
    torch.manual_seed(0)
    module = MODULES[name]()
    before = copy.deepcopy(module.state_dict())
    fitted = embedder(module, early_stopping=True, checkpoint_dir=tmp_path).fit(X, Y)
    expected = fitted.transform(X)
    resumed = clone(fitted).set_params(resume=True).fit(X, Y)
    assert_array_equal(resumed.transform(X), expected)
    fitted.set_params(checkpoint_dir=None)
    assert_array_equal(clone(fitted).fit(X, Y).transform(X), expected)
    for copied in (copy.copy(fitted), copy.deepcopy(fitted)):
        assert_array_equal(copied.transform(X), expected)
    if name not in CANNOT_BE_PICKLED:
        again = pickle.loads(pickle.dumps(fitted))
        assert_array_equal(again.transform(X), expected)
    if name not in CANNOT_BE_SAVED:
        path = tmp_path / "model"
        fitted.save(path, leave_out=["encoder"], optimizer=True)
        again = HSCLEmbedder.load(path, encoder=module)
        assert_array_equal(again.transform(X), expected)
        again.partial_fit(X, Y)
        copied.partial_fit(X, Y)
        assert_array_equal(again.transform(X), copied.transform(X))
    assert_array_equal(fitted.transform(X), expected)
    for key, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    "name",
    ["tied weights", "mask as weight", "bools as weight", "complex weight", "extra state"],
)
def test_searches_with_two_workers(name):
    torch.manual_seed(0)
    pipe = make_pipeline(embedder(MODULES[name](), max_epochs=1), LogisticRegression())
    grid = {"hsclembedder__beta": [0.0, 1.0]}
    scores = []
    for n_jobs in (1, 2):
        with parallel_config("multiprocessing"):
            search = BatchedGridSearchCV(pipe, grid, cv=2, n_jobs=n_jobs, refit=False)
            scores.append(search.fit(X, Y).cv_results_["mean_test_score"])
    assert_array_equal(*scores)


def test_imaginary_parts_and_tied_weights_stay():
    model = embedder(Complex()).fit(X, Y)
    assert model.module_.weight.dtype == torch.complex64
    assert model.module_.weight.imag.abs().sum() > 0
    value = torch.tensor([1j, 2j])
    assert torch.equal(embedder(WithBuffer(value)).fit(X, Y).module_.value, value)
    for tied in (embedder(Tied()).fit(X, Y), copy.deepcopy(embedder(Tied()).fit(X, Y))):
        assert tied.module_.first.weight is tied.module_.second.weight


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_pickles_of_parametrizations_name_the_way_out(name):
    model = embedder(MODULES[name]())
    for estimator in (model, clone(model).fit(X, Y)):
        with pytest.raises(TypeError, match=r"save\(path, leave_out=\['encoder'\]\)"):
            pickle.dumps(estimator)


@pytest.mark.parametrize("name", CANNOT_BE_SAVED)
def test_states_that_a_file_cannot_hold(name, tmp_path):
    model = embedder(MODULES[name]()).fit(X, Y)
    with pytest.raises(BundleError, match="or use pickle"):
        model.save(tmp_path / "model", leave_out=["encoder"])


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(3)),
        pruned,
    ],
)
def test_modules_that_cannot_be_copied_come_from_a_function(build, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be copied .* Pass a function"):
        embedder(build()).fit(X, Y)
    fitted = embedder(build).fit(X, Y)
    fitted.save(tmp_path / "model", leave_out=["encoder"])
    again = HSCLEmbedder.load(tmp_path / "model", encoder=fitted.module_)
    assert_array_equal(again.transform(X), fitted.transform(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused():
    script = torch.jit.script(nn.Sequential(nn.Linear(6, 3)))
    with pytest.raises(ValueError, match="a module instead of TorchScript"):
        embedder(script).fit(X, Y)
