"""Tables as columns: in memory, as CSV, as Parquet, as AnnData."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.extras import extra
from embedseg_large.storage.anndata_tables import anndata_of, check_anndata, write_h5ad
from embedseg_large.storage.disk import check_file, whole_file

_ROWS = 10_000  # rows written at a time; as Python numbers they take ten times the memory
_DIGITS = 7  # digits of a number in CSV, which people read; Parquet has all of them


TABULAR = (".csv", ".parquet")
"""Suffixes of formats for any table."""

ENDINGS = (*TABULAR, ".h5ad")
"""Suffixes of formats for a table of instances."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Columns of equal length, in memory."""

    columns: Mapping[str, NDArray[Any]]
    """The columns by name, in order."""
    stored: str | None = None
    """Path or URL of the file in the store of the labels, if it was written there."""
    region: str = "labels"
    """Name of the labels that the rows describe."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return next((column.size for column in self.columns.values()), 0)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a column."""
        return self.columns[name]

    def __repr__(self) -> str:
        return f"Table of {len(self):,} rows: {', '.join(self.columns)}"

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a .csv file; see `write_table`."""
        _write_as(".csv", path, self.columns)

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write a .parquet file; see `write_table`."""
        _write_as(".parquet", path, self.columns)

    def to_h5ad(self, path: str | os.PathLike[str]) -> None:
        """Write a file that ends in .h5ad; see `embedseg_large.storage.anndata_tables`."""
        _write_as(".h5ad", path, self.columns, self.region)

    def to_anndata(self) -> Any:
        """Return the table as an `anndata.AnnData`, see `embedseg_large.storage.anndata_tables`.

        Raises
        ------
        UsageError
            If anndata is not installed.
        """
        return anndata_of(self.columns, self.region)

    def to_pandas(self) -> Any:
        """Return the table as a `pandas.DataFrame`.

        Raises
        ------
        UsageError
            If pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError:
            raise UsageError(
                "pandas is not installed: pip install pandas, or use .columns"
            ) from None
        return pandas.DataFrame(dict(self.columns))


def stacked(tables: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Combine several tables with the same columns, at least one."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _write_as(
    ending: str, path: str | os.PathLike[str], columns: Mapping[str, Any], region: str = "labels"
) -> None:
    if Path(path).suffix != ending:
        raise UsageError(f"{path}: the name of the file must end in {ending}")
    write_table(path, columns, region)


def check_table_path(path: str | os.PathLike[str], endings: Sequence[str] = ENDINGS) -> None:
    """Refuse an unwritable table before computing it.

    Parameters
    ----------
    path
        File to write.
    endings
        Suffixes of the formats that can hold the table, two or more.

    Raises
    ------
    UsageError
        If it has another suffix, the package that writes it is not installed, or there is no such
        folder.
    OutputError
        If no file can be created there.
    """
    file = Path(path)
    if file.suffix not in endings:
        raise UsageError(
            f"{path}: such a table is written as {', '.join(endings[:-1])} or {endings[-1]}; use "
            "one of these suffixes"
        )
    if file.suffix == ".parquet":
        _pyarrow(path)
    elif file.suffix == ".h5ad":
        check_anndata(path)
    check_file(path)


def write_table(
    path: str | os.PathLike[str], columns: Mapping[str, NDArray[Any]], region: str = "labels"
) -> None:
    """Write columns of equal length as CSV or, depending on the suffix, as Parquet or AnnData.

    NaN is empty in CSV and null in Parquet. Floats have 7 significant digits in CSV and all in
    Parquet. An existing file is replaced. An AnnData records the name of its labels (`region`).

    Raises
    ------
    UsageError, OutputError
        As for `check_table_path`; also OutputError if writing fails, and UsageError if an AnnData
        cannot hold a label.
    """
    check_table_path(path)
    file = Path(path)
    with whole_file(file) as unfinished:
        if file.suffix == ".h5ad":
            write_h5ad(unfinished, columns, region)
        else:
            write = _write_csv if file.suffix == ".csv" else _write_parquet
            write(unfinished, columns)


def _write_csv(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    arrays = list(columns.values())
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for start in range(0, arrays[0].size, _ROWS):
            lists = [_cells(array[start : start + _ROWS]) for array in arrays]
            writer.writerows(zip(*lists, strict=True))


def _cells(values: NDArray[Any]) -> list[Any]:
    cells: list[Any] = values.tolist()
    if values.dtype.kind == "f":
        return ["" if cell != cell else f"{cell:.{_DIGITS}g}" for cell in cells]
    return cells


def _write_parquet(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    arrow = _pyarrow(path)
    arrays = {name: arrow.array(values, from_pandas=True) for name, values in columns.items()}
    import_module("pyarrow.parquet").write_table(arrow.table(arrays), path)


def _pyarrow(path: str | os.PathLike[str]) -> Any:
    with extra("tables", f"{path}: Parquet", instead="write .csv"):
        return import_module("pyarrow")
