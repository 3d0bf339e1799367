"""The greedy rule, compiled, over points that are sorted into cells.

1. Take the unclaimed point of highest seediness (ties: lowest raster index); stop below `seed`.
2. Its *proposal* is every point, claimed or not, at which its Gaussian is above the margin.
3. Accept when the proposal has more than `min_object_size` points and more than half of them are
   unclaimed, the seed itself counting as claimed. An accepted proposal overwrites older labels.
4. Claim the proposal either way.

*Certainty.* A region may be part of a volume, and what lies outside is unseen. Points that an
unseen voxel could claim are uncertain from the start. A seed is uncertain if its proposal contains
an uncertain point, and from then on all of that proposal is uncertain. A point with an uncertain
claim on it might in truth be a seed: in its turn, the proposal it would make becomes uncertain too.
By induction over the seed order, everything that stays certain is what the whole volume would give.

*Cells.* A neighbourhood is a few short runs of a list of points grouped by cubic cells. They only
limit where to look: exact arithmetic decides which points are within reach of each other, so the
size of a cell affects nothing but speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.settings import ClusteringSettings
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
        If there are more points or cells than 32-bit numbers can count.
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


class Grown(NamedTuple):
    """Result of :func:`grow`; n points in their cell order, m accepted instances."""

    label: NDArray[np.int32]
    """(n,) 1-based number of the instance, in order of seediness; 0 for none."""
    seed: NDArray[np.int64]
    """(m,) the seed point of each instance."""
    certain: NDArray[np.bool_]
    """(m,) whether nothing unseen could have changed the instance."""


def grow(
    cells: CellList,
    sigma: NDArray[np.float32],
    turns: NDArray[np.int32],
    uncertain: NDArray[np.bool_],
    settings: ClusteringSettings,
) -> Grown:
    """Apply the rule to points in cell order.

    Parameters
    ----------
    cells
        The embeddings in voxels, grouped.
    sigma
        (n, 3) float32 in voxels, in the order the points were given to the cell list.
    turns
        Points that may become seeds, in descending order of seediness.
    uncertain
        (n,) whether something unseen could claim the point. Changed in place.
    settings
        Thresholds.
    """
    sure = np.bincount(cells.number[~uncertain], minlength=cells.first.size - 1)
    label, seed, certain = _grow(
        cells.shape,
        cells.size,
        cells.first,
        cells.number,
        cells.origin,
        sure,
        cells.points,
        sigma,
        turns,
        uncertain,
        settings.min_object_size,
        settings.exponent,
        settings.radius,
    )
    return Grown(label, seed, certain)


@numba.njit(cache=True, nogil=True)
def _propose(
    at: int,
    shape: NDArray[np.int64],
    size: NDArray[np.float64],
    first: NDArray[np.int64],
    sure: NDArray[np.int64],
    least_sure: int,
    embedding: NDArray[np.float64],
    sigma: NDArray[np.float32],
    exponent: float,
    radius: float,
    found: NDArray[np.int64],
) -> int:  # pragma: no cover - compiled
    """Write the points where the Gaussian of point `at` is above the margin; return their number.

    Cells with fewer than `least_sure` certain points are skipped.
    """
    c0, c1, c2 = embedding[at, 0], embedding[at, 1], embedding[at, 2]
    s0, s1, s2 = np.float64(sigma[0]), np.float64(sigma[1]), np.float64(sigma[2])
    w0, w1, w2 = 0.5 / (s0 * s0), 0.5 / (s1 * s1), 0.5 / (s2 * s2)
    b0, b1, b2 = radius * s0, radius * s1, radius * s2
    z0, z1 = cell_range(c0 - b0, c0 + b0, size[0], shape[0])
    y0, y1 = cell_range(c1 - b1, c1 + b1, size[1], shape[1])
    x0, x1 = cell_range(c2 - b2, c2 + b2, size[2], shape[2])
    count = 0
    for z in range(z0, z1 + 1):
        for y in range(y0, y1 + 1):
            row = (z * shape[1] + y) * shape[2]
            for cell in range(row + x0, row + x1 + 1):
                if sure[cell] < least_sure:
                    continue
                for i in range(first[cell], first[cell + 1]):
                    d0 = embedding[i, 0] - c0
                    d1 = embedding[i, 1] - c1
                    d2 = embedding[i, 2] - c2
                    if d0 * d0 * w0 + d1 * d1 * w1 + d2 * d2 * w2 < exponent:
                        found[count] = i
                        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _grow(
    shape: NDArray[np.int64],
    size: NDArray[np.float64],
    first: NDArray[np.int64],
    cell: NDArray[np.int32],
    origin: NDArray[np.int32],
    sure: NDArray[np.int64],
    embedding: NDArray[np.float64],
    sigma: NDArray[np.float32],
    turns: NDArray[np.int32],
    uncertain: NDArray[np.bool_],
    min_object_size: int,
    exponent: float,
    radius: float,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:  # pragma: no cover - compiled
    n = len(embedding)
    label = np.zeros(n, np.int32)
    claimed = np.zeros(n, np.bool_)
    found = np.empty(n, np.int64)
    seed = np.empty(turns.size, np.int64)
    certain = np.ones(turns.size + 1, np.bool_)  # at 0: background, ignored
    instances = 0
    for at in turns:
        if claimed[at] and not uncertain[at]:
            continue
        doubtful = uncertain[at]
        # A claimed point can only cast doubt, and only on certain points.
        least_sure = 1 if claimed[at] else 0
        own = sigma[origin[at]]
        count = _propose(
            at, shape, size, first, sure, least_sure, embedding, own, exponent, radius, found
        )
        if not claimed[at]:
            claimed[at] = True
            fresh = 0
            for k in range(count):
                i = found[k]
                fresh += not claimed[i]
                claimed[i] = True
                doubtful |= uncertain[i]
            if count > min_object_size and 2 * fresh > count:
                seed[instances] = at
                instances += 1
                for k in range(count):
                    if doubtful:
                        certain[label[found[k]]] = False
                    label[found[k]] = instances
        if doubtful:
            for k in range(count):
                i = found[k]
                certain[label[i]] = False
                sure[cell[i]] -= not uncertain[i]
                uncertain[i] = True
    return label, seed[:instances].copy(), certain[1 : instances + 1].copy()
