"""Images in any form: files, encoded bytes, images opened by Pillow, columns of these.

:func:`pixels_of` is the one place that turns an image of Pillow into an array.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from sklearn_hscl.data.missing import unmasked

_MODES = ("L", "RGB", "RGBA")
_GREY_MODES = ("1", "L", "LA", "La")  # of images that Pillow opened


_MAX_SHOWN = 80  # characters of a text in a message


class ImageFiles(Dataset[NDArray[np.uint8]]):
    """Image files, as uint8 arrays (H, W, C), or (H, W) if they are grey.

    A plain list of paths passed to :class:`~sklearn_hscl.HSCLEmbedder` is read as
    ``ImageFiles(paths)``; this class adds a common size and other colour modes. Files
    are decoded by Pillow (``pip install sklearn-hscl[images]``) when a batch needs them,
    and never cached.

    Parameters
    ----------
    paths : iterable of str, path-like or bytes
        The files, or their content.
    size : (int, int) or None, default=None
        Height and width to which images are resized; with None they keep their size,
        which must then be the same for all.
    mode : str, default="RGB"
        Colour mode to convert to: ``"L"`` is grey, ``"RGBA"`` keeps transparency.

    Raises
    ------
    ValueError
        If `mode` is another, `size` is not a pair of positive integers, or `paths` is
        a single path.

    Notes
    -----
    Images are rotated as their EXIF data say, and palettes and CMYK become colours. What
    would be lost raises an error: more than 8 bits per channel, signed or fractional
    values, further pages, and bands that are neither colour nor transparency. Pillow does
    not tell the depth of JPEG 2000 and AVIF files, nor of loaded images without a file.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sklearn_hscl.data.image_files import ImageFiles
    >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
    ...     Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(file.name)
    ...     files = ImageFiles([file.name], size=(4, 4))
    ...     files[0].shape
    (4, 4, 3)
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str] | bytes],
        size: tuple[int, int] | None = None,
        mode: str = "RGB",
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode={mode!r} must be one of {list(_MODES)}.")
        if not (size is None or _is_size(size)):
            raise ValueError(
                f"size={size!r} must be None or (height, width), two positive integers."
            )
        refuse_single_path(paths, "paths")
        self.paths = list(map(_as_path, paths))
        self.size = size
        self.mode = mode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Decode one image.

        Raises
        ------
        ValueError
            If the file is missing or cannot be read as an image; the message names it.
        """
        path = self.paths[index]
        if isinstance(path, str) and not os.path.exists(path):
            shown = path if len(path) <= _MAX_SHOWN else f"{path[:40]}…{path[-40:]}"
            raise ValueError(
                f"Item {index} of X, {shown!r}, cannot be read as an image: there is no "
                f"such file, and strings are read as paths. Correct the path. For texts "
                f"pass encoder='sentence-transformers:NAME', a SentenceTransformer or a "
                f"TextEncoder, not a function that returns one; or make numbers of them, "
                f"for example by TfidfVectorizer of scikit-learn."
            )
        try:
            return _decoded(path, self.mode, self.size)
        # Pillow's own errors for broken files are of many types.
        except (
            OSError,
            SyntaxError,
            ValueError,
            _pillow().DecompressionBombError,
        ) as error:
            shown = f"{path!r}, " if isinstance(path, str) else ""
            raise ValueError(
                f"Item {index} of X, {shown}cannot be read as an image: {error}. "
                f"Repair the file or leave it out."
            ) from error


class ImageColumn(Dataset[object]):
    """A sequence of images that is read item by item, such as a column of a library.

    Parameters
    ----------
    column : sequence
        Paths, encoded bytes, dicts of these, images opened by Pillow, or arrays.
    """

    def __init__(self, column: Sequence[object]) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: int) -> object:
        item = _file_of(self.column[index])
        return Path(item) if isinstance(item, str) else item


def images_of(X: Any, name: str) -> Any:
    """Return images that are not arrays as a dataset or as arrays; all else as it is.

    Parameters
    ----------
    X : object
        As users pass it. A sequence is recognised by its first item: a path, the bytes of
        a file, a dict of these, or an image opened by Pillow.
    name : str
        Name of X, for messages.

    Returns
    -------
    ImageFiles, ImageColumn, list of ndarray or `X`
        Files are decoded when they are read, as are the items of sequences other than
        lists, tuples, arrays and series. Opened images are read at once.
    """
    column = _column_of(X)
    if column is None or not _is_image(_file_of(column[0])):
        return X
    if not isinstance(column, list | tuple):
        return ImageColumn(column)
    items = list(map(_file_of, column))
    if all(isinstance(item, str | bytes) for item in items):
        return ImageFiles(items)
    if not all(map(is_opened, items)):
        return ImageColumn(items)
    arrays = []
    for index, item in enumerate(items):
        try:
            arrays.append(image_array(item))
        except ValueError as error:
            raise ValueError(f"Item {index} of {name} cannot be used: {error}") from error
    return arrays


def _column_of(X: Any) -> Any:
    """Return a sequence with at least one item, as list where it is in memory, or None."""
    if isinstance(X, list | tuple):
        return X if len(X) else None
    if isinstance(X, Dataset | Mapping | str | bytes) or getattr(X, "ndim", 1) != 1:
        return None
    for name in ("tolist", "to_list"):  # an array, a Series
        if hasattr(X, name) and hasattr(X, "dtype"):
            kind = getattr(X.dtype, "kind", "O")
            values = getattr(X, name)() if kind not in "biufcmM" else []
            return values if len(values) else None
    if isinstance(X, Sequence) and len(X) and not hasattr(X, "__array__"):
        return X
    return None


def _file_of(item: Any) -> Any:
    """Return the path or the bytes of a file; items of other kinds as they are."""
    if isinstance(item, Mapping) and set(item) == {"bytes", "path"}:
        item = item["path"] if item["bytes"] is None else item["bytes"]
    if isinstance(item, str | os.PathLike | bytes | bytearray | memoryview):
        return _as_path(item)
    return item


def _as_path(item: Any) -> str | bytes:
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    path: str = os.fspath(item)
    return path


def _is_image(item: object) -> bool:
    return isinstance(item, str | bytes) or is_opened(item)


def is_opened(image: object) -> bool:
    """Return whether an object is an image of Pillow, which is not imported for this."""
    return all(hasattr(image, name) for name in ("mode", "getbands", "getexif"))


def read_mode_hint(dataset: object) -> str:
    """Return the colour mode in which image files were read, to end a message on shapes."""
    if not isinstance(dataset, ImageFiles):
        return ""
    return f" The files were read with mode={dataset.mode!r}: see ImageFiles for others."


def refuse_single_path(X: object, name: str) -> None:
    """Reject one path in place of a list of them."""
    if isinstance(X, str | os.PathLike):
        raise ValueError(f"{name}={X!r} is a single path: pass a list of paths.")


def image_array(image: object) -> NDArray[np.number]:
    """Return an image in any form as an array.

    Parameters
    ----------
    image : object
        An image opened by Pillow, a Path, the bytes of a file, a dict of these, or an
        array-like, as a text is. What is not an array means what its file means to
        :class:`ImageFiles`; opened grey images have no axis of channels.

    Raises
    ------
    ValueError
        If it cannot be read, or something of it would be lost.
    """
    item = _file_of(image)
    if isinstance(image, str) or not _is_image(item):
        return unmasked(item)
    try:
        if isinstance(item, str | bytes):
            return _decoded(item, "RGB", None)
        return pixels_of(item, "L" if item.mode in _GREY_MODES else "RGB")
    except (OSError, SyntaxError, _pillow().DecompressionBombError) as error:
        raise ValueError(f"it cannot be read as an image: {error}.") from error


def pixels_of(
    image: Any, mode: str, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Return the pixels of an image of Pillow, rotated as its EXIF data say.

    Parameters
    ----------
    image : PIL.Image.Image
        From a file, opened or loaded, or made in memory.
    mode : {"L", "RGB", "RGBA"}
        Mode to convert to.
    size : (int, int) or None
        Height and width to resize to.

    Returns
    -------
    ndarray of uint8, shape (H, W) or (H, W, C)

    Raises
    ------
    ValueError
        If something of the image would be lost.
    """
    lost = _what_would_be_lost(image)
    if lost is not None:
        raise ValueError(lost)
    from PIL.ImageOps import exif_transpose

    image = exif_transpose(image).convert(mode)
    if size is not None:
        image = image.resize(size[::-1])  # Pillow: width first
    return np.array(image, dtype=np.uint8)


def _decoded(
    path: str | bytes, mode: str, size: tuple[int, int] | None
) -> NDArray[np.uint8]:
    with _pillow().open(BytesIO(path) if isinstance(path, bytes) else path) as file:
        return pixels_of(file, mode, size)


# What a conversion to 8 bits and three colours would lose ------------------------------

_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _FORMAT = 258, 262, 277, 338, 339  # tags of TIFF
_COLORS = {2: 3, 5: 4, 6: 3, 8: 3, 9: 3}  # bands by photometric interpretation; else one
_ALPHA = ((1,), (2,))  # values of _EXTRA
_UNSIGNED = 1  # of _FORMAT


def _what_would_be_lost(image: Any) -> str | None:
    """Return why an image cannot be converted without loss, with the remedy."""
    remedy = "pass an array with the values as you want them, such as numpy.asarray(image)"
    tags = getattr(image, "tag_v2", {})
    # Phones write MPO: the other images are previews of the first, or maps of it.
    n_pages = getattr(image, "n_frames", 1)
    if n_pages > 1 and image.format != "MPO":
        return (
            f"it has {n_pages} pages or frames, of which only one would be read: pass "
            f"image.copy() of the one to use after image.seek(page)"
        )
    if image.mode[0] in "IF" or _has_more_than_8_bits(image, tags):
        return f"it has more than 8 bits per channel (mode {image.mode!r}): {remedy}"
    if any(value != _UNSIGNED for value in tags.get(_FORMAT, ())):
        return f"its values are signed: {remedy}"
    if image.mode == "RGBX" or _has_other_bands(tags):
        return (
            f"it has a band that is neither a colour nor transparency, which would be "
            f"lost: {remedy}, or only its colours"
        )
    return None


def _has_more_than_8_bits(image: Any, tags: Mapping[int, Any]) -> bool:
    """Return whether the file has more, which Pillow tells before it loads the pixels."""
    if any(bits > 8 for bits in tags.get(_BITS, ())):
        return True
    path = getattr(image, "filename", "")
    if getattr(image, "tile", None) or not (path and os.path.isfile(path)):
        return any(map(_is_deep, getattr(image, "tile", ())))
    with _pillow().open(path) as file:
        return any(map(_is_deep, file.tile))


def _is_deep(tile: tuple[Any, ...]) -> bool:
    """Return whether a part of a file is unpacked from more than 8 bits."""
    codec, _, _, args = tile
    values = args if isinstance(args, tuple) else (args,)
    if any(isinstance(value, str) and ";16" in value for value in values):
        return True
    return codec == "SGI16" or (codec.startswith("ppm") and values[-1] > 255)


def _has_other_bands(tags: Mapping[int, Any]) -> bool:
    n_other = tags.get(_SAMPLES, 1) - _COLORS.get(tags.get(_PHOTOMETRIC, 1), 1)
    return n_other > 0 and tuple(tags.get(_EXTRA, ())) not in _ALPHA


def _is_size(size: Any) -> bool:
    return np.shape(size) == (2,) and all(
        isinstance(pixels, Integral) and int(pixels) > 0 for pixels in size
    )


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "Reading image files needs Pillow: pip install sklearn-hscl[images]."
        ) from error
    return Image
