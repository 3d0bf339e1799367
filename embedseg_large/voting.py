"""Labels on another grid: each voxel takes the label that has most of its weight.

The weights are those of the linear filter with which an image is resampled, so labels stay where
the image is. By nearest neighbour, outlines would be displaced by up to half a voxel of the coarser
grid, at random in each voxel, and all in the same direction where the grids differ by a factor of
two. Of equal weights, the voxel that contains the centre decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

AXES = 3


class Taps(NamedTuple):
    """The voxels before, and their weights, that each voxel after depends on, along one axis."""

    voxels: NDArray[np.int64]
    """``(after, taps)``; those without weight repeat one with weight. One tap: the axis stays."""
    weight: NDArray[np.float32]
    """``(after, taps)``."""
    nearest: NDArray[np.int64]
    """``(after,)``: the voxel before that contains the centre, or one of two that touch it."""

    @classmethod
    def of(cls, first: int, weights: csr_array, nearest: NDArray[np.intp]) -> Taps:
        """From weights of the voxels from `first` on, equally many in each row."""
        shape = len(nearest), -1
        voxels = weights.indices.astype(np.int64).reshape(shape) + first
        return cls(voxels, weights.data.reshape(shape), nearest.astype(np.int64))

    @classmethod
    def cells(cls, factor: int, size: int, first: int = 0) -> Taps:
        """Those of cells of `factor` voxels of an axis of `size`; the last may be incomplete.

        `first` is the number of the first cell. The centre of a cell of an even number of voxels is
        between two of them: `nearest` is the former one in even cells, the latter one in odd cells.
        Always the same one would displace labels, because a straight outline often halves cells.
        """
        cells = -(-size // factor)
        voxels = np.arange(cells * factor).reshape(cells, factor)
        inside = (voxels < size).astype(np.float32)
        last = np.minimum(voxels, size - 1)
        middle = (factor - 1 + (np.arange(cells) + first) % 2) // 2
        return cls(last, inside, last[np.arange(cells), middle])

    @classmethod
    def unchanged(cls, start: int, stop: int) -> Taps:
        """Those of a range of voxels of an axis that stays as it is."""
        same = np.arange(start, stop)
        return cls(same[:, np.newaxis], np.ones((len(same), 1), np.float32), same)

    @property
    def span(self) -> tuple[int, int]:
        """Half-open range of the voxels before."""
        return int(self.voxels.min()), int(self.voxels.max()) + 1

    def rows(self, own: slice) -> Taps:
        """Those of some of the voxels after."""
        return Taps(self.voxels[own], self.weight[own], self.nearest[own])

    def from_its_start(self) -> Taps:
        """The same, for an array that begins with the first voxel before."""
        first = self.span[0]
        return Taps(self.voxels - first, self.weight, self.nearest - first)


def vote(labels: NDArray[Any], taps: Sequence[Taps]) -> NDArray[Any]:
    """Resample labels.

    Parameters
    ----------
    labels
        Integers ``(*spatial)``, those of the `Taps.span` of each axis; every value counts, also 0
        and negative ones.
    taps
        For each axis.

    Returns
    -------
    ndarray
        Of the same dtype.
    """
    own = [one.from_its_start() for one in taps]
    low = high = labels
    for axis, one in enumerate(own):
        if one.voxels.shape[1] > 1:
            low = _extremes(np.minimum, low, one.voxels, axis)
            high = _extremes(np.maximum, high, one.voxels, axis)
    found: NDArray[Any] = np.array(low)
    mixed = np.flatnonzero(low != high)
    if mixed.size:
        missing = AXES - labels.ndim
        z, y, x = [Taps.unchanged(0, 1)] * missing + own
        full = labels.reshape((1,) * missing + labels.shape)
        _count(full, z, y, x, mixed, found.reshape(-1))
    return found


def _extremes(
    function: np.ufunc, labels: NDArray[Any], voxels: NDArray[np.int64], axis: int
) -> NDArray[Any]:
    """The smallest or largest label among the taps along an axis."""
    found = labels.take(voxels[:, 0], axis=axis)
    for column in voxels.T[1:]:
        function(found, labels.take(column, axis=axis), out=found)
    return found


@numba.njit(cache=True, nogil=True)
def _count(
    labels: NDArray[Any],
    z: Taps,
    y: Taps,
    x: Taps,
    mixed: NDArray[np.int64],
    found: NDArray[Any],
) -> None:  # pragma: no cover - compiled
    """Count the weights at some voxels after, in a fixed order: nothing else affects a voxel."""
    most = 1 + z.voxels.shape[1] * y.voxels.shape[1] * x.voxels.shape[1]
    names, sums = np.empty(most, labels.dtype), np.empty(most, np.float32)
    width, height = len(x.nearest), len(y.nearest)
    for at in mixed:
        i, j, k = at // (height * width), at // width % height, at % width
        names[0], sums[0], n = labels[z.nearest[i], y.nearest[j], x.nearest[k]], np.float32(0), 1
        for a in range(z.voxels.shape[1]):
            for b in range(y.voxels.shape[1]):
                part = z.weight[i, a] * y.weight[j, b]
                if part == 0:
                    continue
                for c in range(x.voxels.shape[1]):
                    weight = part * x.weight[k, c]
                    if weight == 0:
                        continue
                    name = labels[z.voxels[i, a], y.voxels[j, b], x.voxels[k, c]]
                    own = 0
                    while own < n and names[own] != name:
                        own += 1
                    if own == n:
                        names[n], sums[n], n = name, np.float32(0), n + 1
                    sums[own] += weight
        best = 0
        for own in range(1, n):
            if sums[own] > sums[best] * np.float32(1 + 1e-5):  # sums are rounded
                best = own
        found[at] = names[best]
