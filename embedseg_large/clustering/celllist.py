"""A cell list: points sorted into cubic cells, so that a neighbourhood is a few short runs.

Cells only limit where to look. Exact arithmetic elsewhere decides which points are within reach of
each other, so the size of a cell affects nothing but speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError

_SLACK = 1e-6
"""Added around a neighbourhood, in cells, so that rounding never leaves a point outside it."""
_MAX_CELLS_PER_POINT = 2.0

MOST = 2**31 - 1
"""Points or cells: their numbers are kept in 32 bits, which halves the memory of a tile."""


@dataclass(frozen=True, slots=True)
class CellList:
    """Points grouped by cell; cells in raster order, so that those along x are one run."""

    shape: NDArray[np.int64]
    """(3,) number of cells per axis."""
    size: NDArray[np.float64]
    """(3,) edge of a cell in voxels."""
    first: NDArray[np.int64]
    """(cells + 1,) number of points before each cell."""
    points: NDArray[np.float64]
    """(n, 3) the points, grouped."""
    number: NDArray[np.int32]
    """(n,) cell of each grouped point."""
    origin: NDArray[np.int32]
    """(n,) index of each grouped point in the original order."""
    place: NDArray[np.int32]
    """(n,) index of each original point in the grouped order."""


def build_cells(
    points: NDArray[np.float64], region: tuple[int, int, int], size: NDArray[np.float64]
) -> CellList:
    """Group points, (n, 3) in voxels, into cells that cover `region`.

    Points outside the region belong to the nearest border cell.

    Raises
    ------
    UsageError
        There are more points or cells than 32-bit numbers can count.
    """
    extent = np.asarray(region, dtype=np.float64)
    size = np.clip(size, 1.0, np.maximum(extent, 1.0))
    cells = np.prod(np.ceil(extent / size))
    crowded = _MAX_CELLS_PER_POINT * len(points) + 64.0
    if cells > crowded:  # few points in a large region: coarser cells, or their table dominates
        size = size * (cells / crowded) ** (1.0 / 3.0)
    shape = np.maximum(np.ceil(extent / size), 1.0).astype(np.int64)
    if max(len(points), int(np.prod(shape))) > MOST:
        raise UsageError(
            f"{len(points):,} foreground voxels are too many to cluster in one piece, at most "
            f"{MOST:,}; use segment(), which cuts the volume into tiles"
        )
    return CellList(shape, size, *_group(points, shape, size))


@numba.njit(cache=True)
def cell_range(
    low: float, high: float, size: float, count: int
) -> tuple[int, int]:  # pragma: no cover - compiled
    """First and last cell, along one axis, that may hold a point of ``[low, high]``."""
    a = np.floor(low / size - _SLACK)
    b = np.floor(high / size + _SLACK)
    return int(min(max(a, 0.0), count - 1.0)), int(min(max(b, 0.0), count - 1.0))


@numba.njit(cache=True, nogil=True)
def _group(
    points: NDArray[np.float64], shape: NDArray[np.int64], size: NDArray[np.float64]
) -> tuple[
    NDArray[np.int64],
    NDArray[np.float64],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int32],
]:  # pragma: no cover - compiled
    """Counting sort by cell that keeps the original order within each cell."""
    n = len(points)
    cell = np.empty(n, np.int32)
    first = np.zeros(shape[0] * shape[1] * shape[2] + 1, np.int64)
    for i in range(n):
        number = 0
        for axis in range(3):
            at = np.floor(points[i, axis] / size[axis])
            number = number * shape[axis] + int(min(max(at, 0.0), shape[axis] - 1.0))
        cell[i] = number
        first[number + 1] += 1
    for c in range(first.size - 1):
        first[c + 1] += first[c]
    free = first[:-1].copy()
    grouped = np.empty((n, 3))
    numbers = np.empty(n, np.int32)
    origin = np.empty(n, np.int32)
    place = np.empty(n, np.int32)
    for i in range(n):
        to = free[cell[i]]
        free[cell[i]] += 1
        for axis in range(3):
            grouped[to, axis] = points[i, axis]
        numbers[to] = cell[i]
        origin[to] = i
        place[i] = to
    return first, grouped, numbers, origin, place
