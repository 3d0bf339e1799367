"""Parquet files that others may have written: a table takes no more memory than its file deserves.

A column of one repeated value takes a few bytes for any number of rows, so that the size of a file
limits nothing. What a table takes as arrays is computed from its footer before a row is decoded.
"""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FREE = 1 << 26
"""Bytes that any table may take in memory."""
_RATIO = 100
"""Bytes in memory for a byte of the file: tables that `measure` writes have at most about 60."""
_CELL = 8


def read_parquet(data: bytes) -> dict[str, NDArray[Any]]:
    """Read the columns of a table of numbers and short texts.

    Parameters
    ----------
    data
        Content of the file.

    Returns
    -------
    dict
        Arrays of numbers, booleans or texts by name. Empty cells of numbers are NaN.

    Raises
    ------
    ValueError
        If it would take too much memory, or a column holds something else.
    Exception
        Of pyarrow, if it is not such a file.
    """
    most = _FREE + _RATIO * len(data)
    opened = import_module("pyarrow.parquet").ParquetFile(BytesIO(data))
    about, schema = opened.metadata, opened.schema_arrow
    groups = (about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    _check(max(about.num_rows * max(len(schema), 1) * _CELL, sum(groups)), most)
    types = import_module("pyarrow").types
    texts = []
    for field in schema:
        kind = field.type
        if types.is_string(kind) or types.is_large_string(kind):
            texts.append(field.name)
        elif not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise ValueError(f"column {field.name!r} is of type {kind}")
    table = import_module("pyarrow.parquet").read_table(BytesIO(data), read_dictionary=texts)
    return {
        name: _texts(table[name], most) if name in texts else _numbers(table[name])
        for name in table.column_names
    }


def _check(needed: int, most: int) -> None:
    if needed > most:
        raise ValueError(
            f"it would take {needed / 2**20:,.0f} MiB of memory, and a file of its size at most "
            f"{most / 2**20:,.0f}"
        )


def _numbers(column: Any) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy()
    if values.dtype == object:
        raise ValueError("empty cells among booleans")
    return values


def _texts(column: Any, most: int) -> NDArray[Any]:
    """Decode a column of texts, whose longest one decides how much memory each takes."""
    if column.null_count:
        raise ValueError("empty cells among texts")
    codes = column.unify_dictionaries().combine_chunks()
    words = np.array(codes.dictionary.to_pylist() or [""], dtype=np.str_)
    _check(words.itemsize * len(codes), most)
    found: NDArray[Any] = words[codes.indices.to_numpy()]
    return found
