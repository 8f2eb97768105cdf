"""Paths of image files as X."""

import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from zlib import compress, crc32

import numpy as np
import pandas as pd
import polars as pl
import pyarrow
import pytest
from PIL import Image, ImageOps, TiffImagePlugin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from torch.utils.data import Dataset

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data.image_files import ImageFiles
from sklearn_hscl.data.out_of_core import DatasetRows, ItemList
from sklearn_hscl.data.validation import open_rows

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


class Lazy(Sequence):
    """A column that opens its items when they are asked for."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Opened(Lazy, Dataset):
    """The same as a dataset of torch."""


def objects(items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def contents(paths):
    return [Path(path).read_bytes() for path in paths]


def opened(paths):
    return [Image.open(BytesIO(content)) for content in contents(paths)]


def loaded(paths):
    images = opened(paths)
    for image, path in zip(images, paths, strict=True):
        image.load()  # as arrays and frames do
        image.filename = str(path)  # as Image.open(path) does, which keeps some files open
    return images


# Every way in which the images of some files can arrive.
WAYS = {
    "paths": list,
    "paths in a tuple": tuple,
    "paths in an array": objects,
    "paths in a Series": lambda paths: pd.Series(list(map(str, paths))),
    "paths in a Series of polars": lambda paths: pl.Series(list(map(str, paths))),
    "paths in a lazy column": Lazy,
    "bytes": contents,
    "bytes in an array": lambda paths: objects(contents(paths)),
    "bytes in a Series": lambda paths: pd.Series(contents(paths)),
    "bytes in a Series of polars": lambda paths: pl.Series(contents(paths)),
    "bytes in a lazy column": lambda paths: Lazy(contents(paths)),
    "bytes in dicts": lambda paths: [{"bytes": b, "path": None} for b in contents(paths)],
    "paths in dicts": lambda paths: [{"bytes": None, "path": str(p)} for p in paths],
    "opened": opened,
    "opened in a tuple": lambda paths: tuple(opened(paths)),
    "opened in an array": lambda paths: objects(loaded(paths)),
    "opened in a Series": lambda paths: pd.Series(loaded(paths)),
    "opened in a Series of polars": lambda paths: pl.Series(loaded(paths), dtype=pl.Object),
    "opened in a lazy column": lambda paths: Lazy(opened(paths)),
    "opened in a dataset": lambda paths: Opened(opened(paths)),
    "opened with labels": lambda paths: [(image, 0) for image in opened(paths)],
    "files of several kinds": lambda paths: [*paths[:4], *opened(paths[4:])],
    "several kinds, opened first": lambda paths: [*opened(paths[:4]), *contents(paths[4:])],
}
ROTATED = Image.Exif()
ROTATED[0x0112] = 6
# How images are stored, and how they are saved.
KINDS = {
    "rotated": (lambda image: image, {"exif": ROTATED}),
    "palette": (lambda image: image.quantize(16), {}),
    "transparent": (lambda image: image.convert("RGBA"), {}),
    "CMYK": (lambda image: image.convert("CMYK"), {"format": "TIFF"}),
    "YCbCr": (lambda image: image.convert("YCbCr"), {"format": "TIFF"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_an_image_means_the_same(tmp_path, kind):
    convert, options = KINDS[kind]
    paths = [tmp_path / f"{k}.png" for k in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        convert(Image.fromarray(image)).save(path, **options)
    expected = np.stack(
        [
            np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            for image in opened(paths)
        ]
    )
    for name, way in WAYS.items():
        rows = open_rows(embedder(), way(paths))
        found = rows[:] if isinstance(rows, DatasetRows) else np.stack(rows)
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert found.dtype == np.uint8
    fitted = embedder().fit(paths, Y)
    lazily = fitted.transform(WAYS["opened in a lazy column"](paths))
    np.testing.assert_allclose(lazily, fitted.transform(expected), atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_opened_grey_images_have_one_channel(mode):
    images = [Image.fromarray(image).convert("L").convert(mode) for image in IMAGES]
    expected = np.stack([np.asarray(image.convert("L")) for image in images])
    for way in (list, objects, Lazy, Opened):
        rows = open_rows(embedder(), way(images))
        found = rows[:] if isinstance(rows, DatasetRows) else np.stack(rows)
        np.testing.assert_array_equal(found, expected)


def deep_png(color_type, n_bands):
    """Return a PNG of 4 x 4 pixels with 16 bits per band, which Pillow cannot write."""

    def chunk(kind, data):
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", crc32(checked))

    header = struct.pack(">IIBBBBB", 4, 4, 16, color_type, 0, 0, 0)
    lines = (b"\0" + bytes(range(8 * n_bands))) * 4
    parts = chunk(b"IHDR", header), chunk(b"IDAT", compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(image, **options):
    file = BytesIO()
    image.save(file, **options)
    return file.getvalue()


def tiff(mode, **tags):
    """Return a TIFF whose tags are changed, by number."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag[1:])] = value
    return saved(Image.new(mode, (4, 4)), format="TIFF", tiffinfo=info)


FRAMES = [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue")]
LOSSES = {
    "16 bits, grey": (deep_png(0, 1), "more than 8 bits"),
    "16 bits, colour": (deep_png(2, 3), "more than 8 bits"),
    "16 bits, grey with alpha": (deep_png(4, 2), "more than 8 bits"),
    "16 bits, colour with alpha": (deep_png(6, 4), "more than 8 bits"),
    "16 bits, PPM": (b"P6 2 2 65535\n" + bytes(24), "more than 8 bits"),
    "fractions": (saved(Image.new("F", (4, 4)), format="TIFF"), "more than 8 bits"),
    "32 bits": (saved(Image.new("I", (4, 4)), format="TIFF"), "more than 8 bits"),
    "signed": (tiff("L", _339=2), "signed"),
    "pages": (
        saved(FRAMES[0], format="TIFF", save_all=True, append_images=FRAMES[1:]),
        "3 pages or frames",
    ),
    "frames": (
        saved(FRAMES[0], format="GIF", save_all=True, append_images=FRAMES[1:]),
        "3 pages or frames",
    ),
    "frames of PNG": (
        saved(FRAMES[0], format="PNG", save_all=True, append_images=FRAMES[1:]),
        "3 pages or frames",
    ),
    "a fourth band": (saved(Image.new("RGBX", (4, 4)), format="TIFF"), "has a band"),
    "a fourth band of no meaning": (  # without the tag of extra samples
        saved(Image.new("RGBA", (4, 4)), format="TIFF").replace(
            b"\x52\x01\x03", b"\x53\x81\x03"
        ),
        "has a band",
    ),
}


@pytest.mark.parametrize(("content", "message"), LOSSES.values(), ids=LOSSES)
def test_what_would_be_lost_is_refused(tmp_path, content, message):
    path = tmp_path / "image"
    path.write_bytes(content)
    for way in WAYS.values():
        with pytest.raises(ValueError, match=f"Item 0 of X.*{message}"):
            embedder().fit(way([path] * 6), Y[:6])


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "RGBX"])
def test_images_in_memory_that_would_lose_something(mode):
    for way in (list, objects, Lazy, Opened):
        with pytest.raises(ValueError, match=r"Item 0 of X.*asarray\(image\)"):
            embedder().fit(way([Image.new(mode, (4, 4))] * 12), Y)


def test_previews_of_a_photograph_are_no_pages(tmp_path):
    path = tmp_path / "phone.jpg"
    FRAMES[0].save(path, format="MPO", save_all=True, append_images=FRAMES[1:])
    assert opened([path])[0].n_frames == 3
    assert ImageFiles([path])[0].shape == (4, 4, 3)


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
        pl.Series(TEXTS),
        pyarrow.array(TEXTS),
    ],
    ids=lambda X: type(X).__name__,
)
@pytest.mark.parametrize("first", range(3))
def test_texts_are_not_taken_for_files(X, first):
    X = X[first:]
    with pytest.raises(
        ValueError, match="no such file, .* TextEncoder, not .* or make numbers"
    ) as raised:
        HSCLEmbedder(loss="hucl").fit(X)
    assert len(str(raised.value)) < 400
