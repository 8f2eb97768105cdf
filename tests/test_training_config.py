"""The table "Defaults by encoder" of the user guide against the defaults in use."""

import re
from ast import literal_eval
from dataclasses import fields
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.training.config import (
    CONVOLUTION,
    NO_LABELS,
    PLAIN,
    SPARSE,
    TABULAR,
    UNLABELED_IMAGES,
)

GUIDE = Path(__file__).parent.parent / "docs/user_guide/encoders.rst"
COLUMNS = [TABULAR, CONVOLUTION, SPARSE, PLAIN, NO_LABELS, UNLABELED_IMAGES]
SIZES = ["n_components", "hidden_layer_sizes"]  # defaults of the encoders themselves


def table():
    """Yield the parameter of each row, and its values in the columns."""
    text = GUIDE.read_text().partition(".. _encoder_defaults:")[2]
    text = text.partition(".. list-table::")[2].partition("\n\n- ")[0]
    for row in re.split(r"\n    \* - ", text)[2:]:
        name, *cells = re.split(r"\n      - ", row.strip())
        yield name.replace("``", ""), [literal_eval(cell) for cell in cells]


ROWS = dict(table())


def test_the_table_lists_every_default_of_an_encoder():
    listed = {name for name in ROWS if "samples" not in name}
    named = {field.name for field in fields(TABULAR)} & set(HSCLEmbedder().get_params())
    assert listed == named | set(SIZES)


@pytest.mark.parametrize("name", sorted(set(ROWS) - set(SIZES)))
def test_values_of_the_table(name):
    if name.startswith("max_epochs"):
        n_rows = int(name.split()[1].replace(",", ""))
        expected = [
            column.epochs(n_rows, ceil(n_rows / column.batch_size)) for column in COLUMNS
        ]
    else:
        expected = [getattr(column, name) for column in COLUMNS]
    assert ROWS[name] == expected


@pytest.mark.parametrize("column", range(len(COLUMNS)))
def test_sizes_of_the_table(column):
    dense, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    encoder, X = [
        ("tabular", dense),
        ("conv", dense.repeat(64, axis=1).reshape(40, 3, 8, 8)),
        ("mlp", scipy.sparse.csr_array(dense)),
        ("mlp", dense),
        ("mlp", dense),
        ("mlp", dense.repeat(64, axis=1).reshape(40, 3, 8, 8)),
    ][column]
    loss = "hucl" if COLUMNS[column] in (NO_LABELS, UNLABELED_IMAGES) else "hscl"
    embedder = HSCLEmbedder(loss, encoder=encoder, max_epochs=1)
    sizes = {name: ROWS[name][column] for name in SIZES}
    by_default, explicit = (
        [weight.shape for weight in fitted.fit(X, y).module_.parameters()]
        for fitted in (embedder, HSCLEmbedder(**embedder.get_params() | sizes))
    )
    assert by_default == explicit
