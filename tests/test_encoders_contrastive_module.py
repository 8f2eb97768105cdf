"""Pretrained encoders: fine-tuned, partly frozen, or trained at a lower rate."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders import PixelScaling, ResNetEncoder
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.training.loop.gradient_cache import has_batch_statistics

RNG = np.random.default_rng(0)
IMAGES, Y = RNG.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8), np.arange(48) % 3


def pretrained():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(72, 5),
    )


def fit(encoder, **parameters):
    settings = {"max_epochs": 2, "batch_size": 16, "random_state": 0} | parameters
    return HSCLEmbedder(encoder=encoder, **settings).fit(IMAGES, Y)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, after):
    return {
        name for name, value in after.state_dict().items() if (value != before[name]).any()
    }


def test_training_starts_at_the_weights_of_a_module():
    encoder = pretrained()
    before = state(encoder)
    fitted = fit(encoder, lr=1e-8, weight_decay=0.0)
    for name, weight in fitted.module_.named_parameters():
        torch.testing.assert_close(weight.detach(), before[name], atol=1e-7, rtol=0)
    assert changed(before, encoder) == set()  # the copy is trained, not the module


def test_a_clone_keeps_the_weights():
    encoder = pretrained()
    copied = clone(HSCLEmbedder(encoder=encoder)).encoder
    assert changed(state(encoder), copied) == set()


def test_a_resnet_with_weights_of_another():
    scaling = PixelScaling(torch.zeros(3), torch.ones(3))
    weights = ResNetEncoder(scaling, (8, 8)).state_dict()
    encoder = ResNetEncoder(scaling, (8, 8))
    encoder.load_state_dict(weights)
    freeze = ["stem", "stages.0"]
    fitted = fit(encoder, freeze=freeze, max_epochs=1).module_
    moved = changed(weights, fitted)
    assert not any(name.startswith((*freeze, "scaling")) for name in moved)
    assert {
        "stages.7.convolutions.0.weight",
        "stages.7.convolutions.1.running_mean",
    } < moved


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        (["0", "1"], {"0.", "1."}),
        (("1",), {"1."}),
        (["0.weight"], {"0.weight"}),
        ([], set()),
    ],
)
def test_frozen_parts_stay_and_others_move(freeze, frozen):
    encoder = pretrained()
    fitted = fit(encoder, freeze=freeze)
    names = set(encoder.state_dict())
    still = names - changed(state(encoder), fitted.module_)
    assert still == {name for name in names if name.startswith(tuple(frozen))}


def test_names_are_not_mere_prefixes():
    encoder = nn.Sequential()
    encoder.add_module("first", nn.Flatten())
    encoder.add_module("layer", nn.Linear(192, 6))
    encoder.add_module("layer2", nn.Linear(6, 4))
    moved = changed(state(encoder), fit(encoder, freeze=["layer"]).module_)
    assert moved == {"layer2.weight", "layer2.bias"}


def test_frozen_batch_normalisation_takes_chunks_and_stacks():
    encoder = pretrained()
    whole = fit(encoder, freeze=["0", "1", "4"])
    in_chunks = fit(encoder, freeze=["0", "1", "4"], device_batch_size=5)
    np.testing.assert_allclose(in_chunks.loss_curve_, whole.loss_curve_, rtol=1e-5)
    module = whole.net_.module_.train()
    assert not has_batch_statistics(module)
    assert has_batch_statistics(fit(encoder).net_.module_.train())
    search = BatchedGridSearchCV(
        HSCLEmbedder(encoder=encoder, freeze=["1", "4"], max_epochs=1, random_state=0),
        {"beta": [0.5, 2.0]},
        scoring=lambda fitted, X, y: -fitted.loss_curve_[-1],
        cv=2,
    )
    search.fit(IMAGES, Y)
    assert [how.reason for how in search.batched_] == ["", ""]


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["stem"], r"freeze holds 'stem', but no weight .* \['0', '1', '3', '4', '6'\]"),
        (["2"], "freeze holds '2'"),
        (["0", "1", "3", "4", "6"], "leaves no weight of the encoder to train"),
        ("0", "'freeze' parameter .* must be an array-like or None"),
    ],
)
def test_unknown_names_and_frozen_encoders_are_refused(freeze, message):
    with pytest.raises(ValueError, match=message):
        fit(pretrained(), freeze=freeze)


def test_a_lower_rate_for_the_encoder():
    encoder = pretrained()
    groups = [("encoder.*", {"lr": 1e-9})]
    fitted = fit(encoder, net_params={"optimizer__param_groups": groups})
    before = state(encoder)
    for name, weight in fitted.module_.named_parameters():
        torch.testing.assert_close(weight.detach(), before[name], atol=1e-6, rtol=0)
    heads = [
        copy.deepcopy(embedder.net_.module_.head[0].weight.detach())
        for embedder in (fitted, fit(encoder, lr=1e-8))
    ]
    assert (heads[0] - heads[1]).abs().max() > 1e-4
    rates = {group["lr"] for group in fitted.net_.optimizer_.param_groups}
    assert rates == {1e-9, 2e-3}


def test_rates_for_unknown_weights_are_refused():
    groups = [("encoder.*", {"lr": 1e-3}), ("stages.*", {"lr": 0.0})]
    with pytest.raises(ValueError, match=r"for 'stages.\*'.*choose from \['encoder"):
        fit(pretrained(), net_params={"optimizer__param_groups": groups})


def test_pretraining_without_labels_then_fine_tuning():
    first = HSCLEmbedder("hucl", encoder="conv", max_epochs=1, random_state=0).fit(IMAGES)
    fitted = fit(first.module_, freeze=["stages.0"])
    assert_array_equal(
        fitted.module_.stages[0].weight.detach(), first.module_.stages[0].weight.detach()
    )
    assert fitted.transform(IMAGES).shape == (48, 64)
