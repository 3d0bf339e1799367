"""Tables that others may have written, in memory that their files deserve."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest

from embedseg_large.storage.parquet import read_parquet

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def packed(**columns: Any) -> bytes:
    file = BytesIO()
    pq.write_table(pa.table(columns), file, store_schema=False)
    return file.getvalue()


def test_numbers_and_texts_are_read_as_they_were_written() -> None:
    columns = {
        "label": np.arange(1, 5, dtype=np.uint64),
        "x": np.array([0.5, np.nan, 2, 3]),
        "certified": np.array([True, False, True, True]),
        "seam": np.array(["", "joined", "", "repaired"]),
    }
    read = read_parquet(packed(**{k: pa.array(v, from_pandas=True) for k, v in columns.items()}))
    assert list(read) == list(columns)
    for name, values in columns.items():
        assert read[name].dtype == values.dtype
        np.testing.assert_array_equal(read[name], values)
    empty = read_parquet(packed(label=np.empty(0, np.int64), seam=pa.array([], pa.string())))
    assert {name: len(values) for name, values in empty.items()} == {"label": 0, "seam": 0}


def test_a_table_of_constants_is_read_if_it_is_not_absurd() -> None:
    n = 1_000_000
    label = np.arange(n, dtype=np.uint64)
    data = packed(label=label, **{f"c{k}": np.zeros(n) for k in range(40)})
    assert len(read_parquet(data)) == 41


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array(np.zeros(20_000_000, np.int8)), "of memory"),
        (pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), ["x" * 2**20]), "of memory"),
        (pa.array([[1], [2]]), "column 'a' is of type list"),
        (pa.array([b"a", b"b"]), "column 'a' is of type binary"),
        (pa.array([True, None]), "empty cells"),
        (pa.array(["a", None]), "empty cells"),
    ],
)
def test_what_takes_too_much_or_holds_something_else_is_refused(column: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_parquet(packed(a=column))
