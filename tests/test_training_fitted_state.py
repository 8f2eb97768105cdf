"""One list of the fitted attributes serves training, the estimator and persistence."""

from dataclasses import fields

import numpy as np
import pytest
from helpers.stored_models import MODELS, SMALL, fitted, frame, images, labels, numbers

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data import validation
from sklearn_hscl.training.fitted_state import (
    ENTRIES,
    INPUT_ATTRIBUTES,
    OPTIONAL_ATTRIBUTES,
    SERIALIZED_ATTRIBUTES,
    FittedState,
)

NAMES = SERIALIZED_ATTRIBUTES | set(INPUT_ATTRIBUTES)


@pytest.mark.parametrize("name", MODELS)
def test_fit_sets_all_attributes_but_some_optional_ones(name):
    embedder, _, _ = fitted(name)
    parameters = embedder.get_params(deep=False).keys()
    found = vars(embedder).keys() - parameters
    assert found <= NAMES
    assert NAMES - found <= set(OPTIONAL_ATTRIBUTES)
    assert all(getattr(embedder, n) is not None for n in found & set(OPTIONAL_ATTRIBUTES))


def test_optional_attributes():
    assert set(OPTIONAL_ATTRIBUTES) == {
        "feature_names_in_",
        "_pixel_scale",
        "classes_",
        "categories_",
        "is_categorical_",
        "valid_score_name_",
        "held_out_readout_",
    }


def test_every_attribute_is_stored_in_one_way():
    assert set(INPUT_ATTRIBUTES) == {"n_features_in_", "feature_names_in_", "_pixel_scale"}
    assert INPUT_ATTRIBUTES == validation.INPUT_ATTRIBUTES
    assert not set(INPUT_ATTRIBUTES) & SERIALIZED_ATTRIBUTES
    assert len(NAMES) == len(fields(FittedState))
    keys = [entry.key for entry in ENTRIES.values()]
    assert len(keys) == len(set(keys))
    assert {f.name for f in fields(FittedState) if f.init} >= ENTRIES.keys()


@pytest.mark.parametrize("name", ["tabular", "conv", "without labels"])
def test_state_of_an_estimator_has_its_attributes(name):
    embedder, _, _ = fitted(name)
    parameters = embedder.get_params(deep=False).keys()
    attributes = FittedState.of(embedder).attributes()
    assert attributes.keys() == vars(embedder).keys() - parameters
    for attribute in attributes.keys() - {"loss_curve_"}:
        value = getattr(embedder, attribute)
        assert attributes[attribute] is value or attributes[attribute] == value
    assert attributes["loss_curve_"] == embedder.loss_curve_


def test_entries_are_read_as_they_were_written():
    state = FittedState.of(fitted("tabular")[0])
    for name, entry in ENTRIES.items():
        value = getattr(state, name)
        stored = entry.write(value)
        assert isinstance(stored, entry.type), name
        if entry.read is not None:
            assert entry.read(stored) == value
            assert value is None or type(entry.read(stored)) is type(value), name


def test_a_second_fit_leaves_no_optional_attribute_of_the_first():
    embedder = HSCLEmbedder(**SMALL, encoder="mlp")
    embedder.fit(frame(), labels())
    assert hasattr(embedder, "categories_") and hasattr(embedder, "feature_names_in_")
    embedder.set_params(loss="hucl").fit(images())
    assert not hasattr(embedder, "feature_names_in_") and not hasattr(embedder, "classes_")
    assert embedder._pixel_scale == "bytes" and embedder.n_features_in_ == 3
    embedder.fit(numbers())
    assert not hasattr(embedder, "_pixel_scale")
    np.testing.assert_array_equal(
        embedder.loss_curve_, [e["train_loss"] for e in embedder.history_]
    )
    assert embedder.n_iter_ == len(embedder.history_)
