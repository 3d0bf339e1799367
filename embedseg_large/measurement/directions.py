"""The directions along which surfaces are counted, and the weight of a count.

Crofton's formula: the area of a surface is twice the mean, over all directions u, of how many times
lines along u cross it, per area of the plane that they are perpendicular to. On a lattice there are
13 directions between neighbours, d; each voxel has one line along d, which represents an area of V
/ abs(d), and the directions closer to d than to any other::

    surface = 2 · Σ_d  w_d · crossings_d · V / abs(d)         w_d: share of the half sphere
    perimeter = π/2 · Σ_d  w_d · crossings_d · A / abs(d)     2D: 4 directions, half circle

Sources: Lehmann and Legland, "Efficient N-Dimensional surface estimation using Crofton formula and
run-length encoding", Insight Journal 2012; MorphoLibJ. Crossings are integers, so the counts of
boxes add up exactly; anisotropic voxels only change the weights. Reflecting an axis changes
nothing, so directions that differ by signs share a count: 7 *classes*, by the axes they move along.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import atan2, pi, prod

import numpy as np
from numpy.typing import NDArray

Step = tuple[int, int, int]

CLASSES: tuple[Step, ...] = (
    (1, 0, 0),
    (0, 1, 0),
    (0, 0, 1),
    (1, 1, 0),
    (1, 0, 1),
    (0, 1, 1),
    (1, 1, 1),
)
"""Axes (z, y, x) along which the directions of a class move."""


def pairs_of_cell(ndim: int) -> list[tuple[Step, Step, int]]:
    """Pairs of voxels of a 2·2·2 cell, one per direction, with the number of their class.

    Each pair of neighbours of a volume is a pair of exactly one cell: the one that begins at the
    smaller of their coordinates along each axis. In 2D the cell is 2·2, at z 0.
    """
    pairs = []
    for number, axes in enumerate(CLASSES):
        if ndim == 2 and axes[0]:
            continue
        first = axes.index(1)
        against = [(0, 1) if moves and axis > first else (0,) for axis, moves in enumerate(axes)]
        for z, y, x in product(*against):
            pairs.append(((z, y, x), (axes[0] - z, axes[1] - y, axes[2] - x), number))
    return pairs


def worth_of_crossings(voxel_size: Sequence[float]) -> NDArray[np.float64]:
    """Area (2D: length) represented by one crossing of each class of `CLASSES`.

    Parameters
    ----------
    voxel_size
        Along (z,) y, x, in any unit; the result is in its square (2D: in the unit).
    """
    ndim = len(voxel_size)
    steps = np.array(CLASSES)[:, 3 - ndim :] * np.asarray(voxel_size, dtype=np.float64)
    lengths = np.linalg.norm(steps, axis=1)
    used = np.array([ndim == 3 or not axes[0] for axes in CLASSES])
    shares = _shares_3d(steps) if ndim == 3 else _shares_2d(steps)
    per_crossing = 2.0 if ndim == 3 else pi / 2
    worth = np.zeros(len(CLASSES))
    worth[used] = per_crossing * shares[used] * prod(voxel_size) / lengths[used]
    return worth


def _shares_3d(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the half sphere that is nearer to a direction of each class than to others."""
    from scipy.spatial import SphericalVoronoi

    signs = np.array(list(product((-1.0, 1.0), repeat=3)))
    of_class = [np.unique(step * signs, axis=0) for step in steps]
    number = np.repeat(np.arange(len(steps)), [len(points) for points in of_class])
    every = np.concatenate(of_class)
    units = every / np.linalg.norm(every, axis=1, keepdims=True)
    areas = SphericalVoronoi(units).calculate_areas() / (4 * pi)
    # A direction is two points, ahead and behind; all of a class have the same area.
    shares: NDArray[np.float64] = 2 * np.bincount(number, areas) / np.bincount(number)
    return shares


def _shares_2d(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the half circle, likewise; 0 for classes that move along z."""
    diagonal = atan2(*steps[CLASSES.index((0, 1, 1))])  # angle from the x axis
    share = {(0, 0, 1): diagonal / pi, (0, 1, 0): 0.5 - diagonal / pi, (0, 1, 1): 0.25}
    return np.array([share.get(axes, 0.0) for axes in CLASSES])
