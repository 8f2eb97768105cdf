"""Configs of built-in encoders: written, and read on the meta device."""

import numpy as np
import pytest
import torch
from helpers.graphs import rings_and_stars
from torch import nn

from sklearn_hscl.data.graphs import check_graphs
from sklearn_hscl.encoders import ENCODERS, EncoderOptions, MLPEncoder, build_module
from sklearn_hscl.encoders import registry as module
from sklearn_hscl.encoders.image.registry import IMAGE_BUILDERS
from sklearn_hscl.encoders.preprocessing import ColumnLayout
from sklearn_hscl.encoders.registry import build_from_config, get_config

N_LEVELS = np.array([0, 0, 3])
MIXED = ColumnLayout(N_LEVELS, N_LEVELS > 0, np.array([True, False, True]))
NUMERIC = ColumnLayout.all_numeric(np.zeros(3, dtype=bool))
ROWS = torch.tensor([[0.5, 1, 1], [0.1, -1, 2], [0.2, 3, 3], [-2, 0.5, 0]])


def inputs_of(name):
    if name == "gin":
        return check_graphs(rings_and_stars(6)[0], "X"), None
    return (torch.rand(4, 3, 8, 8), None) if name in IMAGE_BUILDERS else (ROWS, MIXED)


def assert_restored(encoder, rows, layout):
    config, state = get_config(encoder), encoder.state_dict()
    again = build_from_config(config, state, tuple(rows.shape[1:]), layout)
    assert all(weight.is_meta for weight in again.parameters())
    again.load_state_dict(state, assign=True)
    assert torch.equal(again.eval()(rows), encoder.eval()(rows))
    assert get_config(again) == config


@pytest.mark.parametrize("options", [{}, {"n_components": 3}])
@pytest.mark.parametrize("name", ENCODERS)
def test_all_encoders_are_restored_from_their_config_and_state(name, options):
    rows, layout = inputs_of(name)
    encoder = build_module(EncoderOptions(name, **options), rows, layout).encoder
    assert get_config(encoder)["kind"] == name.rstrip("0123456789")
    assert_restored(encoder, rows, layout)


@pytest.mark.parametrize("name", ["mlp", "tabular"])
def test_sizes_dropout_and_members_are_restored(name):
    options = EncoderOptions(name, None, 2, hidden_layer_sizes=[6, 6], dropout=0.25)
    encoder = build_module(options, ROWS, NUMERIC).encoder
    assert get_config(encoder).get("expands", False) is False
    assert_restored(encoder, ROWS, NUMERIC)


def test_custom_modules_and_subclasses_have_no_config():
    class Other(MLPEncoder):
        pass

    custom = [nn.Linear(3, 2), Other((3,), (), 2), nn.Sequential(nn.ReLU(), nn.ReLU())]
    assert [get_config(encoder) for encoder in custom] == [None] * 3


@pytest.mark.parametrize("name", ["os", None, [], 3])
def test_unknown_types_are_refused(name):
    with pytest.raises(ValueError, match="no built-in encoder has the type"):
        build_from_config({"kind": name}, {}, (3,), NUMERIC)


@pytest.mark.parametrize("name", ["mlp", "tabular"])
def test_a_missing_layout_is_refused(name):
    encoder = build_module(EncoderOptions(name), ROWS, MIXED).encoder
    with pytest.raises(ValueError, match=r"the layout of the .* is missing"):
        build_from_config(get_config(encoder), encoder.state_dict(), (3,), None)


class Scaled(nn.Linear):
    """An encoder that a developer adds."""

    def get_config(self):
        return {"n_components": self.out_features}

    @classmethod
    def from_config(cls, config, stored):
        return cls(*stored.input_shape, config["n_components"])


def test_two_entries_of_the_registry_add_an_encoder(monkeypatch):
    monkeypatch.setitem(
        module._BUILDERS, "scaled", lambda options, inputs: Scaled(*inputs.shape, 2)
    )
    monkeypatch.setitem(module.STORED_TYPES, "scaled", Scaled)
    encoder = build_module(EncoderOptions("scaled"), ROWS, NUMERIC).encoder
    assert get_config(encoder) == {"kind": "scaled", "n_components": 2}
    assert_restored(encoder, ROWS, NUMERIC)
