"""Damaged bundles: flipped bytes, truncated files, invalid signed contents."""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.persistence import BundleError
from sklearn_hscl.persistence.safetensors_file import checksum

# Replacements of values of a document.
INVALID_VALUES = [
    None,
    True,
    -1,
    0,
    3,
    10**9,
    10**30,
    1e308,
    0.5,
    "",
    "x",
    "auto",
    "resnet18",
    "cuda:9",
    [],
    [1, 2],
    [10**9] * 3,
    {},
    {"$": "object", "name": "ContrastiveLoss", "settings": {}},
    {"$": "strings", "dtype": "object", "count": 10**12},
    {"$": "array", "dtype": "float64", "values": [1e300]},
    {"$": "float", "value": "nan"},
    {"$": "os.system", "value": "true"},
    {"$": "tuple", "items": [[[]]]},
]
DTYPES = [np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_, np.float16]


def header_length(data):
    return 8 + int.from_bytes(data[:8], "little")


def flipped_header(rng, data, position=None):
    """Change one byte of the header."""
    position = rng.integers(header_length(data)) if position is None else position
    return flipped(data, position, rng.integers(1, 256))


def flipped_weights(rng, data):
    """Change one byte of the arrays."""
    return flipped(data, rng.integers(header_length(data), len(data)), rng.integers(1, 256))


def flipped(data, position, mask):
    changed = bytearray(data)
    changed[int(position)] ^= int(mask)
    return bytes(changed)


def truncated(rng, data):
    """Cut off the end."""
    return data[: rng.integers(len(data))]


def longer(rng, data):
    """Append random bytes."""
    return data + rng.bytes(int(rng.integers(1, 100)))


def other_length(rng, data):
    """Change the length of the header to any, small or huge."""
    bits = int(rng.integers(1, 65))
    return (
        int(rng.integers(0, 2**bits, dtype=np.uint64, endpoint=bits < 64)).to_bytes(
            8, "little"
        )
        + (data[8:])
    )


def other_document(rng, data):
    """Replace, drop or add a value of the document, and recompute the checksum."""
    document, arrays = parts(data)
    container = document
    while True:
        keys = list(container) if isinstance(container, dict) else range(len(container))
        key = keys[int(rng.integers(len(keys)))]
        inner = container[key]
        if not (isinstance(inner, dict | list) and inner) or rng.random() < 0.15:
            break
        container = inner
    how = rng.integers(4)
    if how == 0:
        del container[key]
    elif how == 1 and isinstance(container, dict):
        container["unknown"] = container[key]
    elif how == 1:
        container.append(container[key])
    else:
        container[key] = INVALID_VALUES[rng.integers(len(INVALID_VALUES))]
    return signed(document, arrays)


def other_arrays(rng, data):
    """Replace, drop or add an array, and recompute the checksum."""
    document, arrays = parts(data)
    name = list(arrays)[rng.integers(len(arrays))]
    array = arrays.pop(name)
    how = rng.integers(7)
    if how == 1:
        arrays[name + "x"] = array
    elif how == 2:
        with warnings.catch_warnings(), np.errstate(invalid="ignore", over="ignore"):
            warnings.simplefilter("ignore")
            arrays[name] = array.astype(DTYPES[rng.integers(len(DTYPES))])
    elif how == 3:
        arrays[name] = np.concatenate([array.ravel(), array.ravel()[:1]])
    elif how == 4:
        arrays[name] = array.ravel()[: rng.integers(array.size + 1)]
    elif how == 5:
        arrays[name], arrays["more"] = array, array
    elif how == 6:
        values = array.copy().ravel()
        if len(values):
            random_value = np.frombuffer(rng.bytes(values.itemsize), values.dtype)[0]
            values[rng.integers(len(values))] = random_value
        arrays[name] = values.reshape(array.shape)
    return signed(document, arrays)


def parts(data):
    header = json.loads(data[8 : header_length(data)])
    return json.loads(header["__metadata__"]["document"]), load(data)


def signed(document, arrays, **metadata):
    """Return the bytes of a bundle with valid checksums."""
    if isinstance(document, dict):
        document = document | {"arrays_sha256": checksum(arrays)}
    text = json.dumps(document)
    own = {"format": "sklearn-hscl", "version": "1", "document": text}
    own["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return save(arrays, own | metadata)


BLIND = [flipped_header, flipped_weights, truncated, longer, other_length]
SIGNED = [other_document, other_arrays]


class Trial:
    """A bundle, and the check that damaged copies of it are refused or harmless.

    Parameters
    ----------
    embedder : HSCLEmbedder
        Fitted.
    rows : array-like
        Rows to embed.
    folder : Path
        For files.
    """

    def __init__(self, embedder, rows, folder):
        self.rows = rows
        self.path = Path(folder) / "bundle.safetensors"
        embedder.save(self.path)
        self.data = self.path.read_bytes()
        self.expected = embedder.transform(rows)

    def outcome(self, data, *, is_signed=False):
        """Return "refused" or "loaded"; raise any other outcome."""
        self.path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a device that is not available
            try:
                embedder = HSCLEmbedder.load(self.path)
            except ValueError as error:  # BundleError, or parameters are missing
                if str(self.path) in str(error) and (
                    is_signed or type(error) is BundleError
                ):
                    return "refused"
                raise
        if not is_signed:
            np.testing.assert_array_equal(embedder.transform(self.rows), self.expected)
            return "loaded"
        try:
            embedding = embedder.transform(self.rows)
        except (TypeError, ValueError):
            return "loaded"
        assert embedding.shape[0] == len(self.expected)
        return "loaded"
