"""Safetensors files of arrays and a document, which is JSON in the metadata.

The document contains the checksum of the arrays. Its own checksum is verified before
anything else is read.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sklearn_hscl.persistence.json_codec import Json
from sklearn_hscl.persistence.schema import Array, Arrays, BundleError
from sklearn_hscl.runtime.atomic_write import atomic_write

_FORMAT = "sklearn-hscl"
FORMAT_VERSION = 1
# Bytes of the header with the document. Parsed JSON takes many times as much memory.
_MAX_HEADER_BYTES = 16 * 2**20
_LENGTH_BYTES = 8
_METADATA = ("format", "version", "document", "sha256")


def write_file(
    path: str | os.PathLike[str], document: dict[str, Json], arrays: Mapping[str, Array]
) -> None:
    """Write a file completely or not at all.

    Parameters
    ----------
    path : path
        Path of the file. An existing file is replaced once the new one is complete.
    document : dict
        JSON values.
    arrays : mapping of str to ndarray
        Numeric and bool arrays.

    Raises
    ------
    OSError
        If the file cannot be written, for example because the disk is full.
    ValueError
        If the document is too large.
    """
    arrays = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}
    document = document | {"arrays_sha256": checksum(arrays)}
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    if 2 * len(text) > _MAX_HEADER_BYTES:
        raise ValueError(
            f"Expected parameters and history of at most {_MAX_HEADER_BYTES // 2} bytes as "
            f"JSON, got {len(text)} bytes. Store the embedder with pickle."
        )
    metadata = {
        "format": _FORMAT,
        "version": str(FORMAT_VERSION),
        "document": text,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    with atomic_file(Path(path)) as file:
        file.write(save(arrays, metadata))


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file, which replaces `path` at the end of the block.

    Raises
    ------
    OSError
        An error of the type that the system raised, which names the path.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory. Pass the path of a file.")
    try:
        with atomic_write(path) as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: Exception) -> OSError:
    error_type = type(error) if isinstance(error, OSError) else OSError
    message = (
        f"{path} cannot be written ({error}). The embedder in memory and any existing file "
        f"are unchanged. Free disk space, or pass another path."
    )
    errno = getattr(error, "errno", None)
    return error_type(message) if errno is None else error_type(errno, message)


def read_document(path: str | os.PathLike[str]) -> dict[str, Json]:
    """Read the document of a file without its arrays.

    Raises
    ------
    OSError
        If the file cannot be read.
    BundleError
        If the file is damaged, or was not written by :func:`write_file`.
    """
    with open(path, "rb") as file:
        return _parse_document(path, _read_metadata(path, file))


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Json], Arrays]:
    """Read the document and the arrays of a file, which another one may replace meanwhile.

    Raises
    ------
    OSError
        If the file cannot be read.
    BundleError
        If the file is damaged, or was not written by :func:`write_file`.
    """
    with open(path, "rb") as file:  # once, as `path` may be another file the next time
        document = _parse_document(path, _read_metadata(path, file))
        file.seek(0)
        content = file.read()
    return document, _parse_arrays(path, content, document)


def _read_metadata(path: str | os.PathLike[str], file: BinaryIO) -> dict[str, str]:
    """Read the metadata of the header, unless it is truncated or oversized."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
        raise BundleError(
            f"Expected {path} to be a safetensors file, got {size} bytes without a whole "
            f"header."
        )
    if length > _MAX_HEADER_BYTES:
        raise BundleError(
            f"Expected {path} to have a header of at most {_MAX_HEADER_BYTES} bytes, got a "
            f"header of {length} bytes."
        )
    try:
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        ends = [entry["data_offsets"][1] for entry in header.values()]
        is_whole = _LENGTH_BYTES + length + max(ends, default=0) == size
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise BundleError(f"Expected {path} to be a safetensors file: {error}") from error
    if not is_whole or not isinstance(metadata, dict):
        raise BundleError(
            f"Expected {path} to be a safetensors file, got {size} bytes that do not match "
            f"its header."
        )
    return metadata


def _parse_document(
    path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> dict[str, Json]:
    if metadata.get("format") != _FORMAT or not _are_strings(metadata.values()):
        raise BundleError(
            f"{path} does not contain an HSCLEmbedder. Write one with its method `save`."
        )
    version = metadata.get("version", "")
    if version != str(FORMAT_VERSION):
        raise BundleError(
            f"Expected {path} to have the format version {FORMAT_VERSION}, got "
            f"{version!r:.20}. Load it with the version of sklearn-hscl that wrote it, or "
            f"a later one."
        )
    if metadata.keys() != set(_METADATA):
        raise BundleError(f"{path} has missing or unknown metadata.")
    text = metadata["document"]
    if hashlib.sha256(text.encode(errors="replace")).hexdigest() != metadata["sha256"]:
        raise BundleError(f"{path} is damaged: the checksum of its document differs.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} holds a document of invalid JSON: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(
            f"Expected the document of {path} to be a dict, got {type(document).__name__}."
        )
    return document


def _are_strings(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _parse_arrays(
    path: str | os.PathLike[str], content: bytes, document: Mapping[str, Json]
) -> Arrays:
    try:
        arrays: Arrays = load(content)
    except (SafetensorError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise BundleError(f"{path} holds arrays that cannot be read: {error}") from error
    if checksum(arrays) != document.get("arrays_sha256"):
        raise BundleError(f"{path} is damaged: the checksum of its arrays differs.")
    return arrays


def checksum(arrays: Mapping[str, Array]) -> str:
    """Return a checksum of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}\0{array.dtype.str}\0{arrays[name].shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
