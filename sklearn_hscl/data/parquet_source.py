"""Parquet files as a sequence of row groups with one schema, checked before they are read.

pyarrow fills the columns that a file lacks with nulls, and applies filters only when it
scans: both would change rows without a word, so both are refused.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset, ParquetFileFragment

SUFFIXES = (".parquet", ".pq")


def names_parquet(X: object) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether X is the path of a Parquet file, or of a folder that holds some."""
    if not isinstance(X, str | os.PathLike):
        return False
    path = Path(X)
    if path.is_dir():
        return any(file.suffix in SUFFIXES for file in path.rglob("*"))
    return path.suffix in SUFFIXES


def is_arrow_dataset(X: object) -> "TypeGuard[Dataset]":
    """Return whether X is a `pyarrow.dataset.Dataset`."""
    module = type(X).__module__
    return module.startswith("pyarrow.") and all(
        hasattr(X, name) for name in ("get_fragments", "scanner", "schema")
    )


@dataclass(frozen=True)
class RowGroup:
    """One row group of a file."""

    fragment: "ParquetFileFragment"
    index: int
    n_rows: int
    n_bytes: int
    """Size of its values before compression."""

    @property
    def path(self) -> str:
        """Path of the file."""
        return str(self.fragment.path)


class ParquetSource:
    """Row groups of Parquet files, in the order of the files.

    Parameters
    ----------
    source : path or pyarrow.dataset.Dataset
        A Parquet file, a folder of them, whose names may contain values of columns
        (``year=2024/``), or a dataset of such files.
    name : str
        Name of the source, for messages.

    Attributes
    ----------
    schema : pyarrow.Schema
        Columns of all files, and those in names of folders.
    row_groups : list of RowGroup
        All row groups that hold rows.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ValueError
        If the source is filtered, not of Parquet files, holds no rows, or if a file has
        other columns or types than the first one.
    """

    def __init__(self, source: "str | os.PathLike[str] | Dataset", name: str = "X") -> None:
        arrow = pyarrow_of(name)
        self.name = name
        is_path = isinstance(source, str | os.PathLike)
        if isinstance(source, str | os.PathLike):
            source = _open(arrow, Path(source), name)
        self.dataset: Dataset = source
        _check_kind(self.dataset, name)
        self.schema: pa.Schema = self.dataset.schema
        self.row_groups: list[RowGroup] = []
        self.keys: dict[str, dict[str, object]] = {}
        """Values of columns in the path of each file."""
        for fragment in self.dataset.get_fragments():
            self.keys[fragment.path] = _partition_keys(arrow, fragment)
            self._check_schema(fragment, exactly=is_path)
            self.row_groups += [
                # A fragment may hold some groups of its file, so their positions differ.
                RowGroup(fragment, group.id, group.num_rows, group.total_byte_size)
                for group in fragment.row_groups
                if group.num_rows
            ]
        if not self.row_groups:
            raise ValueError(
                f"{name} holds no rows in {len(self.keys)} Parquet files: pass files with "
                f"at least one row."
            )

    def check_column(self, column: str, parameter: str) -> None:
        """Raise a ValueError if there is no column of this name."""
        if column not in self.schema.names:
            raise ValueError(
                f"{parameter} names the column {column!r}, which {self.name} does not "
                f"hold: its columns are {self.schema.names}."
            )

    def batches(
        self, group: RowGroup, columns: Sequence[str], batch_rows: int
    ) -> "Iterator[pa.Table]":
        """Yield the rows of a row group, at most `batch_rows` at a time.

        pyarrow decodes two batches ahead.
        """
        import pyarrow as pa

        scanned = _fragment([group]).scanner(
            schema=self.schema,
            columns=list(columns),
            batch_size=batch_rows,
            batch_readahead=2,
        )
        for batch in scanned.to_batches():
            if batch.num_rows:
                yield pa.Table.from_batches([batch])

    def read(self, groups: Sequence[RowGroup], columns: Sequence[str]) -> "pa.Table":
        """Return the rows of row groups of one file."""
        return _fragment(groups).to_table(schema=self.schema, columns=list(columns))

    def table(self, columns: Sequence[str]) -> "pa.Table":
        """Return all rows of some columns."""
        return self.dataset.to_table(columns=list(columns))

    def _check_schema(self, fragment: "ParquetFileFragment", *, exactly: bool) -> None:
        """Compare the columns of a file with those of the schema, by name and type."""
        found = fragment.physical_schema
        keys = self.keys[fragment.path]
        expected = [field for field in self.schema if field.name not in keys]
        for field in expected:
            if field.name not in found.names:
                raise ValueError(
                    f"{self.name} lacks the column {field.name!r} in the file "
                    f"{fragment.path}, which has {found.names}. Add the column there, or "
                    f"pass a pyarrow.dataset.dataset whose schema leaves it out."
                )
            other = found.field(field.name).type
            if _plain(other) != _plain(field.type):
                raise ValueError(
                    f"{self.name} holds the column {field.name!r} as {field.type}, but "
                    f"the file {fragment.path} holds it as {other}. Write it in one type "
                    f"in all files."
                )
        names = [*keys, *(field.name for field in expected)]
        extra = [name for name in found.names if name not in names]
        if exactly and extra:
            raise ValueError(
                f"{self.name} lacks the column {extra[0]!r} in some files, but the file "
                f"{fragment.path} has it. Add it to all files, or pass a "
                f"pyarrow.dataset.dataset whose schema leaves it out."
            )


def _fragment(groups: Sequence[RowGroup]) -> "ParquetFileFragment":
    """Return row groups of one file as a part of it."""
    return groups[0].fragment.subset(row_group_ids=[group.index for group in groups])


def pyarrow_of(name: str) -> ModuleType:
    """Return `pyarrow.dataset`; raise an ImportError with the remedy without it."""
    try:
        import pyarrow.dataset
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"{name} names Parquet files, which pyarrow reads: "
            f'pip install "sklearn-hscl[arrow]".'
        ) from error
    return pyarrow.dataset


def _open(arrow: ModuleType, path: Path, name: str) -> "Dataset":
    if not path.exists():
        raise FileNotFoundError(f"{name}={str(path)!r} does not exist: pass another path.")
    try:
        return arrow.dataset(path, format="parquet", partitioning="hive")
    except (OSError, ValueError, TypeError) as error:  # pyarrow's errors are among them
        raise ValueError(
            f"{name}={str(path)!r} cannot be read as Parquet files: {error} Leave out "
            f"other files, or pass pyarrow.dataset.dataset([...], format='parquet')."
        ) from error


def _check_kind(dataset: "Dataset", name: str) -> None:
    if getattr(dataset, "_scan_options", None):
        raise ValueError(
            f"{name} is a filtered dataset, whose rows are known only when it is read: "
            f"write them to files by pyarrow.dataset.write_dataset, and pass those."
        )
    if getattr(getattr(dataset, "format", None), "default_extname", None) != "parquet":
        raise ValueError(
            f"{name} is a {type(dataset).__name__} that does not consist of Parquet "
            f"files: write it to some by pyarrow.dataset.write_dataset, or pass "
            f"{name}.to_table()."
        )


def _partition_keys(
    arrow: ModuleType, fragment: "ParquetFileFragment"
) -> dict[str, object]:
    keys: dict[str, object] = arrow.get_partition_keys(fragment.partition_expression)
    return keys


def _plain(kind: "pa.DataType") -> "pa.DataType":
    """Return the type of the values; files may store their dictionaries differently."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind
