"""Modules with pretrained weights for images, and how they are trained."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders import PixelScaling, PretrainedImageEncoder
from sklearn_hscl.encoders.image.registry import LibraryEncoder
from sklearn_hscl.encoders.inference import LayoutCache
from sklearn_hscl.export import to_onnx
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.training.config import PRETRAINED

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)
Y = np.arange(48) % 3
X[Y == 1, 2:6] //= 2
X[Y == 2, :, 2:6, 0] = 255
SHORT = {"max_epochs": 2, "random_state": 0}


def network(stride=2):
    """Return a small network whose batch normalisation has statistics of other images."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 6, 3, stride, padding=1)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(convolution, nn.BatchNorm2d(6), nn.ReLU(), pooled)
    model[1].running_mean.uniform_(-0.2, 0.2)
    model[1].running_var.uniform_(0.5, 2.0)
    return model


@pytest.fixture(scope="module")
def fitted():
    return HSCLEmbedder(encoder=PretrainedImageEncoder(network(), 12), **SHORT).fit(X, Y)


# Input ---------------------------------------------------------------------------------


def test_images_reach_the_model_resized_and_standardised():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    encoder = PretrainedImageEncoder(nn.Flatten(), (4, 6), mean, std)
    level = torch.tensor([0.7, 0.4, 0.8]).view(3, 1, 1)
    found = encoder(level.expand(2, 3, 8, 8)).view(2, 3, 4, 6)
    expected = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1).expand(2, 3, 4, 6)
    assert_allclose(found, expected, atol=1e-6)
    grey = encoder(torch.full((1, 1, 8, 8), 0.5)).view(3, 4, 6)[:, 0, 0]
    assert_allclose(grey, [0.0, 0.4, 0.4], atol=1e-6)


def test_images_of_the_right_size_stay_as_they_are():
    rows = torch.rand(2, 3, 5, 7)
    for size in (None, (5, 7)):
        encoder = PretrainedImageEncoder(nn.Flatten(), size, (0, 0, 0), (1, 1, 1))
        assert_array_equal(encoder(rows), rows.flatten(1))


@pytest.mark.parametrize("images", [X, X[..., 0], X / 255, X[..., 0] / 255])
def test_bytes_floats_and_grey_images(images):
    embedder = HSCLEmbedder(encoder=PretrainedImageEncoder(network()), **SHORT)
    assert embedder.fit(images, Y).transform(images).shape == (48, 6)


WRONG_ARGUMENTS = {
    "no module": ({"model": "resnet18"}, "Expected model to be a torch.nn.Module, got str"),
    "size 0": ({"size": 0}, r"size=0 must be a positive integer"),
    "half a pixel": ({"size": 7.5}, r"size=7.5 must be"),
    "three sides": ({"size": (3, 4, 5)}, r"size=\(3, 4, 5\) must be"),
    "text": ({"size": "12"}, "size='12' must be"),
    "means up to 255": ({"mean": (124, 116, 104)}, "pixels from 0 to 1. Divide"),
    "std of 0": ({"std": (0.2, 0.0, 0.2)}, "pixels from 0 to 1"),
    "other lengths": ({"mean": (0.5,)}, "one number for each channel"),
    "no channels": ({"mean": (), "std": ()}, "one number for each channel"),
    "a number": ({"mean": 0.5}, "one number for each channel"),
}


@pytest.mark.parametrize(
    ("arguments", "message"), WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PretrainedImageEncoder(**{"model": nn.Flatten()} | arguments)


WRONG_IMAGES = {
    "floats up to 255": (X.astype(float), "from 0 to 255. .* divide X by 255"),
    "standardised": (X / 127.5 - 1, "from -1 to 1. .* standardised already"),
    "table": (X.reshape(48, -1), r"1 or 3 channels, got rows of shape \(192,\)"),
    "transparency": (np.concatenate([X, X[..., :1]], 3), r"got rows of shape \(4, 8, 8\)"),
}


@pytest.mark.parametrize(("images", "message"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_wrong_images(images, message):
    encoder = PretrainedImageEncoder(network())
    with pytest.raises(ValueError, match=message):
        HSCLEmbedder(encoder=encoder, **SHORT).fit(images, Y)


def test_a_function_that_returns_one_is_refused():
    embedder = HSCLEmbedder(encoder=lambda: PretrainedImageEncoder(network()), **SHORT)
    with pytest.raises(ValueError, match=r"got PretrainedImageEncoder\. Pass that module"):
        embedder.fit(X, Y)


def test_images_of_any_scale_for_models_that_take_them():
    encoder = PretrainedImageEncoder(network(), mean=(0, 0, 0), std=(1, 1, 1))
    for images in (X.astype(float), X / 127.5 - 1):
        assert HSCLEmbedder(encoder=encoder, **SHORT).fit(images, Y).n_iter_ == 2


# Training ------------------------------------------------------------------------------


def test_training_is_that_of_pretrained_encoders(fitted):
    assert fitted.temperature_ == 0.1
    assert fitted.net_.batch_size == PRETRAINED.batch_size
    assert fitted.net_.lr == PRETRAINED.lr
    assert isinstance(fitted.net_.module_.head, nn.Identity)
    plain = HSCLEmbedder(encoder=network(), **SHORT).fit(X, Y)
    assert (plain.temperature_, plain.net_.lr) == (0.5, 2e-3)
    given = fitted.get_params() | {"lr": 1e-3, "temperature": 0.3, "projection_dim": 4}
    changed = HSCLEmbedder(**given).fit(X, Y)
    assert (changed.temperature_, changed.net_.lr) == (0.3, 1e-3)
    assert changed.net_.module_.head[-1].out_features == 4


def test_weights_end_between_those_before_and_after_training(fitted, monkeypatch):
    start = dict(fitted.encoder.named_parameters())
    monkeypatch.setattr(
        "sklearn_hscl.training.config.PRETRAINED", replace(PRETRAINED, interpolation=None)
    )
    after = HSCLEmbedder(**fitted.get_params()).fit(X, Y)
    trained = dict(after.module_.named_parameters())
    for name, weight in fitted.module_.named_parameters():
        expected = torch.lerp(start[name], trained[name], PRETRAINED.interpolation)
        assert_allclose(weight.detach(), expected.detach(), rtol=1e-4, atol=1e-6)
        assert not torch.equal(weight, start[name])


def test_batch_normalisation_keeps_its_statistics(fitted):
    assert not fitted.encoder.train().model[1].training
    for name, buffer in fitted.encoder.named_buffers():
        assert_array_equal(fitted.module_.get_buffer(name), buffer)


def test_an_image_is_trained_alike_in_any_part_of_a_batch():
    encoder = PretrainedImageEncoder(network())
    embeddings = [
        HSCLEmbedder(encoder=encoder, device_batch_size=size, **SHORT).fit_transform(X, Y)
        for size in ("auto", 5)
    ]
    assert_allclose(*embeddings, rtol=1e-4, atol=1e-5)


def test_frozen_parts():
    encoder = PretrainedImageEncoder(network())
    embedder = HSCLEmbedder(encoder=encoder, freeze=["model.0"], **SHORT).fit(X, Y)
    weights = dict(embedder.module_.named_parameters())
    for name, weight in encoder.named_parameters():
        assert torch.equal(weights[name], weight) == name.startswith("model.0.")


def test_chunks_and_warm_starts_keep_their_weights(monkeypatch):
    def trained(**settings):
        encoder = PretrainedImageEncoder(network())
        embedder = HSCLEmbedder(encoder=encoder, warm_start=True, **SHORT)
        chunk = embedder.partial_fit(X, Y).transform(X)
        return chunk, embedder.fit(X, Y).transform(X)

    between = trained()
    monkeypatch.setattr(
        "sklearn_hscl.training.config.PRETRAINED", replace(PRETRAINED, interpolation=None)
    )
    for found, expected in zip(trained(), between, strict=True):
        assert_array_equal(found, expected)


def test_images_without_labels():
    encoder = PretrainedImageEncoder(network())
    embedder = HSCLEmbedder(encoder=encoder, **SHORT).fit(X)
    assert embedder.net_.lr == PRETRAINED.lr
    assert np.isfinite(embedder.transform(X)).all()


# scikit-learn and files ----------------------------------------------------------------


def test_searches_and_output_of_frames():
    encoders = [PretrainedImageEncoder(network(), size) for size in (6, 12)]
    pipeline = make_pipeline(HSCLEmbedder(**SHORT), LogisticRegression())
    grid = {"hsclembedder__encoder": encoders}
    scores = [
        search(pipeline, grid, cv=2).fit(X, Y).cv_results_["mean_test_score"]
        for search in (GridSearchCV, BatchedGridSearchCV)
    ]
    assert_allclose(*scores)
    embedder = HSCLEmbedder(encoder=encoders[0], **SHORT).set_output(transform="pandas")
    assert embedder.fit_transform(X, Y).columns[0] == "hsclembedder0"


def test_files_hold_the_size_beside_the_weights(fitted, tmp_path):
    fitted.save(tmp_path / "model", leave_out=["encoder"])
    expected = fitted.transform(X)
    for size in (None, 5):
        encoder = PretrainedImageEncoder(network(), size)
        again = HSCLEmbedder.load(tmp_path / "model", encoder=encoder)
        assert_array_equal(again.transform(X), expected)
        assert encoder.size == (None if size is None else (size, size))
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(X), expected)
    unsized = PretrainedImageEncoder(network())
    unsized.load_state_dict(PretrainedImageEncoder(network()).state_dict())
    assert unsized.size is None


def test_export(fitted, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    to_onnx(fitted, tmp_path / "model.onnx", dtype="uint8")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    rows = {session.get_inputs()[0].name: X.transpose(0, 3, 1, 2)}
    assert_allclose(session.run(None, rows)[0], fitted.transform(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        PretrainedImageEncoder,
        lambda model: LibraryEncoder(PixelScaling(torch.zeros(3), torch.ones(3)), model),
    ],
    ids=["pretrained", "by name"],
)
def test_layouts_are_not_those_of_models_with_weights_of_equal_shapes(wrap):
    cache, measured = LayoutCache(), []
    for stride in (1, 2):
        cache.get(wrap(network(stride)), "key", lambda: measured.append(1))
    assert len(measured) == 2
