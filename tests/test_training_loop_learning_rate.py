"""Schedules of the learning rate."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from skorch.callbacks import Callback, LRScheduler
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.training.loop.learning_rate import LearningRate, cosine


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
