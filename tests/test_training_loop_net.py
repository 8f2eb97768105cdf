"""The training loop: the numbers of a plain one, in chunks, in pieces, interrupted."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, LRScheduler
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders.contrastive_module import ContrastiveModule
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.runtime.precision import Precision
from sklearn_hscl.training.batches.batch_sampler import EpochBatches
from sklearn_hscl.training.loop.gradient_cache import GradientCache, choose_chunk_rows
from sklearn_hscl.training.loop.learning_rate import LearningRate, cosine
from sklearn_hscl.training.loop.step import Batch, batch_objective, whole_batch


def weights(embedder):
    return list(embedder.net_.module_.parameters())


@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize(("loss", "beta"), [("scl", 0.0), ("hscl", 1.0)])
def test_weights_of_a_plain_loop(loss, beta, clip_norm):
    X, y = load_digits(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    settings = {"loss": loss, "beta": beta, "precision": "float64", "random_state": 0}
    encoder = nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 8))
    settings |= {"encoder": encoder, "projection_dim": None, "batch_size": 300}
    order = []

    class Remember(Callback):
        def on_batch_begin(self, net, batch=None, **kwargs):
            order.append(batch)

    embedder = HSCLEmbedder(
        **settings, max_epochs=3, lr=0.01, weight_decay=0.1, clip_norm=clip_norm
    )
    remember = Remember()
    remember.__class__.__deepcopy__ = lambda self, memo: self
    embedder.set_params(net_callbacks=[remember]).fit(X, y)

    module = nn.Sequential(*encoder).double()
    module.load_state_dict({k: v.double() for k, v in encoder.state_dict().items()})
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.1)
    for step, (rows, labels) in enumerate(order):
        progress = (step + 0.5) / len(order)
        rate = 0.01 * min(1, progress / 0.05) * (1 + np.cos(np.pi * progress)) / 2
        optimizer.param_groups[0]["lr"] = rate
        z = nn.functional.normalize(module(rows))
        s = z @ z.T / 0.5
        same = labels[:, None] == labels
        weight = torch.where(same, 0.0, (beta * s).exp().detach())
        mean = (weight * s.exp()).sum(1) / weight.sum(1)  # of e^s over the negatives
        mass = (~same).sum(1) * mean
        pairs = -torch.log(s.exp() / (s.exp() + mass[:, None]))
        pairs = pairs * (same & ~torch.eye(len(s), dtype=bool))
        value = (pairs.sum(1) / (same.sum(1) - 1)).mean()
        optimizer.zero_grad()
        value.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        optimizer.step()
    assert len(order) == 3 * 6
    for ours, plain in zip(weights(embedder), module.parameters(), strict=True):
        assert_allclose(ours.detach(), plain.detach(), rtol=0, atol=1e-12)


def module_with(*layers):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(5, 16), *layers, nn.Tanh(), nn.Linear(16, 6))
    precision = Precision("float64", torch.device("cpu"))
    return ContrastiveModule(encoder, 6, 4, 3, precision).double().train()


def gradients(module, differentiate, rows, targets, n_views=1):
    loss = ContrastiveLoss("hscl", ce_weight=0.3)
    objective = batch_objective(loss, n_views, Batch(rows, targets), has_members=False)
    module.zero_grad()
    views = torch.cat([rows + k for k in range(n_views)])
    value, _ = differentiate(module, objective, views)
    return value, [p.grad.clone() for p in module.parameters()]


@pytest.fixture
def batch():
    rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(1)).double()
    return rows, torch.arange(30) % 3


@pytest.mark.parametrize("chunk_rows", [1, 7, 29, 30, 100])
@pytest.mark.parametrize("n_views", [1, 2])
def test_chunks_give_the_gradient_of_the_whole(batch, chunk_rows, n_views):
    module = module_with()
    cache = GradientCache(chunk_rows, can_halve=False)
    whole, expected = gradients(module, whole_batch, *batch, n_views)
    value, found = gradients(module, cache, *batch, n_views)
    assert_allclose(value, whole, rtol=1e-12)
    for a, b in zip(found, expected, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-13)


def test_chunks_draw_the_same_dropout_twice(batch):
    module = module_with(nn.Dropout(0.5))

    def chunks_in_one_graph(module, objective, views):
        parts = zip(*(module(chunk) for chunk in views.tensor_split(3)), strict=True)
        value, stats = objective(*(torch.cat(part) for part in parts))
        value.backward()
        return value.detach(), stats

    results = []
    for way in (chunks_in_one_graph, GradientCache(10, can_halve=False)):
        torch.manual_seed(3)
        results.append((*gradients(module, way, *batch), torch.get_rng_state()))
    (plain, expected, _), (value, found, _) = results
    assert_allclose(value, plain, rtol=1e-12)
    for a, b in zip(found, expected, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-13)
    assert torch.equal(results[0][2], results[1][2])  # later draws are new ones


def test_running_statistics_see_every_row_once(batch):
    module = module_with(nn.BatchNorm1d(16))
    gradients(module, GradientCache(10, can_halve=False), *batch)
    norm = module.encoder[1]
    assert norm.num_batches_tracked == 3
    other = module_with(nn.BatchNorm1d(16))
    for chunk in batch[0].tensor_split(3):
        other.encoder(chunk)
    assert_allclose(norm.running_mean, other.encoder[1].running_mean)


class Small(nn.Module):
    """Stands for a device on which no more than 8 rows fit."""

    def __init__(self, error):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.error = error

    def forward(self, rows):
        if len(rows) > 8 and self.training:
            raise self.error
        return self.linear(rows)


def out_of_memory():
    return torch.OutOfMemoryError("CUDA out of memory.")


def test_memory_that_runs_out_halves_the_chunks(iris):
    encoder = Small(out_of_memory())
    embedder = HSCLEmbedder(encoder=encoder, max_epochs=1, random_state=0)
    with pytest.warns(UserWarning, match="continues with 4 rows.*device_batch_size=4"):
        embedder.fit(*iris)
    start = clone(embedder).set_params(device_batch_size=8)
    assert_allclose(start.fit_transform(*iris), embedder.transform(iris[0]), atol=1e-4)


def test_memory_that_runs_out_is_an_error_with_batch_statistics(iris):
    encoder = nn.Sequential(Small(out_of_memory()), nn.BatchNorm1d(3))
    with pytest.raises(MemoryError, match="Pass a smaller device_batch_size"):
        HSCLEmbedder(encoder=encoder).fit(*iris)
    HSCLEmbedder(encoder=encoder, device_batch_size=8, max_epochs=1).fit(*iris)


def test_other_errors_of_the_module_stay_as_they_are(iris):
    with pytest.raises(RuntimeError, match="no memory of this"):
        HSCLEmbedder(encoder=Small(RuntimeError("no memory of this"))).fit(*iris)


def test_chunk_by_the_memory_of_activations():
    sample = torch.zeros(1000, 5)[:4]
    narrow, wide = (
        nn.Sequential(nn.Linear(5, n), nn.Tanh(), nn.Linear(n, 2)) for n in (10, 1000)
    )
    (few, _), (many, _) = (choose_chunk_rows("auto", m, sample) for m in (wide, narrow))
    assert 50 < many / few < 100  # tanh keeps n numbers a row, the input 5
    assert few == 2**31 // (4 * 1005)


@pytest.mark.parametrize("encoder", ["tabular", "mlp"])
def test_nothing_of_a_fit_outlives_its_embedder(iris, encoder):
    embedder = HSCLEmbedder(encoder=encoder, max_epochs=1, random_state=0).fit(*iris)
    kept = [weakref.ref(weight) for weight in weights(embedder)]
    del embedder
    gc.collect()
    assert not any(weight() is not None for weight in kept)


def test_cosine_with_warm_up():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    rate = LearningRate(optimizer, cosine, n_steps=100)
    rates = []
    for _ in range(100):
        rate.advance()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.05, rel=0.01)
    assert np.argmax(rates) == 5
    assert max(rates) == pytest.approx(0.5, rel=0.01)
    assert 0 < rates[-1] < 1e-4
    rate.restore()
    assert optimizer.param_groups[0]["lr"] == 0.5


class Rates(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.history.record("rate", net.optimizer_.param_groups[0]["lr"])


def rates(embedder, data):
    embedder.set_params(max_epochs=4, lr=0.01, random_state=0).fit(*data)
    return [epoch["rate"] for epoch in embedder.history_]


def test_schedules_of_the_embedder(iris):
    assert (
        rates(HSCLEmbedder(lr_schedule="constant", net_callbacks=[Rates()]), iris)
        == [0.01] * 4
    )
    falling = rates(HSCLEmbedder(net_callbacks=[Rates()]), iris)
    assert falling == sorted(falling, reverse=True)
    halved = HSCLEmbedder(lr_schedule=lambda progress: 0.5, net_callbacks=[Rates()])
    assert rates(halved, iris) == [0.005] * 4


def test_a_scheduler_among_the_callbacks_takes_the_place_of_the_default(iris):
    halving = LRScheduler("StepLR", step_size=1, gamma=0.5)
    embedder = HSCLEmbedder(net_callbacks=[("rates", Rates()), ("halve", halving)])
    assert_allclose(rates(embedder, iris), [0.01, 0.005, 0.0025, 0.00125])


def test_balanced_batches():
    labels = torch.tensor([0] * 90 + [1] * 9 + [2] * 3 + [-1] * 10)
    rows = torch.arange(112.0)[:, None]
    rng = np.random.default_rng(0)
    dataset = type("Data", (), {"X": rows, "y": labels})
    batches = list(EpochBatches(dataset, 28, rng, "balanced"))
    assert len(batches) == 10
    for _, y, _ in batches:
        assert_array_equal(np.bincount(y + 1)[1:], [9, 9, 9])
    seen = torch.cat([batch.rows for batch in batches])[:, 0].int().bincount()
    assert seen.min() == 1  # every row is there
    assert set(seen[90:99].tolist()) == {10}
    assert set(seen[99:102].tolist()) == {30}


def test_balanced_embedder(iris):
    X, y = iris[0][:112], iris[1][:112]
    embedder = HSCLEmbedder(sampler="balanced", batch_size=30, max_epochs=1, random_state=0)
    assert embedder.fit(X, y).transform(X).shape == (112, 32)
    with pytest.raises(ValueError, match="sampler='balanced' composes batches by class"):
        clone(embedder).set_params(loss="hucl").fit(X)


def test_warm_start_goes_on(iris):
    embedder = HSCLEmbedder(max_epochs=3, warm_start=True, random_state=0).fit(*iris)
    once = embedder.loss_curve_
    embedder.fit(*iris)
    assert embedder.loss_curve_[:3] == once
    assert embedder.n_iter_ == 6
    assert embedder.loss_curve_[3] < once[0]
    embedder.set_params(n_components=3)
    with pytest.raises(ValueError, match="set warm_start=False"):
        embedder.fit(*iris)
    assert embedder.transform(iris[0]).shape == (150, 32)  # the fit that was


def test_warm_start_with_other_groups_of_weights(iris):
    groups = {"optimizer__param_groups": [("*layers.2.*", {"lr": 1e-3})]}
    settings = {"encoder": "mlp", "hidden_layer_sizes": (8, 8), "lr": 1e-3}
    settings |= {"max_epochs": 1, "lr_schedule": "constant", "random_state": 0}
    embedder = HSCLEmbedder(**settings, warm_start=True).fit(*iris)
    expected = clone(embedder).fit(*iris).fit(*iris).transform(iris[0])
    for net_params in (groups, None):  # the same rates, in another order of weights
        other = copy.deepcopy(embedder).set_params(net_params=net_params).fit(*iris)
        assert_array_equal(other.transform(iris[0]), expected)


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (torch.optim.AdamW, {"amsgrad": True}),
        (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
        (torch.optim.SGD, {"momentum": 0.5}),
    ],
)
def test_warm_start_with_an_optimizer_that_remembers_more(optimizer, settings, iris):
    net_params = {"optimizer": optimizer}
    embedder = HSCLEmbedder(
        encoder="mlp", max_epochs=1, warm_start=True, net_params=net_params
    )
    embedder.fit(*iris)
    more = {f"optimizer__{name}": value for name, value in settings.items()}
    for changed in (net_params | more, net_params):
        embedder.set_params(net_params=changed).fit(*iris)
    assert embedder.n_iter_ == 3
    assert np.isfinite(embedder.transform(iris[0])).all()


def test_partial_fit_goes_on_with_scales_and_classes(iris):
    X, y = iris
    embedder = HSCLEmbedder(random_state=0)
    embedder.partial_fit(X[:100], y[:100], classes=[0, 1, 2])
    scales = embedder._prepare
    for _ in range(3):
        embedder.partial_fit(X[50:], y[50:])
    assert embedder.n_iter_ == 4
    assert embedder._prepare is scales
    assert_array_equal(embedder.classes_, [0, 1, 2])
    assert embedder.loss_curve_[3] < embedder.loss_curve_[1]
    with pytest.raises(ValueError, match=r"labels \[7\]"):
        embedder.partial_fit(X, np.where(y == 2, 7, y))


def test_partial_fit_draws_new_numbers_in_every_call(iris):
    losses = []
    for _ in range(2):
        embedder = HSCLEmbedder("hucl", random_state=0, lr=1e-12)
        for _ in range(3):
            embedder.partial_fit(iris[0])
        losses.append(embedder.loss_curve_)
    assert len(set(losses[0])) == 3
    assert losses[0] == losses[1]


class CtrlC(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise KeyboardInterrupt


def interrupted(epoch=3, **parameters):
    parameters = {"random_state": 0, "lr_schedule": "constant"} | parameters
    return HSCLEmbedder(max_epochs=9, net_callbacks=[CtrlC(epoch)], **parameters)


def test_ctrl_c_keeps_what_was_learnt(iris):
    with pytest.warns(UserWarning, match="interrupted after 2 of 9 epochs"):
        embedder = interrupted().fit(*iris)
    assert embedder.n_iter_ == len(embedder.loss_curve_) == 2
    assert np.isfinite(embedder.transform(iris[0])).all()
    with pytest.warns(UserWarning, match="interrupted after 2 of 9 epochs"):
        interrupted().fit_transform(*iris)


def test_ctrl_c_keeps_the_weights_of_the_best_epoch(iris):
    with pytest.warns(UserWarning, match="interrupted"):
        embedder = interrupted(early_stopping=True).fit(*iris)
    best = HSCLEmbedder(
        early_stopping=True,
        max_epochs=embedder.best_epoch_,
        random_state=0,
        lr_schedule="constant",
    ).fit(*iris)
    assert_array_equal(embedder.transform(iris[0]), best.transform(iris[0]))


def test_ctrl_c_before_the_first_epoch_ends(iris):
    embedder = interrupted(epoch=1)
    with pytest.raises(KeyboardInterrupt):
        embedder.fit(*iris)
    assert not hasattr(embedder, "module_")


@pytest.mark.parametrize(
    "around",
    [make_pipeline, lambda e: GridSearchCV(e, {"beta": [0.0]}, cv=2, scoring=lambda *a: 0)],
)
def test_ctrl_c_goes_through_other_estimators(iris, around):
    with pytest.raises(KeyboardInterrupt):
        around(interrupted()).fit(*iris)
