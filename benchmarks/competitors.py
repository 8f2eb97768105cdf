"""Other training loops for the network of `bench_fit.py`, as functions of one epoch."""

import importlib.util
from itertools import pairwise

import skorch
import torch
from measure import now
from torch import nn
from torch.nn.functional import normalize

ENCODER, HEAD = (54, 256, 256, 128), (128, 128, 64)
BETA, TEMPERATURE, LR = 1.0, 0.5, 2e-3
COMPETITORS = ("plain", "pml", "skorch", "CEBRA")
PACKAGES = {"pml": "pytorch_metric_learning", "CEBRA": "cebra"}


def network():
    layers = []
    for n_in, n_out in pairwise(ENCODER):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    layers.pop()  # the embedding is linear
    layers += [nn.Linear(*HEAD[:2]), nn.ReLU(), nn.Linear(*HEAD[1:])]
    return nn.Sequential(*layers)


class PlainLoss(nn.Module):
    """Plain implementation of H-SCL: every pair, under autograd."""

    def forward(self, z, y):
        z = normalize(z)
        similarity = z @ z.T / TEMPERATURE  # (B, B)
        same = y[:, None] == y
        positive = same.float().fill_diagonal_(0)
        negative = (~same).float()
        tilt = torch.exp(BETA * similarity.detach()) * negative
        exponential = torch.exp(similarity)
        mean = (tilt * exponential).sum(1) / tilt.sum(1).clamp_min(1e-30)
        mass = (negative.sum(1) * mean).unsqueeze(1)  # (B, 1)
        losses = torch.log1p(mass / exponential) * positive
        n_positives = positive.sum(1)
        usable = (n_positives > 0) & (negative.sum(1) > 0)
        per_anchor = losses.sum(1) / n_positives.clamp_min(1)
        return (per_anchor * usable).sum() / usable.sum().clamp_min(1)


def plain_loop(X, y, batch_size, device, loss):
    """Run one epoch of a plain loop; return its seconds."""
    torch.manual_seed(0)
    X, y = torch.from_numpy(X).to(device), torch.from_numpy(y).to(device)
    net = network().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)

    def epoch():
        begin = now(device)
        total = torch.zeros((), device=device)
        for index in torch.randperm(len(X), device=device).split(batch_size):
            optimizer.zero_grad()
            value = loss(net(X[index]), y[index])
            value.backward()
            optimizer.step()
            total += value.detach()
        return now(device) - begin

    return epoch


def skorch_net(X, y, batch_size, device):
    torch.manual_seed(0)
    net = skorch.NeuralNet(
        network(),
        PlainLoss,
        optimizer=torch.optim.Adam,
        lr=LR,
        batch_size=batch_size,
        max_epochs=1,
        train_split=None,
        iterator_train__shuffle=True,
        device=device,
        verbose=0,
    ).initialize()

    def epoch():
        begin = now(device)
        net.partial_fit(X, y)
        return now(device) - begin

    return epoch


def cebra_estimator(X, y, batch_size, device):
    import cebra

    model = cebra.CEBRA(
        model_architecture="offset1-model",
        num_hidden_units=ENCODER[1],
        output_dimension=HEAD[-1],
        batch_size=batch_size,
        max_iterations=-(-len(X) // batch_size),
        learning_rate=LR,
        temperature=TEMPERATURE,
        device=device,
        verbose=False,
    )

    def epoch():
        begin = now(device)
        model.partial_fit(X, y)
        return now(device) - begin

    return epoch


def competitor(name, X, y, batch_size, device):
    if name == "plain":
        return plain_loop(X, y, batch_size, device, PlainLoss())
    if name == "skorch":
        return skorch_net(X, y, batch_size, device)
    if name == "CEBRA":
        return cebra_estimator(X, y, batch_size, device)
    from pytorch_metric_learning.losses import SupConLoss

    return plain_loop(X, y, batch_size, device, SupConLoss(temperature=TEMPERATURE))


def is_installed(name):
    return name not in PACKAGES or importlib.util.find_spec(PACKAGES[name]) is not None
