"""The ensemble of tables: pairs across members, blind folds, averaged weights, recipe."""

from math import sqrt
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_score
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch import nn
from torch.nn.functional import one_hot

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders import MLPEncoder, TabularEncoder
from sklearn_hscl.encoders.linear_path import trained_part
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.training.callbacks import early_stopping
from sklearn_hscl.training.callbacks.early_stopping import squared_errors
from sklearn_hscl.training.callbacks.weights import AveragedWeights
from sklearn_hscl.training.ensemble import (
    draw_folds,
    mixed_members,
    norm_of_means,
)

M, B, D, K = 3, 12, 4, 2


@pytest.fixture
def outputs():
    generator = torch.Generator().manual_seed(0)
    z, logits = (torch.randn(M, B, n, generator=generator).double() for n in (D, K))
    return z.requires_grad_(), logits, torch.arange(B) % K, torch.arange(B)


def by_hand(loss, z, logits, targets, folds):
    """Each row takes the members that may see it in turn, from its own first one on."""
    n_rounds, values = M if folds is None else M - 1, []
    for shift in range(n_rounds):
        members = []
        for i in range(B):
            first = 0 if folds is None else folds[i] + 1
            members.append(int(first + (i + shift) % n_rounds) % M)
        rows = torch.stack([z[member, i] for i, member in enumerate(members)])
        scores = torch.stack([logits[member, i] for i, member in enumerate(members)])
        values.append(loss(rows, targets, logits=scores))
    return sum(values) / n_rounds


@pytest.mark.parametrize("folds", [None, torch.arange(B) // 2 % M])
def test_members_are_mixed_within_a_loss(outputs, folds):
    z, logits, targets, view_ids = outputs
    loss = ContrastiveLoss("hscl", ce_weight=0.3, label_smoothing=0.1)
    value, stats = mixed_members(loss, z, logits, targets, view_ids, folds)
    assert_allclose(value.item(), by_hand(loss, z, logits, targets, folds).item())
    assert stats.skipped_anchors == 0
    (gradient,) = torch.autograd.grad(value, z)
    for row in range(B):
        for member in range(M):
            blind = folds is not None and folds[row] == member
            assert (gradient[member, row] == 0).all() == blind


def test_views_of_a_row_have_the_same_member(outputs):
    z, _, _, _ = outputs
    view_ids = torch.arange(B // 2).repeat(2)
    folds = (torch.arange(B // 2) % M).repeat(2)
    _, stats = mixed_members(ContrastiveLoss("hucl"), z, None, None, view_ids, folds)
    assert stats.skipped_anchors == 0  # no row loses its other view


def test_a_batch_that_no_member_may_compare():
    z = torch.randn(2, 1, D, requires_grad=True)
    value, stats = mixed_members(
        ContrastiveLoss("hscl"), z, None, torch.zeros(1).long(), torch.zeros(1).long(),
        folds=torch.zeros(1).long(),
    )  # fmt: skip
    value.backward()
    assert value == 0 and (z.grad == 0).all() and stats.skipped_anchors == 1


def test_folds_are_even_in_each_class():
    codes = np.repeat([0, 1, 2, -1], [41, 30, 5, 24])
    folds = draw_folds(codes, 4, seed=0)
    for code in np.unique(codes):
        counts = np.bincount(folds[codes == code], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert_array_equal(folds, draw_folds(codes, 4, seed=0))
    assert (folds != draw_folds(codes, 4, seed=1)).any()


def test_no_folds_for_one_member_or_few_rows(iris):
    for settings, rows in (({"n_members": 1}, slice(None)), ({}, slice(None, None, 4))):
        embedder = HSCLEmbedder(max_epochs=1, **settings)
        embedder.fit(iris[0][rows], iris[1][rows])
        assert "valid_score" not in embedder.history_[0]


class Watch(Callback):
    """Notes the weights at the end of each step and of each epoch."""

    def on_train_begin(self, net, **kwargs):
        self.steps, self.epochs = [self.weights(net)], []

    def on_batch_end(self, net, **kwargs):
        self.steps.append(self.weights(net))

    def on_epoch_end(self, net, **kwargs):
        self.epochs.append(self.weights(net))

    @staticmethod
    def weights(net):
        return nn.utils.parameters_to_vector(net.module_.parameters()).detach().clone()


def test_average_of_the_weights(iris):
    embedder = HSCLEmbedder(
        max_epochs=4, early_stopping=False, batch_size=50, net_callbacks=[Watch()]
    ).fit(*iris)
    watch = embedder.net_.callbacks_[-2][1]
    average, averages = watch.steps[0], []
    for step, weights in enumerate(watch.steps[1:], start=1):
        decay = min(0.95, step / (step + 9))
        average = decay * average + (1 - decay) * weights
        averages.append(average)
    for epoch, weights in enumerate(watch.epochs):
        assert_allclose(weights, averages[3 * epoch + 2], atol=1e-6)
    assert_array_equal(Watch.weights(embedder.net_), watch.epochs[-1])
    assert not torch.equal(watch.steps[4], watch.epochs[0])  # training went on unaveraged


def test_interrupted_training_leaves_the_average(iris):
    class CtrlC(Callback):
        def on_batch_begin(self, net, **kwargs):
            if len(net.history) == 3:
                raise KeyboardInterrupt

    settings = {"early_stopping": False, "random_state": 0, "lr_schedule": "constant"}
    two = HSCLEmbedder(max_epochs=2, **settings).fit(*iris)
    with pytest.warns(UserWarning, match="after 2 of 9 epochs"):
        cut = HSCLEmbedder(max_epochs=9, net_callbacks=[CtrlC()], **settings).fit(*iris)
    assert_array_equal(cut.transform(iris[0]), two.transform(iris[0]))


def test_score_out_of_fold(iris):
    X, y = iris
    embedder = HSCLEmbedder(max_epochs=1, random_state=0).fit(X, y)
    module = embedder.net_.module_.eval()
    _, logits = module(embedder._prepare(X))
    folds = draw_folds(y, 4, embedder._seeds.split)
    own = logits.softmax(-1)[folds, np.arange(150)]
    brier = (own - one_hot(torch.from_numpy(y))).square().sum(1).mean().item()
    assert embedder.history_[0]["valid_score"] == pytest.approx(-brier, rel=1e-5)


def test_stops_and_keeps_the_best(iris):
    embedder = HSCLEmbedder(max_epochs=300, random_state=0, n_iter_no_change=2).fit(*iris)
    scores = [epoch["valid_score"] for epoch in embedder.history_]
    assert embedder.best_epoch_ == 1 + int(np.argmax(scores))
    assert embedder.n_iter_ < 300
    changes = 1 + np.flatnonzero(np.diff(scores)) + 1
    assert set(changes % 10) == {0}  # 30 scores in 300 epochs, repeated in between


def test_ctrl_c_before_the_second_score(iris):
    class CtrlC(Callback):
        def on_batch_end(self, net, **kwargs):
            if len(net.history) == 4:
                raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="after 3 of 140 epochs"):
        embedder = HSCLEmbedder(net_callbacks=[CtrlC()]).fit(*iris)
    assert np.isfinite(embedder.transform(iris[0])).all()


def test_callbacks_find_the_score_in_every_epoch(iris):
    stop = EarlyStopping("valid_score", lower_is_better=False, patience=3)
    embedder = HSCLEmbedder(net_callbacks=[stop], random_state=0).fit(*iris)
    assert all("valid_score" in epoch for epoch in embedder.history_)
    assert embedder.n_iter_ < 400


def test_going_on_has_no_score_out_of_fold(iris):
    embedder = HSCLEmbedder(max_epochs=2, warm_start=True).fit(*iris)
    assert "valid_score" in embedder.history_[1]
    embedder.fit(*iris)
    assert "valid_score" not in embedder.history_[3]
    with pytest.raises(ValueError, match="Set warm_start=False"):
        embedder.set_params(cross_fit=4).fit(*iris)


def test_balanced_batches_do_not_lengthen_training():
    y = np.r_[np.zeros(200, int), np.repeat([1, 2, 3], 4)]
    X = np.random.default_rng(0).normal(size=(len(y), 3))
    embedder = HSCLEmbedder(
        sampler="balanced", early_stopping=False, batch_size=100, random_state=0
    ).fit(X, y)
    assert embedder.n_iter_ == round(140 / 8)  # epochs of 4 classes of 200 rows


def test_partial_fit_on_one_class_or_none(iris):
    X, y = iris
    embedder = HSCLEmbedder(random_state=0, unlabeled_label=-1)
    embedder.partial_fit(X, y).partial_fit(X[y == 1], y[y == 1])
    embedder.partial_fit(X[:20], np.full(20, -1))
    assert embedder.n_iter_ == 3


def test_held_out_rows_without_labels_are_refused(iris):
    X, y = iris
    few = np.where(np.arange(150) % 50 < 2, y, -1)
    with pytest.raises(ValueError, match="No held-out row has a label"):
        HSCLEmbedder(unlabeled_label=-1, early_stopping=True).fit(
            X, few, X_val=X[:9], y_val=np.full(9, -1)
        )


def test_a_joint_head_needs_targets(iris):
    with pytest.raises(ValueError, match="needs targets that the loss uses: pass y"):
        HSCLEmbedder("hucl", encoder="tabular", ce_weight=0.5).fit(iris[0])


def pairs_of_codes(y):
    return np.stack([y == 0, y < 2], axis=1).astype(int)


TARGETS = {
    "labels": (pairs_of_codes, 2, "negative Brier score"),
    "numbers": (lambda y: np.stack([y + 0.25, 2 * y - 0.5], 1), 2, "R2"),
    "number": (lambda y: y + 0.25, 1, "R2"),
}


@pytest.mark.parametrize(("targets", "width", "name"), TARGETS.values(), ids=TARGETS)
def test_members_learn_and_score_every_kind_of_targets(iris, targets, width, name):
    X, y = iris
    params = {"target_type": "continuous"} if name == "R2" else {}
    params |= {"max_epochs": 60, "lr": 0.01, "random_state": 0}
    fitted = HSCLEmbedder(**params).fit(X, targets(y))
    assert isinstance(fitted.net_.module_.encoder, TabularEncoder)
    assert fitted.net_.module_.classifier.out_features == width
    assert fitted.valid_score_name_ == name
    scores = [epoch["valid_score"] for epoch in fitted.history_]
    assert max(scores) > scores[0] + 0.1
    assert max(scores) > (0.5 if name == "R2" else -0.1)


@pytest.mark.parametrize("limit", [7, 20, 10**6])
def test_scored_rows_are_labelled_and_not_seen_by_their_member(monkeypatch, limit):
    monkeypatch.setattr(early_stopping, "_MAX_SCORED_ROWS", limit)
    y = torch.arange(60) % 4 - 1  # a quarter has no label
    folds = torch.arange(60) // 2 % M
    stopping = early_stopping.OutOfFoldEarlyStopping(folds, patience=5, tol=0.0)
    stopping.on_train_begin(SimpleNamespace(n_members=M), torch.zeros(60, 2), y)
    scored = torch.cat(stopping.scored_)
    assert len(scored.unique()) == len(scored) and (y[scored] >= 0).all()
    assert min(limit, 45) / 2 < len(scored) <= limit
    for member, rows in enumerate(stopping.scored_):
        assert (folds[rows] == member).all()


def test_squared_errors_are_those_of_each_kind_of_targets():
    outputs = torch.tensor([[0.0, 2.0], [1.0, -1.0], [3.0, 0.5]], dtype=torch.float64)
    codes, many = torch.tensor([1, -1, 0]), torch.tensor([[0.0, 1], [1, 1], [0, 0]])
    by_class, by_label, by_number = [], [], []
    for row in range(3):
        logits = outputs[row].tolist()
        total = sum(np.exp(logits))
        if codes[row] >= 0:
            truth = [float(codes[row] == k) for k in range(2)]
            parts = zip(logits, truth, strict=True)
            by_class.append(sum((np.exp(o) / total - t) ** 2 for o, t in parts))
        pairs = list(zip(logits, many[row].tolist(), strict=True))
        by_label.append(np.mean([(1 / (1 + np.exp(-o)) - t) ** 2 for o, t in pairs]))
        by_number.append(np.mean([(o - t) ** 2 for o, t in pairs]))
    for kind, targets, expected in (
        ("class", codes, by_class),
        ("multilabel", many, by_label),
        ("continuous", many, by_number),
    ):
        assert_allclose(squared_errors(outputs, targets, kind), expected)


def test_recipe_follows_encoder_and_targets(iris):
    X, y = iris
    tabular = HSCLEmbedder(max_epochs=1).fit(X, y)
    assert isinstance(trained_part(tabular.module_), TabularEncoder)
    assert tabular.net_.criterion_.options.ce_weight == 0.5
    decays = {
        name: group["weight_decay"]
        for group in tabular.net_.optimizer_.param_groups
        for name in [len(group["params"])]
    }
    assert set(decays.values()) == {0.0, 0.03}
    for other in (
        HSCLEmbedder("hucl", max_epochs=1).fit(X),
        HSCLEmbedder("ucl", max_epochs=1).fit(X, y),
        HSCLEmbedder("hucl", max_epochs=1).fit(X.reshape(-1, 2, 2)),
    ):
        layers = other.module_.modules()
        assert any(isinstance(layer, MLPEncoder) for layer in layers)
        assert not other.net_.criterion_.options.ce_weight
    official = HSCLEmbedder(preset="official", loss="hscl", max_epochs=1).fit(X, y)
    assert not official.net_.criterion_.options.ce_weight


def test_given_values_come_before_the_recipe(iris):
    embedder = HSCLEmbedder(
        n_members=2,
        n_components=5,
        hidden_layer_sizes=(16, 16),
        dropout=0.0,
        ce_weight=0.2,
        weight_decay=0.5,
        projection_dim=7,
        max_epochs=3,
        net_callbacks=[LRScheduler("StepLR", step_size=1)],
    ).fit(*iris)
    net = embedder.net_
    assert len(embedder.module_.weights) == 2
    assert embedder.transform(iris[0]).shape == (150, 5)
    assert [layer.weight.shape[-1] for layer in embedder.module_.layers] == [16, 16]
    assert net.module_.head[-1].out_features == 7
    assert net.criterion_.options.ce_weight == 0.2
    assert net.lr_schedule is None
    assert max(group["weight_decay"] for group in net.optimizer_.param_groups) == 0.5


def test_layers_of_different_widths_are_refused(iris):
    with pytest.raises(ValueError, match="must hold equal widths"):
        HSCLEmbedder(hidden_layer_sizes=(8, 16)).fit(*iris)
    with pytest.raises(ValueError, match="encoder='tabular' takes tables"):
        HSCLEmbedder(encoder="tabular").fit(iris[0].reshape(-1, 2, 2), iris[1])


def test_members_in_chunks(iris):
    whole = HSCLEmbedder(dropout=0.0, max_epochs=3, random_state=0)
    expected = whole.fit(*iris).transform(iris[0])
    parts = whole.set_params(device_batch_size=40).fit(*iris).transform(iris[0])
    assert_allclose(parts, expected, atol=1e-4)


def test_float64(iris):
    embedder = HSCLEmbedder(precision="float64", max_epochs=2, random_state=0).fit(*iris)
    assert {p.dtype for p in embedder.module_.parameters()} == {torch.float64}


def test_average_without_training_is_the_start():
    net = type("Net", (), {"module_": nn.Linear(2, 2)})
    callback = AveragedWeights(0.9)
    before = [weight.clone() for weight in net.module_.parameters()]
    callback.on_train_begin(net)
    callback.on_train_end(net)
    assert all(map(torch.equal, before, net.module_.parameters()))


def test_cross_fit_embeds_rows_by_members_that_have_not_seen_them(iris):
    X, y = iris
    embedder = HSCLEmbedder(cross_fit=5, max_epochs=3, random_state=0)
    Z = embedder.fit_transform(X, y)
    assert Z.shape == (150, 32) and len(embedder.module_.weights) == 5
    folds = draw_folds(y, 5, embedder._seeds.split)
    members = embedder.module_.members(embedder._prepare(X)).detach().numpy()
    unseeing = members[folds, np.arange(150)]
    length = np.sqrt((members.mean(0) * unseeing).sum(1).mean())
    scale = embedder.module_.output_scale.item()
    assert_allclose(Z, scale * length * unseeing, rtol=1e-5, atol=1e-6)
    assert_allclose(embedder.transform(X), scale * members.mean(0), rtol=1e-5, atol=1e-6)
    embedder.set_params(normalize=True)
    assert_allclose(embedder.fit_transform(X, y), unseeing, atol=1e-6)


@given(st.floats(0, 3), st.integers(2, 8), st.integers(0, 2**16))
def test_length_of_the_means_of_members_that_have_not_seen_a_row(noise, n_members, seed):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(1500, 1, 8))
    draws = [centers + noise * rng.normal(size=(1500, n_members, 8)) for _ in range(2)]
    seen, new = (z / np.linalg.norm(z, axis=2, keepdims=True) for z in draws)
    length = norm_of_means(seen, seen[:, 0])
    expected = np.sqrt((new.mean(1) ** 2).sum(1).mean())
    assert length == pytest.approx(expected, abs=0.03)
    assert norm_of_means(np.array([[[1.0], [-1.0]]]), np.array([[1.0]])) == sqrt(0.5)


def test_rows_out_of_fold_are_as_long_as_new_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 6))
    y = (X[:, 0] * X[:, 1] + rng.normal(size=600) > 0).astype(int)
    embedder = HSCLEmbedder(cross_fit=5, max_epochs=60, random_state=0)
    Z = embedder.fit_transform(X[:400], y[:400])
    scale = embedder.module_.output_scale.item()
    lengths = np.linalg.norm(embedder.transform(X[400:]), axis=1) / scale
    length = np.sqrt((lengths**2).mean())
    assert length < 0.97  # else there is nothing to see
    assert np.linalg.norm(Z, axis=1) / scale == pytest.approx(length, abs=0.02)


def test_cross_fit_shows_training_rows_as_new_rows_look():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 10))
    y = (X[:, 0] * X[:, 1] + rng.normal(size=600) > 0).astype(int)  # hard to learn
    gaps = []
    for cross_fit in (None, 5):
        embedder = HSCLEmbedder(cross_fit=cross_fit, random_state=0, max_epochs=60)
        Z = embedder.fit_transform(X[:300], y[:300])
        classifier = LogisticRegression().fit(Z, y[:300])
        new = classifier.predict_proba(embedder.transform(X[300:]))
        gaps.append(log_loss(y[300:], new) - log_loss(y[:300], classifier.predict_proba(Z)))
    assert abs(gaps[1]) < gaps[0]


@pytest.mark.parametrize(("n_rows", "n_columns"), [(60, 200), (120, 100), (200, 20)])
def test_members_say_nothing_of_random_labels_that_they_have_not_seen(n_rows, n_columns):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n_rows, n_columns)), rng.permutation(np.arange(n_rows) % 4)
    embedder = HSCLEmbedder(cross_fit=4, random_state=0)
    scores = cross_val_score(LogisticRegression(), embedder.fit_transform(X, y), y)
    assert scores.mean() < 0.45  # 0.25 by chance


@pytest.mark.parametrize("settings", [{"early_stopping": False}, {"ce_weight": 0}])
def test_cross_fit_without_early_stopping_warns(iris, settings):
    embedder = HSCLEmbedder(cross_fit=2, max_epochs=1, **settings)
    with pytest.warns(UserWarning, match="the members share weights"):
        embedder.fit(*iris)


def test_cross_fit_with_few_rows(iris):
    few = slice(None, None, 6)
    Z = HSCLEmbedder(cross_fit=2, max_epochs=1).fit_transform(iris[0][few], iris[1][few])
    assert np.isfinite(Z).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "mlp"}, "needs class labels and encoder='tabular'"),
        ({"loss": "hucl"}, "needs class labels and encoder='tabular'"),
        ({"n_members": 4}, "leave n_members=None"),
        ({"early_stopping": True}, "use early_stopping='auto'"),
    ],
)
def test_cross_fit_where_it_cannot_be(iris, settings, message):
    with pytest.raises(ValueError, match=message):
        HSCLEmbedder(cross_fit=5, **settings).fit(*iris)
