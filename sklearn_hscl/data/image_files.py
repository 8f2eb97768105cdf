"""Pictures in files as a dataset, decoded when they are needed."""

import os
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

MODES = ("L", "RGB", "RGBA")


class ImageFiles(Dataset[NDArray[np.uint8]]):
    """Pictures in files, as uint8 arrays (H, W, C), or (H, W) where they are grey.

    A plain list of paths passed to :class:`~sklearn_hscl.HSCLEmbedder` is read as
    ``ImageFiles(paths)``; this class adds a common size and other colour modes. Files
    are decoded by Pillow (``pip install sklearn-hscl[images]``) when a batch needs them,
    and never kept.

    Parameters
    ----------
    paths : iterable of str or path-like
        The files.
    size : (int, int) or None, default=None
        Height and width to which pictures are resized; None leaves them as they are, and
        then all must be of one size.
    mode : str, default="RGB"
        Colour mode to convert to: ``"L"`` is grey, ``"RGBA"`` keeps transparency.

    Raises
    ------
    ValueError
        If the mode is none of these, `size` is no pair of positive integers, or `paths` is
        a single path.

    Notes
    -----
    Pictures are turned as their EXIF data say. Grey pictures of more than 8 bits are
    refused; of colour ones Pillow keeps the upper 8 bits of each channel.

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
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} must be one of {list(MODES)}.")
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

    def __getitem__(self, place: int) -> NDArray[np.uint8]:
        """Decode one picture.

        Raises
        ------
        ValueError
            If the file is missing or no picture, naming it.
        """
        image, turned = _pillow()
        path = self.paths[place]
        try:
            with image.open(path) as file:
                if file.mode.startswith(("I", "F")):
                    raise OSError(f"it has more than 8 bits a channel ({file.mode})")
                picture = turned(file).convert(self.mode)
                if self.size is not None:
                    picture = picture.resize(self.size[::-1])  # Pillow: width first
                return np.array(picture, dtype=np.uint8)
        # Pillow's own errors for broken files are of many kinds.
        except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
            raise ValueError(
                f"Item {place} of X, {path!r}, cannot be read as a picture: {error}. "
                f"Repair the file or leave it out."
            ) from error


def holds_paths(X: Any) -> bool:
    """Say whether X is a plain sequence of paths, and no table."""
    if getattr(X, "ndim", None) == 1 and hasattr(X, "tolist"):  # an array or a Series
        X = X[:1].tolist()
    is_sequence = isinstance(X, list | tuple) and len(X) > 0
    return is_sequence and isinstance(X[0], str | os.PathLike)


def read_mode_hint(dataset: Any) -> str:
    """Add to an error on shapes how files were read, if they were."""
    if not isinstance(dataset, ImageFiles):
        return ""
    return f" The files were read with mode={dataset.mode!r}: see ImageFiles for others."


def refuse_single_path(X: Any, name: str) -> None:
    """Raise where one path stands for a list of them."""
    if isinstance(X, str | os.PathLike):
        raise ValueError(f"{name}={X!r} is a single path: pass a list of paths.")


def picture_array(picture: Any) -> NDArray[Any]:
    """Return a picture that was opened by Pillow, or is an array-like, as an array.

    Raises
    ------
    ValueError
        If its numbers are no brightness of channels.
    """
    mode = getattr(picture, "mode", None)
    if mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
        raise ValueError(
            f"a picture is of Pillow's mode {mode!r}, whose numbers are no brightness of "
            f"red, green and blue: pass picture.convert('RGB')."
        )
    return np.asarray(picture)


def _is_size(size: Any) -> bool:
    return np.shape(size) == (2,) and all(
        isinstance(pixels, Integral) and int(pixels) > 0 for pixels in size
    )


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "Reading pictures from files needs Pillow: pip install sklearn-hscl[images]."
        ) from error
    return Image, ImageOps.exif_transpose
