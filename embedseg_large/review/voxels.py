"""The current labels of a review, of any size: unchanged voxels are read from the source.

::

    ┌────┬────┬────┐     The lattice of chunks of the review's own array. Only chunks with a voxel
    │    │▒▒▒▒│    │     that was ever changed are written (▒); all others come from the source.
    ├────┼────┼────┤
    │    │▒▒▒▒│    │
    └────┴────┴────┘
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.review.change import LabelChange
from embedseg_large.review.log import Decision, Log
from embedseg_large.storage.arrays import create_array, open_array
from embedseg_large.storage.connection import shown
from embedseg_large.storage.disk import output_errors
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.volume import Volume

logger = logging.getLogger(__name__)

_CHUNK = {2: 512, 3: 64}
"""Edge of a chunk, by ndim."""


def label_dtype(source: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of reviewed labels: 32 or 64 bits, because new labels exceed all others."""
    return np.dtype(f"{source.kind}{max(4, source.itemsize)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ReviewedVoxels:
    """The labels of one timepoint; picklable, and indexed like an array."""

    source: Volume
    """The source labels, without a time axis."""
    place: str = field(repr=False)
    """Path or URL of the review's array."""
    zarr_format: Literal[2, 3]
    timepoints: int | None = None
    """Length of the time axis of the array; None if there is none."""
    cells: set[tuple[int, ...]] = field(default_factory=set)
    """First voxels of the chunks that exist in the array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (z,) y, x."""
        return self.source.spatial_shape

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of a label."""
        return label_dtype(self.source.dtype)

    @property
    def chunk(self) -> tuple[int, ...]:
        """Shape of a chunk."""
        return tuple(min(_CHUNK[self.ndim], n) for n in self.shape)

    def read(self, box: Box) -> NDArray[Any]:
        """Read the labels of a box."""
        labels = self.source.read(box).astype(self.dtype)
        for cell in self._mine(box):
            part = cell.intersect(box)
            labels[part.slices_in(box)] = self._array("r")[self._at(part)]
        return labels

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box, given as slices without a step."""
        ends = [at.indices(n)[:2] for at, n in zip(index, self.shape, strict=True)]
        return self.read(Box(tuple(a for a, _ in ends), tuple(b for _, b in ends)))

    def put(self, change: LabelChange) -> None:
        """Write the chunks that a change affects; may safely be repeated.

        Raises
        ------
        OutputError
            If they cannot be written.
        """
        for cell in change.cells(self.chunk):
            here = cell.clip(self.shape)
            labels = self.read(here)
            change.put_into(labels, here)
            self._write(here, labels)

    def follow(self, log: Log) -> None:
        """Make the chunks agree with the steps of a log.

        Chunks of the last step are compared, and written if the process was killed, or the disk was
        full, before it could. Chunks without a file are computed again: the array may have been
        deleted, or computing it may have been interrupted. Each is written once, with all decisions
        in force, so that one that exists is never of an earlier time.

        Raises
        ------
        OutputError
            If they cannot be written.
        """
        touched = self._touched(log)
        lost = touched.keys() - self._stored(touched)
        last = {c.start for c in log.last_change().cells(self.chunk)} if log.steps else set()
        n_written = sum(self._settle(start, touched[start]) for start in sorted(lost | last))
        self.cells.update(touched)
        if n_written:
            logger.info("%s: wrote %d chunks again", shown(self.place), n_written)

    def _touched(self, log: Log) -> dict[tuple[int, ...], list[LabelChange]]:
        """Map the first voxel of each chunk that was ever changed to its changes in force."""
        touched: dict[tuple[int, ...], list[LabelChange]] = {}
        in_force = set(log.active)
        for number, step in enumerate(log.steps):
            if isinstance(step, Decision):
                for cell in step.change.cells(self.chunk):
                    changes = touched.setdefault(cell.start, [])
                    if number in in_force:
                        changes.append(step.change)
        return touched

    def _stored(self, starts: Collection[tuple[int, ...]]) -> set[tuple[int, ...]]:
        """Return those of the chunks that have a file; one of background only has none."""
        if not starts or not self._is_there():
            return set()
        key, folder = self._array("r").metadata.encode_chunk_key, folder_at(self.place)
        lead = () if self.timepoints is None else (self.source.timepoint or 0,)
        names = {
            start: key((*lead, *(a // n for a, n in zip(start, self.chunk, strict=True))))
            for start in starts
        }
        if self.place.startswith(("http://", "https://")):  # a web server lists nothing
            return {start for start, name in names.items() if folder.exists(name)}
        found = set(folder.names())
        return {start for start, name in names.items() if name in found}

    def _settle(self, start: tuple[int, ...], changes: Iterable[LabelChange]) -> bool:
        """Compute a chunk from the source; write it if it differs, and return whether it did."""
        here = self._cell(start).clip(self.shape)
        labels = self.source.read(here).astype(self.dtype)
        for change in changes:
            change.put_into(labels, here)
        if self._is_there() and np.array_equal(self._array("r")[self._at(here)], labels):
            return False
        self._write(here, labels)
        return True

    def _write(self, box: Box, labels: NDArray[Any]) -> None:
        self._create()
        with output_errors(shown(self.place)):
            self._array("r+")[self._at(box)] = labels
        self.cells.add(box.start)

    def _mine(self, box: Box) -> Iterator[Box]:
        if not box.size:
            return
        lattice = box.rounded_out(self.chunk)
        n_lattice = prod(a // b for a, b in zip(lattice.shape, self.chunk, strict=True))
        if n_lattice <= len(self.cells):
            yield from (cell for cell in lattice.split(self.chunk) if cell.start in self.cells)
            return
        for start in sorted(self.cells):
            if (cell := self._cell(start)).intersect(box).size:
                yield cell

    def _cell(self, start: tuple[int, ...]) -> Box:
        return Box(start, tuple(a + n for a, n in zip(start, self.chunk, strict=True)))

    def _at(self, box: Box) -> tuple[int | slice, ...]:
        lead = () if self.timepoints is None else (self.source.timepoint or 0,)
        return (*lead, *box.slices)

    def _array(self, mode: Literal["r", "r+"]) -> Any:
        return open_array(self.place, mode, self.zarr_format, durable=mode == "r+")

    def _is_there(self) -> bool:
        name = "zarr.json" if self.zarr_format == 3 else ".zarray"
        return bool(self.cells) or folder_at(self.place).exists(name)

    def _create(self) -> None:
        if self._is_there():
            return
        lead = () if self.timepoints is None else (self.timepoints,)
        create_array(
            self.place,
            shape=(*lead, *self.shape),
            dtype=self.dtype,
            chunks=(*(1 for _ in lead), *self.chunk),
            fill_value=0,
            **self._encoding(),
        )

    def _encoding(self) -> dict[str, Any]:
        if self.zarr_format == 3:
            from zarr.codecs import ZstdCodec

            return {"zarr_format": 3, "compressors": ZstdCodec(level=1)}
        from numcodecs import Zstd

        return {
            "zarr_format": 2,
            "compressors": Zstd(level=1),
            "chunk_key_encoding": {"name": "v2", "separator": "/"},
        }
