"""Invalid files, and files of earlier versions."""

import tracemalloc

import numpy as np
import pytest
from helpers.damaged_bundles import parts, signed
from helpers.stored_models import fitted
from helpers.write_bundles import FORMATS, GOLDEN, rows_of, targets_of
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file, save_file

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.persistence import BundleError, read_card


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def document_of(path):
    return parts(path.read_bytes())


@pytest.fixture
def stored(path):
    fitted("tabular")[0].save(path)
    return path


def check_refused(path, document, arrays, match, **metadata):
    path.write_bytes(signed(document, arrays, **metadata))
    with pytest.raises(BundleError, match=match) as found:
        HSCLEmbedder.load(path)
    assert str(path) in str(found.value)


def test_later_versions(stored):
    content = document_of(stored)
    check_refused(stored, *content, "format version 1, got '2'", version="2")
    check_refused(stored, *content, "does not contain an HSCLEmbedder", format="other")
    check_refused(stored, *content, "unknown metadata", more="x")
    check_refused(stored, *content, "checksum of its document", sha256="0" * 64)


def test_unknown_content(stored):
    document, arrays = document_of(stored)
    check_refused(stored, document | {"pickle": "x"}, arrays, "unknown entries")
    check_refused(
        stored, document, arrays | {"more": np.zeros(3)}, r"unknown arrays \['more'\]"
    )
    own = document["parameters"] | {"code": "x"}
    check_refused(stored, document | {"parameters": own}, arrays, r"\['code'\]")
    code = document["parameters"] | {"augment": {"$": "object", "name": "eval"}}
    check_refused(stored, document | {"parameters": code}, arrays, "invalid object")
    wrong = document["parameters"] | {"n_members": -3}
    check_refused(stored, document | {"parameters": wrong}, arrays, "n_members")
    check_refused(stored, [document], arrays, "to be a dict, got list")


def test_wrong_arrays(stored):
    document, arrays = document_of(stored)
    name = "encoder.encoder.last.weight"
    for wrong, match in [
        (arrays[name].astype(np.float64), "float32, got torch.float64"),
        (arrays[name][..., :-1].copy(), "do not fit"),
        (np.full_like(arrays[name], np.nan), "NaN or infinity"),
    ]:
        check_refused(stored, document, arrays | {name: wrong}, match)
    name = "encoder.encoder.categories.categorical"
    wrong = arrays[name] + 1_000_000
    check_refused(stored, document, arrays | {name: wrong}, "do not match the columns")
    negative = {"layout.n_levels": -arrays["layout.n_levels"]}
    check_refused(stored, document, arrays | negative, "cannot be loaded")
    too_many = {"layout.n_levels": arrays["layout.n_levels"] + 2**60}
    check_refused(stored, document, arrays | too_many, "codes of column")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_layers": 10**9}, "fewer weights than layers"),
        ({"n_members": 10**9}, "do not fit"),
        ({"width": 10**6}, "do not fit"),
        ({"width": 10**30}, "cannot be loaded"),
        ({"kind": "os"}, "no built-in encoder"),
    ],
)
def test_oversized_networks_take_no_memory(stored, change, match):
    document, arrays = document_of(stored)
    document["fit"]["network"]["blueprint"] |= change
    tracemalloc.start()
    check_refused(stored, document, arrays, match)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_oversized_headers(stored):
    with open(stored, "r+b") as file:
        file.truncate(2**33)  # which takes no room on the disk
        file.write((2**32).to_bytes(8, "little"))
    with pytest.raises(BundleError, match="header of 4294967296 bytes"):
        HSCLEmbedder.load(stored)


def test_other_files(path):
    for content in (b"", b"x" * 3, b"x" * 1000, (8).to_bytes(8, "little") + b"[[[[[[[["):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=str(path)):
            HSCLEmbedder.load(path)
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(BundleError, match="does not contain an HSCLEmbedder"):
        read_card(path)


def test_nothing_of_the_file_is_executed(stored, monkeypatch):
    monkeypatch.setattr("pickle.Unpickler", None)
    monkeypatch.setattr("pickle.loads", None)
    monkeypatch.setattr("torch.load", None)
    HSCLEmbedder.load(stored)


def test_other_tools_read_the_weights(stored):
    embedder = HSCLEmbedder.load(stored)
    weights = load_file(stored)
    for name, value in embedder.module_.state_dict().items():
        assert_array_equal(weights[f"encoder.{name}"], value.numpy())


# Files of earlier versions -----------------------------------------------------------


@pytest.mark.parametrize("file", sorted(FORMATS.glob("*/*.safetensors")), ids=str)
def test_files_of_all_versions_load(file):
    embedder = HSCLEmbedder.load(file)
    X = rows_of(file.stem)
    # Another processor rounds products in another way.
    expected = np.load(file.with_suffix(".npy"))
    assert_allclose(embedder.transform(X), expected, rtol=1e-4, atol=1e-5)
    embedder.partial_fit(X, targets_of(file.stem))


def test_a_file_of_every_kind_is_kept():
    assert {file.stem for file in FORMATS.glob("format_1/*.safetensors")} == set(GOLDEN)
    assert len(GOLDEN) >= 5
