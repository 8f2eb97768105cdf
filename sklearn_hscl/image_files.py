"""Pictures in files as a dataset, decoded when they are needed."""

import os
from collections.abc import Sequence
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
    paths : sequence of str or path-like
        The files.
    size : (int, int) or None, default=None
        Height and width to which pictures are resized; None leaves them as they are, and
        then all must be of one size.
    mode : str, default="RGB"
        Colour mode to convert to: ``"L"`` is grey, ``"RGBA"`` keeps transparency.

    Raises
    ------
    ValueError
        If the mode is none of these.

    Notes
    -----
    Pictures are turned as their EXIF data say. More than 8 bits a channel are refused.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sklearn_hscl.image_files import ImageFiles
    >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
    ...     Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(file.name)
    ...     files = ImageFiles([file.name], size=(4, 4))
    ...     files[0].shape
    (4, 4, 3)
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        size: tuple[int, int] | None = None,
        mode: str = "RGB",
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} must be one of {list(MODES)}.")
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
        except OSError as error:
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


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "Reading pictures from files needs Pillow: pip install sklearn-hscl[images]."
        ) from error
    return Image, ImageOps.exif_transpose
