"""Bundles contain the parameters and the fit, and nothing else."""

import os
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.stored_models import (
    MODELS,
    OWN,
    SMALL,
    fitted,
    frame,
    labels,
    numbers,
    reloaded,
)
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from skorch.callbacks import EarlyStopping

from sklearn_hscl import HSCLEmbedder, __version__, diagnose
from sklearn_hscl.augment import ClassCorruption, FeatureCorruption, FunctionAugmentation
from sklearn_hscl.export import to_onnx
from sklearn_hscl.losses import BetaSchedule, ContrastiveLoss, CosineBeta
from sklearn_hscl.persistence import read_card, safetensors_file

IRIS = load_iris(return_X_y=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


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


@pytest.mark.parametrize("augment", [FeatureCorruption(p=0.3), ClassCorruption(p=0.1)])
def test_augmentations_of_this_library(path, augment):
    embedder = HSCLEmbedder(**SMALL, augment=augment, n_views=2).fit(numbers(), labels())
    again = reloaded(embedder, path)
    assert type(again.augment) is type(augment)
    assert again.augment.get_params() == augment.get_params()
    assert diagnose(again, numbers(), labels()).to_dict()


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


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": np.float32(0.25), "beta": np.int64(2), "tau_plus": np.float32(0.5)},
        {"hardening": "top_k", "top_k": np.int64(3), "detach_weights": np.bool_(True)},
        {"negative_mass": np.float32(3), "ce_weight": np.float32(0.5)},
        {"n_threads": np.int64(os.cpu_count()), "batch_size": np.int64(32)},
        {"loss": ContrastiveLoss(temperature=torch.tensor(0.25), beta=np.int64(2))},
        {"loss": ContrastiveLoss(beta=torch.tensor(2.0), tau_plus=np.float32(0.5))},
    ],
    ids=lambda given: next(iter(given)),
)
def test_numbers_of_numpy_and_torch(given, path):
    X, y = numbers(), labels()
    embedder = HSCLEmbedder(encoder="mlp", **SMALL | given).fit(X, y)
    settings = embedder.net_.criterion_.settings()
    for again in (reloaded(embedder, path), pickle.loads(pickle.dumps(embedder))):
        assert_array_equal(again.transform(X), embedder.transform(X))
        assert again.temperature_ == embedder.temperature_ == settings["temperature"]
        assert again.net_.criterion_.settings() == settings
        assert diagnose(again, X, y).to_dict() == diagnose(embedder, X, y).to_dict()


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


class OwnSchedule(BetaSchedule):
    """Not of this library."""

    def beta_at(self, progress):
        return 1 + progress


@pytest.mark.parametrize(
    "code",
    [
        {"hardening": lambda s: s / 2},
        {"loss": ContrastiveLoss(hardening=lambda s: s / 2)},
        {"augment": lambda rows, generator: rows + 0.1, "n_views": 2},
        {"beta": OwnSchedule()},
        {"loss": "sscl", "sampler": "shuffle", "batch_size": 16},
    ],
    ids=lambda code: next(iter(code)),
)
def test_what_was_loaded_is_diagnosed_alike(code, path):
    X, y = numbers(), labels()
    embedder = HSCLEmbedder(**SMALL | code, encoder="mlp").fit(X, y)
    left_out = [name for name in code if not isinstance(code[name], str | int)]
    again = reloaded(embedder, path, leave_out=left_out)
    assert diagnose(again, X, y).to_dict() == diagnose(embedder, X, y).to_dict()
    assert again.beta_ == embedder.beta_


def test_a_directory_of_checkpoints_is_stored_by_its_name(path, tmp_path):
    embedder = HSCLEmbedder(**SMALL, checkpoint_dir=tmp_path).fit(numbers(), labels())
    assert reloaded(embedder, path).checkpoint_dir == str(tmp_path)


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


class OfPositiveNumbers(torch.nn.Linear):
    def forward(self, rows):
        return super().forward(rows.log())


def test_own_encoder_that_takes_no_zeros(path):
    X = np.abs(numbers()) + 1
    embedder = HSCLEmbedder(encoder=OfPositiveNumbers(4, 5), **SMALL).fit(X, labels())
    again = reloaded(embedder, path, leave_out=["encoder"])
    assert_array_equal(again.transform(X), embedder.transform(X))


def test_what_load_refuses_is_refused_by_save(path):
    embedder, *_ = fitted("own encoder")
    with pytest.raises(
        ValueError, match=r"layers of encoder='mlp' .*got Sequential.*leave_out="
    ):
        embedder.set_params(encoder="mlp").save(path)
    embedder, *_ = fitted("plain mlp")
    with pytest.raises(ValueError, match="'n_views' parameter of HSCLEmbedder must be"):
        embedder.set_params(n_views="many").save(path)
    assert not path.exists()


def test_arguments(path):
    embedder, *_ = fitted("tabular of numbers")
    with pytest.raises(NotFittedError):
        HSCLEmbedder().save(path)
    with pytest.raises(
        ValueError, match=r"leave_out to name parameters .*got \['encodre'\]"
    ):
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
    assert card["versions"]["sklearn-hscl"] == __version__


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
    with pytest.raises(ValueError, match="Timestamp.*Make categories and labels strings"):
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


def test_a_file_that_is_replaced_while_it_is_read(path, monkeypatch):
    first, second = (
        HSCLEmbedder(encoder="mlp", max_epochs=1, random_state=seed).fit(*IRIS)
        for seed in (0, 1)
    )
    first.save(path)
    parse = safetensors_file._parse_document

    def replaced(*args):
        second.save(path)
        return parse(*args)

    monkeypatch.setattr(safetensors_file, "_parse_document", replaced)
    again = HSCLEmbedder.load(path)
    assert_array_equal(again.transform(IRIS[0]), first.transform(IRIS[0]))


@pytest.mark.parametrize("export", ["save", "to_onnx"])
def test_a_link_to_a_private_file(path, tmp_path, export):
    if export == "to_onnx":
        pytest.importorskip("onnxscript")
    embedder = HSCLEmbedder(encoder="mlp", max_epochs=1, random_state=0).fit(*IRIS)
    write = embedder.save if export == "save" else partial(to_onnx, embedder)
    target = tmp_path / "private" / "v1"
    target.parent.mkdir()
    (target.parent / "v1.0a1b.part").write_bytes(b"half")
    target.touch(0o600)
    path.symlink_to(target)
    write(path)
    assert path.is_symlink() and target.stat().st_size > 1000
    assert target.stat().st_mode & 0o777 == 0o600
    assert os.listdir(target.parent) == ["v1"]


def test_folders_that_cannot_be_written_to(path):
    embedder, X, _ = fitted("tabular of numbers")
    before = embedder.transform(X)
    with pytest.raises(FileNotFoundError, match="The embedder in memory .* unchanged"):
        embedder.save(path / "no" / "folder")
    with pytest.raises(IsADirectoryError, match="Pass the path of a file"):
        embedder.save(path.parent)
    path.write_text("a file")
    with pytest.raises(OSError, match="The embedder in memory .* unchanged"):
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
    assert "cannot be written" in str(error) and "Free disk space" in str(error)
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
