"""Built-in encoders of images: architecture, scaling and errors."""

import copy

import numpy as np
import pytest
import torch

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders import ConvEncoder, PixelScaling, ResNetEncoder

NAMES = ("conv", "resnet18", "resnet50")


def scaling(n_channels=3):
    return PixelScaling(torch.zeros(n_channels), torch.ones(n_channels))


def n_weights(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(("depth", "published"), [(18, 11_689_512), (50, 25_557_032)])
def test_resnets_have_the_published_number_of_weights(depth, published):
    encoder = ResNetEncoder(scaling(), (224, 224), depth=depth)
    width = 512 if depth == 18 else 2048
    assert n_weights(encoder) == published - 1000 * (width + 1)  # without the classifier


def test_small_images_keep_their_resolution_in_the_first_layer():
    small, large = (ResNetEncoder(scaling(), (n, n)) for n in (32, 224))
    assert n_weights(large) - n_weights(small) == 64 * 3 * (49 - 9)
    images = torch.rand(2, 3, 32, 32)
    assert small.stem(images).shape == (2, 64, 32, 32)
    assert large.stem(torch.rand(2, 3, 224, 224)).shape == (2, 64, 56, 56)


@pytest.mark.parametrize("depth", [18, 50])
def test_residual_blocks_start_as_their_shortcuts(depth):
    encoder = ResNetEncoder(scaling(), (16, 16), depth=depth).eval()
    maps = torch.rand(2, encoder.stages[1].convolutions[0].in_channels, 4, 4)
    torch.testing.assert_close(encoder.stages[1](maps), maps.relu())


def test_resolution_falls_to_seven_pixels_at_most():
    sizes = (28, 28), (7, 7), (32, 20), (200, 99)
    for size, n_doublings in zip(sizes, (2, 0, 3, 3), strict=True):
        encoder = ConvEncoder(scaling(1), size, width=8)
        maps = encoder.stages(torch.rand(2, 1, *size))
        assert max(maps.shape[2:]) <= 7
        assert maps.shape[1] == 8 * 2**n_doublings


def test_images_of_a_batch_are_independent_in_training():
    encoder = ConvEncoder(scaling(1), (14, 14), width=8).train()
    images = torch.rand(6, 1, 14, 14)
    torch.testing.assert_close(encoder(images)[:2], encoder(images[:2]))


def test_any_width_has_groups_of_channels():
    assert ConvEncoder(scaling(1), (9, 9), width=12)(torch.rand(2, 1, 9, 9)).shape == (
        2,
        64,
    )


def test_channels_are_standardised():
    images = torch.rand(50, 3, 5, 5) * torch.tensor([1.0, 5.0, 0.0]).view(3, 1, 1) + 2
    scaled = PixelScaling.fit(images)(images)
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.tensor([1.0, 1.0, 0.0]))


def test_bytes_and_floats_from_0_to_1_give_the_same_embedding(digit_images):
    images, y = digit_images
    as_bytes = (np.asarray(images[:64]) * 255 / np.max(images)).astype(np.uint8)
    as_floats = as_bytes.astype(np.float32) / 255
    embeddings = [
        HSCLEmbedder(encoder="conv", max_epochs=1, random_state=0)
        .fit(X, y[:64])
        .transform(X)
        for X in (as_bytes, as_floats)
    ]
    np.testing.assert_allclose(*embeddings, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_each_encoder_trains(digit_images, name):
    images, y = digit_images
    images, y = images[:24], y[:24]
    embedder = HSCLEmbedder(
        encoder=name, max_epochs=1, batch_size=12, n_components=5, random_state=0
    ).fit(images, y)
    embedding = embedder.transform(images)
    assert embedding.shape == (24, 5)
    np.testing.assert_array_equal(embedder.transform(images[3:9]), embedding[3:9])


@pytest.mark.parametrize("depth", [18, 50])
def test_resnets_use_channels_last_memory(digit_images, depth):
    images, y = digit_images
    fitted = HSCLEmbedder(encoder=f"resnet{depth}", max_epochs=1, random_state=0)
    module = fitted.fit(images[:12], y[:12] % 2).module_
    last = torch.channels_last
    assert all(w.is_contiguous(memory_format=last) for w in weights_4d(module))
    maps = module.stages(module.stem(torch.rand(2, 1, 16, 16)))
    assert maps.is_contiguous(memory_format=last)
    images = torch.rand(4, 1, 8, 8)
    outer = copy.deepcopy(module).to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(outer(images), module(images), rtol=1e-4, atol=1e-5)


def weights_4d(module):
    return [weight for weight in module.parameters() if weight.ndim == 4]


def test_a_resnet_keeps_its_own_width(digit_images):
    images, y = digit_images
    embedder = HSCLEmbedder(encoder="resnet18", max_epochs=1, random_state=0)
    assert embedder.fit(images[:12], y[:12] % 2).transform(images[:2]).shape == (2, 512)


def test_convolutions_learn_digits(digit_images):
    images, y = digit_images
    settings = {"encoder": "conv", "hidden_layer_sizes": [16], "random_state": 0}
    embedder = HSCLEmbedder(max_epochs=15, batch_size=64, **settings)
    embedder.fit(images[:200], y[:200])
    assert embedder.loss_curve_[-1] < embedder.loss_curve_[0] - 0.3


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_refused(name):
    with pytest.raises(ValueError, match="takes images, got rows of shape"):
        HSCLEmbedder(encoder=name).fit(np.ones((20, 4)), np.arange(20) % 2)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("conv", {"hidden_layer_sizes": (8, 8)}, "must hold one number"),
        ("conv", {"hidden_layer_sizes": (0,)}, "positive"),
        ("resnet18", {"hidden_layer_sizes": (8,)}, "has fixed layers"),
        ("resnet50", {"dropout": 0.1}, "has fixed layers"),
    ],
)
def test_invalid_sizes_are_refused(digit_images, name, parameters, message):
    images, y = digit_images
    with pytest.raises(ValueError, match=message):
        HSCLEmbedder(encoder=name, **parameters).fit(images[:20], y[:20])
