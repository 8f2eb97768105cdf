"""Encoders by name, modules, factories and images: built, checked and trained."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import ImageTransforms, RandomShift
from sklearn_hscl.encoders import ENCODERS, EncoderOptions, build_module

X = np.random.default_rng(0).normal(size=(40, 6))
Y = np.arange(40) % 2


def fit(encoder, X=X, y=Y, **parameters):
    options = {"max_epochs": 2, "random_state": 0} | parameters
    return HSCLEmbedder(encoder=encoder, **options).fit(X, y)


class SmallConv(nn.Sequential):
    def __init__(self, channels=1, n_components=5):
        super().__init__(
            nn.Conv2d(channels, 4, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, n_components),
        )


def test_hidden_layers():
    layers = fit("mlp", hidden_layer_sizes=(32, 8), n_components=3).module_.layers
    widths = [part.weight.shape for part in layers if isinstance(part, nn.Linear)]
    assert widths == [(32, 6), (8, 32), (3, 8)]


def test_no_hidden_layer_is_a_linear_map():
    embedder = fit("mlp", hidden_layer_sizes=(), n_components=2)
    a, b = embedder.transform(X[:1]), embedder.transform(X[1:2])
    middle = embedder.transform((X[:1] + X[1:2]) / 2)
    np.testing.assert_allclose(middle, (a + b) / 2, atol=1e-5)


def test_projection_head_trains_but_does_not_embed():
    embedder = fit("mlp", projection_dim=7, n_components=3)
    assert embedder.transform(X).shape == (40, 3)
    assert embedder.net_.module_(torch.zeros(2, 6))[0].shape == (2, 7)
    assert isinstance(fit("mlp", projection_dim=None).net_.module_.head, nn.Identity)


def test_a_custom_module_is_copied_and_trained():
    module = nn.Linear(6, 3)
    before = module.weight.detach().clone()
    embedder = fit(module)
    assert torch.equal(module.weight, before)
    assert not torch.equal(embedder.module_.weight, before)
    assert embedder.transform(X).shape == (40, 3)
    assert embedder.get_params()["encoder"] is module


def test_module_starts_from_its_own_weights():
    module = nn.Linear(6, 3)
    embedder = fit(module, lr=1e-8)
    torch.testing.assert_close(embedder.module_.weight, module.weight)


def test_modules_in_float64_and_lazy_modules():
    assert fit(nn.Linear(6, 3).double()).transform(X).shape == (40, 3)
    assert fit(nn.LazyLinear(3)).transform(X).shape == (40, 3)


class WithArguments(nn.Linear):
    def __init__(self, n_features, n_components):
        super().__init__(n_features, n_components)


@pytest.mark.parametrize(
    "factory",
    [
        lambda: nn.Linear(6, 3),
        lambda n_features: nn.Linear(n_features, 3),
        lambda input_shape, n_components: nn.Linear(*input_shape, n_components),
        lambda **kwargs: nn.Linear(kwargs["n_features"], kwargs["n_components"]),
        functools.partial(nn.Linear, 6, 3),
        WithArguments,
    ],
)
def test_factories(factory):
    assert fit(factory, n_components=3).transform(X).shape == (40, 3)


def test_a_module_that_a_factory_retains_is_not_trained():
    retained = nn.Linear(6, 3)
    first, second = (fit(lambda: retained) for _ in range(2))
    assert torch.equal(first.module_.weight, second.module_.weight)
    assert not torch.equal(first.module_.weight, retained.weight)


def test_batch_norm_works_with_batches_of_odd_size():
    encoder = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    y = np.repeat(np.arange(21), 2)[:40]
    y[-1] = 20
    embedder = fit(encoder, y=y, batch_size=4)
    assert np.isfinite(embedder.transform(X)).all()
    assert fit(encoder, X[:3], loss="ucl", y=None, batch_size=2).n_iter_ == 2


def test_a_factory_is_seeded_by_random_state():
    first, second = (fit(lambda: nn.Linear(6, 3)) for _ in range(2))
    assert torch.equal(first.module_.weight, second.module_.weight)


def test_embedding_does_not_use_dropout_or_batch_statistics():
    encoder = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3)
    )
    embedder = fit(encoder)
    whole = embedder.transform(X)
    np.testing.assert_array_equal(embedder.transform(X[:1]), whole[:1])
    assert embedder.module_[1].num_batches_tracked == 2


def test_dropout_makes_views():
    encoder = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    embedder = fit(encoder, loss="ucl", augment=None)
    assert embedder.net_.n_views == 2


def test_options_of_an_encoder_are_frozen_and_have_neutral_defaults():
    options = EncoderOptions("mlp")
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.dropout = 0.5
    module = build_module(options, torch.rand(5, 6), n_outputs=3)
    assert module.training and isinstance(module.head, nn.Identity)
    assert module.n_components == 64 and module.classifier.out_features == 3
    assert ENCODERS == ("mlp", "tabular", "conv", "resnet18", "resnet50", "gin")


# Images -----------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["auto", SmallConv()])
@pytest.mark.parametrize("loss", ["ucl", "hscl"])
def test_images(digit_images, encoder, loss):
    images, y = digit_images
    embedder = fit(encoder, images, y, loss=loss)
    embedding = embedder.transform(images)
    assert embedder.input_shape_ == (1, 8, 8)
    views = ImageTransforms if loss == "ucl" else RandomShift
    assert isinstance(embedder.net_.augment, views)
    assert embedding.dtype == np.float32
    np.testing.assert_array_equal(embedder.transform(images[7:8]), embedding[7:8])


def test_layouts_and_types_of_images_agree(digit_images):
    images, y = digit_images
    bytes_ = (images * 15).astype(np.uint8)
    colour = np.stack([bytes_, bytes_ // 2, 255 - bytes_], axis=1)  # (n, 3, 8, 8)
    encoder = SmallConv(3)
    first = fit(encoder, colour, y).transform(colour)
    last = np.moveaxis(colour, 1, 3)
    embedder = fit(encoder, last, y)
    np.testing.assert_array_equal(embedder.transform(last), first)
    scaled = colour.astype(np.float32) / 255
    np.testing.assert_array_equal(embedder.transform(scaled), first)
    assert embedder.transform(last).dtype == np.float32
    forced = fit(SmallConv(8), np.tile(images[:, None], (1, 8, 1, 1)), y, channels="first")
    assert forced.input_shape_ == (8, 8, 8)


def test_users_augmentation_sees_batches_and_generator(digit_images):
    images, y = digit_images
    seen = []

    def flip(rows, generator):
        seen.append((tuple(rows.shape), type(generator)))
        return rows.flip(-1)

    fit("mlp", images, y, augment=flip, n_views=2, max_epochs=1, batch_size=300)
    assert seen == [((300, 1, 8, 8), torch.Generator)] * 2
