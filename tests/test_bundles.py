"""One file without code: what goes in comes out, and nothing else does."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from damage import parts, signed
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file, save_file
from sklearn.exceptions import NotFittedError
from skorch.callbacks import EarlyStopping
from stored_models import MODELS, OWN, SMALL, fitted, frame, labels, numbers
from write_bundles import FORMATS, GOLDEN, rows_of, targets_of

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.augment import FeatureCorruption, FunctionAugmentation
from sklearn_hscl.losses import ContrastiveLoss, CosineBeta
from sklearn_hscl.persistence import BundleError, read_card


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def reloaded(embedder, path, **options):
    left_out = options.get("leave_out", ())
    embedder.save(path, **options)
    given = {name: getattr(embedder, name) for name in left_out}
    return HSCLEmbedder.load(path, **given)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, path):
    embedder, X, y = fitted(name)
    left_out = ("encoder",) if name in OWN else ()
    again = reloaded(embedder, path, leave_out=left_out)
    assert_array_equal(again.transform(X), embedder.transform(X))
    assert again.history_ == embedder.history_
    assert vars(again).keys() == vars(embedder).keys()
    assert again.get_params().keys() == embedder.get_params().keys()
    assert_array_equal(again.get_feature_names_out(), embedder.get_feature_names_out())
    if hasattr(embedder, "classes_"):
        assert_array_equal(again.classes_, embedder.classes_)
        assert again.classes_.dtype == embedder.classes_.dtype
    weights = sum(
        t.numel() * t.element_size() for t in embedder.module_.state_dict().values()
    )
    assert path.stat().st_size <= 1.2 * weights + 2**16
    if name != "resnet":
        again.partial_fit(X, y)
        assert again.n_iter_ == embedder.n_iter_ + 1


@pytest.mark.parametrize("name", ["tabular", "without labels", "own encoder"])
def test_with_the_optimizer_training_goes_on_as_if_nothing_happened(name, path):
    embedder, X, y = fitted(name)
    left_out = ("encoder",) if name in OWN else ()
    again = reloaded(embedder, path, leave_out=left_out, optimizer=True)
    twice = reloaded(again, path, leave_out=left_out, optimizer=True)
    expected = embedder.partial_fit(X, y).transform(X)
    assert_array_equal(again.partial_fit(X, y).transform(X), expected)
    assert_array_equal(twice.partial_fit(X, y).transform(X), expected)
    without = reloaded(fitted(name)[0], path, leave_out=left_out)
    assert np.abs(without.partial_fit(X, y).transform(X) - expected).max() > 1e-7


def test_another_optimizer(path):
    settings = {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9}
    X, y = numbers(), labels()
    embedder = HSCLEmbedder(net_params=settings, **SMALL).fit(X, y)
    again = reloaded(embedder, path, optimizer=True)
    assert again.net_params == settings
    expected = embedder.partial_fit(X, y).transform(X)
    assert_array_equal(again.partial_fit(X, y).transform(X), expected)


def test_parameters_of_this_library(path):
    given = {
        "loss": ContrastiveLoss(
            "sscl", temperature=0.3, label_smoothing=0.1, kernel="dense"
        ),
        "beta": CosineBeta(0.0, 3.0),
        "augment": FeatureCorruption(p=0.3),
        "hidden_layer_sizes": (8, 8),
        "device": torch.device("cpu"),
        "lr": np.float64(1e-3),
        "categorical_features": None,
        "unlabeled_label": None,
        "tol": 0,
    }
    embedder = HSCLEmbedder(**SMALL, **given).fit(numbers(), labels())
    again = reloaded(embedder, path)
    for name in given.keys() - {"loss", "augment"}:
        assert getattr(again, name) == given[name], name
        assert type(getattr(again, name)) is type(given[name]), name
    assert again.augment.get_params() == given["augment"].get_params()
    assert vars(again.loss).keys() == vars(given["loss"]).keys()
    assert again.loss.settings() == given["loss"].settings()
    again.fit(numbers(), labels())


@pytest.mark.parametrize("loss", ["sscl", "hucl", "schane"])
@pytest.mark.parametrize("options", [{}, {"tau_plus": 0.0}, {"negative_mass": 3.0}])
def test_settings_make_an_equal_loss(loss, options):
    first = ContrastiveLoss(loss, **options)
    again = ContrastiveLoss.from_settings(first.settings())
    assert again.options == first.options and again.tau_plus == first.tau_plus
    if loss == "hucl":
        official = ContrastiveLoss(loss, preset="official")
        again = ContrastiveLoss.from_settings(official.settings())
        assert again.options == official.options and again.tau_plus is None


CODE = {
    "hardening": lambda s: s,
    "augment": FunctionAugmentation(lambda rows, generator: rows + 0.1),
    "lr_schedule": lambda progress: 1.0,
    "net_callbacks": [EarlyStopping(monitor="train_loss")],
    "random_state": np.random.RandomState(0),
    "net_params": {"optimizer": lambda weights, lr: torch.optim.Adam(weights, lr)},
    "loss": ContrastiveLoss(hardening=lambda s: s),
}


@pytest.mark.parametrize("name", CODE)
def test_code_is_left_out(name, path):
    X, y = numbers(), labels()
    embedder = HSCLEmbedder(**SMALL | {name: CODE[name]}).fit(X, y)
    with pytest.raises(ValueError, match=rf"The parameter {name} .*leave_out=\['{name}'\]"):
        embedder.save(path)
    assert not path.exists()
    embedder.save(path, leave_out=[name])
    with pytest.raises(ValueError, match=rf"without the parameters \['{name}'\]"):
        HSCLEmbedder.load(path)
    again = HSCLEmbedder.load(path, **{name: CODE[name]})
    assert_array_equal(again.transform(X), embedder.transform(X))
    assert again.get_params()[name] is CODE[name]


def test_own_encoder_must_be_the_one_that_was_trained(path):
    embedder, X, _ = fitted("own encoder")
    embedder.save(path, leave_out=["encoder"])
    for wrong in (torch.nn.Linear(4, 5), torch.nn.Linear(3, 5), lambda: 3):
        with pytest.raises(ValueError, match=str(path)):
            HSCLEmbedder.load(path, encoder=wrong)
    own = torch.nn.Sequential(
        torch.nn.Linear(4, 8),
        torch.nn.ReLU(),
        torch.nn.BatchNorm1d(8),
        torch.nn.Linear(8, 5),
    )
    before = own[0].weight.detach().clone()
    again = HSCLEmbedder.load(path, encoder=own)
    assert_array_equal(again.transform(X), embedder.transform(X))
    assert torch.equal(own[0].weight, before)  # it is the user's


def test_arguments(path):
    embedder, *_ = fitted("tabular of numbers")
    with pytest.raises(NotFittedError):
        HSCLEmbedder().save(path)
    with pytest.raises(ValueError, match="leave_out names"):
        embedder.save(path, leave_out=["encodre"])
    with pytest.raises(ValueError, match="accuracy=nan"):
        embedder.save(path, metrics={"accuracy": np.nan})
    embedder.save(path)
    with pytest.raises(ValueError, match=r"holds the parameters \['lr'\]"):
        HSCLEmbedder.load(path, lr=1.0)
    assert HSCLEmbedder.load(path, device="cpu").device == "cpu"
    with pytest.raises(FileNotFoundError):
        HSCLEmbedder.load(path.with_name("none"))


def test_card(path):
    embedder, *_ = fitted("float64")
    embedder.save(path, metrics={"accuracy": 0.9})
    card = read_card(path)
    best = embedder.history_[embedder.best_epoch_ - 1]
    figures = {name: best[name] for name in ("train_loss", "valid_score")}
    assert card["metrics"] == {"accuracy": 0.9, **figures}
    assert card["parameters"]["precision"] == "float64" and card["left_out"] == []
    assert card["versions"]["torch"] == torch.__version__ and card["n_features"] == 4


def test_no_training_rows_in_the_file(path):
    embedder, X, _ = fitted("tabular")
    embedder.save(path)
    written = path.read_bytes()
    assert b"Person" not in written and "grün".encode() in written
    for column in ("size", "gaps"):
        assert not any(value.tobytes() in written for value in X[column].to_numpy()[:9])


def test_levels_that_a_file_cannot_hold(path):
    days = pd.Categorical(pd.date_range("2020-01-01", periods=2).repeat(30))
    embedder = HSCLEmbedder(**SMALL).fit(frame().assign(day=days), labels())
    with pytest.raises(ValueError, match="Timestamp.*make categories and labels strings"):
        embedder.save(path)


def test_many_levels(path):
    rng = np.random.default_rng(0)
    levels = np.repeat([f"level {i}" for i in range(20_000)], 2)
    X = pd.DataFrame({"a": rng.normal(size=40_000), "b": levels})
    embedder = HSCLEmbedder(
        max_epochs=1, batch_size=8192, n_members=1, early_stopping=False
    )
    embedder.fit(X, np.arange(40_000) % 2)
    again = reloaded(embedder, path)
    assert_array_equal(again.transform(X[::100]), embedder.transform(X[::100]))
    assert len(again.categories_[0]) == 20_000


# Writing -----------------------------------------------------------------------------


def test_a_file_has_the_usual_rights(path):
    path.with_name("other").touch()
    fitted("tabular of numbers")[0].save(path)
    assert path.stat().st_mode == path.with_name("other").stat().st_mode


def test_a_file_is_replaced_as_a_whole(path):
    embedder, X, _ = fitted("tabular of numbers")
    path.write_text("before")
    with pytest.raises(ValueError, match="lr_schedule"):
        embedder.set_params(lr_schedule=lambda p: 1.0).save(path)
    assert path.read_text() == "before"
    embedder.set_params(lr_schedule="auto").save(path)
    assert_array_equal(HSCLEmbedder.load(path).transform(X), embedder.transform(X))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_folders_that_cannot_be_written_to(path):
    embedder, X, _ = fitted("tabular of numbers")
    before = embedder.transform(X)
    with pytest.raises(FileNotFoundError, match="embedder in memory is as it was"):
        embedder.save(path / "no" / "folder")
    with pytest.raises(IsADirectoryError, match="pass the path of a file"):
        embedder.save(path.parent)
    path.write_text("a file")
    with pytest.raises(OSError, match="embedder in memory is as it was"):
        embedder.save(path / "below a file")
    assert_array_equal(embedder.transform(X), before)


FULL_DISK = """
import resource, sys
import numpy as np
from sklearn_hscl import HSCLEmbedder
X = np.random.default_rng(0).normal(size=(60, 4))
embedder = HSCLEmbedder(max_epochs=1).fit(X, np.arange(60) % 2)
before = embedder.transform(X)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    embedder.save(sys.argv[1])
except OSError as error:
    assert "cannot be written" in str(error) and "Make room" in str(error)
    assert (embedder.transform(X) == before).all()
    print("refused")
"""


def test_full_disk(path):
    path.write_text("before")
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == "refused\n"
    assert path.read_text() == "before"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# Reading -----------------------------------------------------------------------------


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
    check_refused(stored, *content, "has the format '2'.*reads 1", version="2")
    check_refused(stored, *content, "no HSCLEmbedder", format="other")
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
    check_refused(stored, document | {"parameters": code}, arrays, "impossible object")
    wrong = document["parameters"] | {"n_members": -3}
    check_refused(stored, document | {"parameters": wrong}, arrays, "n_members")
    check_refused(stored, [document], arrays, "no dictionary")


def test_wrong_arrays(stored):
    document, arrays = document_of(stored)
    name = "encoder.last.weight"
    for wrong, match in [
        (arrays[name].astype(np.float64), "float64, not"),
        (arrays[name][..., :-1].copy(), "do not fit"),
        (np.full_like(arrays[name], np.nan), "NaN or infinity"),
    ]:
        check_refused(stored, document, arrays | {name: wrong}, match)
    name = "encoder.categories.categorical"
    wrong = arrays[name] + 1_000_000
    check_refused(stored, document, arrays | {name: wrong}, "not those of the columns")
    negative = {"layout.n_levels": -arrays["layout.n_levels"]}
    check_refused(stored, document, arrays | negative, "cannot be used")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_layers": 10**9}, "fewer weights than layers"),
        ({"n_members": 10**9}, "do not fit"),
        ({"width": 10**6}, "do not fit"),
        ({"width": 10**30}, "cannot be used"),
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
    with pytest.raises(BundleError, match="holds no HSCLEmbedder"):
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


# Files of former versions ------------------------------------------------------------


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
