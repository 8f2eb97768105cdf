"""The loss against an explicit reference, gradcheck and its mathematical properties."""

import dataclasses
import hashlib
import inspect
import itertools
import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers.loss_reference import official_hscl, reference_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from torch import func
from torch.autograd import forward_ad

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss
from sklearn_hscl.losses.pair_sets import read_ids
from sklearn_hscl.metrics import make_embedding_scorer, map_at_r
from sklearn_hscl.model_selection import BatchedGridSearchCV
from sklearn_hscl.runtime.normalize import l2_normalize

OPTIONS = {
    "hardening": ["exponential", "threshold"],
    "negative_mass": ["negatives", "batch", 1.0],
    "reduction": ["anchors", "pairs", "classes"],
    "detach_weights": [True, False],
}
COMBINATIONS = [
    dict(zip(OPTIONS, values, strict=True))
    for values in itertools.product(*OPTIONS.values())
]


def embeddings(n_rows=10, width=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, width, generator=generator, dtype=dtype)


def value_and_gradient(function, z):
    z = z.clone().requires_grad_()
    value = function(z)
    value.backward()
    return value.detach(), z.grad


LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 2, 1, 3, 0])  # class 3 has one row
VIEW_IDS = torch.arange(5).repeat(2)


@pytest.mark.filterwarnings("ignore:.* has no effect with")
@pytest.mark.parametrize("kernel", ["dense", "tiled", "streaming"])
@pytest.mark.parametrize("loss", ["ucl", "scl", "hucl", "hscl"])
@pytest.mark.parametrize("options", COMBINATIONS, ids=str)
def test_value_and_gradient_equal_the_explicit_reference(
    loss, options, kernel, monkeypatch
):
    monkeypatch.setattr("sklearn_hscl.losses.dispatch.BLOCK_PAIRS", 30)
    threshold = options["hardening"] == "threshold" and loss in ("hucl", "hscl")
    if kernel == "streaming" and threshold:
        with pytest.raises(ValueError, match="kernel='streaming' computes"):
            ContrastiveLoss(loss, kernel=kernel, **options)(embeddings(), LABELS, VIEW_IDS)
        return
    z = embeddings()
    by_label = loss in ("scl", "hscl")
    identity = LABELS if by_label else VIEW_IDS
    ours = ContrastiveLoss(
        loss, beta=1.7, temperature=0.3, threshold=0.1, kernel=kernel, **options
    )
    value, gradient = value_and_gradient(lambda z: ours(z, LABELS, view_ids=VIEW_IDS), z)
    hardened = loss in ("hucl", "hscl")
    expected, expected_gradient = value_and_gradient(
        lambda z: reference_loss(
            z, identity, temperature=0.3, hardened=hardened, beta=1.7, threshold=0.1,
            **options,
        )[0],
        z,
    )  # fmt: skip
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.5, 5.0])
def test_equals_the_authors_formula(beta):
    z, y = embeddings(12), torch.tensor([0, 1, 2] * 4)
    ours = ContrastiveLoss(
        beta=beta, negative_mass="batch", reduction="pairs", detach_weights=False
    )
    value, gradient = value_and_gradient(lambda z: ours(z, y), z)
    expected, expected_gradient = value_and_gradient(lambda z: official_hscl(z, y, beta), z)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.* has no effect with")
@pytest.mark.parametrize("loss", ["ucl", "scl", "hucl", "hscl"])
@pytest.mark.parametrize("reduction", OPTIONS["reduction"])
def test_gradcheck_through_the_weights(loss, reduction):
    # With detached weights the gradient is not that of the value, by design.
    ours = ContrastiveLoss(loss, beta=2.0, reduction=reduction, detach_weights=False)
    z = embeddings().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ours(z, LABELS, view_ids=VIEW_IDS), z)


@pytest.mark.parametrize("loss", ["scl", "ucl"])
def test_gradcheck_without_tilt_and_with_a_threshold(loss):
    z = embeddings().requires_grad_()
    hardened = {"scl": "hscl", "ucl": "hucl"}[loss]
    for ours in (
        ContrastiveLoss(loss),
        ContrastiveLoss(hardened, hardening="threshold", threshold=0.05),
    ):
        assert torch.autograd.gradcheck(
            lambda z, ours=ours: ours(z, LABELS, view_ids=VIEW_IDS), z
        )


# Higher derivatives and torch.func ----------------------------------------------------


def plain_hscl(z):
    """H-SCL with beta = 1.7 and T = 0.5 in plain operations, for any transform."""
    unit = z / z.norm(dim=-1, keepdim=True)
    same = LABELS[:, None] == LABELS
    s = (unit @ unit.mT / 0.5).masked_fill(same, -torch.inf)
    log_mean = (2.7 * s).logsumexp(-1) - (1.7 * s).logsumexp(-1)
    log_odds = (~same).double().sum(-1).log() + log_mean
    odds = (log_odds[..., None] - unit @ unit.mT / 0.5).exp()
    positive = (same & ~torch.eye(len(LABELS), dtype=torch.bool)).double()
    usable = positive[positive.sum(-1) > 0]
    losses = torch.log1p(odds)[positive.sum(-1) > 0]
    return ((losses * usable).sum(-1) / usable.sum(-1)).mean()


def hessian_vector_products(function):
    """Return the third derivative, by two products with the Hessian."""

    def third(z):
        z = z.clone().requires_grad_()
        (first,) = torch.autograd.grad(function(z), z, create_graph=True)
        (second,) = torch.autograd.grad((first * z.sin()).sum(), z, create_graph=True)
        return torch.autograd.grad(second.square().sum(), z)[0]

    return third


def in_forward_mode(function):
    def tangent(z):
        with forward_ad.dual_level():
            value = function(forward_ad.make_dual(z, z + 1))
            return forward_ad.unpack_dual(value).tangent

    return tangent


# Which torch itself calls in forward mode.
ignores_jit = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
TRANSFORMS = {
    "autograd": hessian_vector_products,
    "forward mode": in_forward_mode,
    "grad": func.grad,
    "jvp": lambda f: lambda z: func.jvp(f, (z,), (z + 1,))[1],
    "jacfwd": func.jacfwd,
    "jacrev(jacrev)": lambda f: func.jacrev(func.jacrev(f)),
    "hessian": func.hessian,
    "jacrev(jacfwd)": lambda f: func.jacrev(func.jacfwd(f)),
    "vmap": lambda f: lambda z: func.vmap(f, 1)(torch.stack([z, z.cos()], 1)),
    "vmap(grad)": lambda f: lambda z: func.vmap(func.grad(f))(torch.stack([z, z.cos()])),
    "grad(vmap)": lambda f: func.grad(
        lambda z: func.vmap(f)(torch.stack([z, z.cos()])).prod()
    ),
}


@ignores_jit
@pytest.mark.parametrize("kernel", ["auto", "dense", "tiled", "streaming"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_derivatives_of_any_order(transform, kernel, monkeypatch):
    monkeypatch.setattr("sklearn_hscl.losses.dispatch.BLOCK_PAIRS", 30)
    loss = ContrastiveLoss(beta=1.7, detach_weights=False, kernel=kernel)
    found = transform(lambda z: loss(z, LABELS))(embeddings())
    expected = transform(plain_hscl)(embeddings())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.* has no effect with")
@pytest.mark.parametrize("loss", ["ucl", "scl", "supcon", "hucl", "hscl", "schane"])
@pytest.mark.parametrize("hardening", ["exponential", "polynomial"])
def test_gradgradcheck(loss, hardening):
    ours = ContrastiveLoss(loss, hardening=hardening, detach_weights=False, ce_weight=0)
    z = embeddings().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: ours(z, LABELS, VIEW_IDS), z)


@ignores_jit
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_derivatives_of_unit_rows(transform):
    weight = embeddings(seed=1)

    def plain(z):
        return ((z / z.norm(dim=-1, keepdim=True)) * weight).sin().sum()

    found = transform(lambda z: (l2_normalize(z) * weight).sin().sum())(embeddings())
    torch.testing.assert_close(found, transform(plain)(embeddings()))


def test_second_derivatives_of_detached_weights_are_those_of_autograd():
    def second(kernel):
        loss = ContrastiveLoss(beta=1.7, kernel=kernel)
        z = embeddings().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z, LABELS), z, create_graph=True)
        return torch.autograd.grad((gradient * embeddings(seed=1)).sum(), z)[0]

    torch.testing.assert_close(second("streaming"), second("dense"))


def test_labels_can_be_mapped_over():
    z, y = embeddings(), torch.stack([LABELS, LABELS.flip(0), (LABELS + 1) % 4])
    loss = ContrastiveLoss()
    found = func.vmap(func.grad(lambda z, y: loss(z, y)), in_dims=(None, 0))(z, y)
    for gradient, labels in zip(found, y, strict=True):
        expected = value_and_gradient(lambda z, y=labels: loss(z, y), z)[1]
        torch.testing.assert_close(gradient, expected)


@ignores_jit
@pytest.mark.parametrize("kernel", ["auto", "dense", "tiled"])
def test_nested_forward_mode_is_refused(kernel):
    loss = ContrastiveLoss(kernel=kernel)
    with pytest.raises(NotImplementedError, match=r"Use torch\.func\.hessian"):
        func.jacfwd(func.jacfwd(lambda z: loss(z, LABELS)))(embeddings())


@ignores_jit
@pytest.mark.parametrize("name", ["beta", "temperature"])
@pytest.mark.parametrize("kernel", ["auto", "streaming"])
def test_learned_scales_get_their_gradient(name, kernel):
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    arguments = {"detach_weights": False, "kernel": kernel}
    loss = ContrastiveLoss(**{name: scale}, **arguments)
    if kernel == "streaming":
        with pytest.raises(
            ValueError, match="beta and temperature that require no gradient"
        ):
            loss(embeddings(), LABELS)
        return
    loss(embeddings(), LABELS).backward()
    values = [
        ContrastiveLoss(**{name: 0.7 + step}, **arguments)(embeddings(), LABELS)
        for step in (1e-5, -1e-5)
    ]
    slope = (values[0] - values[1]) / 2e-5
    torch.testing.assert_close(scale.grad, slope)

    z = embeddings()

    def value(scale):
        loss.options = dataclasses.replace(loss.options, **{name: scale})
        return loss(z, LABELS)

    point = scale.detach(), torch.ones_like(scale)
    torch.testing.assert_close(func.jvp(value, point[:1], point[1:])[1], slope)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(value(forward_ad.make_dual(*point))).tangent
    torch.testing.assert_close(tangent, slope)
    mapped = func.vmap(value)(torch.stack([scale.detach(), scale.detach() + 1e-5]))
    torch.testing.assert_close(mapped[1], values[0])


@pytest.mark.parametrize("by_label", [True, False])
def test_zero_beta_is_the_loss_without_tilt(by_label):
    z = embeddings()
    hardened, plain = ("hscl", "scl") if by_label else ("hucl", "ucl")
    tilted = ContrastiveLoss(hardened, beta=0.0)(z, LABELS, view_ids=VIEW_IDS)
    assert tilted == ContrastiveLoss(plain)(z, LABELS, view_ids=VIEW_IDS)


def test_infinite_beta_is_the_hardest_negative():
    z = embeddings()
    y = torch.tensor([0, 1] * 5)
    unit = z / z.norm(dim=1, keepdim=True)
    s = unit @ unit.T / 0.5
    losses = []
    for i in range(10):
        hardest = s[i][y != y[i]].max() + torch.tensor(5.0).log()
        positives = [s[i, p] for p in range(10) if p != i and y[p] == y[i]]
        pairs = [torch.logaddexp(hardest, s_p) - s_p for s_p in positives]
        losses.append(torch.stack(pairs).mean())
    value = ContrastiveLoss(beta=1e6)(z, y)
    torch.testing.assert_close(value, torch.stack(losses).mean())


seeds = st.integers(0, 10_000)
labels = st.lists(st.integers(0, 3), min_size=2, max_size=12)


@given(seeds, labels, st.floats(0, 20), st.floats(0, 20))
@settings(deadline=None, max_examples=60)
def test_loss_grows_with_beta(seed, y, beta, more):
    z, y = embeddings(len(y), seed=seed), torch.tensor(y)
    low, high = (ContrastiveLoss(beta=b)(z, y) for b in sorted([beta, beta + more]))
    assert high >= low - 1e-12


@given(seeds, labels, st.permutations(range(4)))
@settings(deadline=None, max_examples=60)
def test_order_of_rows_and_names_of_classes_do_not_matter(seed, y, names):
    z, y = embeddings(len(y), seed=seed), torch.tensor(y)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    loss = ContrastiveLoss(beta=3.0)
    expected = loss(z, y)
    torch.testing.assert_close(loss(z[order], y[order]), expected, rtol=1e-10, atol=0)
    assert loss(z, torch.tensor(names)[y]) == expected


@pytest.mark.filterwarnings("ignore:.* has no effect with")
@given(
    seeds,
    labels,
    st.floats(0.01, 10),
    st.floats(0, 1000),
    st.sampled_from(["exponential", "threshold"]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from(["random", "duplicates", "zeros", "huge", "tiny", "denormal"]),
    st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_finite_for_any_finite_input(
    seed, y, temperature, beta, hardening, dtype, kind, detach
):
    z, y = embeddings(len(y), seed=seed, dtype=dtype), torch.tensor(y)
    z = {
        "random": z,
        "duplicates": z[:1].expand_as(z).clone(),
        "zeros": torch.zeros_like(z),
        "huge": z * (torch.finfo(dtype).max / 100),
        "tiny": z * (torch.finfo(dtype).tiny * 4),
        "denormal": z * (torch.finfo(dtype).smallest_normal * 0.01),
    }[kind]
    loss = ContrastiveLoss(
        beta=beta, temperature=temperature, hardening=hardening, detach_weights=detach
    )
    value, gradient = value_and_gradient(lambda z: loss(z, y), z)
    assert value.isfinite() and value >= 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("temperature", "beta"), [(0.01, 0.0), (0.05, 4.0), (0.5, 49.0), (10.0, 1.0)]
)
def test_float32_is_close_to_float64(temperature, beta):
    z = embeddings(64, 16, dtype=torch.float32)
    y = torch.arange(64) % 5
    loss = ContrastiveLoss(beta=beta, temperature=temperature)
    value, gradient = value_and_gradient(lambda z: loss(z, y), z)
    exact, exact_gradient = value_and_gradient(lambda z: loss(z, y), z.double())
    assert abs(value - exact) <= 1e-5 * max(1, exact)
    error = (gradient - exact_gradient).norm() / exact_gradient.norm()
    assert error < 1e-5 * (1 + beta) / min(temperature, 1)


def test_unusable_anchors_are_skipped_and_counted():
    z = embeddings(5)
    y = torch.tensor([0, 0, 1, 1, 2])
    value, stats = ContrastiveLoss()(z, y, return_stats=True)
    expected, skipped = reference_loss(z, y, temperature=0.5)
    torch.testing.assert_close(value, expected)
    assert stats.skipped_anchors == skipped == 1


@pytest.mark.parametrize("y", [[0, 0, 0, 0], [0, 1, 2, 3]], ids=["one class", "no pair"])
@pytest.mark.parametrize("detach", [True, False])
def test_batch_without_usable_anchor_gives_zero_with_a_gradient(y, detach):
    loss = ContrastiveLoss(detach_weights=detach)
    value, gradient = value_and_gradient(lambda z: loss(z, torch.tensor(y)), embeddings(4))
    assert value == 0
    assert (gradient == 0).all()


def test_threshold_above_all_negatives_falls_back_to_the_hardest():
    z, y = embeddings(8), torch.tensor([0, 1] * 4)
    loss = ContrastiveLoss(hardening="threshold", threshold=0.999)
    value, stats = loss(z, y, return_stats=True)
    hardest = ContrastiveLoss(beta=1e6)(z, y)
    torch.testing.assert_close(value, hardest)
    assert stats.hardest_fallbacks == 8
    assert stats.effective_negatives == 1


def test_effective_negatives_fall_from_all_to_one_with_beta():
    z, y = embeddings(20), torch.tensor([0, 1] * 10)
    counts = [
        ContrastiveLoss(beta=beta)(z, y, return_stats=True)[1].effective_negatives
        for beta in (0.0, 1.0, 10.0, 1e6)
    ]
    assert counts[0] == pytest.approx(10)
    assert counts[-1] == pytest.approx(1)
    assert counts == sorted(counts, reverse=True)


@pytest.mark.filterwarnings("ignore:.* has no effect with")
@pytest.mark.parametrize("hardening", ["exponential", "threshold"])
def test_leading_axes_hold_independent_losses(hardening):
    z = torch.stack([embeddings(seed=seed) for seed in range(3)])  # (3, 10, 4)
    y = torch.stack([LABELS, LABELS.flip(0), (LABELS + 1) % 4])
    beta = torch.tensor([0.0, 1.0, 5.0])
    temperature = torch.tensor([0.1, 0.5, 1.0])
    threshold = torch.tensor([-0.5, 0.0, 0.5])
    stacked, stats = ContrastiveLoss(
        beta=beta, temperature=temperature, threshold=threshold, hardening=hardening
    )(z, y, return_stats=True)
    single = torch.stack([
        ContrastiveLoss(
            beta=float(beta[k]), temperature=float(temperature[k]),
            threshold=float(threshold[k]), hardening=hardening,
        )(z[k], y[k])
        for k in range(3)
    ])  # fmt: skip
    assert stacked.shape == stats.skipped_anchors.shape == (3,)
    torch.testing.assert_close(stacked, single, rtol=1e-6, atol=0)


def test_hucl_mixes_hscl_and_collisions():
    # alpha_HUCL = alpha_HSCL + alpha_collision: the tilted means mix accordingly.
    z, y = embeddings(12), torch.tensor([0, 1, 2] * 4)
    unit = z / z.norm(dim=1, keepdim=True)
    s = (unit @ unit.T / 0.5).fill_diagonal_(-torch.inf)
    eta = torch.exp(2.0 * s)
    different = y[:, None] != y[None, :]
    parts = {
        name: ((eta * s.exp())[0][mask].sum() / eta[0][mask].sum(), eta[0][mask].sum())
        for name, mask in {"hscl": different[0], "collision": ~different[0]}.items()
    }
    mixed = sum(e * a for e, a in parts.values()) / sum(a for _, a in parts.values())
    loss = ContrastiveLoss("hucl", beta=2.0, negative_mass=1.0)
    anchor_ids = torch.tensor([0, *range(12)])  # the anchor and its view, then others
    zz = torch.cat([z[:1], z])
    # Give only the first anchor a positive, so that the loss is that of one pair.
    value = loss(zz, view_ids=anchor_ids)
    s_pos = torch.tensor(2.0, dtype=torch.float64)
    torch.testing.assert_close(value, torch.logaddexp(s_pos, mixed.log()) - s_pos)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "sclh"}, "loss must be one of .*hscl"),
        ({"hardening": "linear"}, "hardening must be one of"),
        ({"reduction": "sum"}, "reduction must be one of"),
        ({"negative_mass": "all"}, "negative_mass must be one of"),
    ],
)
def test_unknown_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveLoss(**arguments)


@pytest.mark.parametrize(("loss", "missing"), [("hscl", "y"), ("ucl", "view_ids")])
def test_missing_targets_are_named(loss, missing):
    with pytest.raises(ValueError, match=f"needs `{missing}`"):
        ContrastiveLoss(loss)(embeddings())


# Parameters, as in scikit-learn -------------------------------------------------------


def test_parameters_are_those_of_the_constructor():
    names = inspect.signature(ContrastiveLoss).parameters.keys()
    assert ContrastiveLoss().get_params().keys() == names
    given = {"beta": 3.0, "reduction": "pairs", "tau_plus": 0.0, "normalize": False}
    params = ContrastiveLoss("sscl", **given).get_params(deep=True)
    assert {name: params[name] for name in given} == given
    assert params["loss"] == "sscl" and params["detach_weights"] is None
    assert ContrastiveLoss(**params).get_params() == params


def test_parameters_can_be_changed():
    loss = ContrastiveLoss("hscl", preset="official")
    assert loss.set_params(beta=2.0, preset=None, kernel="dense") is loss
    expected = ContrastiveLoss("hscl", beta=2.0, kernel="dense")
    assert loss.options == expected.options
    assert loss.get_params() == expected.get_params()
    loss.set_beta(5.0)
    assert loss.get_params()["beta"] == 5.0
    assert loss.set_params(loss="hucl").options.pairs == "view"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 2.0, "bta": 1.0}, "Invalid parameter 'bta' for ContrastiveLoss.*beta"),
        ({"beta": 2.0, "reduction": "sum"}, "reduction must be one of"),
    ],
)
def test_an_invalid_change_changes_nothing(changes, message):
    loss = ContrastiveLoss()
    with pytest.raises(ValueError, match=message):
        loss.set_params(**changes)
    assert loss.get_params() == ContrastiveLoss().get_params()


class SubclassedLoss(ContrastiveLoss):
    def __init__(self, strength):
        super().__init__("hucl", beta=strength)


@pytest.mark.parametrize(
    "loss", [ContrastiveLoss("hucl", tau_plus=0.1), SubclassedLoss(2.0)], ids=type
)
def test_clone(loss):
    embedder = HSCLEmbedder(loss=loss, max_epochs=1)
    copied = clone(embedder).loss
    assert type(copied) is type(loss) and copied is not loss
    assert copied.get_params() == loss.get_params()
    assert isinstance(copied, torch.nn.Module) and not list(copied.parameters())
    other = clone(embedder).set_params(loss__beta=7.0)
    assert other.loss.options.beta == other.get_params()["loss__beta"] == 7.0
    assert loss.options.beta != 7.0


@pytest.mark.parametrize("in_pipeline", [True, False])
def test_searches_over_parameters_of_the_loss(iris, in_pipeline):
    loss = ContrastiveLoss(reduction="pairs")
    embedder = HSCLEmbedder(loss=loss, encoder="mlp", max_epochs=2, random_state=0)
    grid = {"loss__beta": [0.0, 8.0], "loss__negative_mass": [None, 1.0]}
    options = {"cv": StratifiedKFold(2), "scoring": make_embedding_scorer(map_at_r)}
    if in_pipeline:
        embedder = make_pipeline(embedder, KNeighborsClassifier())
        grid = {f"hsclembedder__{name}": values for name, values in grid.items()}
        options["scoring"] = "neg_log_loss"
    single = GridSearchCV(embedder, grid, **options).fit(*iris)
    batched = BatchedGridSearchCV(embedder, grid, **options).fit(*iris)
    scores = single.cv_results_["mean_test_score"]
    assert len(set(scores)) > 1
    np.testing.assert_allclose(batched.cv_results_["mean_test_score"], scores, rtol=1e-5)
    assert batched.best_params_ == single.best_params_
    best = single.best_estimator_
    trained = best[0] if in_pipeline else best
    wanted = next(v for name, v in single.best_params_.items() if name.endswith("beta"))
    assert trained.net_.criterion_.options.beta == wanted


# Settings of stored losses ------------------------------------------------------------


FORMER = {"gave_tau_plus": False, "tau_plus": 0.1, "positives": "twin", "beta": 2.0}


def test_settings_of_earlier_versions():
    loss = ContrastiveLoss.from_settings({"loss": "sscl", **FORMER})
    assert loss.tau_plus is None and loss.options.tau_plus == 0.1
    assert loss.options.positives == "view"
    loss = ContrastiveLoss.from_settings({"loss": "hucl", **FORMER})
    assert loss.options.tau_plus == 0.1
    given = FORMER | {"loss": "sscl", "gave_tau_plus": True}
    assert ContrastiveLoss.from_settings(given).tau_plus == 0.1


def test_stored_losses_keep_their_parameters(iris, tmp_path):
    loss = ContrastiveLoss(beta=np.float32(2), temperature=torch.tensor(0.25))
    embedder = HSCLEmbedder(loss=loss, encoder="mlp", max_epochs=1).fit(*iris)
    embedder.save(tmp_path / "embedder.safetensors")
    again = HSCLEmbedder.load(tmp_path / "embedder.safetensors").loss
    assert again.get_params() == loss.get_params()
    assert again.set_params(loss="supcon").options.denominator == "all"


def test_settings_are_not_changed_by_reading():
    settings = {"loss": "sscl", **FORMER}
    before = dict(settings)
    ContrastiveLoss.from_settings(settings)
    assert settings == before


def replace_in_document(path, old, new):
    content = path.read_bytes()
    n_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n_bytes])
    metadata = header["__metadata__"]
    assert old in metadata["document"]
    text = metadata["document"].replace(old, new)
    digest = hashlib.sha256(text.encode()).hexdigest()
    header["__metadata__"] = metadata | {"document": text, "sha256": digest}
    written = json.dumps(header).encode()
    length = len(written).to_bytes(8, "little")
    path.write_bytes(length + written + content[8 + n_bytes :])


def test_stored_parameters_of_earlier_versions(iris, tmp_path):
    embedder = HSCLEmbedder(encoder="mlp", positives="view", max_epochs=1, random_state=0)
    path = tmp_path / "embedder.safetensors"
    embedder.fit(*iris).save(path)
    replace_in_document(path, '"positives":"view"', '"positives":"twin"')
    again = HSCLEmbedder.load(path)
    assert again.positives == "view"
    assert again.net_.criterion_.options.positives == "view"
    np.testing.assert_array_equal(again.transform(iris[0]), embedder.transform(iris[0]))


@pytest.mark.parametrize("kernel", ["dense", "tiled"])
@pytest.mark.parametrize("target_type", ["multilabel", "continuous"])
@pytest.mark.parametrize("options", [{}, {"denominator": "all", "pooling": "in"}])
def test_a_missing_target_does_not_leave_all_anchors_out(kernel, target_type, options):
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    y = torch.eye(2).repeat(3, 1)
    y[0, 0] = torch.nan
    loss = ContrastiveLoss(target_type=target_type, kernel=kernel, **options)
    assert loss(z, y).isnan()


@pytest.mark.parametrize("kernel", ["auto", "dense", "tiled"])
@pytest.mark.parametrize("name", ["beta", "temperature"])
def test_beta_and_temperature_can_be_trained(name, kernel):
    z = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(12) % 3
    value = torch.tensor(0.7, requires_grad=True)
    options = {"detach_weights": False, "kernel": kernel}
    ContrastiveLoss("hscl", **options, **{name: value})(z, y).backward()
    step = 1e-3
    above, below = (
        ContrastiveLoss("hscl", **options, **{name: 0.7 + each})(z.double(), y)
        for each in (step, -step)
    )
    assert float(value.grad) == pytest.approx(float(above - below) / (2 * step), rel=1e-3)


@pytest.mark.parametrize("name", ["beta", "temperature"])
def test_streaming_refuses_to_lose_a_gradient(name):
    value = torch.tensor(0.7, requires_grad=True)
    loss = ContrastiveLoss("hscl", kernel="streaming", **{name: value})
    with pytest.raises(ValueError, match="beta and temperature that require no gradient"):
        loss(torch.eye(4, 3), torch.arange(4) % 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm", [1.0, 3.0, 30.0, 1e4])
@pytest.mark.parametrize("n_rows", [40, 400])
def test_rows_that_are_not_normalized_may_be_long(n_rows, norm, dtype):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n_rows, 6, generator=generator, dtype=dtype)
    z = norm * torch.nn.functional.normalize(z)
    loss, y = ContrastiveLoss("hscl", normalize=False), torch.arange(n_rows) % 4
    expected = ContrastiveLoss("hscl", normalize=False, kernel="dense")(z.double(), y)
    leaf = z.clone().requires_grad_()
    value = loss(leaf, y)
    value.backward()
    assert loss.kernel_ == ("streaming" if norm == 1 else "dense")
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    assert leaf.grad.isfinite().all()


def test_streaming_refuses_long_rows():
    loss = ContrastiveLoss("hscl", normalize=False, kernel="streaming")
    with pytest.raises(ValueError, match="needs rows of unit length, got longer ones"):
        loss(3 * torch.eye(4, 3), torch.arange(4) % 2)


# Targets as users pass them ------------------------------------------------------------


INTEGERS = [
    torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32,
    torch.int32, torch.uint64, torch.int64,
]  # fmt: skip
FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
OF_LABELS = {
    "hscl": {},
    "sharp": {"temperature": 0.01},
    "supcon": {"loss": "supcon"},
    "top_k": {"hardening": "top_k"},
    "unlabeled": {"unlabeled_label": 1},
    "positive views": {"positives": "view"},
}
OF_VIEWS = {"ucl": {"loss": "ucl"}, "sscl": {"loss": "sscl"}}


def numbers(dtype):
    """Return different numbers of a type, the extreme ones among them, out of order."""
    if dtype == torch.bool:
        return torch.tensor([1, 0])
    if dtype.is_floating_point:
        limit = min(int(2 / torch.finfo(dtype).eps), 2**62) - 1
        return torch.tensor([limit, 1, -limit, 0])
    bounds = torch.iinfo(dtype)
    return torch.tensor([min(bounds.max, 2**63 - 1), 1, bounds.min, 0])


@pytest.mark.parametrize("n_rows", [20, 400])  # in one matrix, and sorted in tiles
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS], ids=str)
@pytest.mark.parametrize("role", [*OF_LABELS, *OF_VIEWS])
def test_labels_and_views_of_any_type(role, dtype, n_rows):
    values = numbers(dtype)
    generator = torch.Generator().manual_seed(0)
    ids = values[torch.randint(len(values), (n_rows,), generator=generator)]
    z = embeddings(n_rows)
    loss = ContrastiveLoss(**(OF_LABELS | OF_VIEWS)[role])

    def result(y, views):
        torch.manual_seed(0)  # of synthetic negatives
        return loss(z, y, view_ids=views)

    if role in OF_VIEWS:
        assert result(None, ids.to(dtype)) == result(None, ids)
    else:
        y, views = LABELS.repeat(n_rows // 10), ids
        assert result(ids.to(dtype), y) == result(ids, y)
        assert result(y, views.to(dtype)) == result(y, views)


def test_labels_beyond_int64():
    y = torch.tensor([2**64 - 1, 0, 2**63, 2**64 - 1, 0, 2**63], dtype=torch.uint64)
    z = embeddings(6)
    assert ContrastiveLoss()(z, y) == ContrastiveLoss()(z, torch.tensor([2, 0, 1] * 2))


@pytest.mark.parametrize(
    ("labels", "mark"), [([255, 0, 1, 2], 255), ([2**63 - 1, -(2**63), 0, 5], 2**63 - 1)]
)
@pytest.mark.parametrize("with_views", [True, False])
def test_unlabeled_samples_join_no_class(labels, mark, with_views):
    y = torch.tensor(labels).repeat_interleave(4)
    views = torch.tensor([2**63 - 1, -(2**63)] * 8) if with_views else None
    expected = ContrastiveLoss(unlabeled_label=-1)(
        embeddings(16),
        torch.tensor([-1, 0, 1, 2]).repeat_interleave(4),
        torch.tensor([1, 0] * 8) if with_views else None,
    )
    loss = ContrastiveLoss(unlabeled_label=mark)
    assert loss(embeddings(16), y, views) == expected
    if mark == 255:
        assert loss(embeddings(16), y.to(torch.uint8), views) == expected


CONTAINERS = {
    "list": torch.Tensor.tolist,
    "tuple": lambda y: tuple(y.tolist()),
    "tensors": lambda y: list(y),
    "numpy": torch.Tensor.numpy,
    "read-only": lambda y: np.frombuffer(y.numpy().tobytes(), dtype=np.int64),
    "strided": lambda y: y.numpy().repeat(2, axis=0)[::2],
    "big-endian": lambda y: y.numpy().astype(">i2"),
    "unsigned": lambda y: y.numpy().astype(np.uint32),
    "half": lambda y: y.numpy().astype(np.float16),
    "long double": lambda y: y.numpy().astype(np.longdouble),
    "objects": lambda y: y.numpy().astype(object),
    "Series": lambda y: pd.Series(y.numpy(), index=range(5, 5 + len(y))),
    "nullable": lambda y: pd.Series(y.numpy(), dtype="Int16"),
    "categorical": lambda y: pd.Series(y.numpy(), dtype="category"),
    "Arrow": lambda y: pd.Series(y.numpy(), dtype="int32[pyarrow]"),
    "polars": lambda y: pl.Series(y.tolist()),
    "gradient": lambda y: y.double().requires_grad_(),
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("loss", ["scl", "supcon", "ucl"])
def test_containers(loss, container):
    ours, z, y = ContrastiveLoss(loss), embeddings(), LABELS
    assert ours(z, container(y), container(VIEW_IDS)) == ours(z, y, VIEW_IDS)


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("target_type", ["continuous", "multilabel", "cross-entropy"])
def test_containers_of_other_targets(target_type, container):
    y = LABELS
    arguments = {"target_type": target_type}
    if target_type == "multilabel":
        y = torch.eye(4, dtype=torch.int64)[LABELS]
        if type(container(torch.arange(2))).__module__.startswith(("pandas", "polars")):
            pytest.skip("has one dimension")
        if container is CONTAINERS["read-only"]:
            pytest.skip("drops the shape")
    if target_type == "cross-entropy":
        arguments = {"ce_weight": 0.5}
    ours = ContrastiveLoss(**arguments)
    expected = ours(embeddings(), y, logits=embeddings())
    torch.testing.assert_close(
        ours(embeddings(), container(y), logits=embeddings()), expected
    )


def test_differences_of_large_targets_keep_their_digits():
    y = torch.tensor([0, 1, 5, 6, 9])
    z = embeddings(5, dtype=torch.float32)
    loss = ContrastiveLoss(target_type="continuous")
    expected = loss(z, y)
    for moved in (y + 10**9, y.double() + 1e9, (y + 2**31).to(torch.uint32)):
        torch.testing.assert_close(loss(z, moved), expected)
    counts = torch.tensor([250, 251, 255, 5, 6], dtype=torch.uint8)
    assert loss(z, counts) == loss(z, counts.long())


def test_targets_are_constants():
    y = embeddings(10, 1).requires_grad_()
    value = ContrastiveLoss(target_type="continuous")(embeddings(), y)
    assert not value.requires_grad


NAN = float("nan")
WRONG_LABELS = {
    "fraction": (torch.tensor([0.5, 1] * 5), "y. to hold integers, got 0.5.*'continuous'"),
    "nan": (torch.tensor([NAN, 1] * 5), "y. to hold integers, got nan. Leave out"),
    "inf": (np.array([np.inf, 1] * 5), "y. to hold integers, got inf"),
    "bfloat16": (torch.tensor([300, 1] * 5).bfloat16(), "y. holds 300 in torch.bfloat16"),
    "float16": (torch.tensor([2048, 1] * 5).half(), "y. holds 2048 in torch.float16"),
    "float32": (torch.tensor([2**24, 1] * 5).float(), "y. holds 16777216 in"),
    "text": (["cat", "dog"] * 5, "y. to hold numbers, got 'cat' of type str.*Encode"),
    "None": ([None, 1] * 5, "y. to hold numbers, got None"),
    "NA": (
        pd.Series([None, 1] * 5, dtype="Int64"),
        "y. to hold (numbers, got <NA>|integers, got nan)",
    ),
    "date": (np.array(["2020-01-01"] * 10, dtype="M8[D]"), "y. to hold numbers, got"),
    "complex": (torch.ones(10, dtype=torch.complex64), "y. of real numbers"),
    "ragged": ([[1], [1, 2]] * 5, "y. to be a tensor or an array of numbers"),
    "mapping": ({"a": 1}, "y. to hold numbers"),
    "short": ([0, 1], r"y. of shape \(2,\) does not match z of shape \(10, 4\)"),
    "column": (LABELS[:, None], r"y. of shape \(10, 1\) does not match"),
    "square": (torch.eye(10).long(), r"y. of shape \(10, 10\) does not match"),
    "scalar": (torch.tensor(1), r"y. of shape \(\) does not match"),
    "device": (torch.ones(10, device="meta").long(), "y. on cpu like z, got it on meta"),
}


@pytest.mark.parametrize(("labels", "message"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_wrong_labels_are_named(labels, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ContrastiveLoss()(embeddings(), labels)
    of_views = message.partition(".*'cont")[0].removesuffix(" Leave out")
    with pytest.raises((TypeError, ValueError), match=f"view_ids{of_views[1:]}"):
        ContrastiveLoss("ucl")(embeddings(), None, labels)


def test_floats_on_a_device_are_refused_without_a_look():
    z = torch.ones(10, 4, device="meta")
    with pytest.raises(TypeError, match=r"y.*torch.float32 on meta.*Pass y\.long\(\)"):
        read_ids("y", torch.ones(10, device="meta"), z)
    assert read_ids("y", torch.ones(10, device="meta").half().bool(), z).is_meta
    assert read_ids("y", [0] * 10, z).is_meta


@pytest.mark.parametrize(
    ("arguments", "y", "message"),
    [
        ({"target_type": "multilabel"}, LABELS[:, None], "y. to hold label indicators"),
        ({"target_type": "multilabel"}, -torch.eye(10), "from 0 to 1, got -1"),
        ({"target_type": "multilabel"}, LABELS, r"y. of shape \(10,\) does not match"),
        ({"target_type": "continuous"}, torch.ones(9), r"y. of shape \(9, 1\) does not"),
        ({"target_type": "continuous"}, ["1"] * 10, "y. to hold numbers, got '1'"),
        ({"ce_weight": 0.5}, LABELS + 1, "y. to hold codes from 0 to 3.*Target 4"),
        ({"ce_weight": 0.5}, LABELS - 1, "y. to hold codes from 0 to 3.*Target -1"),
    ],
)
def test_wrong_targets_are_named(arguments, y, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ContrastiveLoss(**arguments)(embeddings(), y, logits=embeddings())


@pytest.mark.parametrize(
    "logits", [torch.ones(9, 4), torch.ones(4), [[1.0]] * 10, torch.ones(10, 4).long()]
)
def test_wrong_logits_are_named(logits):
    with pytest.raises(ValueError, match="Expected `logits` to be a tensor of scores"):
        ContrastiveLoss(ce_weight=0.5)(embeddings(), LABELS, logits=logits)


@pytest.mark.parametrize(
    "z", [np.ones((10, 4)), [[1.0]] * 10, torch.ones(10), torch.ones(10, 4).long()]
)
def test_wrong_embeddings_are_named(z):
    with pytest.raises(TypeError, match="Expected z to be a tensor of floats"):
        ContrastiveLoss()(z, LABELS)


@pytest.mark.parametrize("mark", ["none", 0.5, NAN])
def test_wrong_marks_are_named(mark):
    with pytest.raises(ValueError, match="unlabeled_label must be None or an integer"):
        ContrastiveLoss(unlabeled_label=mark)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", ["hscl", "supcon", "schane", "sscl"])
def test_half_precision_is_computed_in_float32(loss, dtype):
    def result(z, logits):
        torch.manual_seed(0)
        return ContrastiveLoss(loss)(z, LABELS, VIEW_IDS, logits=logits)

    z, logits = embeddings().to(dtype), embeddings(seed=1).to(dtype)
    value, gradient = value_and_gradient(lambda z: result(z, logits), z)
    exact, slope = value_and_gradient(lambda z: result(z, logits.float()), z.float())
    assert value.dtype == torch.float32 and value == exact
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, slope.to(dtype))


@ignores_jit
def test_derivatives_of_half_precision():
    loss = ContrastiveLoss(detach_weights=False)
    z = embeddings().bfloat16()
    value = lambda z: loss(z, LABELS)  # noqa: E731
    expected = func.hessian(value)(z.float())
    for transform in (func.hessian, lambda f: func.jacrev(func.jacrev(f))):
        torch.testing.assert_close(
            transform(value)(z).float(), expected, rtol=0.05, atol=2e-3
        )


# Options that have no effect, and extreme ones -----------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hardening": "threshold", "beta": 5.0}, "beta=5.0 .*hardening='threshold'"),
        ({"hardening": "threshold", "beta": 0}, "beta=0 .*'exponential' or 'polynomial'"),
        ({"hardening": "top_k", "beta": torch.tensor(2.0)}, "beta=tensor.*'top_k'"),
        ({"hardening": torch.exp, "beta": 5.0}, "beta=5.0 has no effect with hardening=<"),
        ({"threshold": 0.2}, "threshold=0.2 .*'exponential'.*hardening='threshold'"),
        ({"top_k": 3, "hardening": "polynomial"}, "top_k=3 has no effect"),
        ({"loss": "scl", "beta": 5.0}, "beta=5.0 has no effect with loss='scl'.*'hscl'"),
        ({"loss": "ucl", "hardening": "top_k"}, "hardening='top_k' .*loss='ucl'"),
        ({"temperature": 1e-3}, "temperature=0.001 is extreme: only the hardest"),
        ({"temperature": 1e3}, "temperature=1000.0 is extreme: all negatives count alike"),
        ({"temperature": torch.tensor([0.5, 1e4])}, "temperature=tensor.*extreme"),
    ],
)
def test_options_that_surprise(arguments, message):
    with pytest.warns(UserWarning, match=message) as caught:
        loss = ContrastiveLoss(**arguments)
    assert len(caught) == 1 and caught[0].filename == __file__
    loss.set_params(normalize=False)  # changes and copies say nothing again
    clone(loss)
    if not isinstance(arguments.get("beta", arguments.get("temperature")), torch.Tensor):
        settings = loss.settings()
        ContrastiveLoss.from_settings(settings)


@pytest.mark.parametrize("hardening", ["exponential", "threshold", "polynomial", "top_k"])
@pytest.mark.parametrize("temperature", [0.01, 0.5, 10.0])
def test_usual_options_do_not(hardening, temperature):
    ContrastiveLoss(hardening=hardening, temperature=temperature)
