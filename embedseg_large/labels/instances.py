"""What a run knows about every instance, stored beside the labels: arrays that start with label 1.

::

    labels/NAME/instances/          a group among the levels; in a bucket instances-RUN, as they are
                seediness           float32 (n,): the value of label i is at i - 1; NaN if unknown
                certified           bool (n,)
                seam                uint8 (n,): the position in `SEAMS`

For a series they are (t, n), with n of the timepoint with the most. The provenance of the labels
names the group and its columns. Nothing else in NGFF refers to it: viewers ignore it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from embedseg_large.errors import MetadataError
from embedseg_large.storage.arrays import create_array, open_array
from embedseg_large.storage.connection import joined, shown
from embedseg_large.storage.disk import output_errors
from embedseg_large.storage.group import Document, ZarrGroup
from embedseg_large.volumes.stored_array import StoredArray, wrap_array

KEY = "instances"
"""Key of the entry in the provenance of labels, and name of the group without its suffix."""

DTYPES: Mapping[str, DTypeLike] = {
    "seediness": np.float32,
    "certified": np.bool_,
    "seam": np.uint8,
}
"""Types of the possible columns."""

SEAMS = ("", "repaired", "joined")
"""How tiles came to agree on an instance: at once, with larger halos, or not at all."""

_ROWS = 1 << 20  # of a chunk


@dataclass(frozen=True, kw_only=True)
class InstanceTable:
    """Columns being written, timepoint by timepoint; see the module."""

    labels: str = field(repr=False)
    """Folder or URL of the group of the labels."""
    name: str
    """Name of the table's group in it."""
    zarr_format: Literal[2, 3]
    columns: tuple[str, ...]
    """Some of `DTYPES`."""
    timepoints: int | None
    """Number of timepoints; None: the labels have no time axis."""
    rows: int
    """Number of instances of the timepoint with the most."""

    @property
    def entry(self) -> Document:
        """Its entry in the provenance of the labels, under `KEY`."""
        return {"path": self.name, "columns": list(self.columns)}

    def create(self) -> None:
        """Create the group and its arrays; those of an earlier attempt keep their content.

        Raises
        ------
        OutputError
            If they cannot be written.
        """
        ZarrGroup.at(self._path()).write(self.zarr_format, {})
        lead = () if self.timepoints is None else (self.timepoints,)
        for column in self.columns:
            dtype = np.dtype(DTYPES[column])
            create_array(
                self._path(column),
                shape=(*lead, self.rows),
                dtype=dtype,
                chunks=(*(1 for _ in lead), min(max(self.rows, 1), _ROWS)),
                fill_value=np.nan if dtype.kind == "f" else False,
                **self._encoding(),
            )

    def pieces(self, count: int) -> Iterator[tuple[int, int]]:
        """Half-open ranges of rows, whole chunks, that hold `count` instances."""
        for start in range(0, count, _ROWS):
            yield start, min(start + _ROWS, count)

    def write(
        self, start: int, values: Mapping[str, NDArray[Any]], timepoint: int | None = None
    ) -> None:
        """Write one of the `pieces` of each column.

        Parameters
        ----------
        start
            Its first row.
        values
            Of one length.
        timepoint
            The timepoint; None if there is only one.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        lead = () if self.timepoints is None else (timepoint or 0,)
        for column in self.columns:
            with output_errors(self._path(column)):
                array = open_array(self._path(column), "r+", self.zarr_format, durable=True)
                array[(*lead, slice(start, start + values[column].size))] = values[column]

    def _path(self, column: str = "") -> str:
        return joined(self.labels, f"{self.name}/{column}".rstrip("/"))

    def _encoding(self) -> dict[str, Any]:
        if self.zarr_format == 3:
            from zarr.codecs import ZstdCodec

            names = ["label"] if self.timepoints is None else ["t", "label"]
            codec = ZstdCodec(level=1)
            return {"zarr_format": 3, "compressors": codec, "dimension_names": names}
        from numcodecs import Zstd

        return {
            "zarr_format": 2,
            "compressors": Zstd(level=1),
            "chunk_key_encoding": {"name": "v2", "separator": "/"},
        }


@dataclass(frozen=True, slots=True)
class KnownInstances:
    """The table of published labels."""

    labels: str = field(repr=False)
    """Path or URL of their group."""
    entry: Document
    """As in `InstanceTable.entry`."""

    @classmethod
    def of(cls, labels: str, provenance: Mapping[str, Any]) -> KnownInstances | None:
        """The table of labels, if their provenance names one."""
        return cls(labels, provenance[KEY]) if KEY in provenance else None

    def check(self, timepoints: int) -> None:
        """Open every column, before work whose result needs them.

        Parameters
        ----------
        timepoints
            Number of timepoints of the labels.

        Raises
        ------
        MetadataError
            As for `rows`.
        """
        for name in self._columns:
            self._array(name, timepoints - 1)

    @property
    def _columns(self) -> list[str]:
        return [name for name in self.entry["columns"] if name in DTYPES]

    def rows(self, labels: NDArray[np.integer], timepoint: int = 0) -> dict[str, NDArray[Any]]:
        """Look labels up.

        Parameters
        ----------
        labels
            Positive. Labels that were added after the run are unknown.
        timepoint
            The timepoint of a series.

        Returns
        -------
        Columns of the length of `labels`.

        Raises
        ------
        MetadataError
            If there is no such column, although the provenance names it, or it has another shape
            or type.
        """
        return {name: self._column(name, labels, timepoint) for name in self._columns}

    def _array(self, name: str, timepoint: int) -> StoredArray:
        """Open a column that has a timepoint."""
        place = joined(self.labels, f"{self.entry['path']}/{name}")
        try:
            array = _opened(place)
        except FileNotFoundError as error:
            raise MetadataError(
                f"{shown(place)}: missing, although the labels refer to it; copy the "
                "labels with all their files"
            ) from error
        is_series = array.ndim == 2
        if array.ndim not in (1, 2) or (is_series and timepoint >= array.shape[0]):
            raise MetadataError(
                f"{shown(place)}: a shape of {array.shape}; restore it, or segment again"
            )
        if not np.can_cast(array.dtype, DTYPES[name], "same_kind"):
            raise MetadataError(
                f"{shown(place)}: values of type {array.dtype}; restore it, or segment again"
            )
        return array

    def _column(self, name: str, labels: NDArray[np.integer], timepoint: int) -> NDArray[Any]:
        array = self._array(name, timepoint)
        row = (timepoint,) if array.ndim == 2 else ()
        dtype = np.dtype(DTYPES[name])
        column = np.full(labels.size, np.nan if dtype.kind == "f" else False, dtype)
        rows = np.where(labels <= array.shape[-1], labels, 0).astype(np.int64) - 1
        for piece in np.unique(rows[rows >= 0] // _ROWS).tolist():
            start = piece * _ROWS
            stored = array[(*row, slice(start, min(start + _ROWS, array.shape[-1])))]
            here = rows // _ROWS == piece
            column[here] = stored[rows[here] - start]
        return column


def _opened(place: str) -> StoredArray:
    """Open a column, which is read like voxels: errors name damaged files.

    Raises
    ------
    FileNotFoundError
        If there is no array.
    """
    from zarr.errors import NodeTypeValidationError

    try:
        array = open_array(place)
    except NodeTypeValidationError as error:
        raise FileNotFoundError(place) from error
    opener = partial(open_array, place, zarr_format=array.metadata.zarr_format)
    return wrap_array(array, opener, shown(place))
