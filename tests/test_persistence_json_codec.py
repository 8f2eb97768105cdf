"""Values are equal after encoding as JSON and decoding; code is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from sklearn_hscl.augment import Augmentation, FunctionAugmentation, ImageTransforms
from sklearn_hscl.losses import ContrastiveLoss, CosineBeta
from sklearn_hscl.persistence.json_codec import (
    JsonDecoder,
    JsonEncoder,
    NotStorable,
    string_arrays,
    take_strings,
)
from sklearn_hscl.persistence.schema import BundleError


def decoded(value):
    encode = JsonEncoder()
    text = json.dumps(encode(value), allow_nan=False)
    decode = JsonDecoder(take_strings(string_arrays(encode.strings)))
    again = decode(json.loads(text))
    decode.check_empty()
    return again


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        0.1,
        math.inf,
        "\ud800 text",
        [1, [2.5, None]],
        (1, ("a", ())),
        {"a": {"b": [1]}},
        np.float32(0.25),
        np.bool_(True),
        torch.device("cuda:1"),
        torch.optim.SGD,
        CosineBeta(0.0, 3.0),
    ],
    ids=repr,
)
def test_equal_after_decoding(value):
    again = decoded(value)
    assert again == value and type(again) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3, dtype=np.int8),
        np.array([0.5, np.nan, -np.inf]),
        np.array(["a", "\u00fc", ""]),
        np.array(["a", "b"], dtype=object),
        np.array(["a", 1, 2.5, True], dtype=object),
        np.array([], dtype=object),
    ],
)
def test_arrays(array):
    again = decoded({"first": array, "second": array})["second"]
    assert again.dtype == array.dtype
    assert_array_equal(again, array)


def test_objects_of_this_library():
    loss = ContrastiveLoss("sscl", temperature=0.3)
    assert decoded(loss).settings() == loss.settings()
    transforms = ImageTransforms()
    assert type(decoded(transforms)) is ImageTransforms
    assert decoded(transforms).get_params() == transforms.get_params()
    assert decoded(Path("folder") / "file") == str(Path("folder") / "file")


def test_earlier_names_of_classes():
    encoded = JsonEncoder()(ImageTransforms()) | {"name": "PictureTransforms"}
    assert type(JsonDecoder([])(encoded)) is ImageTransforms


class SubclassOfAugmentation(Augmentation):
    """Not of this library."""


@pytest.mark.parametrize(
    "value",
    [
        len,
        lambda x: x,
        {1: 2},
        {"$": 1},
        {1, 2},
        b"bytes",
        1j,
        np.datetime64("2020-01-01"),
        np.zeros((2, 2)),
        np.array([1j]),
        torch.zeros(1),
        torch.nn.Linear(1, 1),
        SubclassOfAugmentation(),
        FunctionAugmentation(lambda rows, generator: rows),
    ],
    ids=lambda value: type(value).__name__,
)
def test_code_and_other_objects_are_refused(value):
    with pytest.raises(NotStorable, match=type(value).__name__):
        JsonEncoder()([value])


@pytest.mark.parametrize(
    ("stored", "match"),
    [
        ({"$": "eval"}, "unknown type 'eval'"),
        ({"$": "object", "name": "eval", "settings": {}}, "invalid object"),
        ({"$": "optimizer", "name": "Adamm"}, "invalid optimizer"),
        ({"$": "float", "value": "1e5"}, "invalid float"),
        ({"$": "device", "name": "gpu"}, "unknown device 'gpu'"),
        ({"$": "number", "dtype": "O", "value": 1}, "numeric dtype, got O"),
        ({"$": "strings", "dtype": "str", "count": 3}, "expected 3 strings"),
        ({"$": "tuple", "items": [], "more": 1}, "invalid tuple"),
    ],
)
def test_invalid_values(stored, match):
    with pytest.raises(BundleError, match=match):
        JsonDecoder(["a"])(stored)


def test_invalid_tables_of_strings():
    with pytest.raises(BundleError, match="table of strings is missing"):
        take_strings({})
    arrays = string_arrays(["a", "bc"])
    with pytest.raises(BundleError, match="invalid string offsets"):
        take_strings(arrays | {"text.ends": arrays["text.ends"][::-1]})
    decode = JsonDecoder(["a"])
    with pytest.raises(BundleError, match="1 unknown strings"):
        decode.check_empty()
