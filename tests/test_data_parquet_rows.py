"""Parquet files as X, with the names of columns as y and groups."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError
from torch import nn

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.data import parquet_rows
from sklearn_hscl.data.parquet_rows import ParquetRows
from sklearn_hscl.data.parquet_source import ParquetSource
from sklearn_hscl.training.batches.batch_sampler import EpochBatches
from sklearn_hscl.training.prepared_data import LazyRows

pytestmark = pytest.mark.usefixtures("few_trees")
N_ROWS = 600
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=(N_ROWS, 2))
CLASSES = RNG.choice(["p", "q", "r"], N_ROWS)
TABLE = pa.table(
    {
        "a": NUMBERS[:, 0],
        "b": pa.array(NUMBERS[:, 1], mask=RNG.random(N_ROWS) < 0.1),
        "c": pa.array(RNG.choice(["u", "v", "w"], N_ROWS)).dictionary_encode(),
        "n": RNG.integers(0, 9, N_ROWS),
        "label": pa.array(CLASSES).dictionary_encode(),
        "fold": RNG.integers(0, 40, N_ROWS),
    }
)
FEATURES = ["a", "b", "c", "n"]
X = TABLE.select(FEATURES)


def write(folder, table=TABLE):
    """Write three files of row groups of 50 rows."""
    folder.mkdir()
    for part in range(3):
        path = folder / f"part-{part}.parquet"
        pq.write_table(table.slice(200 * part, 200), path, row_group_size=50)
    return folder


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "rows", TABLE.drop_columns("fold"))


@pytest.fixture
def little_memory(monkeypatch):
    """Four blocks of 50 rows of four columns fit into memory."""
    monkeypatch.setattr(parquet_rows, "_BLOCK_ROWS", 50)
    monkeypatch.setattr(parquet_rows, "_CACHE_BYTES", 4 * 50 * 4 * 8)


@pytest.fixture
def decoded(monkeypatch):
    """Return the blocks that are decoded, in order."""
    numbers, decode = [], ParquetRows._decoded

    def count(rows, number):
        numbers.append(number)
        return decode(rows, number)

    monkeypatch.setattr(ParquetRows, "_decoded", count)
    return numbers


def embedder(**parameters):
    settings = {"max_epochs": 2, "batch_size": 32, "random_state": 0} | parameters
    return HSCLEmbedder(**settings)


# The bits of tables in memory ------------------------------------------------------------

SETTINGS = {
    "default": {},
    "mlp": {"encoder": "mlp"},
    "held-out rows": {"encoder": "mlp", "early_stopping": True},
    "no labels": {"encoder": "mlp", "loss": "hucl"},
    "balanced": {"encoder": "mlp", "sampler": "balanced"},
    "no categories by dtype": {"encoder": "mlp", "categorical_features": ["c", "n"]},
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_files_that_fit_into_memory_have_the_bits_of_tables(files, settings):
    settings = SETTINGS[settings]
    in_memory = embedder(**settings).fit(X, CLASSES)
    streamed = embedder(**settings).fit(files, "label")
    assert streamed.loss_curve_ == in_memory.loss_curve_
    assert_array_equal(streamed.feature_names_in_, FEATURES)
    Z = in_memory.transform(X)
    for rows in (files, str(files), ds.dataset(files), X):
        assert_array_equal(streamed.transform(rows), Z)
    assert streamed.transform(files).dtype == Z.dtype


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("settings", ["mlp", "default", "no labels"])
def test_embeddings_and_scales_of_files_beyond_memory_have_the_bits_of_tables(
    files, settings, monkeypatch
):
    settings = SETTINGS[settings]
    streamed = embedder(**settings).fit(files, "label")
    assert_array_equal(streamed.transform(files), streamed.transform(X))
    in_memory = embedder(**settings).fit(X, CLASSES)
    for name, scale in vars(in_memory._prepare.standardization).items():
        assert_array_equal(getattr(streamed._prepare.standardization, name), scale)
    for ours, theirs in zip(streamed.categories_, in_memory.categories_, strict=True):
        assert_array_equal(ours, theirs)
    assert np.abs(np.subtract(streamed.loss_curve_, in_memory.loss_curve_)).max() < 0.2


def test_all_rows_in_memory_give_values_to_views(files, monkeypatch):
    monkeypatch.setattr(parquet_rows, "_MAX_DONORS", 50)
    model = HSCLEmbedder(loss="hucl", encoder="mlp", max_epochs=1, random_state=0)
    rows = ds.dataset(files, schema=X.schema)
    expected = model.fit(X).transform(X)
    assert_array_equal(model.fit(rows).transform(rows), expected)


def test_vectors_numbers_lists_and_texts_as_columns(tmp_path):
    vectors = NUMBERS.astype(np.float32)
    table = pa.table(
        {
            "v": pa.FixedSizeListArray.from_arrays(vectors.ravel(), 2),
            "w": [[int(c == "p"), int(c != "q")] for c in CLASSES],
            "y": NUMBERS[:, 0],
            "s": CLASSES,
        }
    )
    settings = {"encoder": "mlp"}
    for y, labels in (
        ("w", np.array(table["w"].to_pylist())),
        ("y", NUMBERS[:, 0]),
        ("s", CLASSES),
    ):
        source = write(tmp_path / y, table.select(["v", y]))
        streamed = embedder(**settings).fit(source, y)
        expected = embedder(**settings).fit(vectors, labels)
        assert streamed.loss_curve_ == expected.loss_curve_
        Z = expected.transform(vectors)
        rows = ds.dataset(source, schema=pa.schema([table.schema.field("v")]))
        assert_array_equal(streamed.transform(rows), Z)
        assert streamed.transform(rows).dtype == Z.dtype
    assert_array_equal(streamed.transform(source), Z)  # as no other column has vectors
    of_variable_size = table["v"].cast(pa.list_(pa.float32()))
    source = write(tmp_path / "lists", pa.table({"v": of_variable_size}))
    assert_array_equal(streamed.transform(source), Z)


def scores(fitted):
    names = ("train_loss", "valid_score", "valid_loss")
    return [[epoch.get(name) for name in names] for epoch in fitted.history_]


def test_partitions_groups_held_out_files_and_other_fits(tmp_path):
    files = tmp_path / "rows"
    pq.write_to_dataset(TABLE, files, partition_cols=["label"])
    rows = pq.read_table(files, partitioning="hive")
    labels = rows["label"].to_numpy(zero_copy_only=False)
    held_out = write(tmp_path / "held_out")
    settings = {"encoder": "mlp", "early_stopping": True}
    streamed = embedder(**settings).fit(
        files, "label", groups="fold", X_val=held_out, y_val="label"
    )
    expected = embedder(**settings).fit(
        rows.select(FEATURES), labels, X_val=X, y_val=CLASSES
    )
    assert scores(streamed) == scores(expected)
    assert_array_equal(streamed.feature_names_in_, FEATURES)
    by_group = embedder(early_stopping=True).fit(held_out, "label", groups="fold")
    same = embedder(early_stopping=True).fit(X, CLASSES, groups=TABLE["fold"].to_numpy())
    assert scores(by_group) == scores(same)
    with_fold = TABLE.select([*FEATURES, "fold"])
    chunks, tables = embedder(encoder="mlp"), embedder(encoder="mlp")
    for _ in range(2):
        chunks.partial_fit(held_out / "part-0.parquet", "label")
        tables.partial_fit(with_fold.slice(0, 200), CLASSES[:200])
    assert_array_equal(chunks.transform(held_out), tables.transform(with_fold))
    named = embedder(encoder="mlp").fit(files, labels)  # the label is a feature here
    assert_array_equal(named.feature_names_in_[-1], "label")
    Z = embedder(encoder="mlp").fit_transform(held_out, "label")
    same = embedder(encoder="mlp").fit(held_out, "label")
    assert_array_equal(Z, same.transform(with_fold))


def test_missing_labels_of_classes_can_be_marked(tmp_path):
    labels = CLASSES.astype(object)
    labels[::5] = None
    source = write(tmp_path / "rows", X.append_column("label", [labels.tolist()]))
    settings = {"encoder": "mlp", "unlabeled_label": np.nan}
    streamed = embedder(**settings).fit(source, "label")
    assert streamed.loss_curve_ == embedder(**settings).fit(X, labels).loss_curve_


# Windows ---------------------------------------------------------------------------------


def batches(files, sampler="stratified", batch_size=20):
    rows = ParquetRows(ParquetSource(files), ["a", "n"], allow_nan=True)
    lazy = LazyRows(rows, lambda values, dtype: values, "cpu")
    codes = np.unique(CLASSES, return_inverse=True)[1]
    dataset = type("Dataset", (), {"X": lazy, "y": codes})
    return rows, EpochBatches(dataset, batch_size, np.random.default_rng(0), sampler)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("sampler", ["stratified", "shuffle", "balanced"])
def test_each_row_once_an_epoch_and_each_block_decoded_once(
    files, decoded, sampler, monkeypatch
):
    monkeypatch.setattr(parquet_rows, "_CACHE_BYTES", 4 * 50 * 2 * 8)
    rows, epoch = batches(files, sampler)
    orders = []
    for _ in range(2):
        decoded.clear()
        order, sizes = epoch._split()
        assert len(sizes) == len(epoch)
        for batch in np.split(order, np.cumsum(sizes)[:-1]):
            rows[batch]
        assert len(decoded) == len(set(decoded))
        assert len(decoded) == 12 or len(orders) == 1  # some remain of the first epoch
        orders.append(order)
        assert set(order) == set(range(N_ROWS))
        if sampler != "balanced":
            assert len(order) == N_ROWS
    assert not np.array_equal(*orders)
    if sampler == "stratified":
        fractions = np.bincount(epoch.codes) / N_ROWS
        window = np.bincount(epoch.codes[order[: sizes[0]]], minlength=3) / sizes[0]
        assert np.abs(window - fractions).max() < 0.15


@pytest.mark.usefixtures("little_memory")
def test_selected_rows_in_windows(files):
    rows = ParquetRows(ParquetSource(files), ["a", "b", "n"], allow_nan=True)
    index = rows.in_reading_order(RNG.permutation(N_ROWS)[:300])
    assert (np.diff(index) > 0).all()
    windows = rows.select(index).windows(np.random.default_rng(0))
    assert len(windows) > 1
    assert_array_equal(np.sort(np.concatenate(windows)), np.arange(300))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("settings", ["mlp", "default", "held-out rows"])
def test_how_often_files_are_decoded(files, decoded, settings):
    n_epochs = 3
    fitted = embedder(**SETTINGS[settings], max_epochs=n_epochs).fit(files, "label")
    # Three passes for the scales of columns, and some for samples before and after. With
    # held-out rows, each epoch is followed by a pass for the neighbours of these.
    most = {"mlp": 5, "default": 11, "held-out rows": 11}[settings]
    assert len(decoded) / 12 < n_epochs + most
    decoded.clear()
    fitted.transform(files)
    assert len(decoded) == 12


@pytest.mark.usefixtures("little_memory")
def test_a_large_batch_spans_windows(files):
    _, epoch = batches(files, batch_size=500)
    _, sizes = epoch._split()
    assert len(sizes) == len(epoch) == 2


# Input that cannot be used ---------------------------------------------------------------


def with_column(name, values):
    return TABLE.set_column(TABLE.column_names.index(name), name, values)


def labels_with_null():
    return pa.array([*CLASSES[:-1], None])


LISTS = pa.array([[1.0, 2.0]] * 599 + [[1.0]])
NULL_LISTS = pa.array([[1.0, 2.0]] * 599 + [None])
TABLES = {
    "nulls among labels": (
        with_column("label", labels_with_null()),
        {},
        r"y='label' names a column with missing values, the first in row 599.*part-2",
    ),
    "an unknown label": (
        TABLE,
        {"y": "target"},
        r"y names the column 'target', which X does not hold: its columns are \['a', 'b'",
    ),
    "unknown groups": (TABLE, {"groups": "site"}, "groups names the column 'site'"),
    "no rows": (TABLE.slice(0, 0), {}, "X holds no rows in 3 Parquet files"),
    "one row": (TABLE.slice(0, 1), {}, "X holds 1 row, but a minimum of 2"),
    "only labels": (TABLE.select(["label"]), {}, "X holds no columns of features"),
    "infinity": (
        with_column("a", pa.array([*NUMBERS[:-1, 0], np.inf])),
        {},
        "X contains NaN or infinity: column 'a' holds inf in row 599, in the file .*part-2",
    ),
    "dates": (
        with_column("a", pa.array(np.full(N_ROWS, np.datetime64("2024-01-01")))),
        {},
        r"Column 'a' \(index 0\) holds dates or durations",
    ),
    "vectors beside numbers": (
        with_column("a", pa.array([[1.0, 2.0]] * N_ROWS)),
        {},
        "Column 'a' .*holds vectors beside other columns",
    ),
    "vectors of different lengths": (
        pa.table({"v": LISTS, "label": CLASSES}),
        {},
        "vectors of different lengths in column 'v': row 599 has 1 values, row 0 has 2",
    ),
    "missing vectors": (
        pa.table({"v": NULL_LISTS, "label": CLASSES}),
        {},
        "X holds no vector in column 'v' in row 599",
    ),
    "texts without categories": (
        TABLE,
        {"categorical_features": None},
        r"Column 'c' \(index 2\) of X holds dictionary<.*>, not numbers: name it in categ",
    ),
    "texts for a custom encoder": (
        TABLE,
        {"encoder": nn.Linear(4, 3)},
        r"Column 'c' \(index 2\) of X holds dictionary",
    ),
    "missing numbers for a custom encoder": (
        TABLE.drop_columns("c"),
        {"encoder": nn.Linear(3, 3)},
        "X contains NaN or infinity: column 'b' holds nan",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_files_that_cannot_be_used(tmp_path, case):
    table, settings, match = TABLES[case]
    table = table.drop_columns([n for n in ["fold"] if n in table.column_names])
    arguments = {name: settings[name] for name in settings if name in ("y", "groups")}
    settings = {name: settings[name] for name in settings if name not in arguments}
    files = write(tmp_path / "rows", table)
    with pytest.raises(ValueError, match=match):
        embedder(**settings).fit(files, **({"y": "label"} | arguments))


def test_free_texts_draw_the_warning_of_tables(tmp_path):
    texts = pa.array([f"text {row}" for row in range(N_ROWS)])
    files = write(
        tmp_path / "rows", pa.table({"a": NUMBERS[:, 0], "t": texts, "y": CLASSES})
    )
    with pytest.warns(UserWarning, match="Text column 't' holds mostly values of a single"):
        embedder(encoder="mlp").fit(files, "y")


def lacks_a(folder):
    path = folder / "part-1.parquet"
    pq.write_table(pq.read_table(path).drop_columns("a"), path)


def has_other_type(folder):
    path = folder / "part-1.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "a", table["a"].cast(pa.float32())), path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lacks_a, "X lacks the column 'a' in the file .*part-1.parquet"),
        (has_other_type, "X holds the column 'a' as double, but the file .*as float"),
    ],
)
def test_files_with_different_columns(files, change, match):
    change(files)
    fitted = embedder(encoder="mlp").fit(X, CLASSES)
    for call in (lambda: embedder().fit(files, "label"), lambda: fitted.transform(files)):
        with pytest.raises(ValueError, match=match):
            call()


def test_files_that_do_not_match_the_fit(files, tmp_path):
    fitted = embedder(encoder="mlp").fit(files, "label")
    other = write(tmp_path / "other", TABLE.drop_columns("a"))
    with pytest.raises(ValueError, match="The fit names the column 'a', which X does not"):
        fitted.transform(other)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        embedder(encoder="mlp").fit(files, CLASSES[1:])
    with pytest.raises(ValueError, match="X is a filtered dataset"):
        fitted.transform(ds.dataset(files).filter(ds.field("a") > 0))
    with pytest.raises(ValueError, match=r"InMemoryDataset that .*or pass X.to_table\(\)"):
        fitted.transform(ds.dataset(TABLE))
    with pytest.raises(NotFittedError):
        embedder().transform(files)
    with pytest.raises(ValueError, match="is a single path: pass a list of paths"):
        fitted.transform(tmp_path / "rows.csv")


def test_without_pyarrow(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.dataset", None)
    with pytest.raises(ImportError, match=r"X names Parquet files.*sklearn-hscl\[arrow\]"):
        embedder().fit(str(files), "label")
