"""Image files as a dataset, decoded when they are needed."""

import os
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from sklearn_hscl.data.missing import unmasked

_MODES = ("L", "RGB", "RGBA")
# Modes of Pillow whose values are not the brightness of channels.
_OTHER_MODES = ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV")


_MAX_SHOWN = 80  # characters of a text in a message


class ImageFiles(Dataset[NDArray[np.uint8]]):
    """Image files, as uint8 arrays (H, W, C), or (H, W) if they are grey.

    A plain list of paths passed to :class:`~sklearn_hscl.HSCLEmbedder` is read as
    ``ImageFiles(paths)``; this class adds a common size and other colour modes. Files
    are decoded by Pillow (``pip install sklearn-hscl[images]``) when a batch needs them,
    and never cached.

    Parameters
    ----------
    paths : iterable of str or path-like
        The files.
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
    Images are rotated as their EXIF data say. Grey images of more than 8 bits are
    refused; of colour images Pillow keeps the upper 8 bits of each channel.

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
        paths: Iterable[str | os.PathLike[str]],
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
        self.paths = [os.fspath(path) for path in paths]
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
        pillow, rotated = _pillow()
        path = self.paths[index]
        if not os.path.exists(path):
            shown = path if len(path) < _MAX_SHOWN else path[:_MAX_SHOWN] + "…"
            raise ValueError(
                f"Item {index} of X, {shown!r}, cannot be read as an image: there is no "
                f"such file, and strings are read as paths. Correct the path; make numbers "
                f"of texts first, for example by TfidfVectorizer of scikit-learn."
            )
        try:
            with pillow.open(path) as file:
                if file.mode.startswith(("I", "F")):
                    raise OSError(f"it has more than 8 bits per channel ({file.mode})")
                image = rotated(file).convert(self.mode)
                if self.size is not None:
                    image = image.resize(self.size[::-1])  # Pillow: width first
                return np.array(image, dtype=np.uint8)
        # Pillow's own errors for broken files are of many types.
        except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
            raise ValueError(
                f"Item {index} of X, {path!r}, cannot be read as an image: {error}. "
                f"Repair the file or leave it out."
            ) from error


def holds_paths(X: Any) -> bool:
    """Return whether X is a plain sequence of paths, and not a table."""
    if getattr(X, "ndim", None) == 1 and hasattr(X, "tolist"):  # an array or a Series
        X = X[:1].tolist()
    is_sequence = isinstance(X, list | tuple) and len(X) > 0
    return is_sequence and isinstance(X[0], str | os.PathLike)


def read_mode_hint(dataset: object) -> str:
    """Return the colour mode in which image files were read, to end a message on shapes."""
    if not isinstance(dataset, ImageFiles):
        return ""
    return f" The files were read with mode={dataset.mode!r}: see ImageFiles for others."


def refuse_single_path(X: object, name: str) -> None:
    """Reject one path in place of a list of them."""
    if isinstance(X, str | os.PathLike):
        raise ValueError(f"{name}={X!r} is a single path: pass a list of paths.")


def image_array(image: Any) -> NDArray[np.number]:
    """Return an image that was opened by Pillow, or is an array-like, as an array.

    Raises
    ------
    ValueError
        If its values are not the brightness of channels.
    """
    mode = getattr(image, "mode", None)
    if mode in _OTHER_MODES:
        raise ValueError(
            f"an image is of Pillow's mode {mode!r}, whose values are not the brightness "
            f"of red, green and blue: pass image.convert('RGB')."
        )
    return unmasked(image)


def _is_size(size: Any) -> bool:
    return np.shape(size) == (2,) and all(
        isinstance(pixels, Integral) and int(pixels) > 0 for pixels in size
    )


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "Reading image files needs Pillow: pip install sklearn-hscl[images]."
        ) from error
    return Image, ImageOps.exif_transpose
