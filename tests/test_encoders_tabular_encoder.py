"""TabularEncoder: missing values, codes, extreme columns, independence of rows."""

import copy
from math import ceil

import numpy as np
import pytest
import torch

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.encoders import ColumnStatistics, TabularEncoder
from sklearn_hscl.encoders.tabular.encoder import MemberLinear
from sklearn_hscl.runtime.random_state import ByteDropout
from sklearn_hscl.training.config import TABULAR

CARDINALITIES = [0, 0, 0, 3, 2]


def table(n_rows=200, dtype=torch.float64):
    """Numeric columns, some with missing values or only 4 values; 3 and 2 categories."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n_rows, 5, generator=generator, dtype=dtype)
    rows[:, 2] = rows[:, 2].round().clamp(-1, 2)
    for column, size in ((3, 3), (4, 2)):
        rows[:, column] = torch.randint(1, size + 1, (n_rows,), generator=generator)
    rows[::7, 1] = torch.nan
    rows[::9, 3] = torch.nan
    return rows


def encoder_of(rows, cardinalities=CARDINALITIES, **options):
    torch.manual_seed(0)
    return TabularEncoder.fit(rows, cardinalities, **options).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({}, 32),
        ({"n_components": 5, "n_members": 3}, 5),
        ({"n_components": 5, "n_members": 3, "pooling": "concat"}, 15),
        ({"n_members": 1, "n_bins": 0, "n_layers": 1}, 32),
    ],
)
def test_shape(options, width, dtype):
    rows = table(dtype=dtype)
    z = encoder_of(rows, **options)(rows)
    assert z.shape == (200, width) and z.dtype == torch.float32 and z.isfinite().all()
    assert (z.norm(dim=1) <= 1 + 1e-5).all()


def test_members_have_norm_one_and_differ():
    rows = table()
    encoder = encoder_of(rows)
    members = encoder.members(rows)
    assert members.shape == (4, 200, 32)
    torch.testing.assert_close(members.norm(dim=-1), torch.ones(4, 200))
    torch.testing.assert_close(encoder(rows), members.mean(0))
    assert (members[0] - members[1]).abs().max() > 0.01


@pytest.mark.parametrize("options", [{}, {"n_members": 1}, {"n_bins": 0, "n_layers": 1}])
def test_one_member_embeds_as_among_all(options):
    rows = table()
    encoder = encoder_of(rows, **options)
    for part in encoder.parameters():
        torch.nn.init.normal_(part.data, std=0.3)  # biases differ, too
    for member, expected in enumerate(encoder.members(rows)):
        torch.testing.assert_close(encoder.members(rows, member), expected[None])


@pytest.mark.parametrize("cardinalities", [[0] * 5, [0, 0, 4, 3, 2]])
def test_columns_of_one_type(cardinalities):
    rows = table().nan_to_num(0.0).abs().round()
    columns = range(5) if not any(cardinalities) else range(2, 5)
    rows, sizes = rows[:, list(columns)], [cardinalities[i] for i in columns]
    assert encoder_of(rows, sizes)(rows).isfinite().all()


def test_missing_number_is_neither_zero_nor_any_number():
    rows = table()
    encoder = encoder_of(rows)
    row = rows[1].repeat(4, 1)
    row[:, 1] = torch.tensor([torch.nan, 0.0, 1.0, encoder.numbers.center[1]])
    z = encoder(row)
    assert torch.cdist(z[:1], z[1:]).min() > 1e-3


def test_unexpected_missing_values_are_the_median_without_bins():
    rows = table()
    encoder = encoder_of(rows, n_bins=0)
    row = rows[1].repeat(2, 1)
    row[:, 0] = torch.tensor([torch.nan, encoder.numbers.center[0]])
    z = encoder(row)
    torch.testing.assert_close(z[0], z[1])


@pytest.mark.parametrize("code", [-1.0, 7.0, 1e300, torch.inf])
def test_unknown_codes_are_one_category(code):
    rows = table()
    encoder = encoder_of(rows)
    row = rows[1].repeat(4, 1)
    row[:, 3] = torch.tensor([0.0, code, torch.nan, 1.0], dtype=row.dtype)
    z = encoder(row)
    torch.testing.assert_close(z[0], z[1])
    assert torch.pdist(z[1:]).min() > 1e-3


def test_monotone_maps_of_a_column_keep_its_bins():
    rows = table()[:, :1]
    numbers = encoder_of(rows, [0]).numbers
    curved = encoder_of(rows.exp(), [0]).numbers
    inside = (rows > rows.min()) & (rows < rows.max())
    codes = [
        ((m.center.new_tensor(0) + (r - m.center) * m.scale) >= m.left).sum(1)
        for m, r in ((numbers, rows), (curved, rows.exp()))
    ]
    assert ((codes[0] - codes[1]).abs()[inside[:, 0]] <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("error")
def test_extreme_columns(dtype):
    largest = torch.finfo(dtype).max
    steps = torch.linspace(-1, 1, 50, dtype=dtype)
    columns = [
        torch.zeros(50, dtype=dtype),
        torch.full((50,), largest, dtype=dtype),
        steps * largest,
        steps * torch.finfo(dtype).tiny,
        1e6 + steps * 1e-3,
        torch.full((50,), torch.nan, dtype=dtype),
        torch.cat([steps[:1] * largest, 0 * steps[1:]]),
        torch.cat([steps[:1] * torch.inf, steps[1:]]),
    ]
    rows = torch.stack(columns, 1)
    encoder = encoder_of(rows, [0] * rows.shape[1])
    for inputs in (rows, -rows, rows * 0, rows.flip(0)):
        encoder.zero_grad()
        z = encoder(inputs)
        z.square().sum().backward()
        assert z.isfinite().all()
        assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_scale_of_a_column_does_not_matter():
    rows = table()
    scaled = rows.clone()
    scaled[:, :2] = rows[:, :2] * 1e200 - 3e200
    z = encoder_of(rows)(rows)
    torch.testing.assert_close(encoder_of(scaled)(scaled), z, atol=1e-4, rtol=1e-3)


def test_rows_are_independent():
    rows = table()
    encoder = encoder_of(rows)
    z = encoder(rows)
    torch.testing.assert_close(encoder(rows[60:75]), z[60:75])
    torch.testing.assert_close(encoder(rows.flip(0)).flip(0), z)
    assert encoder(rows[:0]).shape == (0, 32)


def test_state_dict_and_copies():
    rows = table()
    encoder = encoder_of(rows)
    torch.manual_seed(1)
    other = TabularEncoder.fit(rows.flip(0) * 2, CARDINALITIES).eval()
    assert not torch.equal(other(rows), encoder(rows))
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(rows), encoder(rows))
    assert torch.equal(copy.deepcopy(encoder)(rows), encoder(rows))


def test_gradient_agrees_with_differences():
    rows = table(12)
    encoder = encoder_of(rows, n_members=2, width=6, n_components=3).double()
    names = [name for name, _ in encoder.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in encoder.parameters()]

    def embed(*parameters):
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(encoder, state, (rows,))

    # The features are float32, so the steps are large.
    assert torch.autograd.gradcheck(
        embed, values, eps=1e-5, atol=1e-4, fast_mode=True, nondet_tol=1e-9
    )


def test_dropout_only_in_training():
    rows = table()
    encoder = encoder_of(rows, dropout=0.5)
    assert torch.equal(encoder(rows), encoder(rows))
    encoder.train()
    assert not torch.equal(encoder(rows), encoder(rows))


def test_wide_tables_have_fewer_bins_and_narrower_columns():
    wide = torch.randn(30, 600)
    encoder = encoder_of(wide, [0] * 600)
    assert encoder.numbers.left.shape == (600, 6)
    assert encoder.numbers.weight.shape == (600, 6, 1)
    very_wide = torch.randn(30, 1500)
    assert encoder_of(very_wide, [0] * 1500).numbers.weight is None


def test_bins_hold_equal_fractions_of_rows():
    rows = torch.randn(1000, 1).exp()
    statistics = ColumnStatistics.fit(rows, [0], 10)
    u = (rows - statistics.center) * statistics.scale
    counts = torch.histogram(u[:, 0], torch.cat([statistics.left[0], u.max()[None]])).hist
    assert counts.min() >= 98 and counts.max() <= 102


def test_wrong_arguments():
    with pytest.raises(ValueError, match="Pass one per column"):
        TabularEncoder.fit(table(), [0, 0])
    with pytest.raises(ValueError, match="pooling"):
        TabularEncoder.fit(table(), CARDINALITIES, pooling="max")


def test_in_the_embedder():
    X = np.random.default_rng(0).normal(size=(60, 4))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    encoder = encoder_of(torch.from_numpy(X).float(), [0] * 4, n_components=6)
    embedder = HSCLEmbedder(encoder=encoder, max_epochs=2, random_state=0)
    assert embedder.fit_transform(X, y).shape == (60, 6)


def test_output_scale():
    rows = table()
    encoder = encoder_of(rows)
    z = encoder(rows)
    encoder.output_scale.fill_(2.0)
    assert torch.equal(encoder(rows), 2 * z)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.75])
def test_dropout_of_bytes(p):
    dropout = ByteDropout(p)
    ones = torch.ones(37, 1001)
    torch.manual_seed(0)
    dropped = dropout(ones)
    assert abs((dropped == 0).float().mean() - p) < 0.01
    assert abs(dropped.mean() - 1) < 0.1
    assert len(dropped.unique()) == (1 if p == 0 else 2)
    assert torch.equal(dropout.eval()(ones), ones)


@pytest.mark.parametrize(
    ("shared", "shape"), [(True, (4, 3)), (True, (2, 4, 3)), (False, (2, 4, 3))]
)
def test_member_linear(shared, shape):
    layer = MemberLinear(2, 3, 5, shared=shared).double()
    torch.nn.init.normal_(layer.bias)
    rows = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(rows), rows @ layer.weight + layer.bias)
    assert torch.autograd.gradcheck(layer, rows)


@pytest.mark.parametrize(
    ("n_rows", "n_steps"),
    [
        (30, 40),
        (100, 140),
        (2_560, 500),
        (10_240, 1_260),
        (40_960, 3_000),
        (10**5, 3_000),
    ],
)
def test_more_rows_train_longer_up_to_a_limit(n_rows, n_steps):
    n_batches = ceil(n_rows / 256)
    n_epochs = TABULAR.epochs(n_rows, n_batches)
    assert abs(n_epochs * n_batches - n_steps) <= n_batches / 2


def test_very_many_rows_are_seen_once():
    assert TABULAR.epochs(10**7, 39_063) == 1
