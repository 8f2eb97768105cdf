"""Parquet files in, Parquet files with embeddings out."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.arrow import embed_dataset

N_ROWS = 500
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=(N_ROWS, 3))
TABLE = pa.table(
    {
        "id": np.arange(N_ROWS),
        "a": NUMBERS[:, 0],
        "b": pa.array(NUMBERS[:, 1], mask=RNG.random(N_ROWS) < 0.1),
        "c": pa.array(RNG.choice(["u", "v", "w"], N_ROWS)).dictionary_encode(),
        "year": RNG.choice([2023, 2024], N_ROWS),
    }
)
VECTORS = pa.table(
    {
        "id": np.arange(N_ROWS),
        "v": pa.FixedSizeListArray.from_arrays(NUMBERS.astype(np.float32).ravel(), 3),
    }
)
Y = np.arange(N_ROWS) % 3
FEATURES = ["a", "b", "c"]


def small(**settings):
    return HSCLEmbedder(
        encoder="mlp", n_components=4, max_epochs=1, random_state=0, **settings
    )


@pytest.fixture(scope="module")
def embedder():
    return small().fit(TABLE.select(FEATURES), Y)


@pytest.fixture
def files(tmp_path):
    """Three files of row groups of 70 rows."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for part, start in enumerate((0, 200, 350)):
        stop = (200, 350, N_ROWS)[part]
        path = folder / f"part-{part}.parquet"
        pq.write_table(TABLE.slice(start, stop - start), path, row_group_size=70)
    return folder


def vectors(table):
    return np.stack(table["embedding"].to_numpy())


def test_it_equals_transform_and_keeps_columns(embedder, files, tmp_path):
    target = tmp_path / "out"
    written = embed_dataset(embedder, files, target, keep=["id", "c"], rows_per_file=100)
    table = written.to_table()
    assert table.column_names == ["id", "c", "embedding"]
    assert table.select(["id", "c"]) == TABLE.select(["id", "c"])
    expected = embedder.transform(TABLE.select(FEATURES))
    assert_array_equal(vectors(table), expected)
    assert vectors(table).dtype == expected.dtype
    # Row groups as they were, two or three a file; the files in order of their names.
    groups = [[g.num_rows for g in f.row_groups] for f in written.get_fragments()]
    assert groups == [[70, 70], [60], [70, 70], [10], [70, 70], [10]]
    assert ds.dataset(target).to_table() == table


@pytest.mark.parametrize("as_dataset", [False, True])
def test_folders_that_name_values(embedder, tmp_path, as_dataset):
    source, target = tmp_path / "rows", tmp_path / "out"
    pq.write_to_dataset(TABLE, source, partition_cols=["year"])
    given = ds.dataset(source, partitioning="hive") if as_dataset else str(source)
    written = embed_dataset(embedder, given, target, keep=["id", "year"]).to_table()
    assert {path.name for path in target.iterdir() if path.is_dir()} == {
        "year=2023",
        "year=2024",
    }
    written = written.sort_by("id")
    assert_array_equal(written["year"], TABLE["year"])
    assert_array_equal(vectors(written), embedder.transform(TABLE.select(FEATURES)))


def test_chosen_row_groups_of_a_file(embedder, files, tmp_path):
    whole = next(iter(ds.dataset(files).get_fragments()))
    chosen = whole.subset(row_group_ids=[1, 2])
    source = ds.FileSystemDataset(
        [chosen], whole.physical_schema, ds.ParquetFileFormat(), whole.filesystem
    )
    embedded = embed_dataset(embedder, source, tmp_path / "out", keep=["id"]).to_table()
    expected = source.to_table()
    assert embedded["id"].to_pylist() == expected["id"].to_pylist()
    found = np.stack(embedded["embedding"].to_numpy())
    assert_array_equal(found, embedder.transform(expected.select(FEATURES)))


def test_the_year_in_the_path_is_a_feature_too(tmp_path):
    embedder = small().fit(TABLE.select(["a", "year"]), Y)
    pq.write_to_dataset(TABLE, tmp_path / "rows", partition_cols=["year"])
    written = embed_dataset(embedder, tmp_path / "rows", tmp_path / "out", keep=["id"])
    expected = embedder.transform(TABLE.select(["a", "year"]))
    assert_array_equal(vectors(written.to_table().sort_by("id")), expected)


def test_vectors_texts_of_arrays_and_pipelines(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(VECTORS, path)
    array = np.stack(VECTORS["v"].to_numpy())
    on_names = pd.DataFrame(array, columns=list("xyz"))
    by_name = tmp_path / "names.parquet"
    pq.write_table(pa.Table.from_pandas(on_names), by_name)
    cases = [
        (small().fit(array, Y), path, ["v"], array),
        (make_pipeline(StandardScaler(), small()).fit(array, Y), path, ["v"], array),
        (make_pipeline(StandardScaler(), small()).fit(array, Y), by_name, None, array),
        (
            make_pipeline(StandardScaler(), small()).fit(on_names, Y),
            by_name,
            None,
            on_names,
        ),
    ]
    for number, (embedder, source, columns, rows) in enumerate(cases):
        written = embed_dataset(embedder, source, tmp_path / f"{number}", columns=columns)
        assert_array_equal(vectors(written.to_table()), embedder.transform(rows))


def test_row_groups_larger_than_a_file_are_cut(embedder, tmp_path):
    pq.write_table(TABLE, tmp_path / "rows.parquet")
    written = embed_dataset(
        embedder, tmp_path / "rows.parquet", tmp_path / "out", rows_per_file=100
    )
    assert len(written.files) == 1
    assert_array_equal(
        vectors(written.to_table()), embedder.transform(TABLE.select(FEATURES))
    )


# Continuing ------------------------------------------------------------------------------


class Stops(HSCLEmbedder):
    """An embedder that is interrupted after some calls."""

    n_left = 4

    def transform(self, X):
        Stops.n_left -= 1
        if Stops.n_left < 0:
            raise KeyboardInterrupt
        return super().transform(X)


def test_an_interrupted_call_is_continued(files, tmp_path):
    embedder = Stops(encoder="mlp", n_components=4, max_epochs=1, random_state=0)
    embedder.fit(TABLE.select(FEATURES), Y)
    Stops.n_left = 4
    target, settings = tmp_path / "out", {"keep": ["id"], "rows_per_file": 100}
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(embedder, files, target, **settings)
    before = {path: path.stat().st_mtime_ns for path in target.glob("*.parquet")}
    assert len(before) == 2  # of two row groups and of one; a call embeds the first rows
    assert not list(target.glob("*.part"))
    Stops.n_left = 100
    written = embed_dataset(embedder, files, target, **settings).to_table()
    assert Stops.n_left == 100 - 1 - 6
    assert written["id"].to_pylist() == list(range(N_ROWS))
    assert (
        before.items()
        <= {path: path.stat().st_mtime_ns for path in target.glob("*.parquet")}.items()
    )


KILLED = """
import sys, time
from sklearn_hscl import HSCLEmbedder
from sklearn_hscl.arrow import embed_dataset

class Slow(HSCLEmbedder):
    def transform(self, X):
        time.sleep(0.05)
        return super().transform(X)

model, source, target = sys.argv[1:]
embedder = HSCLEmbedder.load(model)
embedder.__class__ = Slow
print("starts", flush=True)
embed_dataset(embedder, source, target, keep=["id"], rows_per_file=1)
"""


def test_a_killed_process_is_continued(embedder, files, tmp_path):
    model, target = tmp_path / "model.hscl", tmp_path / "out"
    embedder.save(model)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), model, files, target]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"starts\n"
        while len(list(target.glob("*.parquet"))) < 3:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert len(list(target.glob("*.parquet"))) < 9
    settings = {"keep": ["id"], "rows_per_file": 1}
    written = embed_dataset(HSCLEmbedder.load(model), files, target, **settings).to_table()
    assert written["id"].to_pylist() == list(range(N_ROWS))
    assert_array_equal(vectors(written), embedder.transform(TABLE.select(FEATURES)))
    assert not list(target.glob("*.part"))


def add_file(folder):
    shutil.copy(folder / "part-0.parquet", folder / "part-9.parquet")


def write_again(folder):
    table = pq.read_table(folder / "part-1.parquet")
    pq.write_table(
        table.set_column(1, "a", pa.array(np.zeros(150))), folder / "part-1.parquet"
    )


@pytest.mark.parametrize(
    ("change", "settings", "match"),
    [
        (add_file, {}, "source has changed since target was begun: 'part-9.parquet'"),
        (write_again, {}, "source has changed since target was begun: 'part-1.parquet'"),
        (
            None,
            {"keep": []},
            r"target holds files written with keep=\['id'\], got keep=\[\]",
        ),
        (None, {"rows_per_file": 7}, "written with rows_per_file=100, got rows_per_file=7"),
        (None, {"embedding": "e"}, "written with embedding='embedding'"),
    ],
)
def test_changes_of_a_call_that_is_continued(
    embedder, files, tmp_path, change, settings, match
):
    target, first = tmp_path / "out", {"keep": ["id"], "rows_per_file": 100}
    embed_dataset(embedder, files, target, **first)
    if change is not None:
        change(files)
    with pytest.raises(ValueError, match=match):
        embed_dataset(embedder, files, target, **(first | settings))


def test_another_embedder_does_not_continue(embedder, files, tmp_path):
    embed_dataset(embedder, files, tmp_path / "out")
    other = small(beta=5.0, lr=0.01).fit(TABLE.select(FEATURES), Y)
    wider = small().set_params(n_components=5).fit(TABLE.select(FEATURES), Y)
    for another in (other, wider):
        with pytest.raises(ValueError, match="target was begun by another embedder"):
            embed_dataset(another, files, tmp_path / "out")


def test_targets_that_hold_other_files(embedder, files, tmp_path):
    with pytest.raises(ValueError, match="to be a new or empty folder.*other files"):
        embed_dataset(embedder, files, files)
    target = tmp_path / "out"
    written = embed_dataset(embedder, files, target)
    assert json.loads((target / "_embed_dataset.json").read_text())["keep"] == []
    pq.write_table(pa.table({"embedding": [1.0]}), written.files[0])
    with pytest.raises(
        ValueError, match=r"Expected 200 rows in .*, got 1: another program"
    ):
        embed_dataset(embedder, files, target)


# Input that cannot be used ---------------------------------------------------------------


def without(folder, name):
    path = folder / "part-1.parquet"
    pq.write_table(pq.read_table(path).drop_columns(name), path)


def with_type(folder, kind):
    path = folder / "part-1.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "a", table["a"].cast(kind)), path)


def with_another(folder):
    path = folder / "part-1.parquet"
    pq.write_table(pq.read_table(path).append_column("z", [range(150)]), path)


def with_no_rows(folder):
    for path in folder.iterdir():
        pq.write_table(TABLE.slice(0, 0), path)


def with_a_note(folder):
    (folder / "README.txt").write_text("these are rows")


BAD_FILES = {
    "a column missing in one file": (
        lambda folder: without(folder, "a"),
        r"lacks the column 'a' in the file .*part-1.parquet, which has \['id', 'b'",
    ),
    "a type that changes": (
        lambda folder: with_type(folder, pa.float32()),
        r"holds the column 'a' as double, but the file .*part-1.parquet holds it as float",
    ),
    "a column in one file only": (
        with_another,
        r"lacks the column 'z' in some files, but the file .*part-1.parquet has it",
    ),
    "no rows": (with_no_rows, "holds no rows in 3 Parquet files"),
    "another file": (with_a_note, "cannot be read as Parquet files: .*README.txt"),
}


@pytest.mark.parametrize("change", BAD_FILES)
def test_files_that_cannot_be_used(embedder, files, tmp_path, change):
    apply, match = BAD_FILES[change]
    apply(files)
    with pytest.raises(ValueError, match=match):
        embed_dataset(embedder, files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD_ARGUMENTS = {
    "an unknown column to keep": (
        {"keep": ["key"]},
        r"keep names the column 'key', which source does not hold: its columns are \['id'",
    ),
    "an unknown column": ({"columns": ["q"]}, "columns names the column 'q'"),
    "no columns": ({"columns": []}, "Expected columns for the embedder, got none"),
    "no rows in a file": ({"rows_per_file": 0}, "rows_per_file must be at least 1, got 0"),
}


@pytest.mark.parametrize("argument", BAD_ARGUMENTS)
def test_arguments_that_cannot_be_used(embedder, files, tmp_path, argument):
    settings, match = BAD_ARGUMENTS[argument]
    with pytest.raises(ValueError, match=match):
        embed_dataset(embedder, files, tmp_path / "out", **settings)


def test_datasets_that_cannot_be_used(embedder, files, tmp_path):
    filtered = ds.dataset(files).filter(ds.field("a") > 0)
    with pytest.raises(ValueError, match="source is a filtered dataset"):
        embed_dataset(embedder, filtered, tmp_path / "out")
    with pytest.raises(
        ValueError, match="InMemoryDataset that does not consist of Parquet"
    ):
        embed_dataset(embedder, ds.dataset(TABLE), tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="source='.*none.parquet' does not exist"):
        embed_dataset(embedder, tmp_path / "none.parquet", tmp_path / "out")


def test_without_pyarrow(embedder, files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.dataset", None)
    with pytest.raises(
        ImportError, match=r"source names Parquet files.*sklearn-hscl\[arrow"
    ):
        embed_dataset(embedder, files, tmp_path / "out")
