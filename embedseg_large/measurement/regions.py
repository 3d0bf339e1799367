"""Sums over the voxels of each instance; those of disjoint boxes add up to those of the volume.

::

    0 0 0 0 0 ┊      A box sums up the voxels of its core. It counts its surface by cells of
    0┌───────┐┊      2·2·2 voxels, those that begin in the core: it sees one more voxel above,
    0│ core  ││      and before the volume begins and after it ends, background. So every cell is
    0│       ││      one box's, and an instance is closed where the volume ends.
    0└───────┘│
    ┄┄┄┄┄┄┄┄┄┄┘

All sums but those of floats are integers modulo 2⁶⁴: exact, and independent of the boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import VolumeError
from embedseg_large.geometry import Box
from embedseg_large.measurement.intensities import Intensities, intensities_of, no_intensities
from embedseg_large.measurement.kernels import COLUMNS, MOMENTS, add_crossings, add_moments

Integers = NDArray[np.int64]

_LIMITS = np.iinfo(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Sums over the voxels of n instances, by ascending id. 2D volumes have one plane, z 0."""

    ids: NDArray[np.uint64]
    """(n,) ids, without the background."""
    sums: Integers
    """(n, COLUMNS) as in `embedseg_large.measurement.kernels`, modulo 2⁶⁴."""
    low: Integers
    """(n, 3) smallest index along z, y, x."""
    high: Integers
    """(n, 3) largest index plus one."""
    intensities: tuple[Intensities, ...] = ()
    """One per channel."""

    @classmethod
    def empty(cls, dtypes: Sequence[np.dtype[Any]] = ()) -> Regions:
        """Return the sums over nothing: the zero of ``+``.

        Parameters
        ----------
        dtypes
            Dtype of each channel.
        """
        none = np.zeros((0, 3), np.int64)
        sums = np.zeros((0, COLUMNS), np.int64)
        channels = tuple(no_intensities(dtype) for dtype in dtypes)
        return cls(np.zeros(0, np.uint64), sums, none, none, channels)

    @classmethod
    def of(cls, labels: NDArray[Any], core: Box, images: Sequence[NDArray[Any]] = ()) -> Regions:
        """Sum up the voxels of a core.

        Parameters
        ----------
        labels
            Integer labels of ``cells_of(core)``, 0 for background and outside of the volume.
        core
            Position of the core in the volume; two or three axes.
        images
            Voxels of the core in each channel.

        Raises
        ------
        VolumeError
            If a label is negative.
        """
        rows, ids = _rows(labels)
        n = ids.size
        sums = np.zeros((n + 1, COLUMNS), np.int64)
        low, high = np.full((n + 1, 3), _LIMITS.max), np.full((n + 1, 3), _LIMITS.min)
        inside = rows[core.slices_in(cells_of(core))]
        flat = (1,) * (3 - core.ndim)
        origin = ((0,) * (3 - core.ndim)) + core.start
        add_moments(
            inside.reshape(flat + core.shape), (origin[0], origin[1], origin[2]), sums, low, high
        )
        add_crossings(rows.reshape(flat + rows.shape), core.ndim, sums)
        channels = tuple(intensities_of(np.ascontiguousarray(inside), i, n) for i in images)
        return cls(ids, sums[1:], low[1:], high[1:], channels)

    def __add__(self, other: Regions) -> Regions:
        """Return the sums over both parts of the volume."""
        ids = np.concatenate([self.ids, other.ids])
        if ids.size == 0:
            return self
        sums = np.concatenate([self.sums, other.sums])
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        first = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        channels = (
            a.and_also(b).grouped(order, first, sums[:, 0])
            for a, b in zip(self.intensities, other.intensities, strict=True)
        )
        return Regions(
            ids[first],
            np.add.reduceat(sums[order], first),
            np.minimum.reduceat(np.concatenate([self.low, other.low])[order], first),
            np.maximum.reduceat(np.concatenate([self.high, other.high])[order], first),
            tuple(channels),
        )

    @property
    def sizes(self) -> Integers:
        """(n,) number of voxels."""
        return self.sums[:, 0]

    @property
    def crossings(self) -> Integers:
        """(n, classes) crossings of the surface along each of `directions.CLASSES`."""
        return self.sums[:, MOMENTS:]


def cells_of(core: Box) -> Box:
    """The region whose cells belong to a box; at the volume's borders, one voxel beyond.

    Parameters
    ----------
    core
        A box of the volume.
    """
    return Box(tuple(a - (a == 0) for a in core.start), tuple(b + 1 for b in core.stop))


def _rows(labels: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """Number the labels that occur, 1..n in ascending order: their rows, and the n ids."""
    flat = labels.reshape(-1)
    # By runs of equal labels along x: there are far fewer than voxels.
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ids, number = np.unique(flat[starts], return_inverse=True)
    if ids[0] < 0:
        raise VolumeError(f"the labels have the negative id {ids[0]}; ids are 0 or positive")
    number += ids[0] != 0
    rows = np.repeat(number.astype(np.int32), np.diff(starts, append=flat.size))
    return rows.reshape(labels.shape), ids[ids > 0].astype(np.uint64)
