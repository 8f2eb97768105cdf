"""Models of timm and torchvision by name.

Neither has to be installed: small stand-ins take the calls that the libraries document,
timm's ``create_model`` and torchvision's ``models.get_model``.
"""

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from sklearn_hscl import HSCLEmbedder

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]
Y = np.arange(24) % 2


def features():
    return [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def create_model(name, pretrained, num_classes):
    if name != "small":
        raise RuntimeError(f"Unknown model ({name})")
    assert not pretrained
    head = nn.Linear(6, num_classes) if num_classes else nn.Identity()
    return nn.Sequential(*features(), head)


class VisionModel(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.features = nn.Sequential(*features())
        self.classifier = nn.Sequential(
            nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, num_classes)
        )

    def forward(self, images):
        return self.classifier(self.features(images))


def get_model(name, weights, num_classes=1000):
    assert weights is None
    if name == "headless":
        return nn.Sequential(*features())
    if name != "small":
        raise ValueError(f"Unknown model {name}")
    return VisionModel(num_classes)


@pytest.fixture(autouse=True)
def libraries(monkeypatch):
    timm = SimpleNamespace(create_model=create_model)
    torchvision = SimpleNamespace(models=SimpleNamespace(get_model=get_model))
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)


def fit(encoder, X=COLOUR, **parameters):
    embedder = HSCLEmbedder(encoder=encoder, max_epochs=1, random_state=0, **parameters)
    return clone(embedder).fit(X, Y)


@pytest.mark.parametrize("images", [COLOUR, GREY])
@pytest.mark.parametrize(
    ("encoder", "n_components", "width"),
    [
        ("timm:small", None, 6),
        ("timm:small", 5, 5),
        ("torchvision:small", None, 7),
        ("torchvision:small", 5, 5),
    ],
)
def test_models_lose_their_classifier(encoder, n_components, width, images):
    embedding = fit(encoder, images, n_components=n_components).transform(images)
    assert embedding.shape == (24, width)
    assert np.isfinite(embedding).all()


def test_grey_images_fill_all_channels():
    fitted = fit("timm:small", GREY)
    scaled = fitted.module_.scaling(torch.from_numpy(GREY[:, None]) / 255)
    with torch.no_grad():
        expected = fitted.module_.model(scaled.repeat(1, 3, 1, 1)).numpy()
    np.testing.assert_allclose(fitted.transform(GREY), expected, rtol=1e-4, atol=1e-6)


def test_weights_follow_random_state():
    first, second = (fit("torchvision:small").transform(COLOUR) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("encoder", "parameters", "message"),
    [
        ("timm:huge", {}, r"encoder='timm:huge' cannot be built: Unknown model \(huge\)"),
        ("torchvision:huge", {}, "cannot be built: Unknown model huge"),
        ("torchvision:headless", {}, "no linear classifier to remove"),
        ("timm:small", {"dropout": 0.1}, "has fixed layers"),
        ("timm:small", {"X": RNG.random((24, 8, 8, 4))}, "1 or 3 channels, got 4"),
        ("timm:small", {"X": RNG.random((24, 8))}, "takes images, got rows of shape"),
        ("keras:small", {}, "'encoder' parameter .*timm:NAME"),
        ("timm:", {}, "'encoder' parameter"),
    ],
)
def test_invalid_encoders_are_refused(encoder, parameters, message):
    with pytest.raises(ValueError, match=message):
        fit(encoder, **parameters)


@pytest.mark.parametrize("encoder", ["timm:small", "torchvision:small"])
@pytest.mark.parametrize("n_components", [None, 5])
def test_storing(encoder, n_components, tmp_path):
    embedder = fit(encoder, n_components=n_components)
    expected = embedder.transform(COLOUR)
    again = pickle.loads(pickle.dumps(embedder))
    np.testing.assert_array_equal(again.transform(COLOUR), expected)
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=rf"encoder='{encoder}' .*leave_out=\['encoder'\]"):
        embedder.save(path)
    embedder.save(path, leave_out=["encoder"], optimizer=True)
    for given in (encoder, embedder.module_):
        again = HSCLEmbedder.load(path, encoder=given)
        np.testing.assert_array_equal(again.transform(COLOUR), expected)
    with pytest.raises(ValueError, match="the configuration of its encoder is missing"):
        HSCLEmbedder.load(path, encoder="conv")
    again = HSCLEmbedder.load(path, encoder=encoder).partial_fit(COLOUR, Y)
    assert again.n_iter_ == embedder.n_iter_ + 1


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_missing_libraries_are_named(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f"pip install {library}"):
        fit(f"{library}:small")
