"""Bounding boxes of the instances of a label volume, in about 20 bytes each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.runs.boxes import box_shape
from embedseg_large.volumes.label_images import read_labels
from embedseg_large.volumes.pieces import pieces
from embedseg_large.volumes.volume import Volume

_MERGED = 1 << 20
"""Minimum number of boxes that are merged at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Bounding boxes of n instances, or of parts of them."""

    labels: NDArray[np.uint64]
    """(n,) their labels; ascending and distinct once merged."""
    low: NDArray[np.unsignedinteger]
    """(n, ndim) first voxel along each axis."""
    high: NDArray[np.unsignedinteger]
    """(n, ndim) first voxel past it."""

    def __len__(self) -> int:
        """Return the number of boxes."""
        return self.labels.size

    def __iter__(self) -> Iterator[tuple[int, Box]]:
        """Yield label and box of each, one at a time."""
        return map(self._at, range(len(self)))

    def largest(self) -> tuple[int, Box]:
        """Return label and box of the one with the most voxels; there is at least one."""
        return self._at(int(np.prod(self.high - self.low, axis=1, dtype=np.float64).argmax()))

    def merged(self) -> Boxes:
        """Return one box for each label, around all of its boxes."""
        order = np.argsort(self.labels, kind="stable")
        labels = self.labels[order]
        first = np.flatnonzero(np.diff(labels, prepend=~labels[:1]))
        if first.size == 0:
            return self
        return Boxes(
            labels[first],
            np.minimum.reduceat(self.low[order], first),
            np.maximum.reduceat(self.high[order], first),
        )

    def _at(self, row: int) -> tuple[int, Box]:
        low, high = self.low[row].tolist(), self.high[row].tolist()
        return int(self.labels[row]), Box(tuple(low), tuple(high))


def boxes_of(
    labels: Volume, timepoint: int | None, keep: NDArray[np.uint64] | None = None
) -> Boxes:
    """Find where instances are.

    Parameters
    ----------
    labels
        2D or 3D, without a channel axis; read once, piece by piece.
    timepoint
        The timepoint; None if there is only one.
    keep
        Labels of the requested instances; None: all. No others take memory.

    Returns
    -------
    Bounding boxes in voxels, merged.
    """
    dtype = np.min_scalar_type(max(labels.spatial_shape))
    none = np.zeros((0, labels.ndim), dtype)
    found, waiting = Boxes(np.zeros(0, np.uint64), none, none), list[Boxes]()
    whole = Box.whole(labels.spatial_shape)
    for piece in pieces(whole, box_shape(whole.shape, [labels.chunks]), labels.name):
        waiting.append(_runs(read_labels(labels, timepoint, piece), piece, keep, dtype).merged())
        if sum(map(len, waiting)) > max(_MERGED, len(found)):  # so that none is sorted often
            found, waiting = _joined([found, *waiting]).merged(), []
    return _joined([found, *waiting]).merged()


def _joined(parts: Sequence[Boxes]) -> Boxes:
    """Return the boxes of all parts, one after the other."""
    names = ("labels", "low", "high")
    return Boxes(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _runs(
    labels: NDArray[Any], piece: Box, keep: NDArray[np.uint64] | None, dtype: np.dtype[Any]
) -> Boxes:
    """Return the boxes of runs of equal labels along x: there are far fewer than voxels."""
    flat = labels.reshape(-1)
    begins = np.ones(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[:: labels.shape[-1]] = True
    first = np.flatnonzero(begins)
    last = np.append(first[1:], flat.size) - 1
    ids = flat[first].astype(np.uint64)
    chosen = ids > 0 if keep is None else np.isin(ids, keep)
    low, high = (
        np.stack(np.unravel_index(at[chosen], labels.shape), axis=1) + piece.start
        for at in (first, last)
    )
    return Boxes(ids[chosen], low.astype(dtype), (high + 1).astype(dtype))
