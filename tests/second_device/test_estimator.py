"""What a fitted embedder does on a second device: embed, store, explain, draw."""

import copy
import pickle

import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.utils.data import TensorDataset

from second_device.agreement import assert_agree, embedder
from second_device.backend import NAME
from sklearn_hscl import HSCLEmbedder, metrics
from sklearn_hscl.diagnostics import diagnose
from sklearn_hscl.display import (
    CollapseDisplay,
    EmbeddingDisplay,
    LossCurveDisplay,
    NeighborsDisplay,
    SimilarityDisplay,
)
from sklearn_hscl.export import to_onnx
from sklearn_hscl.runtime import device as devices
from sklearn_hscl.theory import TheoryMonitor, verify_embedding, verify_estimator

mpl.use("agg")


@pytest.fixture(scope="module", params=["mlp", "tabular", "conv"])
def fitted(request, table, images):
    X, y = images if request.param == "conv" else table
    sizes = None if request.param == "conv" else (16,)
    parameters = {"encoder": request.param, "hidden_layer_sizes": sizes}
    return embedder(NAME, **parameters).fit(X, y), X


def test_fitted_attributes(fitted):
    model, X = fitted
    assert model.device_ == torch.device(NAME, 0)
    assert {weight.device.type for weight in model.module_.parameters()} == {NAME}
    assert type(model.transform(X)) is np.ndarray


@pytest.mark.parametrize("n_rows", [1, 31, 33, 96])
def test_any_number_of_rows(fitted, n_rows):
    model, X = fitted
    whole = model.transform(X)
    part = model.transform(X[:n_rows])
    np.testing.assert_allclose(part, whole[:n_rows], atol=1e-5 * np.abs(whole).max())


def stored(model, path, **parameters):
    model.save(path)
    return HSCLEmbedder.load(path, **parameters)


COPIES = {
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "bundle": lambda model, path: stored(model, path / "model.hscl"),
}


@pytest.mark.parametrize("way", COPIES)
def test_copies(fitted, tmp_path, way):
    model, X = fitted
    copied = COPIES[way](model, tmp_path)
    np.testing.assert_array_equal(copied.transform(X), model.transform(X))


def test_loaded_on_another_device(fitted, tmp_path):
    model, X = fitted
    on_cpu = stored(model, tmp_path / "model.hscl", device="cpu")
    assert on_cpu.device_.type == "cpu"
    scale = np.abs(model.transform(X)).max()
    np.testing.assert_allclose(on_cpu.transform(X), model.transform(X), atol=4e-5 * scale)
    back = stored(on_cpu, tmp_path / "back.hscl", device=NAME)
    assert back.device_.type == NAME
    np.testing.assert_array_equal(back.transform(X), model.transform(X))


def test_export(fitted, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, X = fitted
    to_onnx(model, tmp_path / "model.onnx")
    X = X.astype(np.float32)  # as both take it: trees may split next to a value
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (name,) = (given.name for given in session.get_inputs())
    rows = X[:, None] if X.ndim == 3 else X
    (found,) = session.run(None, {name: rows})
    expected = model.transform(X)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert {weight.device.type for weight in model.module_.parameters()} == {NAME}


def test_diagnosis(table):
    X, y = table

    def values(device):
        diagnosis = diagnose(embedder(device).fit(X, y), X, y, random_state=0)
        found = [finding.values for finding in diagnosis]
        return [v for part in found for v in part.values() if isinstance(v, float)]

    assert_agree(values)


def test_theory(table):
    X, y = table

    def values(device):
        model = embedder(device).fit(X, y)
        return verify_estimator(model, X, y, random_state=0).hscl

    assert_agree(values)


def test_theory_along_training(table):
    X, y = table

    def values(device):
        monitor = TheoryMonitor(X, y)
        embedder(device).set_callbacks(monitor).fit(X, y)
        return monitor.along_epochs().hscl.value

    assert_agree(values)


DISPLAYS = {
    "collapse": lambda model, X, y: CollapseDisplay.from_estimator(model, X, y),
    "embedding": lambda model, X, y: EmbeddingDisplay.from_estimator(model, X, y),
    "loss": lambda model, X, y: LossCurveDisplay.from_estimator(model),
    "neighbors": lambda model, X, y: NeighborsDisplay.from_estimator(model, X, y),
    "similarity": lambda model, X, y: SimilarityDisplay.from_estimator(model, X, y),
}


@pytest.mark.parametrize("name", DISPLAYS)
def test_displays(table, name):
    def drawn(device):
        shown = DISPLAYS[name](embedder(device).fit(*table), *table)
        parts = [line.get_ydata() for ax in shown.figure_.axes for line in ax.lines]
        parts += [part for part in vars(shown).values() if isinstance(part, np.ndarray)]
        floats = [part for part in map(np.asarray, parts) if part.dtype.kind == "f"]
        return [part for part in floats if np.isfinite(part).all()]

    assert_agree(drawn, 1e-3)
    mpl.pyplot.close("all")


MEASURES = [name for name in metrics.__all__ if name != "make_embedding_scorer"]


@pytest.mark.parametrize("name", MEASURES)
def test_metrics_of_tensors(table, name):
    X, y = (
        np.asarray(part, dtype) for part, dtype in zip(table, (float, int), strict=True)
    )
    takes_labels = name not in ("uniformity", "effective_rank")
    options = {"n_neighbors": 5} if name == "knn_accuracy" else {}

    def value(device):
        labels = (torch.from_numpy(y).to(device),) if takes_labels else ()
        given = torch.from_numpy(X).to(device)
        return getattr(metrics, name)(given, *labels, **options)

    assert_agree(value, 1e-12)


def test_theory_of_tensors(table):
    X, y = (torch.from_numpy(part) for part in table)

    def value(device):
        return verify_embedding(X.to(device), y.to(device), random_state=0).hscl

    assert_agree(value, 1e-12)


# Rows of every kind ------------------------------------------------------------------


def memory_map(X, path):
    np.save(path / "X.npy", X)
    return np.load(path / "X.npy", mmap_mode="r")


ROWS = {
    "memory map": memory_map,
    "dataset": lambda X, path: TensorDataset(torch.from_numpy(X)),
    "sparse": lambda X, path: csr_array(X),
    "tensor": lambda X, path: torch.from_numpy(X),
    "float32": lambda X, path: X.astype(np.float32),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("n_views", [1, 2])
def test_rows(table, tmp_path, kind, n_views):
    X, y = ROWS[kind](table[0], tmp_path), table[1]

    def fit(device):
        return embedder(device, n_views=n_views).fit(X, y).transform(X)

    assert_agree(fit)


def test_lazy_rows_are_pinned_for_their_device_ahead_of_training(
    table, tmp_path, monkeypatch
):
    pinned = []

    class Recorded(devices.Accelerator):
        def pin(self, rows):
            pinned.append((self.device, len(rows)))
            return super().pin(rows)

    monkeypatch.setattr(devices, "Accelerator", Recorded)
    X, y = memory_map(table[0], tmp_path), table[1]
    embedder(NAME, max_epochs=1).fit(X, y)
    assert {device for device, _ in pinned if device.type != "cpu"} == {
        torch.device(NAME, 0)
    }
    assert sum(n for device, n in pinned) >= len(X)


def test_pipeline(table):
    X, y = table

    def probabilities(device):
        pipe = make_pipeline(embedder(device), LogisticRegression())
        return pipe.fit(X, y).predict_proba(X)

    assert_agree(probabilities)


# What lies on another device ---------------------------------------------------------


def test_rows_on_another_device_are_moved_and_this_is_said(table):
    X, y = (torch.from_numpy(part) for part in table)
    elsewhere = X.to(NAME)
    expected = embedder("cpu").fit(X, y).transform(X)
    with pytest.warns(UserWarning, match=f"X lies on '{NAME}:0', but device='cpu'") as said:
        model = embedder("cpu").fit(elsewhere, y)
    assert len(said) == 1
    np.testing.assert_array_equal(model.transform(X), expected)
    assert elsewhere.device.type == NAME


def test_rows_on_the_device_are_no_cause_for_a_warning(table, recwarn):
    X = torch.from_numpy(table[0]).to(NAME)
    embedder(NAME).fit(X, table[1]).transform(X)
    assert not recwarn.list


def test_module_left_on_another_device(table):
    X, y = table
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2))
    expected = embedder("cpu", encoder=module).fit(X, y).transform(X)
    module.to(NAME)
    model = embedder("cpu", encoder=module).fit(X, y)
    np.testing.assert_array_equal(model.transform(X), expected)
    assert {weight.device.type for weight in module.parameters()} == {NAME}  # untouched


class Stray(nn.Module):
    """A module with a tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 8)
        self.shift = torch.ones(4, device=NAME)

    def forward(self, rows):
        return self.last(rows + self.shift)


@pytest.mark.parametrize("device", ["cpu", NAME])
def test_tensor_that_does_not_move_with_its_module(table, device):
    with pytest.raises(ValueError, match="register_buffer"):
        embedder(device, encoder=Stray()).fit(*table)


@pytest.mark.parametrize("device", ["second:1", "cuda", "cuda:7", "nonsense", "mps"])
def test_device_that_is_not_there(table, device):
    model = embedder(device)
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used"):
        model.fit(*table)
    assert not hasattr(model, "module_")
