"""What is chosen for images where nothing is said."""

import numpy as np
import pytest
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import ImageTransforms, RandomShift
from sklearn_hscl.encoders import ConvEncoder, MLPEncoder


def fitted(X, y=None, **parameters):
    return HSCLEmbedder(random_state=0, **parameters).fit(X, y)


@pytest.fixture
def few(digit_images):
    images, y = digit_images
    return np.asarray(images[:60]), np.asarray(y[:60])


def test_images_with_classes_are_convolved(few):
    embedder = fitted(*few, max_epochs=1)
    assert isinstance(embedder.module_, ConvEncoder)
    assert embedder.net_.batch_size == 32
    assert embedder.net_.criterion_.options.ce_weight == 0.5
    assert isinstance(embedder.net_.module_.head, nn.Identity)


def test_images_with_numbers_are_convolved_with_a_joint_head(few):
    embedder = fitted(few[0], np.arange(60) / 7, max_epochs=1)
    assert isinstance(embedder.module_, ConvEncoder)
    assert embedder.net_.module_.classifier.out_features == 1


def test_images_without_targets_are_not_convolved(few):
    embedder = fitted(few[0], None, max_epochs=1)
    assert isinstance(embedder.net_.module_.encoder, MLPEncoder)
    assert embedder.net_.batch_size == 256


@pytest.mark.parametrize("loss", ["ucl", "hucl"])
def test_images_without_labels_are_cropped_into_a_wide_embedding(few, loss, tmp_path):
    embedder = fitted(few[0], loss=loss, max_epochs=1)
    assert isinstance(embedder.net_.augment, ImageTransforms)
    assert embedder.net_.module_.n_components == 256
    assert embedder.transform(few[0]).shape == (60, 256 + embedder.module_.width)
    embedder.save(tmp_path / "embedder.hscl")
    loaded = HSCLEmbedder.load(tmp_path / "embedder.hscl")
    assert isinstance(loaded.net_.augment, ImageTransforms)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
def test_images_of_any_channels_are_embedded_without_labels(few, n_channels):
    images = np.repeat(few[0][:, None], n_channels, axis=1)
    embedder = fitted(images, loss="hucl", channels="first", max_epochs=2)
    assert np.isfinite(embedder.loss_curve_).all()
    assert (embedder.net_.augment.jitter > 0) == (n_channels in (1, 3))


def test_with_labels_images_are_shifted(few, tmp_path):
    embedder = fitted(*few, max_epochs=1)
    assert isinstance(embedder.net_.augment, RandomShift)
    embedder.save(tmp_path / "embedder.hscl")
    loaded = HSCLEmbedder.load(tmp_path / "embedder.hscl")
    assert isinstance(loaded.net_.augment, RandomShift)


def test_few_images_without_labels_get_800_steps(few):
    assert fitted(few[0], loss="ucl").n_iter_ == 800


def test_a_resnet_without_labels_keeps_its_width(few):
    embedder = fitted(few[0], loss="ucl", encoder="resnet18", max_epochs=1)
    assert embedder.transform(few[0][:4]).shape == (4, 512)


def test_given_values_stay(few):
    embedder = fitted(
        *few, max_epochs=1, batch_size=20, ce_weight=0.25, projection_dim=8, lr=1e-2
    )
    assert embedder.net_.batch_size == 20
    assert embedder.net_.criterion_.options.ce_weight == 0.25
    assert embedder.net_.lr == 1e-2
    assert not isinstance(embedder.net_.module_.head, nn.Identity)


def test_few_images_get_400_steps(few):
    X, y = few
    n_batches = -(-len(X) // 32)
    embedder = fitted(X, y, hidden_layer_sizes=(2,))
    assert embedder.n_iter_ == 400 // n_batches
