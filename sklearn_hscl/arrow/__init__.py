"""Embedding of Parquet files that never fit into memory, file by file."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sklearn_hscl.data.dataframe import Table, cells_of
from sklearn_hscl.data.parquet_source import ParquetSource, RowGroup
from sklearn_hscl.embedder import HSCLEmbedder
from sklearn_hscl.persistence.safetensors_file import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset

__all__ = ["embed_dataset"]

Manifest: TypeAlias = dict[str, object]
# Datasets of pyarrow leave out files whose names start with an underscore.
_MANIFEST = "_embed_dataset.json"
# Rows that are decoded and embedded at a time, and the bytes that they may take.
_MAX_BATCH_ROWS, _MIN_BATCH_ROWS, _BATCH_BYTES = 16_384, 256, 2**25
# Rows that are embedded again to recognise the embedder, and how closely their embeddings
# agree on processors of another kind, relative to the largest value.
_N_PROBES, _TOLERANCE = 32, 1e-3


def embed_dataset(
    embedder: BaseEstimator,
    source: "str | os.PathLike[str] | Dataset",
    target: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    keep: Sequence[str] = (),
    embedding: str = "embedding",
    rows_per_file: int = 131_072,
) -> "Dataset":
    """Embed Parquet files into Parquet files, in memory of a constant size.

    The embeddings equal those of ``embedder.transform`` on the same rows, in the same
    order. A call that was killed continues where it ended if it is repeated: files are
    written completely or not at all, and those that exist are not written again.

    Parameters
    ----------
    embedder : HSCLEmbedder or Pipeline
        Fitted embedder, or a fitted pipeline or other transformer that returns an array.
    source : str, path or pyarrow.dataset.Dataset
        A Parquet file, a folder of them, also with values of columns in the names of
        folders (``year=2024/``), or a dataset of Parquet files.
    target : str or path
        Folder to write to, which is created. It is empty, or that of the same call.
    columns : sequence of str, default=None
        Columns that the embedder gets. None: those that it was fitted on by name, else
        all but those of `keep`.
    keep : sequence of str, default=()
        Columns that are written beside the embedding, such as a key.
    embedding : str, default="embedding"
        Name of the column of embeddings, lists of a fixed size.
    rows_per_file : int, default=131,072
        Minimum number of rows of a file that is written, unless the file that is read
        ends before. This is what is lost if the process is killed. Row groups are written
        as they are read; larger ones are cut.

    Returns
    -------
    pyarrow.dataset.Dataset
        The files written, in the order of the rows of `source`.

    Raises
    ------
    ImportError
        If pyarrow is not installed: ``pip install "sklearn-hscl[arrow]"``.
    ValueError
        If a column is missing, files of `source` have different columns, or `target`
        holds other files, or those of another source or embedder.
    OSError
        If a file cannot be written.

    Notes
    -----
    A pipeline gets data frames of pandas if it was fitted on columns with names, else
    arrays. A source counts as changed if the path, the size, the time of change or the
    row groups of a file are others; an embedder, if it embeds the first rows differently.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import pyarrow as pa
    >>> import pyarrow.parquet as pq
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.arrow import embed_dataset
    >>> rng = np.random.default_rng(0)
    >>> table = pa.table({"a": rng.normal(size=90), "b": rng.normal(size=90)})
    >>> embedder = HSCLEmbedder(max_epochs=1, n_components=4).fit(table, np.arange(90) % 3)
    >>> folder = tempfile.mkdtemp()
    >>> pq.write_table(table.append_column("id", [range(90)]), f"{folder}/rows.parquet")
    >>> embed_dataset(
    ...     embedder, f"{folder}/rows.parquet", f"{folder}/embedded", keep=["id"]
    ... ).to_table().column_names
    ['id', 'embedding']
    """
    check_is_fitted(embedder)
    keep = [keep] if isinstance(keep, str) else list(keep)
    opened = ParquetSource(source, "source")
    job = _Job(
        embedder, opened, _features(embedder, opened, columns, keep), keep, embedding
    )
    pieces = _pieces(opened, rows_per_file)
    folder = Path(target)
    _continue_or_start(folder, job, rows_per_file)
    base = _base(opened)
    paths = []
    for piece in pieces:
        path = folder / _name(piece, base)
        if path.exists():
            _check_complete(path, piece)
        else:
            job.write(piece, path, rows_per_file)
        paths.append(str(path))
    import pyarrow.dataset

    return pyarrow.dataset.dataset(paths, format="parquet", partitioning="hive")


@dataclass(frozen=True)
class _Job:
    """What is read, embedded and written."""

    embedder: BaseEstimator
    source: ParquetSource
    columns: list[str]
    keep: list[str]
    embedding: str

    def write(self, piece: list[RowGroup], path: Path, max_rows: int) -> None:
        """Embed row groups of one file, and write them to one file."""
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            writer = None
            for group in piece:
                for table in _gathered(self._embedded(group), max_rows):
                    if writer is None:
                        writer = pq.ParquetWriter(file, table.schema)
                    writer.write_table(table, row_group_size=table.num_rows)
            assert writer is not None  # as no row group is empty
            writer.close()

    def embed(self, table: "pa.Table") -> NDArray[np.floating]:
        """Embed the rows of a table (n, D)."""
        rows = table.select(self.columns)
        return np.asarray(self.embedder.transform(_as_fitted(self.embedder, rows)))

    def _embedded(self, group: RowGroup) -> "Iterator[pa.Table]":
        """Yield the rows of a row group as they are written."""
        import pyarrow as pa

        in_path = self.source.keys[group.path]
        kept = [name for name in self.keep if name not in in_path]
        read = list(dict.fromkeys([*self.columns, *kept]))
        for table in self.source.batches(group, read, _batch_rows(group)):
            values = self.embed(table)
            flat = pa.array(np.ascontiguousarray(values).ravel())
            vectors = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
            yield table.select(kept).append_column(self.embedding, vectors)

    def manifest(self) -> Manifest:
        """Return what a call must have in common with the one that it continues."""
        groups: dict[str, list[int]] = {}
        for group in self.source.row_groups:
            groups.setdefault(group.path, []).append(group.n_rows)
        infos = self.source.dataset.filesystem.get_file_info(list(groups))
        base = _base(self.source)
        files = zip(groups.items(), infos, strict=True)
        return {
            "source": {
                _below(path, base): [info.size, info.mtime_ns, rows]
                for (path, rows), info in files
            },
            "columns": self.columns,
            "keep": self.keep,
            "embedding": self.embedding,
        }

    def probe(self) -> list[list[float]]:
        """Return the embeddings of the first rows."""
        read = list(dict.fromkeys(self.columns))
        table = next(self.source.batches(self.source.row_groups[0], read, _N_PROBES))
        return self.embed(table).astype(float).tolist()


# Columns ---------------------------------------------------------------------------------


def _features(
    embedder: BaseEstimator,
    source: ParquetSource,
    columns: Sequence[str] | None,
    keep: list[str],
) -> list[str]:
    """Return the columns that the embedder gets."""
    for name in keep:
        source.check_column(name, "keep")
    parameter = "columns"
    if columns is None:
        fitted = getattr(embedder, "feature_names_in_", None)
        others = [name for name in source.schema.names if name not in keep]
        columns = others if fitted is None else fitted.tolist()
        parameter = "The embedder"
    for name in columns:
        source.check_column(name, parameter)
    if not columns:
        raise ValueError(
            f"Expected columns for the embedder, got none: keep={keep} holds all of them. "
            f"Pass columns."
        )
    return list(columns)


def _as_fitted(embedder: BaseEstimator, table: "pa.Table") -> object:
    """Return rows in a form that the embedder was fitted on: with names or without."""
    if hasattr(embedder, "feature_names_in_"):
        return table if isinstance(embedder, HSCLEmbedder) else table.to_pandas()
    cells = cells_of(table, "source")
    if cells is not table:
        return cells
    if not getattr(embedder, "input_shape_", True):  # of texts
        return table.column(0).to_pylist()
    return Table(table).to_array()


# Pieces ----------------------------------------------------------------------------------


def _pieces(source: ParquetSource, rows_per_file: int) -> list[list[RowGroup]]:
    """Split row groups into those of one file each that is written."""
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file must be at least 1, got {rows_per_file!r}.")
    pieces: list[list[RowGroup]] = []
    n_rows = rows_per_file
    for group in source.row_groups:
        if n_rows >= rows_per_file or pieces[-1][0].path != group.path:
            pieces.append([])
            n_rows = 0
        pieces[-1].append(group)
        n_rows += group.n_rows
    return pieces


def _base(source: ParquetSource) -> str:
    """Return the folder that holds all files, above those that name values."""
    base = os.path.commonpath([os.path.dirname(path) for path in source.keys])
    while "=" in os.path.basename(base):
        base = os.path.dirname(base)
    return base


def _below(path: str, base: str) -> str:
    return os.path.relpath(path, base).replace(os.sep, "/")


def _name(piece: list[RowGroup], base: str) -> str:
    """Return the path of a file that is written, below the target."""
    stem, suffix = os.path.splitext(_below(piece[0].path, base))
    return f"{stem}.{piece[0].index:05d}{suffix or '.parquet'}"


def _batch_rows(group: RowGroup) -> int:
    n_rows = _BATCH_BYTES * group.n_rows // max(1, group.n_bytes)
    return max(_MIN_BATCH_ROWS, min(_MAX_BATCH_ROWS, n_rows))


def _gathered(tables: "Iterator[pa.Table]", max_rows: int) -> "Iterator[pa.Table]":
    """Yield the rows of tables together, at least `max_rows` at a time but for the last."""
    import pyarrow as pa

    parts: list[pa.Table] = []
    for table in tables:
        parts.append(table)
        if sum(part.num_rows for part in parts) >= max_rows:
            yield pa.concat_tables(parts)
            parts = []
    if parts:
        yield pa.concat_tables(parts)


# Continuing ------------------------------------------------------------------------------


def _continue_or_start(folder: Path, job: _Job, rows_per_file: int) -> None:
    """Check that a folder is that of the same call; prepare it if it is empty."""
    wanted = job.manifest() | {"rows_per_file": rows_per_file}
    probe = job.probe()
    path = folder / _MANIFEST
    if path.exists():
        _check_same(json.loads(path.read_text()), wanted, np.array(probe), folder)
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"Expected target={str(folder)!r} to be a new or empty folder, or one of "
            f"embed_dataset, got other files. Pass another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(json.dumps(wanted | {"probe": probe}).encode())


def _check_same(
    written: Manifest,
    wanted: Manifest,
    probe: NDArray[np.float64],
    folder: Path,
) -> None:
    """Raise a ValueError that names what differs from the call that is continued."""
    remedy = f"Pass another target than {str(folder)!r}, or remove that folder."
    for name, value in wanted.items():
        if written[name] != value and name != "source":
            raise ValueError(
                f"target holds files written with {name}={written[name]!r}, got "
                f"{name}={value!r}. {remedy}"
            )
    before = cast(Manifest, written["source"])
    now = cast(Manifest, wanted["source"])
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        raise ValueError(
            f"source has changed since target was begun: {changed[0]!r} was added, removed "
            f"or written again, as were {len(changed) - 1} other files. {remedy}"
        )
    expected = np.array(written["probe"])
    size = np.abs(expected).max()
    if expected.shape != probe.shape or np.abs(expected - probe).max() > _TOLERANCE * size:
        raise ValueError(
            f"target was begun by another embedder, whose embeddings of the first rows "
            f"differ from those of this one. {remedy}"
        )


def _check_complete(path: Path, piece: list[RowGroup]) -> None:
    """Raise a ValueError if a file that exists has other rows than are to be written."""
    import pyarrow.parquet as pq

    expected = sum(group.n_rows for group in piece)
    found = pq.read_metadata(path).num_rows
    if found != expected:
        raise ValueError(
            f"Expected {expected} rows in {path}, got {found}: another program has "
            f"changed the file. Remove it, and call again."
        )
