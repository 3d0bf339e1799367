"""Cells as ellipsoids that cut each other where they meet.

1. Centres are darts thrown one after the other; one too close to an earlier one is dropped.
2. Each gets an ellipsoid of its own radii and orientation.
3. A voxel belongs to the ellipsoid whose centre is nearest in that ellipsoid's own norm, and to
   none beyond the surfaces. Overlapping ellipsoids thus become cells with a common wall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import pi, prod

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from embedseg_large.geometry import Box

_DARTS = 25  # thrown per centre wanted; with fewer, dense packings stay loose
_RADII = (0.85, 1.15)  # in mean radii


@dataclass(frozen=True, slots=True, eq=False)
class Ellipsoids:
    """Ellipsoids ``(x - centre)ᵀ form (x - centre) <= 1`` in voxels, axes z, y, x."""

    centres: NDArray[np.float64]
    """(n, ndim)"""
    forms: NDArray[np.float64]
    """(n, ndim, ndim) symmetric and positive definite"""

    def __len__(self) -> int:
        return len(self.centres)

    def boxes(self) -> list[Box]:
        """Return the bounding box of each, not clipped to any volume."""
        # the half extent of an ellipsoid along an axis is the root of the inverse's diagonal
        half = np.sqrt(np.diagonal(np.linalg.inv(self.forms), axis1=1, axis2=2))
        starts = np.ceil(self.centres - half).astype(np.int64)
        stops = np.floor(self.centres + half).astype(np.int64) + 1
        stops = np.maximum(starts, stops)  # one thinner than a voxel may hold no voxel centre
        return [
            Box(tuple(a), tuple(b)) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)
        ]


def scatter(
    shape: Sequence[int],
    count: int,
    diameters: Sequence[float],
    spacing: float,
    rng: np.random.Generator,
    *,
    periodic: bool = False,
) -> Ellipsoids:
    """Throw up to `count` ellipsoids into a volume.

    Parameters
    ----------
    shape
        Shape of the volume, in which all centres lie.
    count
        Requested number; fewer if no more fit.
    diameters
        Mean diameter along each axis, in voxels.
    spacing
        Minimum distance between two centres, in mean diameters.
    rng
        The only source of randomness.
    periodic
        Whether opposite faces of the volume are neighbours.
    """
    size = np.asarray(shape, float)
    scale = np.asarray(diameters, float)
    darts = rng.uniform(0, 1, (count * _DARTS, len(shape))) * size / scale
    darts = darts[_apart(darts, count, spacing, size / scale if periodic else None)]
    # the voxel at index 0 has its centre at 0: a volume spans [-1/2, size - 1/2)
    return Ellipsoids(darts * scale - 0.5, _forms(len(darts), scale, rng))


def copies(ellipsoids: Ellipsoids, shape: Sequence[int]) -> Ellipsoids:
    """Repeat ellipsoids in the volume's 3^ndim neighbours: copy ``k`` follows copy ``k - 1``.

    Copies are ordered by their steps -1, 0, 1 along z, y, x in raster order.
    """
    steps = np.array(list(product((-1, 0, 1), repeat=len(shape)))) * np.asarray(shape)
    centres = (steps[:, None] + ellipsoids.centres[None]).reshape(-1, len(shape))
    return Ellipsoids(centres, np.tile(ellipsoids.forms, (len(steps), 1, 1)))


def count_for(shape: Sequence[int], density: float, diameters: Sequence[float]) -> int:
    """Return the number of ellipsoids that fill a fraction of the volume, including overlaps."""
    ball = {2: pi / 4, 3: pi / 6}[len(shape)]
    return max(1, round(density * prod(shape) / (ball * prod(diameters))))


def paint(shape: Sequence[int], ellipsoids: Ellipsoids) -> NDArray[np.uint32]:
    """Return, for each voxel, the place of its ellipsoid counted from 1, or 0."""
    volume = Box.whole(shape)
    owner = np.zeros(volume.shape, np.uint32)
    nearest = np.ones(volume.shape, np.float32)
    for k, box in enumerate(ellipsoids.boxes()):
        seen = box.intersect(volume)
        if seen.size == 0:
            continue
        squares = _squared_norm(seen, ellipsoids.centres[k], ellipsoids.forms[k])
        wins = squares <= nearest[seen.slices]
        nearest[seen.slices][wins] = squares[wins]
        owner[seen.slices][wins] = k + 1
    return owner


def _apart(
    darts: NDArray[np.float64],
    count: int,
    distance: float,
    period: NDArray[np.float64] | None,
) -> list[int]:
    """Choose darts one by one, each at least `distance` from all earlier ones."""
    tree = cKDTree(darts, boxsize=period)
    free = np.ones(len(darts), np.bool_)
    chosen: list[int] = []
    for dart in range(len(darts)):
        if len(chosen) == count:
            break
        if free[dart]:
            chosen.append(dart)
            free[tree.query_ball_point(darts[dart], distance)] = False
    return chosen


def _forms(
    count: int, diameters: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Ellipsoids of random radii and orientation in a space where the mean one is a unit ball."""
    ndim = len(diameters)
    radii = rng.uniform(*_RADII, (count, ndim))
    turns = np.linalg.qr(rng.normal(size=(count, ndim, ndim)))[0]
    forms = np.einsum("nij,nj,nkj->nik", turns, radii**-2.0, turns)
    to_ball = 2 / diameters
    scaled: NDArray[np.float64] = forms * np.outer(to_ball, to_ball)
    return scaled


def _squared_norm(
    box: Box, centre: NDArray[np.float64], form: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return ``(x - centre)ᵀ form (x - centre)`` of every voxel of a box."""
    steps = np.ogrid[box.slices]
    away = [step - c for step, c in zip(steps, centre, strict=True)]
    total = np.zeros(box.shape)
    for i in range(box.ndim):
        total += form[i, i] * away[i] ** 2
        for j in range(i):
            total += 2 * form[i, j] * away[i] * away[j]
    return total.astype(np.float32)
