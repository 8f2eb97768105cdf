"""Every member of the family against its formula, value and gradient."""

import math
import threading

import pytest
import torch
from helpers.loss_reference import (
    collapse_loss,
    lacln,
    official_hscl,
    official_hucl,
    official_sscl,
    pairs_of,
    reference_loss,
    supcon_in,
    supcon_out,
    weighted_positives,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.losses import ContrastiveLoss, equation
from sklearn_hscl.losses.presets import LOSSES, PRESETS
from sklearn_hscl.losses.supervised import binary_cross_entropy
from sklearn_hscl.runtime.random_state import fit_generator

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 2, 1, 3, 0])  # class 3 has one row
VIEW_IDS = torch.arange(5).repeat(2)


def embeddings(n_rows=10, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, width, generator=generator, dtype=torch.float64)


def assert_same(ours, theirs, z, tolerance=1e-11):
    results = []
    for function in (ours, theirs):
        leaf = z.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernel", ["dense", "tiled"])
@pytest.mark.parametrize("pooling", ["out", "in"])
def test_supcon(pooling, kernel, monkeypatch):
    monkeypatch.setattr("sklearn_hscl.losses.dispatch.BLOCK_PAIRS", 30)
    y = torch.tensor([0, 1, 2, 0, 1] * 2)
    loss = ContrastiveLoss("supcon", pooling=pooling, temperature=0.2, kernel=kernel)
    theirs = {"out": supcon_out, "in": supcon_in}[pooling]
    assert_same(lambda z: loss(z, y), lambda z: theirs(z, y, 0.2), embeddings())
    assert loss.kernel_ == kernel


@pytest.mark.parametrize("beta", [0.0, 0.5, 5.0])
def test_official_hscl(beta):
    y = torch.tensor([0, 1, 2] * 4)
    loss = ContrastiveLoss("hscl", beta=beta, preset="official")
    assert_same(
        lambda z: loss(z, y), lambda z: official_hscl(z, y, beta), embeddings(12), 1e-10
    )
    if beta == 0:
        scl = ContrastiveLoss("scl", preset="official")
        assert_same(lambda z: scl(z, y), lambda z: loss(z, y), embeddings(12))


@pytest.mark.parametrize("beta", [0.5, 1.0])
@pytest.mark.parametrize("tau_plus", [0.1, 0.8])  # the second is clamped for some rows
def test_official_hucl(beta, tau_plus):
    loss = ContrastiveLoss("hucl", beta=beta, preset="official", tau_plus=tau_plus)
    assert ContrastiveLoss("hucl", preset="official").options.tau_plus == 0.1
    assert_same(
        lambda z: loss(z, view_ids=VIEW_IDS),
        lambda z: official_hucl(z[:5], z[5:], beta, tau_plus),
        embeddings(),
        1e-10,
    )


def test_debiased_ucl():
    loss = ContrastiveLoss("ucl", tau_plus=0.05)
    assert_same(
        lambda z: loss(z, view_ids=VIEW_IDS),
        lambda z: official_hucl(z[:5], z[5:], 0.0, 0.05),
        embeddings(),
    )


@pytest.mark.parametrize("loss", ["ucl", "supcon"])
def test_official_is_known_for_losses_with_public_code(loss):
    with pytest.raises(ValueError, match=f"preset='official' .* got loss='{loss}'"):
        ContrastiveLoss(loss, preset="official")


def test_given_options_override_the_preset():
    loss = ContrastiveLoss("hscl", preset="official", reduction="anchors")
    assert (loss.options.reduction, loss.options.negative_mass) == ("anchors", "batch")


HARDENINGS = {
    "polynomial": {"hardening": "polynomial", "beta": 3.0},
    "top_k": {"hardening": "top_k", "top_k": 2},
    "user": {"hardening": lambda s: 1.5 * s.tanh()},
}


@pytest.mark.parametrize("kernel", ["dense", "tiled"])
@pytest.mark.parametrize("hardening", HARDENINGS)
@pytest.mark.parametrize("detach_weights", [True, False])
@pytest.mark.parametrize("loss", ["hucl", "hscl"])
def test_hardenings(loss, hardening, detach_weights, kernel, monkeypatch):
    monkeypatch.setattr("sklearn_hscl.losses.dispatch.BLOCK_PAIRS", 30)
    options = HARDENINGS[hardening] | {"detach_weights": detach_weights}
    ours = ContrastiveLoss(loss, kernel=kernel, **options)
    identity = LABELS if loss == "hscl" else VIEW_IDS
    assert_same(
        lambda z: ours(z, LABELS, VIEW_IDS),
        lambda z: reference_loss(z, identity, **options)[0],
        embeddings(),
    )
    if not detach_weights:
        z = embeddings().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: ours(z, LABELS, VIEW_IDS), z)


@pytest.mark.parametrize(
    ("denominator", "tau_plus"), [("negatives", 0.0), ("negatives", 0.2), ("all", 0.0)]
)
@pytest.mark.parametrize("pooling", ["out", "in"])
@pytest.mark.parametrize("reduction", ["anchors", "pairs", "classes"])
@pytest.mark.parametrize("positives", ["all", "view"])
def test_product_of_options(denominator, pooling, reduction, tau_plus, positives):
    options = {
        "denominator": denominator,
        "pooling": pooling,
        "reduction": reduction,
        "tau_plus": tau_plus,
        "detach_weights": False,
    }
    y = LABELS[:5].repeat(2)
    view_ids = VIEW_IDS if positives == "view" else None
    ours = ContrastiveLoss("hscl", positives=positives, beta=2.0, **options)
    assert_same(
        lambda z: ours(z, y, VIEW_IDS),
        lambda z: reference_loss(z, pairs=pairs_of(y, view_ids), beta=2.0, **options)[0],
        embeddings(),
    )
    z = embeddings().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ours(z, y, VIEW_IDS), z)


@pytest.mark.parametrize("labelled", [True, False])
def test_sscl(labelled, monkeypatch):
    synthetic = torch.nn.functional.normalize(embeddings(10 * 3, 4, seed=5), dim=-1)
    synthetic = synthetic.view(10, 3, 4)
    monkeypatch.setattr(
        equation,
        "synthetic_cosines",
        lambda anchors, *_, mixes: (synthetic @ anchors.unsqueeze(-1)).squeeze(-1),
    )
    ours = ContrastiveLoss("sscl", n_synthetic=3, beta=2.0)
    y = LABELS if labelled else None
    assert_same(
        lambda z: ours(z, y, VIEW_IDS),
        lambda z: reference_loss(
            z,
            LABELS if labelled else VIEW_IDS,
            beta=2.0,
            synthetic=synthetic,
            tau_plus=0.0 if labelled else 0.1,
        )[0],
        embeddings(),
    )


def test_synthetic_negatives_are_mixtures_of_the_hardest():
    z = torch.nn.functional.normalize(embeddings(40, 3), dim=-1)
    y = torch.arange(40) % 2
    hardness = (z @ z.T).masked_fill(y[:, None] == y[None], -torch.inf)
    torch.manual_seed(0)
    cosines = equation.synthetic_cosines(z, z, hardness, n_hardest=2, n_synthetic=500)
    for i in range(40):
        first, second = hardness[i].topk(2).indices
        a = torch.linspace(0, 1, 400, dtype=z.dtype)[:, None]
        arc = torch.nn.functional.normalize(a * z[first] + (1 - a) * z[second], dim=-1)
        low, high = (arc @ z[i]).min(), (arc @ z[i]).max()
        assert (cosines[i] > low - 1e-3).all()
        assert (cosines[i] < high + 1e-3).all()
        assert cosines[i].max() - cosines[i].min() > 0.5 * (high - low)


def test_synthetic_negatives_where_there_are_few():
    y = torch.tensor([0, 0, 0, 0, 1])
    value, stats = ContrastiveLoss("sscl")(embeddings(5), y, return_stats=True)
    assert value.isfinite()
    assert stats.skipped_anchors == 1
    nothing = ContrastiveLoss("sscl")(embeddings(5).requires_grad_(), torch.zeros(5))
    nothing.backward()
    assert nothing == 0


def test_schane():
    logits = embeddings(10, 4, seed=3)
    ours = ContrastiveLoss("schane", ce_weight=0.3, temperature=0.5)
    options = {"denominator": "all", "pooling": "in"}
    cross_entropy = torch.nn.functional.cross_entropy(logits, LABELS)
    assert_same(
        lambda z: ours(z, LABELS, logits=logits),
        lambda z: 0.7 * reference_loss(z, LABELS, **options)[0] + 0.3 * cross_entropy,
        embeddings(),
    )
    with pytest.raises(ValueError, match="ce_weight=0.3 needs"):
        ours(embeddings(), LABELS)
    with pytest.raises(ValueError, match=r"ce_weight must be in \[0, 1\]"):
        ContrastiveLoss(ce_weight=1.5)


def test_cross_entropy_leaves_out_unlabelled_rows():
    logits = embeddings(10, 4, seed=3)
    y = LABELS.clone()
    y[3:] = -1
    loss = ContrastiveLoss("hscl", ce_weight=1.0, unlabeled_label=-1)
    expected = torch.nn.functional.cross_entropy(logits[:3], LABELS[:3])
    torch.testing.assert_close(loss(embeddings(), y, logits=logits), expected)


JOINT = {  # target type, targets, and the loss of one output
    "labels": (
        "multilabel",
        (embeddings(10, 3, seed=4) > 0).to(torch.float64),
        lambda o, t: -(t * math.log(sigmoid(o)) + (1 - t) * math.log(sigmoid(-o))),
    ),
    "numbers": ("continuous", embeddings(10, 3, seed=4), lambda o, t: (o - t) ** 2),
}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(("kind", "y", "of_one"), JOINT.values(), ids=JOINT)
def test_joint_head_of_other_targets(kind, y, of_one):
    logits = embeddings(10, 3, seed=3)
    loss = ContrastiveLoss("hscl", ce_weight=0.3, target_type=kind)
    alone = ContrastiveLoss("hscl", target_type=kind)
    pairs = zip(logits.flatten().tolist(), y.flatten().tolist(), strict=True)
    joint = sum(of_one(*pair) for pair in pairs) / y.numel()
    expected = 0.7 * alone(embeddings(), y) + 0.3 * joint
    torch.testing.assert_close(loss(embeddings(), y, logits=logits), expected)
    stacked = loss(torch.stack([embeddings()] * 2), y, logits=torch.stack([logits] * 2))
    torch.testing.assert_close(stacked, expected.expand(2))
    assert torch.autograd.gradcheck(
        lambda o: loss(embeddings(), y, logits=o), logits.clone().requires_grad_()
    )
    with pytest.raises(ValueError, match="a column for each of the 3 columns of `y`"):
        loss(embeddings(), y, logits=logits[:, :2])


def test_label_smoothing_of_labels_mixes_both_answers():
    logits, y = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    smooth = binary_cross_entropy(logits, y, 0.2)
    plain = [binary_cross_entropy(logits, value, 0.0) for value in (y, 1 - y)]
    torch.testing.assert_close(smooth, 0.9 * plain[0] + 0.1 * plain[1])


@pytest.mark.parametrize("loss", LOSSES)
def test_every_preset_names_its_sources(loss):
    text = PRESETS[loss].__doc__
    assert "Source" in text
    assert "arXiv" in text
    if loss in ("sscl", "schane"):
        assert "printed equation was not at hand" in text.splitlines()[0]
        assert "reading" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau_plus": 1.0}, r"tau_plus must be in \[0, 1\)"),
        ({"tau_plus": "few"}, r"tau_plus must be in \[0, 1\)"),
        ({"ce_weight": "half"}, r"ce_weight must be in \[0, 1\]"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
        ({"bandwidth": 0.0}, "bandwidth must be above 0"),
        ({"bandwidth": -1.0}, "bandwidth must be above 0"),
        ({"top_k": 0}, "top_k must be an integer from 1"),
        ({"top_k": 2.5}, "top_k must be an integer from 1"),
        ({"n_synthetic": -1}, "n_synthetic must be an integer from 0"),
        ({"n_hardest": 0}, "n_hardest must be an integer from 1"),
        ({"denominator": "all", "tau_plus": 0.1}, "must be 0"),
        ({"n_sampled": -1}, "n_sampled must be an integer from 0"),
        ({"n_sampled": 2.5}, "n_sampled must be an integer from 0"),
        ({"n_sampled": 2, "preset": "official"}, "Pass detach_weights=True"),
        ({"n_sampled": 2, "tilted_sum": "all"}, "Pass tilted_sum='negatives'"),
        ({"include_self": "yes"}, "include_self must be one of"),
        ({"positive_beta": -1.0}, "positive_beta must be from 0"),
        ({"positive_beta": "far"}, "positive_beta must be from 0"),
        ({"tilted_sum": "positives"}, "tilted_sum must be one of"),
        ({"synthetic": "random"}, "synthetic must be one of"),
        ({"normalize": "cube"}, "normalize must be one of"),
        ({"pooling": "max"}, "pooling must be one of"),
        ({"positives": "some"}, "positives must be one of"),
        ({"preset": "paper"}, "preset must be one of"),
        ({"target_type": "ordinal"}, "target_type must be one of"),
        ({"kernel": "fast"}, "kernel must be one of"),
    ],
)
def test_unknown_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveLoss(**options)


# The follow-up on collapse ------------------------------------------------------------

COLLAPSE = {
    "temperature": 1.0,
    "negative_mass": 1.0,
    "reduction": "pairs",
    "include_self": True,
    "normalize": "ball",
}


def rows_in_and_out_of_the_ball():
    z = embeddings() * torch.linspace(0.1, 1.5, 10, dtype=torch.float64)[:, None]
    assert (z.norm(dim=1) < 1).any()
    assert (z.norm(dim=1) > 1).any()
    return z


@pytest.mark.parametrize("kernel", ["dense", "tiled"])
@pytest.mark.parametrize("beta", [0.0, 2.0, 5.0])
def test_collapse_with_the_expected_mean(beta, kernel, monkeypatch):
    monkeypatch.setattr("sklearn_hscl.losses.dispatch.BLOCK_PAIRS", 30)
    loss = ContrastiveLoss("hscl", beta=beta, kernel=kernel, **COLLAPSE)
    z = rows_in_and_out_of_the_ball()
    assert_same(lambda z: loss(z, LABELS), lambda z: collapse_loss(z, LABELS, beta), z)
    _, stats = loss(z, LABELS, return_stats=True)
    assert stats.skipped_anchors == 0  # the only row of class 3 has itself


@pytest.mark.parametrize("beta", [0.0, 2.0, 5.0])
def test_collapse_with_drawn_negatives(beta, monkeypatch):
    """Value and gradient for the same draws; every positive has draws of its own."""
    drawn = []

    def draws(chances, number, **options):
        drawn.append(multinomial(chances, number, **options))
        return drawn[-1]

    multinomial = torch.multinomial
    monkeypatch.setattr(torch, "multinomial", draws)
    loss = ContrastiveLoss("hscl", beta=beta, n_sampled=3, **COLLAPSE)
    z = rows_in_and_out_of_the_ball()

    def ours(z):
        with fit_generator(0, torch.device("cpu")):
            return loss(z, LABELS)

    ours(z)
    slots = drawn[-1].view(len(z), -1, 3).tolist()
    assert len(slots[0]) == 4  # of class 0, the largest
    for i, of_anchor in enumerate(slots):
        assert all(LABELS[j] != LABELS[i] for of_slot in of_anchor for j in of_slot)
    assert_same(ours, lambda z: collapse_loss(z, LABELS, beta, slots), z)


def test_the_self_pair_and_draws_explain_the_difference_from_the_public_code():
    """On the unit sphere, as in a comparison with that code: 10 classes, 64 rows."""
    generator = torch.Generator().manual_seed(3)
    z = torch.nn.functional.normalize(
        torch.randn(64, 10, generator=generator, dtype=torch.float64), dim=-1
    )
    y = torch.arange(64) % 10
    for beta in (2.0, 5.0):
        options = COLLAPSE | {"beta": beta}
        without = ContrastiveLoss(**options | {"include_self": False})(z, y)
        expected = ContrastiveLoss(**options)(z, y)
        drawn = ContrastiveLoss(n_sampled=4000, **options)(z, y)
        torch.testing.assert_close(expected, collapse_loss(z, y, beta))
        torch.testing.assert_close(drawn, expected, rtol=2e-3, atol=0)
        assert without - expected > 0.05


def test_draws_are_those_of_the_fit():
    loss = ContrastiveLoss(n_sampled=2, **COLLAPSE)
    z, state = embeddings(), torch.get_rng_state()
    values = []
    for seed in (0, 0, 1):
        with fit_generator(seed, torch.device("cpu")):
            values.append(loss(z, LABELS).item())
    assert values[0] == values[1] != values[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_an_embedder_draws_by_its_random_state():
    X, y = embeddings(40, 3).numpy(), torch.arange(40).numpy() % 4
    loss = ContrastiveLoss(n_sampled=2, beta=2.0, **COLLAPSE)
    found = [
        HSCLEmbedder(
            loss, encoder="mlp", hidden_layer_sizes=(4,), max_epochs=2, random_state=seed
        ).fit_transform(X, y)
        for seed in (0, 0, 1)
    ]
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()


def test_draws_have_their_chances():
    """Each negative is drawn as often as its tilt says, within four standard errors."""
    z = torch.nn.functional.normalize(embeddings(6), dim=-1)
    cosine = z @ z.T
    log_weight = (2 * cosine).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    options = ContrastiveLoss(n_sampled=20_000).options
    one_hot = torch.eye(6, dtype=z.dtype)
    chances = log_weight.softmax(-1)
    for j in range(6):
        # log of the mean of e^s, for s = log 2 at j and 0 elsewhere
        s = (one_hot[j] * math.log(2)).expand(6, 6)
        mean = equation.sampled_log_mean(s, log_weight, torch.ones(6, 1), options).exp() - 1
        error = (chances[:, j] * (1 - chances[:, j]) / 20_000).sqrt()
        assert ((mean[:, 0] - chances[:, j]).abs() <= 4 * error + 1e-12).all()


@pytest.mark.parametrize("denominator", ["negatives", "all"])
@pytest.mark.parametrize("pooling", ["out", "in"])
def test_many_draws_are_the_expected_mean(pooling, denominator):
    options = {"pooling": pooling, "denominator": denominator, "beta": 2.0}
    z = embeddings().expand(2, 10, 4)
    drawn = ContrastiveLoss(n_sampled=5000, n_synthetic=0, **options)(z, LABELS)
    expected = ContrastiveLoss(**options)(z, LABELS)
    torch.testing.assert_close(drawn, expected, rtol=0.01, atol=0)
    assert drawn[0] != drawn[1]


def test_draws_need_all_pairs_at_once(monkeypatch):
    monkeypatch.setattr("sklearn_hscl.losses.dispatch.BLOCK_PAIRS", 30)
    loss = ContrastiveLoss(n_sampled=2)
    loss(embeddings(), LABELS)
    assert loss.kernel_ == "dense"
    with pytest.raises(ValueError, match="n_sampled=2 draws negatives for all anchors"):
        ContrastiveLoss(n_sampled=2, kernel="tiled")(embeddings(), LABELS)
    for option in ({"n_sampled": 2}, {"include_self": True}, {"positive_beta": 1.0}):
        with pytest.raises(ValueError, match="kernel='streaming' computes losses"):
            ContrastiveLoss(kernel="streaming", **option)(embeddings(), LABELS)


def test_draws_where_there_are_no_pairs_and_of_nan():
    loss = ContrastiveLoss(n_sampled=2)
    z = embeddings(4).requires_grad_()
    loss(z, torch.zeros(4)).backward()  # no negatives
    assert z.grad.abs().max() == 0
    assert loss(z, torch.arange(4)) == 0  # no positives
    assert loss(z.detach() * torch.nan, torch.tensor([0, 0, 1, 1])).isnan()


@pytest.mark.parametrize("reduction", ["anchors", "pairs", "classes"])
def test_the_anchor_is_one_more_positive(reduction):
    """Its pair has s = 1/T; classes weigh alike whether or not they count it."""
    positive, negative = pairs_of(LABELS.tolist())
    for i in range(10):
        positive[i][i] = 1.0
    z = torch.nn.functional.normalize(embeddings(), dim=-1)
    per_anchor, sizes = [], []
    for i in range(10):
        s = z[i] @ z.T / 0.5
        e_neg = torch.stack([s[j].exp() for j in range(10) if negative[i][j]])
        mean = (e_neg**2).sum() / e_neg.sum()
        positives = [s[j] for j in range(10) if positive[i][j]]
        terms = [torch.log1p(len(e_neg) * mean / each.exp()) for each in positives]
        per_anchor.append(sum(terms) / len(terms))
        sizes.append(len(terms))
    sizes = torch.tensor(sizes, dtype=z.dtype)
    weights = {"anchors": sizes**0, "pairs": sizes, "classes": 1 / sizes}[reduction]
    expected = (weights * torch.stack(per_anchor)).sum() / weights.sum()
    found = ContrastiveLoss(include_self=True, reduction=reduction)(embeddings(), LABELS)
    torch.testing.assert_close(found, expected)


def test_gradcheck_in_the_ball():
    z = rows_in_and_out_of_the_ball().requires_grad_()
    for options in ({"detach_weights": False, "beta": 2.0}, {"beta": 0.0}):
        loss = ContrastiveLoss(**COLLAPSE, **options)
        assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z, LABELS), z)


def test_a_ball_keeps_rows_inside_of_it():
    z = torch.tensor([[0.3, 0.4], [3.0, 4.0], [0.0, 0.0], [3e38, 3e38]])
    scaled = ContrastiveLoss(normalize="ball").scaled(z)
    half = 0.5**0.5
    expected = torch.tensor([[0.3, 0.4], [0.6, 0.8], [0.0, 0.0], [half, half]])
    torch.testing.assert_close(scaled, expected)
    leaf = z.clone().requires_grad_()
    loss = ContrastiveLoss(normalize="ball")
    loss(leaf, [0, 1, 0, 1]).backward()
    assert loss.kernel_ == "streaming"
    assert leaf.grad.isfinite().all()


# SSCL, and SCHaNe with CLCE -----------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_official_sscl(beta, monkeypatch):
    synthetic = torch.nn.functional.normalize(embeddings(10 * 3, 4, seed=5), dim=-1)
    synthetic = synthetic.view(10, 3, 4)
    monkeypatch.setattr(
        equation,
        "synthetic_cosines",
        lambda anchors, *_, mixes: (synthetic @ anchors.unsqueeze(-1)).squeeze(-1),
    )
    loss = ContrastiveLoss("sscl", preset="official", n_synthetic=3, beta=beta)
    theirs = lambda z: official_sscl(z, VIEW_IDS, beta, synthetic)  # noqa: E731
    assert_same(lambda z: loss(z, view_ids=VIEW_IDS), theirs, embeddings())
    z = embeddings().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, view_ids=VIEW_IDS), z)


def test_official_sscl_has_the_values_of_the_code():
    options = ContrastiveLoss("sscl", preset="official").options
    assert (options.n_synthetic, options.n_hardest, options.tau_plus) == (32, 64, 0.1)
    assert (options.detach_weights, options.negative_mass) == (False, "batch")


def test_copied_negatives_are_among_the_hardest():
    z = torch.nn.functional.normalize(embeddings(40, 3), dim=-1)
    y = torch.arange(40) % 2
    hardness = (z @ z.T).masked_fill(y[:, None] == y[None], -torch.inf)
    cosines = equation.synthetic_cosines(z, z, hardness, 2, 500, mixes=False)
    hardest = hardness.topk(2).values
    for i in range(40):
        gap = (cosines[i][:, None] - hardest[i]).abs()
        assert (gap.min(1).values < 1e-12).all()
        assert (gap.min(0).values < 1e-12).all()


@pytest.mark.parametrize("kernel", ["dense", "tiled"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_official_schane(scale, kernel, monkeypatch):
    monkeypatch.setattr("sklearn_hscl.losses.dispatch.BLOCK_PAIRS", 30)
    loss = ContrastiveLoss(
        "schane", preset="official", ce_weight=0, normalize=False, kernel=kernel
    )
    z = scale * embeddings()
    assert_same(lambda z: loss(z, LABELS), lambda z: lacln(z, LABELS), z)
    leaf = embeddings().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, LABELS), leaf)


def test_a_sum_over_all_is_finite_without_negatives_and_weights():
    for options in ({"beta": 100.0}, {"hardening": "threshold", "threshold": 1.0}):
        loss = ContrastiveLoss(tilted_sum="all", temperature=0.01, **options)
        for y in (LABELS, torch.zeros(10), torch.arange(10)):
            z = embeddings().requires_grad_()
            loss(z, y).backward()
            assert z.grad.isfinite().all()


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("pooling", ["out", "in"])
def test_weights_of_dissimilar_positives(pooling, detach):
    loss = ContrastiveLoss("scl", positive_beta=1.3, pooling=pooling, detach_weights=detach)
    pooled = pooling == "in"
    assert_same(
        lambda z: loss(z, LABELS),
        lambda z: weighted_positives(z, LABELS, 1.3, detach=detach, pooled=pooled),
        embeddings(),
    )


@given(st.integers(0, 10_000), st.floats(0, 50), st.floats(0, 50))
@settings(deadline=None, max_examples=30)
def test_loss_grows_with_the_weight_of_dissimilar_positives(seed, gamma, more):
    z = embeddings(seed=seed)
    low, high = (
        ContrastiveLoss(positive_beta=weight)(z, LABELS) for weight in (gamma, gamma + more)
    )
    assert high >= low - 1e-12


@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 3), min_size=2, max_size=12),
    st.floats(0.01, 10),
    st.floats(0, 1000),
    st.sampled_from(["negatives", "all"]),
    st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_new_options_are_finite(seed, y, temperature, beta, tilted_sum, include_self):
    options = {"tilted_sum": tilted_sum, "include_self": include_self}
    if tilted_sum == "negatives":
        options["n_sampled"] = 2
    loss = ContrastiveLoss(
        temperature=temperature, beta=beta, positive_beta=beta, normalize="ball", **options
    )
    z = embeddings(len(y), seed=seed).requires_grad_()
    value = loss(z, torch.tensor(y))
    value.backward()
    assert value.isfinite()
    assert z.grad.isfinite().all()


def test_new_options_are_parameters_of_the_loss():
    given = {
        "n_sampled": 4,
        "include_self": True,
        "positive_beta": 0.5,
        "synthetic": "copied",
        "normalize": "ball",
    }
    loss = ContrastiveLoss(**given)
    assert given.items() <= loss.get_params().items()
    again = ContrastiveLoss.from_settings(loss.settings())
    assert again.get_params().items() >= given.items()
    assert loss.set_params(n_sampled=0).options.n_sampled == 0


# Targets ----------------------------------------------------------------------------


def test_unlabelled_rows_are_classes_of_their_own():
    y = torch.tensor([0, 0, 1, 1, -1] * 2)
    own = torch.tensor([0, 0, 1, 1, 2] * 2)  # both views of row 4 belong together
    loss = ContrastiveLoss(unlabeled_label=-1)
    z = embeddings()
    assert loss(z, y, VIEW_IDS) == ContrastiveLoss()(z, own)
    alone = torch.tensor([0, 0, 1, 1, 2, 0, 0, 1, 1, 3])
    assert loss(z, y) == ContrastiveLoss()(z, alone)


def test_minus_one_is_a_class_by_default():
    y = torch.tensor([-1, 1] * 5)
    z = embeddings()
    assert ContrastiveLoss()(z, y) == ContrastiveLoss()(z, (y + 1) // 2)


def test_synthetic_negatives_are_the_same_in_the_thread_of_a_backward_pass(monkeypatch):
    """A GPU has its backward pass in a thread of its own."""
    monkeypatch.setattr("sklearn_hscl.losses.dispatch.BLOCK_PAIRS", 30)
    loss = ContrastiveLoss(kernel="tiled", n_synthetic=3)
    gradients = []
    for run in (lambda work: work(), in_another_thread):
        z = embeddings().requires_grad_()
        with fit_generator(0, z.device):
            run(loss(z, LABELS).backward)
        gradients.append(z.grad)
    assert torch.equal(*gradients)


def in_another_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("kernel", ["dense", "tiled"])
def test_several_labels_per_row(kernel, monkeypatch):
    monkeypatch.setattr("sklearn_hscl.losses.dispatch.BLOCK_PAIRS", 30)
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (10, 4), generator=generator)
    overlap = [
        [
            int((a & b).sum()) / max(1, int((a | b).sum())) if i != j else 0.0
            for j, b in enumerate(y)
        ]
        for i, a in enumerate(y)
    ]
    absent = [
        [1 - s if i != j else 0.0 for j, s in enumerate(r)] for i, r in enumerate(overlap)
    ]
    loss = ContrastiveLoss(target_type="multilabel", beta=2.0, kernel=kernel)
    assert_same(
        lambda z: loss(z, y),
        lambda z: reference_loss(z, pairs=(overlap, absent), beta=2.0)[0],
        embeddings(),
    )


def test_one_label_per_row_is_the_class_case():
    z = embeddings()
    y = torch.nn.functional.one_hot(LABELS)
    expected = ContrastiveLoss(beta=2.0)(z, LABELS)
    value = ContrastiveLoss(beta=2.0, target_type="multilabel")(z, y)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("width", [None, 2])
def test_continuous_targets(width):
    generator = torch.Generator().manual_seed(0)
    shape = (10,) if width is None else (10, width)
    y = torch.randn(shape, generator=generator, dtype=torch.float64)
    values = y.view(10, -1)
    near = [
        [
            math.exp(-float((a - b).square().sum()) / (2 * 0.7**2)) if i != j else 0.0
            for j, b in enumerate(values)
        ]
        for i, a in enumerate(values)
    ]
    far = [[1 - s if i != j else 0.0 for j, s in enumerate(r)] for i, r in enumerate(near)]
    loss = ContrastiveLoss(target_type="continuous", bandwidth=0.7)
    assert_same(
        lambda z: loss(z, y),
        lambda z: reference_loss(z, pairs=(near, far))[0],
        embeddings(),
    )
