"""Many strings as two arrays, and back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_hscl.persistence.errors import BundleError


def pool_arrays(pool: list[str]) -> dict[str, NDArray[Any]]:
    """Return strings as their bytes and where each of them ends."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in pool]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {"text.bytes": np.frombuffer(b"".join(encoded), np.uint8), "text.ends": ends}


def pool_strings(arrays: dict[str, NDArray[Any]]) -> list[str]:
    """Return the strings; the opposite of :func:`pool_arrays`."""
    text, ends = arrays.pop("text.bytes", None), arrays.pop("text.ends", None)
    if text is None or ends is None or text.dtype != np.uint8 or ends.dtype != np.int64:
        raise BundleError("its strings are missing")
    starts = np.concatenate([np.zeros(1, np.int64), ends])
    if text.ndim != 1 or starts[-1] != len(text) or (np.diff(starts) < 0).any():
        raise BundleError("its strings end where they cannot")
    whole = text.tobytes()
    pairs = zip(starts[:-1].tolist(), ends.tolist(), strict=True)
    return [whole[i:j].decode("utf-8", "surrogatepass") for i, j in pairs]
