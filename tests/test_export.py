"""ONNX models return the embeddings of transform."""

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.stored_models import SMALL, frame, images, labels, numbers
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.export import to_onnx


def with_gaps():
    rows = numbers()
    rows[::5, 0] = rows[::7, 2] = np.nan
    return rows


def times():
    return numbers() + np.array([0, 0, 1.6e9, 0])


def with_a_far_value():
    rows = numbers()
    rows[7, 1] = 1e12
    return rows


def standard():
    return (numbers() - numbers().mean(0)) / numbers().std(0)


def grey():
    return images()[:, :1].astype(np.float32)


CASES = {
    "tabular": ({"hidden_layer_sizes": [16, 16]}, with_gaps, "float64"),
    "one member": ({"n_members": 1, "hidden_layer_sizes": [16]}, times, "float64"),
    "far value": ({"hidden_layer_sizes": [16]}, with_a_far_value, "float64"),
    "mlp": ({"encoder": "mlp", "normalize": True}, with_gaps, "float32"),
    "precise": ({"precision": "float64", "encoder": "mlp"}, numbers, "float64"),
    "conv": ({"encoder": "conv"}, grey, "float32"),
    "mlp of images": ({"encoder": "mlp"}, images, "uint8"),
    "own": ({"encoder": torch.nn.Linear(4, 3)}, standard, "float32"),
}


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", CASES)
def test_equal_to_transform(name, tmp_path):
    parameters, rows, dtype = CASES[name]
    X = rows()
    embedder = HSCLEmbedder(**SMALL | parameters).fit(X, labels())
    to_onnx(embedder, tmp_path / "model.onnx", dtype=dtype)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    model = session(tmp_path / "model.onnx")
    X = X.astype(dtype)
    if X.ndim == 2 and name != "own":
        X[:3] = np.nan  # in columns with gaps in training, and in others
        X[3] = 1e30
    expected = embedder.transform(X)
    scale = np.abs(expected).max()
    for n_rows in (1, 2, 7, len(X)):
        (found,) = model.run(None, {"X": X[:n_rows]})
        assert_allclose(found / scale, expected[:n_rows] / scale, rtol=0, atol=1e-5)


def test_categories_are_refused(tmp_path):
    embedder = HSCLEmbedder(**SMALL).fit(frame(), labels())
    with pytest.raises(
        ValueError, match=r"categorical columns \['colour', 'is_new', 'grade', 'name'\]"
    ):
        to_onnx(embedder, tmp_path / "model.onnx")


def test_encoders_that_cannot_be_exported(tmp_path):
    class Branching(torch.nn.Linear):
        def forward(self, rows):
            return super().forward(rows if rows.sum() > 0 else -rows)

    embedder = HSCLEmbedder(encoder=Branching(4, 3), **SMALL)
    embedder.fit(np.abs(standard()), labels())
    with pytest.raises(ValueError, match="encoder Branching cannot be exported"):
        to_onnx(embedder, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_arguments(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(NotFittedError):
        to_onnx(HSCLEmbedder(), path)
    embedder = HSCLEmbedder(**SMALL).fit(numbers(), labels())
    with pytest.raises(
        ValueError, match=r"dtype to be one of \['float32', 'float64'\], got 'uint8'"
    ):
        to_onnx(embedder, path, dtype="uint8")
