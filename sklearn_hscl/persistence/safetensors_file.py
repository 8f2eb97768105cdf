"""A file of arrays and a document: safetensors, with JSON among its metadata.

The document has a checksum of its own, which is looked at before anything else is read, and
holds that of the arrays.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sklearn_hscl.persistence.schema import BundleError
from sklearn_hscl.runtime.atomic_write import atomic_write

FORMAT = "sklearn-hscl"
FORMAT_VERSION = 1
# Bytes of the header, document included: JSON takes many times as much in memory.
LARGEST_HEADER = 16 * 2**20
_LENGTH_BYTES = 8
_METADATA = ("format", "version", "document", "sha256")


def write_container(
    path: str | os.PathLike[str], document: dict[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write a file, whole or not at all.

    Parameters
    ----------
    path : path
        Where; a file that is there stays until the new one is complete.
    document : dict
        What JSON can hold.
    arrays : mapping of str to ndarray
        Numbers and bools.

    Raises
    ------
    OSError
        If it cannot be written, for example as the disk is full.
    ValueError
        If the document is too large.
    """
    arrays = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}
    document = document | {"arrays_sha256": _checksum(arrays)}
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    if 2 * len(text) > LARGEST_HEADER:
        raise ValueError(
            f"The parameters and the history of this embedder take {len(text)} bytes as "
            f"JSON, more than a file may hold ({LARGEST_HEADER // 2}): store it by pickle."
        )
    metadata = {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "document": text,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    with replacing(Path(path)) as temporary:
        save_file(arrays, temporary, metadata)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new file beside `path` to write to, which takes its place when that is done.

    Raises
    ------
    OSError
        Of the kind that the system gave, with the path and what is left of the old file.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: pass the path of a file.")
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: Exception) -> OSError:
    kind = type(error) if isinstance(error, OSError) else OSError
    message = (
        f"{path} cannot be written ({error}): the embedder in memory is as it was, and "
        f"so is a file that was there. Make room, or pass another path."
    )
    number = getattr(error, "errno", None)
    return kind(message) if number is None else kind(number, message)


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the document of a file alone.

    Raises
    ------
    OSError
        If the file cannot be read.
    BundleError
        If it is not one of :func:`write_container`, or damaged.
    """
    _check_header(Path(path))
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise BundleError(f"{path} is no safetensors file: {error}") from error
    return _document(path, metadata)


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
        raise BundleError(f"{path} is no safetensors file, or cut off: {size} bytes.")
    if length > LARGEST_HEADER:
        raise BundleError(
            f"{path} has a header of {length} bytes, more than {LARGEST_HEADER}: no "
            f"embedder was stored like that."
        )


def _document(path: Any, metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("format") != FORMAT:
        raise BundleError(f"{path} holds no HSCLEmbedder: write one by its method `save`.")
    version = metadata.get("version", "")
    if version != str(FORMAT_VERSION):
        raise BundleError(
            f"{path} has the format {version!r:.20}, but this version of sklearn-hscl "
            f"reads {FORMAT_VERSION}: load it with the version that wrote it, or later."
        )
    if metadata.keys() != set(_METADATA):
        raise BundleError(f"{path} has missing or unknown metadata.")
    text = metadata["document"]
    if hashlib.sha256(text.encode(errors="replace")).hexdigest() != metadata["sha256"]:
        raise BundleError(f"{path} is damaged: the checksum of its document differs.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} holds a document that is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(f"{path} holds a document that is no dictionary.")
    return document


def read_arrays(
    path: str | os.PathLike[str], document: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """Read the arrays that belong to a document.

    Raises
    ------
    BundleError
        If they are damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} holds arrays that cannot be read: {error}") from error
    if _checksum(arrays) != document.get("arrays_sha256"):
        raise BundleError(f"{path} is damaged: the checksum of its arrays differs.")
    return arrays


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return a checksum of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}\0{array.dtype.str}\0{arrays[name].shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
