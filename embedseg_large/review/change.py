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
from math import prod
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
        old, new = before.reshape(-1), after.reshape(-1)
        places = np.flatnonzero(old != new)
        old, new = old[places].astype(np.int64), new[places].astype(np.int64)
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
        lattice = self.box.rounded_out(chunk)
        for slab in lattice.split((chunk[0], *lattice.stop[1:])):
            voxels, _ = self._changed(slab)
            corners = np.unique(voxels // np.asarray(chunk), axis=0) * np.asarray(chunk)
            for corner in corners.tolist():
                yield Box(tuple(corner), tuple(a + n for a, n in zip(corner, chunk, strict=True)))

    def put_into(self, voxels: NDArray[Any], box: Box) -> None:
        """Write the new labels into an array with the labels of another box, in place."""
        changed, labels = self._changed(box)
        voxels[tuple((changed - np.asarray(box.start)).T)] = labels

    def _changed(self, part: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the changed voxels in a part of the volume.

        The memory is that of the changes in its planes, whatever the size of the box.

        Returns
        -------
        voxels, labels
            (n, ndim) coordinates in the volume, ascending; and (n,) their new labels.
        """
        here = part.intersect(self.box)
        if not here.size:
            return np.zeros((0, part.ndim), np.int64), np.zeros(0, np.int64)
        plane = prod(self.box.shape[1:])
        first, last = ((z - self.box.start[0]) * plane for z in (here.start[0], here.stop[0]))
        starts = np.maximum(self.runs[:, 0], first)
        lengths = np.minimum(self.runs[:, 0] + self.runs[:, 1], last) - starts
        met = lengths > 0
        places = _places(starts[met], lengths[met])
        voxels = np.stack(np.unravel_index(places, self.box.shape), axis=1) + self.box.start
        labels = np.repeat(self.runs[met, 3], lengths[met])
        inside = ((voxels >= here.start) & (voxels < here.stop)).all(axis=1)
        return voxels[inside], labels[inside]

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


def _places(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the raster indices of all voxels of runs."""
    before = np.cumsum(lengths) - lengths
    places: NDArray[np.int64] = np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
    return places
