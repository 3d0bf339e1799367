"""The voxels that an edit changes: applied forwards, or backwards to undo it.

A change is stored as runs along the last axis of a box, each ``start, length, before, after``;
`start` is a raster index in the box. A nucleus takes a few kilobytes of text, and the result is
exact whatever code computed the edit.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box

_MOST_BYTES = 1 << 30
"""Maximum size of a change from a file, which could declare any size."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelChange:
    """Old and new labels of the voxels that differ in a box.

    Raises
    ------
    ValueError
        If runs leave the box or overlap.
    """

    box: Box
    runs: NDArray[np.int64]
    """(n, 4): start, length, before, after; ascending."""

    def __post_init__(self) -> None:
        starts, lengths = self.runs[:, 0], self.runs[:, 1]
        ends = np.concatenate([[0], starts + lengths])
        if (lengths < 1).any() or (starts < ends[:-1]).any() or ends[-1] > self.box.size:
            raise ValueError(f"runs that do not fit into {self.box}")

    @classmethod
    def between(cls, box: Box, before: NDArray[Any], after: NDArray[Any]) -> LabelChange:
        """Compare the old and new labels of a box; both have its shape."""
        old, new = before.reshape(-1).astype(np.int64), after.reshape(-1).astype(np.int64)
        places = np.flatnonzero(old != new)
        old, new = old[places], new[places]
        ends = (np.diff(places) != 1) | (np.diff(old) != 0) | (np.diff(new) != 0)
        first = np.concatenate([[0], np.flatnonzero(ends) + 1])[: places.size]
        lengths = np.diff(first, append=places.size)
        return cls(box, np.stack([places[first], lengths, old[first], new[first]], axis=1))

    @property
    def size(self) -> int:
        """Number of changed voxels."""
        return int(self.runs[:, 1].sum())

    def backwards(self) -> LabelChange:
        """Return the change that undoes this one."""
        return LabelChange(self.box, self.runs[:, [0, 1, 3, 2]])

    def cells(self, chunk: Sequence[int]) -> Iterator[Box]:
        """Iterate over the chunks of a lattice that contain changed voxels, in raster order."""
        changed = self._changed()
        for cell in self.box.rounded_out(chunk).split(chunk):
            if changed[cell.intersect(self.box).slices_in(self.box)].any():
                yield cell

    def put_into(self, voxels: NDArray[Any], box: Box) -> None:
        """Write the new labels into an array with the labels of another box, in place."""
        here = box.intersect(self.box)
        if not here.size:
            return
        changed, labels = self._changed(), np.zeros(self.box.size, np.int64)
        labels[_places(self.runs)] = np.repeat(self.runs[:, 3], self.runs[:, 1])
        inside = here.slices_in(self.box)
        part = voxels[here.slices_in(box)]
        part[changed[inside]] = labels.reshape(self.box.shape)[inside][changed[inside]]

    def _changed(self) -> NDArray[np.bool_]:
        changed = np.zeros(self.box.size, bool)
        changed[_places(self.runs)] = True
        return changed.reshape(self.box.shape)

    def packed(self) -> str:
        """Return the runs as text."""
        return base64.b64encode(zlib.compress(self.runs.astype("<i8").tobytes(), 6)).decode()

    @classmethod
    def unpacked(cls, box: Box, text: str) -> LabelChange:
        """Parse the text of `packed`.

        Raises
        ------
        ValueError
            If the text is invalid, or does not fit the box.
        """
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
        if stream.unconsumed_tail or not stream.eof or len(data) % 32:
            raise ValueError("no runs of voxels")
        return cls(box, np.frombuffer(data, "<i8").astype(np.int64).reshape(-1, 4))


def _places(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the raster indices of all voxels of the runs."""
    starts, lengths = runs[:, 0], runs[:, 1]
    before = np.cumsum(lengths) - lengths
    places: NDArray[np.int64] = np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
    return places
