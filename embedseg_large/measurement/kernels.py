"""Compiled loops over voxels. The row of a voxel identifies its instance; row 0 is background.

Sums are kept modulo 2⁶⁴, as in int64 arithmetic: the values finally computed from them are small.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.measurement.directions import CLASSES, pairs_of_cell

MOMENTS = 10
"""Voxels; sums of z, y, x; of zz, zy, zx, yy, yx, xx."""
COLUMNS = MOMENTS + len(CLASSES)
"""The moments, and crossings of the surface along each class of directions."""


@numba.njit(cache=True, nogil=True)
def add_moments(
    rows: NDArray[np.int32],
    origin: tuple[int, int, int],
    sums: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> None:
    """Add the moments of all voxels to `sums`, and stretch the bounding boxes.

    Parameters
    ----------
    rows
        (z, y, x) row of each voxel.
    origin
        The first voxel, in the volume.
    sums
        (rows, COLUMNS); the first `MOMENTS` columns are added to.
    low, high
        (rows, 3) first voxel and first one past the last, along z, y, x.
    """
    for i in range(rows.shape[0]):
        z = origin[0] + i
        for j in range(rows.shape[1]):
            y = origin[1] + j
            k = 0
            while k < rows.shape[2]:
                row, start = rows[i, j, k], k
                n = s = ss = 0
                while k < rows.shape[2] and rows[i, j, k] == row:  # a run of one instance
                    x = origin[2] + k
                    n, s, ss, k = n + 1, s + x, ss + x * x, k + 1
                if row == 0:
                    continue
                to = sums[row]
                to[0] += n
                to[1] += z * n
                to[2] += y * n
                to[3] += s
                to[4] += z * z * n
                to[5] += z * y * n
                to[6] += z * s
                to[7] += y * y * n
                to[8] += y * s
                to[9] += ss
                low[row, 0], high[row, 0] = min(low[row, 0], z), max(high[row, 0], z + 1)
                low[row, 1], high[row, 1] = min(low[row, 1], y), max(high[row, 1], y + 1)
                low[row, 2] = min(low[row, 2], origin[2] + start)
                high[row, 2] = max(high[row, 2], origin[2] + k)


def add_crossings(rows: NDArray[np.int32], ndim: int, sums: NDArray[np.int64]) -> None:
    """Count differing pairs of neighbours in each cell that begins in any but the last planes.

    Parameters
    ----------
    rows
        (z, y, x) row of each voxel; in 2D z is 1.
    ndim
        2 or 3.
    sums
        (rows, COLUMNS); the columns from `MOMENTS` on are added to.
    """
    steps = np.array([rows.shape[1] * rows.shape[2], rows.shape[2], 1])
    pairs = pairs_of_cell(ndim)
    low = np.array([steps @ pair[0] for pair in pairs])
    high = np.array([steps @ pair[1] for pair in pairs])
    numbers = np.array([pair[2] for pair in pairs])
    corners = np.unique(np.concatenate([low, high]))
    cells = (rows.shape[0] - (ndim == 3), rows.shape[1] - 1, rows.shape[2] - 1)
    _add_crossings(
        np.ascontiguousarray(rows).reshape(-1),
        cells,
        (int(steps[0]), int(steps[1])),
        corners,
        (low, high, numbers),
        sums[:, MOMENTS:],
    )


@numba.njit(cache=True, nogil=True)
def _add_crossings(
    rows: NDArray[np.int32],
    cells: tuple[int, int, int],
    strides: tuple[int, int],
    corners: NDArray[np.int64],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    counts: NDArray[np.int64],
) -> None:
    low, high, numbers = pairs
    for i in range(cells[0]):
        for j in range(cells[1]):
            begin = i * strides[0] + j * strides[1]
            for at in range(begin, begin + cells[2]):
                differ = False
                for corner in corners:
                    differ |= rows[at + corner] != rows[at]
                if not differ:
                    continue
                for k in range(numbers.size):
                    a, b = rows[at + low[k]], rows[at + high[k]]
                    if a != b:
                        counts[a, numbers[k]] += 1
                        counts[b, numbers[k]] += 1


@numba.njit(cache=True, nogil=True)
def add_integers(
    rows: NDArray[np.int32],
    image: NDArray[Any],
    sums: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> None:
    """Add up the values of voxels and their squares, (rows, 2), and stretch the range, (rows,)."""
    for i in range(rows.size):
        row = rows[i]
        if row > 0:
            value = np.int64(image[i])
            sums[row, 0] += value
            sums[row, 1] += value * value
            low[row], high[row] = min(low[row], value), max(high[row], value)


@numba.njit(cache=True, nogil=True)
def add_reals(
    rows: NDArray[np.int32],
    image: NDArray[Any],
    sums: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> None:
    """Add up the values of voxels, (rows,), and stretch the range; NaN stays."""
    for i in range(rows.size):
        row = rows[i]
        if row > 0:
            value = np.float64(image[i])
            sums[row] += value
            if value < low[row] or value != value:
                low[row] = value
            if value > high[row] or value != value:
                high[row] = value


@numba.njit(cache=True, nogil=True)
def add_squares(
    rows: NDArray[np.int32],
    image: NDArray[Any],
    means: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> None:
    """Add up the squared differences of voxels from the mean of their row."""
    for i in range(rows.size):
        row = rows[i]
        if row > 0:
            difference = np.float64(image[i]) - means[row]
            squares[row] += difference * difference
