"""diagnose: what it finds in healthy and in broken fits, and how it says so."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder, diagnose
from sklearn_hscl.data.validation import FitInput
from sklearn_hscl.diagnostics import Diagnosis, Finding
from sklearn_hscl.diagnostics.embedding import mean_cosine_between
from sklearn_hscl.diagnostics.loss_batches import LossBatch, loss_batches
from sklearn_hscl.diagnostics.sample import make_sample, sample_rows
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.equation import anchor_losses
from sklearn_hscl.losses.pair_sets import PairWeights
from sklearn_hscl.metrics import alignment, effective_rank, knn_accuracy, uniformity
from sklearn_hscl.runtime.normalize import l2_normalize
from sklearn_hscl.training.fitting import fit
from sklearn_hscl.training.loop.callback import TrainingCallback

X, Y = load_wine(return_X_y=True)
DIGITS = load_digits()
NAMES = [
    "collapse", "dimensions", "loss", "epochs", "positives", "negatives", "gradient",
    "labels", "gap",
]  # fmt: skip


def mlp(**params):
    settings = {"encoder": "mlp", "hidden_layer_sizes": (32,), "max_epochs": 15}
    return HSCLEmbedder(**settings | params, random_state=0)


@pytest.fixture(scope="module")
def healthy():
    return mlp().fit(X, Y)


@pytest.fixture(scope="module")
def collapsed():
    """Images whose network was driven into one constant output."""
    embedder = HSCLEmbedder(encoder="conv", lr=0.3, max_epochs=3, random_state=0)
    return embedder.fit(DIGITS.images[:600] / 16, DIGITS.target[:600])


def batch_of(z, codes, loss="hscl", **options):
    z = l2_normalize(torch.as_tensor(z, dtype=torch.float64))
    codes = torch.as_tensor(codes)
    loss = ContrastiveLoss(loss, **options)
    return LossBatch(z, *loss.resolve(z, codes, torch.arange(len(z))))


def test_a_healthy_fit_draws_no_warning(healthy):
    diagnosis = diagnose(healthy, X, Y)
    assert [finding.name for finding in diagnosis] == NAMES
    assert diagnosis.severity == "ok"
    assert "no warnings" in str(diagnosis)


def test_a_collapsed_fit_is_a_problem(collapsed):
    diagnosis = diagnose(collapsed, DIGITS.images[:600] / 16, DIGITS.target[:600])
    assert diagnosis.severity == "problem"
    assert diagnosis["collapse"].severity == diagnosis["loss"].severity == "problem"
    assert diagnosis["collapse"].values["mean_cosine"] > 0.99
    assert "Try:" in str(diagnosis) and "! collapse" in str(diagnosis)


def test_samples_of_one_class_cannot_collapse(healthy):
    finding = diagnose(healthy, X[Y == 1], Y[Y == 1])["collapse"]
    assert finding.severity == "not applicable"
    assert "one class" in finding.summary


def test_measures_are_those_of_the_metrics(healthy):
    values = diagnose(healthy, X, Y)["collapse"].values
    embedding = healthy.transform(X)
    assert values["alignment"] == pytest.approx(alignment(embedding, Y), rel=1e-5)
    assert values["uniformity"] == pytest.approx(uniformity(embedding), rel=1e-4)


def test_rank_is_that_of_unit_rows():
    embedder = mlp(n_components=6).fit(X)
    values = diagnose(embedder, X)["dimensions"].values
    assert values["effective_rank"] == pytest.approx(
        effective_rank(embedder.transform(X)), rel=1e-5
    )


def test_mean_cosine_between_is_that_of_all_pairs_of_classes():
    rng = np.random.default_rng(0)
    rows, codes = rng.normal(size=(40, 3)), np.repeat([0, 1, 1, 2, -1], 8)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [
        np.mean(unit[codes == a] @ unit[codes == b].T) for a, b in [(0, 1), (0, 2), (1, 2)]
    ]
    assert mean_cosine_between(rows, codes) == pytest.approx(np.mean(pairs))
    cosines = unit @ unit.T
    everyone = cosines[~np.eye(40, dtype=bool)].mean()
    assert mean_cosine_between(rows, None) == pytest.approx(everyone)


def test_flat_class_means_draw_a_warning():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 30, 900)
    rows = rng.normal(size=(30, 20))[codes] + 0.3 * rng.normal(size=(900, 20))
    full = mlp(n_components=29).fit(rows, codes)
    assert diagnose(full, rows, codes)["dimensions"].severity == "ok"
    narrow = torch.nn.Sequential(torch.nn.Linear(20, 2), torch.nn.Linear(2, 29))
    flat = HSCLEmbedder(encoder=narrow, max_epochs=5, random_state=0).fit(rows, codes)
    finding = diagnose(flat, rows, codes)["dimensions"]
    assert finding.severity == "warning"
    assert finding.values["effective_rank_of_means"] < 3
    assert finding.values["usable_dimensions"] == 29


@pytest.mark.parametrize("loss", ["ucl", "scl", "hucl", "hscl", "supcon", "sscl"])
def test_losses_lie_between_perfect_and_chance(loss):
    labels = None if loss in ("ucl", "hucl") else Y
    embedder = mlp(loss=loss).fit(X, labels)
    values = diagnose(embedder, X, labels)["loss"].values
    assert values["perfect_loss"] < values["loss"] < values["chance_loss"]
    assert values["chance_train_loss"] == embedder.chance_loss_


def test_chance_and_perfect_loss_in_closed_form():
    codes = torch.arange(5).repeat(4)
    batch = batch_of(np.random.default_rng(0).normal(size=(20, 6)), codes)
    assert batch.chance_loss() == pytest.approx(np.log(1 + 16))
    # Corners of a simplex have cosine -1/4, here at temperature 0.5.
    assert batch.perfect_loss() == pytest.approx(np.log(1 + 16 * np.exp(-2.5)))
    corners = torch.eye(5, dtype=torch.float64)[codes] - 0.2
    assert batch_of(corners, codes).loss() == pytest.approx(batch.perfect_loss())


@pytest.mark.parametrize("params", [{"n_views": 1}, {"n_views": 2}])
def test_positives_are_counted(params):
    labels = np.r_[np.zeros(20), np.ones(20), np.arange(2, 14)].astype(int)
    embedder = mlp(target_type="class", **params).fit(X[:52], labels)
    finding = diagnose(embedder, X[:52], labels)["positives"]
    no_positive = 12 / 52 if params["n_views"] == 1 else 0
    assert finding.values["without_positive"] == pytest.approx(no_positive)
    assert finding.severity == ("warning" if no_positive else "ok")


def test_negatives_count_as_their_weights_say():
    rng = np.random.default_rng(0)
    z, codes = rng.normal(size=(30, 4)), np.repeat([0, 1, 2], 10)
    batch = batch_of(z, codes, beta=3.0, temperature=0.5)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    weights = np.exp(6 * unit @ unit.T) * (codes[:, None] != codes)
    weights /= weights.sum(1, keepdims=True)
    assert batch.tilt().numpy() == pytest.approx(weights)
    _, stats = ContrastiveLoss("hscl", beta=3.0)(
        torch.tensor(z), torch.tensor(codes), return_stats=True
    )
    expected = np.mean(1 / (weights**2).sum(1))
    assert stats.effective_negatives.item() == pytest.approx(expected)


def test_a_strong_tilt_leaves_one_negative():
    embedder = mlp(beta=500.0, max_epochs=2).fit(X, Y)
    diagnosis = diagnose(embedder, X, Y)
    assert diagnosis["negatives"].severity == diagnosis["gradient"].severity == "warning"
    assert 1 <= diagnosis["negatives"].values["effective_negatives"] < 2
    assert diagnosis["gradient"].values["fraction_of_hardest"] > 0.9
    assert "beta=500" in diagnosis["negatives"].summary


@pytest.mark.parametrize("loss", ["scl", "hscl", "supcon", "schane"])
def test_pair_gradients_are_those_of_the_cosines(loss):
    rng = np.random.default_rng(1)
    codes = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    z = l2_normalize(torch.tensor(rng.normal(size=(8, 3))))
    batch = batch_of(z, codes, loss, detach_weights=False)
    found = batch.pair_gradients()
    # Central differences: a step along the anchor changes one of its cosines.
    for i, j in [(0, 3), (4, 7), (6, 1)]:
        pairs = PairWeights(*(weight[i : i + 1] for weight in batch.pairs))
        losses = []
        for step in (-1e-6, 1e-6):
            rows = z.clone()
            rows[j] += step * z[i]
            moved = anchor_losses(z[i : i + 1], rows, pairs, batch.options)
            losses.append(moved.loss.item())
        slope = abs(losses[1] - losses[0]) / 2e-6
        assert slope == pytest.approx(found[i, j].item(), abs=1e-6)


def test_label_errors_are_found():
    rng = np.random.default_rng(0)
    labels = DIGITS.target.copy()
    wrong = rng.choice(len(labels), 60, replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, 60)) % 10
    embedder = HSCLEmbedder(encoder="mlp", max_epochs=10, random_state=0)
    embedder.fit(DIGITS.data, labels)
    finding = diagnose(embedder, DIGITS.data, labels)["labels"]
    found = finding.values["rows"]
    assert finding.severity == "warning"
    assert len(set(found) & set(wrong)) > 40
    assert len(set(found) - set(wrong)) < 6
    voted = np.array(finding.values["neighbor_classes"])
    assert np.mean(voted == DIGITS.target[found]) > 0.9


def test_inaccurate_neighbors_suspect_no_label(collapsed):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, len(X))
    embedder = mlp(max_epochs=1).fit(X, labels)
    finding = diagnose(embedder, X, labels)["labels"]
    assert finding.severity == "not applicable"
    assert "too few to suspect" in finding.summary


def test_sampled_rows_keep_their_indices():
    labels = Y.copy()
    labels[5] = 2
    embedder = mlp(max_epochs=4).fit(X, labels)
    finding = diagnose(embedder, X, labels, max_rows=170)["labels"]
    drawn = sample_rows(embedder, X, max_rows=170, random_state=0)
    assert len(drawn.indices) == 170
    assert set(finding.values["rows"]) <= set(range(178))
    assert finding.values["n_judged"] == 170


def test_the_gap_to_held_out_rows(healthy):
    embedder = mlp().fit(X[::2], Y[::2])
    train, held_out = embedder.transform(X[::2]), embedder.transform(X[1::2])
    values = diagnose(embedder, X[::2], Y[::2], X_val=X[1::2], y_val=Y[1::2])["gap"].values
    votes = {"n_neighbors": 5, "weights": "uniform"}
    assert values["train"] == knn_accuracy(train, Y[::2], **votes)
    assert values["held_out"] == knn_accuracy(train, Y[::2], held_out, Y[1::2], **votes)
    assert diagnose(healthy, X, Y)["gap"].severity == "not applicable"


def test_random_labels_leave_a_gap():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(300, 20)), rng.integers(0, 3, 300)
    embedder = mlp(max_epochs=60).fit(rows[:200], labels[:200])
    diagnosis = diagnose(
        embedder, rows[:200], labels[:200], X_val=rows[200:], y_val=labels[200:]
    )
    assert diagnosis["gap"].severity == "warning"
    assert diagnosis["gap"].values["gap"] > 0.1


@pytest.mark.parametrize(("labels", "measure"), [(Y, "nearest"), (None, "loss")])
def test_the_gap_of_the_fit_itself(labels, measure):
    embedder = mlp(early_stopping=True).fit(X, labels)
    finding = diagnose(embedder, X, labels)["gap"]
    score = embedder.history_[embedder.best_epoch_ - 1]["valid_score"]
    assert abs(score) == pytest.approx(finding.values["held_out"])
    assert measure in finding.summary


def test_members_that_score_rows_out_of_fold():
    embedder = HSCLEmbedder(max_epochs=10, random_state=0).fit(X, Y)
    diagnosis = diagnose(embedder, X, Y)
    assert "negative Brier score" in diagnosis["gap"].summary
    assert diagnosis["loss"].values["loss"] < diagnosis["loss"].values["chance_loss"]


def test_without_labels_and_with_labels_that_only_measure():
    embedder = mlp().fit(X)
    alone = diagnose(embedder, X)
    assert alone["labels"].severity == "not applicable"
    assert alone["collapse"].values["alignment"] > 0  # of views
    measured = diagnose(embedder, X, Y)
    assert measured["labels"].severity != "not applicable"
    expected = alignment(embedder.transform(X), Y)
    assert measured["collapse"].values["alignment"] == pytest.approx(expected, rel=1e-5)
    assert alone["loss"].values == measured["loss"].values


def test_continuous_and_multilabel_targets():
    rows, numbers = load_diabetes(return_X_y=True)
    embedder = mlp(target_type="continuous", n_views=2).fit(rows, numbers)
    diagnosis = diagnose(embedder, rows, numbers)
    for name in ("labels", "gradient"):
        assert diagnosis[name].severity == "not applicable"
    assert diagnosis["loss"].values["perfect_loss"] is None
    several = (rows > 0).astype(int)[:, :4]
    embedder = mlp().fit(rows, several)
    diagnosis = diagnose(embedder, rows, several)
    assert diagnosis["gradient"].values["fraction_of_hardest"] > 0
    assert diagnosis["labels"].severity == "not applicable"
    json.dumps(diagnosis.to_dict())


def test_rows_without_label():
    some = Y.copy()
    some[::3] = -1
    embedder = mlp(unlabeled_label=-1).fit(X, some)
    finding = diagnose(embedder, X, some)["labels"]
    assert finding.values["n_judged"] == int((some >= 0).sum())


@pytest.mark.parametrize(
    "rows",
    [csr_array(X), pd.DataFrame(X), torch.tensor(X), DIGITS.images[:178]],
    ids=["sparse", "frame", "tensor", "images"],
)
def test_other_rows(rows):
    embedder = mlp(max_epochs=2).fit(rows, Y)
    assert diagnose(embedder, rows, Y)["loss"].values["loss"] > 0


def test_a_pipeline_passes_rows_through_its_earlier_steps(healthy):
    pipe = make_pipeline(StandardScaler(), PCA(8), mlp(), LogisticRegression()).fit(X, Y)
    before = pipe[:2].transform(X)
    direct, through = diagnose(pipe[2], before, Y), diagnose(pipe, X, Y)
    assert direct.to_dict() == through.to_dict()


def test_nothing_changes_and_the_answer_is_always_the_same(healthy):
    before, state = pickle.dumps(healthy.get_params()), torch.get_rng_state()
    embedding = healthy.transform(X)
    first, second = diagnose(healthy, X, Y), diagnose(healthy, X, Y)
    assert first.to_dict() == second.to_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert pickle.dumps(healthy.get_params()) == before
    assert np.array_equal(healthy.transform(X), embedding)
    assert diagnose(pickle.loads(pickle.dumps(healthy)), X, Y).to_dict() == first.to_dict()


def test_few_rows_are_enough():
    embedder = mlp(max_epochs=2).fit(X, Y)
    assert len(diagnose(embedder, X[58:61], Y[58:61])) == len(NAMES)
    assert len(diagnose(mlp(max_epochs=2).fit(X), X[:2])) == len(NAMES)


def test_many_batches_are_limited(healthy):
    sample = make_sample(sample_rows(healthy, X, max_rows=None, random_state=0), Y)
    assert len(loss_batches(sample, None, seed=0)) == 1
    small = mlp(batch_size=20, max_epochs=1).fit(X, Y)
    sample = make_sample(sample_rows(small, X, max_rows=None, random_state=0), Y)
    assert len(loss_batches(sample, None, seed=0)) == 9
    assert len(loss_batches(sample, 60, seed=0)) == 3
    assert len(loss_batches(sample, 1, seed=0)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, None), "y=None, but loss='hscl' uses labels"),
        ((X, Y[:-1]), "inconsistent numbers of samples"),
        ((X, np.where(Y == 1, 7, Y)), "y cannot be used: it contains the labels"),
        ((X[:1], Y[:1]), "X must have at least 2 samples to compare, got 1"),
        ((X[:, :3], Y), "3 features"),
    ],
)
def test_invalid_samples(healthy, arguments, message):
    with pytest.raises(ValueError, match=message):
        diagnose(healthy, *arguments)


def test_invalid_arguments(healthy):
    with pytest.raises(ValueError, match="y_val was passed without X_val"):
        diagnose(healthy, X, Y, y_val=Y)
    with pytest.raises(ValueError, match="max_rows=1 must be an integer of at least 2"):
        diagnose(healthy, X, Y, max_rows=1)
    with pytest.raises(
        ValueError, match="Expected an HSCLEmbedder or a Pipeline .*, got PCA"
    ):
        diagnose(PCA().fit(X), X, Y)
    with pytest.raises(NotFittedError):
        diagnose(mlp(), X, Y)


def test_text_dictionary_and_html():
    findings = (
        Finding("collapse", "problem", "All <rows> in one place.", "a lower `lr`."),
        Finding.not_applicable("gap", "No rows."),
    )
    diagnosis = Diagnosis("Rows", findings)
    assert str(diagnosis).splitlines()[0] == "Rows: 1 of 2 findings needs attention"
    assert max(map(len, str(diagnosis).splitlines())) <= 88
    assert diagnosis.to_dict()["findings"]["collapse"]["severity"] == "problem"
    page = diagnosis._repr_html_()
    assert "All &lt;rows&gt;" in page and "<rows>" not in page and "lower `lr`" in page
    with pytest.raises(KeyError, match="one of .*, got 'loss'"):
        diagnosis["loss"]
    with pytest.raises(ValueError, match="got severity='bad'"):
        Finding("gap", "bad", "")


def test_html_of_a_fitted_embedder_shows_the_training_report(healthy, collapsed):
    title = "Training report"
    assert title not in mlp()._repr_html_()
    assert title not in clone(healthy)._repr_html_()
    for embedder in (healthy, pickle.loads(pickle.dumps(healthy))):
        page = embedder._repr_html_()
        assert title in page and "Fitted attributes" in page and "chance level" in page
    pipe = make_pipeline(StandardScaler(), mlp(max_epochs=2), LogisticRegression())
    assert title in pipe.fit(X, Y)._repr_html_()
    assert "Nothing was learnt" in collapsed._repr_html_()
    assert "Nothing was learnt" not in healthy._repr_html_()


def test_html_of_a_snapshot():
    run = fit(mlp(max_epochs=2), FitInput(X, Y), lambda run: TrainingCallback())
    attributes = run.snapshot()
    embedder = mlp(max_epochs=2)
    vars(embedder).update(attributes)
    assert "Training report" in embedder._repr_html_()
