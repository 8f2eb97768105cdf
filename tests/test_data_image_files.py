"""Paths of image files as X."""

from pathlib import Path

import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data.image_files import ImageFiles
from sklearn_hscl.data.out_of_core import ItemList

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 6, 3), dtype=np.uint8)
Y = np.arange(12) % 2


@pytest.fixture
def paths(tmp_path):
    names = [tmp_path / f"{k}.png" for k in range(len(IMAGES))]
    for name, image in zip(names, IMAGES, strict=True):
        Image.fromarray(image).save(name)
    return names


def embedder():
    return HSCLEmbedder(encoder="mlp", max_epochs=1, random_state=0)


@pytest.mark.parametrize(
    "form", [list, tuple, np.array, lambda paths: np.array([str(p) for p in paths])]
)
def test_paths_give_the_embedding_of_the_images(paths, form):
    expected = embedder().fit(IMAGES, Y).transform(IMAGES)
    fitted = embedder().fit(form(paths), Y)
    np.testing.assert_allclose(fitted.transform(form(paths)), expected, atol=1e-6)


def test_a_list_of_opened_images_is_a_stack(paths):
    opened = [Image.open(path) for path in paths]
    expected = embedder().fit(IMAGES, Y).transform(IMAGES)
    fitted = embedder().fit(opened, Y)
    np.testing.assert_array_equal(fitted.transform(opened), expected)


def test_opened_images_of_other_sizes():
    opened = [Image.fromarray(image) for image in [*IMAGES[:11], IMAGES[0, :4]]]
    message = r"image 11 is \(4, 6, 3\), image 0 \(8, 6, 3\)"
    with pytest.raises(ValueError, match=message):
        embedder().fit(opened, Y)


@pytest.mark.parametrize("mode", ["P", "CMYK"])
def test_opened_images_without_brightness(mode):
    opened = [Image.fromarray(image).convert(mode) for image in IMAGES]
    with pytest.raises(ValueError, match=f"mode '{mode}'.*convert"):
        embedder().fit(opened, Y)
    with pytest.raises(ValueError, match=f"Item 0 of X.*mode '{mode}'"):
        embedder().fit(list(zip(opened, Y, strict=True)))


def test_datasets_of_opened_images_in_cross_validation():
    items = [(Image.fromarray(x), int(y)) for x, y in zip(IMAGES, Y, strict=True)]
    expected = cross_validate(embedder(), IMAGES, Y, cv=2, scoring=n_dims)
    for dataset in (ItemList(items), ItemList([list(item) for item in items])):
        scores = cross_validate(embedder(), dataset, Y, cv=2, scoring=n_dims)
        np.testing.assert_array_equal(scores["test_score"], expected["test_score"])


def n_dims(fitted, X, y):
    return fitted.transform(X)[0, 0]


@pytest.mark.parametrize("size", [64, (0, 6), (6.5, 6), (6, 6, 3), "ab"])
def test_impossible_sizes(paths, size):
    with pytest.raises(ValueError, match=r"size=.* must be None or \(height, width\)"):
        ImageFiles(paths, size=size)


def test_lists_of_several_rows_are_not_rows_with_labels():
    rows = [[np.zeros(4), np.zeros(3)] for _ in Y]
    with pytest.raises(ValueError, match="inhomogeneous"):
        embedder().fit(rows, Y)
    single = [[row] for row in np.random.default_rng(0).random((12, 4))]
    assert embedder().fit(single, Y).input_shape_ == (1, 1, 4)


def test_single_paths_and_iterators(paths):
    with pytest.raises(ValueError, match="is a single path: pass a list"):
        ImageFiles(str(paths[0]))
    with pytest.raises(ValueError, match="X=.* is a single path: pass a list"):
        embedder().fit(paths[0], Y)
    assert len(ImageFiles(path for path in paths)) == 12
    with pytest.raises(ValueError, match="X is a generator.* pass a list"):
        embedder().fit((path for path in paths), Y)


def test_paths_in_cross_validation(paths):
    pipe = make_pipeline(embedder(), LogisticRegression())
    scores = cross_validate(pipe, [str(path) for path in paths], Y, cv=3)["test_score"]
    assert scores == pytest.approx(cross_validate(pipe, IMAGES, Y, cv=3)["test_score"])


def test_sizes_and_modes(paths):
    assert ImageFiles(paths, size=(5, 7))[0].shape == (5, 7, 3)
    grey = ImageFiles(paths, mode="L")
    assert grey[3].shape == (8, 6)
    assert embedder().fit(grey, Y).input_shape_ == (1, 8, 6)
    np.testing.assert_array_equal(ImageFiles(paths)[4], IMAGES[4])
    with pytest.raises(ValueError, match=r"shape \(3, 8, 6\).*files were read.*'RGB'"):
        embedder().fit(grey, Y).transform(paths)


def test_images_of_other_sizes(paths, tmp_path):
    odd = tmp_path / "odd.png"
    Image.fromarray(IMAGES[0, :4]).save(odd)
    files = [*paths[:11], odd]
    with pytest.raises(ValueError, match="item 11 is uint8 .4, 6, 3., item 0.*ImageFiles"):
        embedder().fit(files, Y)
    assert embedder().fit(ImageFiles(files, size=(8, 6)), Y).n_iter_ == 1


@pytest.mark.parametrize("broken", ["missing.png", "text.png", "cut.ppm"])
def test_files_that_cannot_be_read_as_images(paths, tmp_path, broken):
    Path(tmp_path / "cut.ppm").write_bytes(b"P6 8")
    Path(tmp_path / "text.png").write_text("no picture")
    files = [*paths[:5], str(tmp_path / broken)]
    with pytest.raises(ValueError, match=f"Item 5 of X.*{broken}.*cannot be read"):
        embedder().fit(files, Y[:6])


def test_series_of_paths(paths):
    names = pd.Series([str(path) for path in paths])
    assert embedder().fit(names, Y).transform(names[:3]).shape == (3, 64)


def test_images_are_turned_as_their_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(IMAGES[0]).save(tmp_path / "turned.jpg", exif=exif)
    assert ImageFiles([tmp_path / "turned.jpg"])[0].shape == (6, 8, 3)


def test_deep_images_and_other_modes_are_refused(tmp_path):
    deep = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        ImageFiles([tmp_path / "deep.png"])[0]
    with pytest.raises(ValueError, match="mode='XYZ' must be one of"):
        ImageFiles([], mode="XYZ")


def test_text_columns_are_not_paths():
    table = np.array([["a", "b"]] * 12)
    with pytest.raises(ValueError, match="could not convert|categorical|numbers|text"):
        embedder().fit(table, Y)


TEXTS = ["The striker scored a goal.", "Bake the bread.\x00", "word " * 2000]


@pytest.mark.parametrize(
    "X",
    [
        TEXTS,
        np.array(TEXTS),
        pd.Series(TEXTS),
        polars.Series(TEXTS),
        pyarrow.array(TEXTS),
    ],
    ids=lambda X: type(X).__name__,
)
@pytest.mark.parametrize("first", range(3))
def test_texts_are_not_taken_for_files(X, first):
    X = X[first:]
    with pytest.raises(
        ValueError, match="no such file, .* make numbers of texts"
    ) as raised:
        HSCLEmbedder(loss="hucl").fit(X)
    assert len(str(raised.value)) < 400
