"""Stacks of images as X: channels, types, pixel range, and images in searches."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import RandomShift
from sklearn_hscl.data.image_validation import check_images
from sklearn_hscl.model_selection import BatchedGridSearchCV

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (36, 8, 6, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]
Y = np.arange(36) % 3
# Settings that make the encoder of these images small.
SMALL = {"encoder": "conv", "hidden_layer_sizes": [4], "n_components": 6}


def embedder(**parameters):
    settings = SMALL | {"max_epochs": 1, "batch_size": 12, "random_state": 0}
    return HSCLEmbedder(**settings | parameters)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (COLOUR, (3, 8, 6)),
        (COLOUR.transpose(0, 3, 1, 2), (3, 8, 6)),
        (GREY, (1, 8, 6)),
        (GREY[..., None], (1, 8, 6)),
        (GREY[:, None], (1, 8, 6)),
        (np.concatenate([COLOUR, GREY[..., None]], axis=3), (4, 8, 6)),
    ],
)
def test_shapes_of_images(images, shape):
    fitted = embedder().fit(images, Y)
    assert fitted.input_shape_ == shape
    assert fitted.n_features_in_ == shape[0]
    reference = COLOUR if shape[0] == 3 else GREY if shape[0] == 1 else images
    Z = embedder().fit(reference, Y).transform(reference)
    assert_array_equal(fitted.transform(images), Z)
    assert_array_equal(fitted.transform(images[5:6]), Z[5:6])  # one image is enough


@pytest.mark.parametrize(("channels", "shape"), [("first", (3, 8, 4)), ("last", (4, 3, 8))])
def test_ambiguous_shapes_are_settled_by_channels(channels, shape):
    images = RNG.integers(0, 256, (36, 3, 8, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"shape \(36, 3, 8, 4\) does not show .*'first'"):
        embedder().fit(images, Y)
    assert embedder(channels=channels).fit(images, Y).input_shape_ == shape


def test_channels_that_cannot_be_guessed():
    spectra = RNG.random((36, 8, 6, 7), dtype=np.float32)
    with pytest.raises(ValueError, match="channels='first'"):
        embedder().fit(spectra, Y)
    assert embedder(channels="last").fit(spectra, Y).input_shape_ == (7, 8, 6)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (COLOUR[:, :7], r"\(3, 7, 6\)"),
        (GREY, r"\(1, 8, 6\)"),
        (COLOUR.transpose(0, 2, 1, 3), r"\(3, 6, 8\)"),
        (COLOUR.reshape(36, -1), r"\(144,\)"),
    ],
)
def test_the_shape_of_fit_is_asked_for(images, shape):
    fitted = embedder().fit(COLOUR, Y)
    message = rf"shape {shape}, but the embedder was fitted with rows of shape \(3, 8, 6\)"
    with pytest.raises(ValueError, match=message):
        fitted.transform(images)
    with pytest.raises(ValueError, match="X_val holds rows of shape"):
        embedder(early_stopping=True).fit(COLOUR, Y, X_val=images, y_val=Y)


def test_lists_of_images_of_other_shapes():
    message = r"image 1 is \(7, 6, 3\), image 0 \(8, 6, 3\)"
    images = [COLOUR[0], COLOUR[1, :7], *COLOUR[2:]]
    with pytest.raises(ValueError, match=message):
        embedder().fit(images, Y)
    with pytest.raises(ValueError, match="X_val holds images of different shapes"):
        embedder(early_stopping=True).fit(COLOUR, Y, X_val=images, y_val=Y)


@pytest.mark.parametrize(
    "same",
    [
        lambda images: images.astype(np.int64),
        lambda images: images.tolist(),
        lambda images: images / 255,
    ],
)
def test_the_pixel_range_of_fit_is_kept(same):
    fitted = embedder().fit(COLOUR, Y)
    expected = fitted.transform(COLOUR)
    np.testing.assert_allclose(fitted.transform(same(COLOUR)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("trained", "later", "message"),
    [
        (COLOUR, COLOUR.astype("f4"), "float32 pixels up to 255.*fitted with uint8"),
        (COLOUR, COLOUR.astype(int) + 9, "int64 pixels up to 264.*fitted with uint8"),
        (COLOUR, COLOUR / 8, "float64 pixels up to 31.*fitted with uint8"),
        (COLOUR / 255, COLOUR.astype("f8"), "up to 255.*fitted with numbers from 0 to 1"),
        (COLOUR.astype("f4"), COLOUR, "uint8 images.*fitted with others: pass X.astype"),
    ],
)
def test_another_pixel_range_than_that_of_fit(trained, later, message, tmp_path):
    fitted = embedder().fit(trained, Y)
    fitted.save(tmp_path / "embedder")
    loaded = HSCLEmbedder.load(tmp_path / "embedder")
    for one in (fitted, pickle.loads(pickle.dumps(fitted)), loaded):
        with pytest.raises(ValueError, match=message):
            one.transform(later)
    with pytest.raises(ValueError, match=message.replace("X.astype", "X_val.astype")):
        embedder(early_stopping=True).fit(trained, Y, X_val=later, y_val=Y)
    with pytest.raises(ValueError, match=message):
        embedder().partial_fit(trained, Y).partial_fit(later, Y)
    assert fitted.fit(later, Y).transform(later).shape == (36, 6)


def test_numbers_that_were_small_by_chance_may_grow():
    fitted = embedder().fit(COLOUR / 255, Y)
    assert fitted.transform(COLOUR / 9).shape == (36, 6)


def test_integers_of_a_memory_map_are_not_read_as_a_whole(tmp_path):
    fitted = embedder().fit(COLOUR, Y)
    np.save(tmp_path / "images.npy", COLOUR.astype(np.int64))
    with pytest.raises(ValueError, match="int64 pixels up to 255.*pass uint8"):
        fitted.transform(np.load(tmp_path / "images.npy", mmap_mode="r"))


def test_single_faulty_pixels_do_not_change_the_pixel_range():
    images = COLOUR / 255
    fitted = embedder().fit(COLOUR, Y)
    expected = fitted.transform(images)
    images[3, 2, 2] = 1e9
    found = fitted.transform(images)
    np.testing.assert_array_equal(np.delete(found, 3, 0), np.delete(expected, 3, 0))
    assert np.isfinite(found).all()


def test_flattened_images_name_the_remedy():
    with pytest.raises(ValueError, match="reshape flattened images"):
        embedder(encoder="conv").fit(COLOUR.reshape(36, -1), Y)


class Seen(Callback):
    """Records the types of rows in training."""

    types = ()

    def on_train_begin(self, net, X=None, **kwargs):
        self.types += (X.dtype,)

    def on_batch_begin(self, net, batch=None, **kwargs):
        self.types += (batch[0].dtype,)


@pytest.mark.parametrize(
    ("dtype", "retained"), [(np.uint8, torch.uint8), (np.float64, torch.float32)]
)
def test_bytes_stay_bytes_until_a_batch_is_made(dtype, retained):
    fitted = embedder(net_callbacks=[("seen", Seen())]).fit(COLOUR.astype(dtype), Y)
    seen = dict(fitted.net_.callbacks_)["seen"].types
    assert seen == (retained,) * 4  # all rows, and three batches


def test_images_in_pipelines_and_searches():
    pipe = make_pipeline(embedder(augment=RandomShift()), LogisticRegression())
    scores = cross_validate(pipe, COLOUR, Y, cv=3, error_score="raise")["test_score"]
    assert len(scores) == 3
    grid = {
        "hsclembedder__beta": [0.5, 2.0],
        "hsclembedder__augment__fraction": [0.0, 0.25],
    }
    searches = [
        search(pipe, grid, cv=2, error_score="raise").fit(COLOUR, Y)
        for search in (GridSearchCV, BatchedGridSearchCV)
    ]
    results = [search.cv_results_["mean_test_score"] for search in searches]
    np.testing.assert_allclose(*results, atol=1 / 36)  # float32: one image may tip over
    assert searches[0].best_estimator_.predict(COLOUR[:2]).shape == (2,)


def test_images_after_pickling():
    fitted = embedder().fit(COLOUR, Y)
    Z = pickle.loads(pickle.dumps(fitted)).transform(COLOUR)
    assert_array_equal(Z, fitted.transform(COLOUR))


def test_only_attributes_of_the_input_are_set_and_only_in_fit():
    fitted = embedder()
    fitted.feature_names_in_ = np.array(["a"], dtype=object)  # of a fit on a table
    parameters = set(vars(fitted)) - {"feature_names_in_"}
    images = check_images(fitted, COLOUR, is_fit=True, name="X")
    assert images.base is not None and images.shape == (36, 3, 8, 6)  # a view
    assert set(vars(fitted)) - parameters == {"n_features_in_", "_pixel_scale"}
    assert (fitted.n_features_in_, fitted._pixel_scale) == (3, "bytes")
    before = dict(vars(fitted))
    check_images(fitted, COLOUR / 255, is_fit=False, name="X")
    assert vars(fitted) == before


SERIES = RNG.normal(size=(36, 3, 20))
# Arrays (n, H, W), and whether they look like series of several channels.
THREE_D = {
    "series": (SERIES, True),
    "series in float32": (SERIES.astype(np.float32), True),
    "long series from 0 to 1": (np.abs(SERIES).clip(0, 1), True),
    "time first": (SERIES.transpose(0, 2, 1), True),
    "standardised images": (RNG.normal(size=(36, 8, 8)), False),
    "images from 0 to 1": (RNG.random((36, 8, 20)), False),
    "images of whole numbers": (RNG.integers(0, 17, (36, 8, 20)).astype(float), False),
    "bytes": (RNG.integers(0, 256, (36, 3, 20), dtype=np.uint8), False),
    "images with a channel": (SERIES[:, None], False),
    "series as images of height 1": (SERIES[:, :, None], False),
    "a table": (SERIES.reshape(36, -1), False),
}


@pytest.mark.parametrize(("X", "is_series"), THREE_D.values(), ids=THREE_D)
def test_series_draw_a_warning_that_names_the_ways_to_pass_them(X, is_series):
    fitted = HSCLEmbedder(max_epochs=1, channels="first")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted.fit(X, Y).transform(X)
    assert len(caught) == is_series
    if is_series:
        message = str(caught[0].message)
        assert message.startswith(f"X of shape {X.shape} is read as grey images")
        for part in ("X[:, :, None]", "channels='first'", "X.reshape(len(X), -1)"):
            assert part in message


def test_an_encoder_that_is_named_draws_no_warning_on_series():
    assert embedder().fit(SERIES, Y).input_shape_ == (1, 3, 20)
