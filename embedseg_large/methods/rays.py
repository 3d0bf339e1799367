"""Star-convex shapes: distances from a voxel to the border of its object along fixed directions.

Directions are integer vectors that every symmetry of the grid maps onto each other, so that
test-time augmentation can transform predictions. They divide space into cones; within a cone the
distance to the border is the mean of the distances along its rays, weighted by their proximity::

    v = m_1 u_1 + m_2 u_2 + m_3 u_3   with unit directions u of the cone and all m >= 0
    v is inside  <=>  |v| <= (m_1 d_1 + m_2 d_2 + m_3 d_3) / (m_1 + m_2 + m_3)

Flat faces between the ends of 26 rays would lose more than a quarter of a sphere's volume.

As the directions are symmetric, it suffices to know the cones of vectors with components
``a >= b >= c >= 0``: the components of any vector are made positive and sorted first.

Lengths are in voxels of the finest axis; a voxel spans `spacing` of them along each axis.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise, product
from math import ceil, gcd
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import AXES, three_axes

MOST = {2: 3, 3: 1}
"""Largest component of a direction, by ndim."""
STEP = 0.5
"""Length of the steps in which a ray is followed."""


@cache
def directions(ndim: int) -> tuple[tuple[int, ...], ...]:
    """Return the directions (z, y, x): 32 in 2D, 26 in 3D."""
    span = range(-MOST[ndim], MOST[ndim] + 1)
    return tuple(v for v in product(span, repeat=ndim) if gcd(*v) == 1)


class Cones(NamedTuple):
    """The division of space into cones; arrays are shared and read-only."""

    inverse: NDArray[np.float64]
    """(cones, ndim, ndim): inverse of the matrix with a cone's unit directions as columns."""
    corners: NDArray[np.int64]
    """(cones, ndim, 3): the directions of a cone, components in descending order."""
    number: NDArray[np.int64]
    """(2k + 1,) * 3: the channel of a direction, indexed by (z, y, x) plus k; -1 if there is
    none."""


@cache
def cones(ndim: int) -> Cones:
    """Return the cones that cover the sorted, positive vectors."""
    most = MOST[ndim]
    listed = directions(ndim)
    if ndim == 2:
        fan = sorted((d for d in listed if d[0] >= d[1] >= 0), key=lambda d: d[1] / d[0])
        sets = [list(pair) for pair in pairwise(fan)]
    else:
        sets = [[(1, 0, 0), (1, 1, 0), (1, 1, 1)]]
    corners = np.array(sets)
    units = corners / np.linalg.norm(corners, axis=-1, keepdims=True)
    number = np.full((2 * most + 1,) * AXES, -1)
    for channel, direction in enumerate(listed):
        number[tuple(n + most for n in (0,) * (AXES - ndim) + direction)] = channel
    padded = np.pad(corners, ((0, 0), (0, 0), (0, AXES - ndim)))
    return Cones(np.linalg.inv(units.transpose(0, 2, 1)), padded, number)


def distances(labels: NDArray[np.integer], spacing: tuple[float, ...]) -> NDArray[np.float32]:
    """Measure how far each object reaches from each of its voxels.

    Parameters
    ----------
    labels
        ``(*spatial)``: 0 background, above 0 instances, below 0 unknown.
    spacing
        Length of a voxel along each axis.

    Returns
    -------
    ``(directions, *spatial)``; 0 outside objects, negative where a ray ends at the border of the
    array or at an unknown voxel.
    """
    listed = np.array(directions(labels.ndim), np.float64)
    steps = STEP * listed / np.linalg.norm(listed, axis=1, keepdims=True) / np.array(spacing)
    steps = np.pad(steps, ((0, 0), (AXES - labels.ndim, 0)))
    shape = three_axes(labels.shape)
    found = _measured(labels.astype(np.int32).reshape(shape), steps)
    return found.reshape(-1, *labels.shape)


@numba.njit(cache=True, nogil=True)
def _measured(
    labels: NDArray[np.int32], steps: NDArray[np.float64]
) -> NDArray[np.float32]:  # pragma: no cover - compiled
    shape = labels.shape
    found = np.zeros((len(steps), *shape), np.float32)
    at = np.empty(3, np.int64)
    for z in range(shape[0]):
        for y in range(shape[1]):
            for x in range(shape[2]):
                own = labels[z, y, x]
                if own <= 0:
                    continue
                for ray in range(len(steps)):
                    count = 0
                    while True:
                        count += 1
                        known = True
                        for d in range(3):
                            # rounded away from zero, so that a ray and its mirror image match
                            moved = count * steps[ray, d]
                            whole = int(np.floor(abs(moved) + 0.5))
                            at[d] = (z, y, x)[d] + (whole if moved > 0 else -whole)
                            known &= 0 <= at[d] < shape[d]
                        if not known or labels[at[0], at[1], at[2]] < 0:
                            # the visible part, as a negative number: the object may continue
                            found[ray, z, y, x] = -STEP * (count - 0.5)
                            break
                        if labels[at[0], at[1], at[2]] != own:
                            found[ray, z, y, x] = STEP * (count - 0.5)
                            break
    return found


class PaintedShapes(NamedTuple):
    """Shapes painted in a region, one after the other."""

    labels: NDArray[np.int32]
    """(*region, three axes): 1-based position of the shape in the order of painting."""
    accepted: NDArray[np.bool_]
    """(n,) whether each candidate was accepted."""
    unsure: NDArray[np.bool_]
    """(n,) whether unseen voxels could change that."""
    doubt: NDArray[np.bool_]
    """(*region, three axes): voxels that an unsure shape covers."""


def paint(
    places: NDArray[np.int64],
    lengths: NDArray[np.float32],
    unsure: NDArray[np.bool_],
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    *,
    overlap: float,
    least: int,
) -> PaintedShapes:
    """Paint star-convex shapes, best first, unless earlier ones cover too much of them.

    Parameters
    ----------
    places
        ``(n,)`` positions in the raveled region, best first.
    lengths
        ``(n, directions)`` distances along the directions, above 0.
    unsure
        ``(n,)`` whether unseen shapes could overlap with each candidate.
    shape, spacing
        Shape and spacing of the region.
    overlap
        A shape is dropped if more than this fraction of its voxels is already taken.
    least
        A shape is dropped unless more than this number of its voxels is free.
    """
    ndim = len(shape)
    known = cones(ndim)
    full = three_axes(shape)
    spans = np.ones(AXES)
    spans[AXES - ndim :] = spacing
    far = lengths.max(axis=1, initial=0)
    labels, doubt = np.zeros(full, np.int32), np.zeros(full, np.bool_)
    accepted, unsure = np.zeros(len(places), np.bool_), unsure.copy()
    _paint(places, lengths, far, unsure, accepted, labels, doubt, spans, *known, overlap, least)
    return PaintedShapes(labels, accepted, unsure, doubt)


@numba.njit(cache=True, nogil=True)
def _paint(
    places: NDArray[np.int64],
    lengths: NDArray[np.float32],
    far: NDArray[np.float32],
    unsure: NDArray[np.bool_],
    accepted: NDArray[np.bool_],
    labels: NDArray[np.int32],
    doubt: NDArray[np.bool_],
    spacing: NDArray[np.float64],
    inverse: NDArray[np.float64],
    corners: NDArray[np.int64],
    number: NDArray[np.int64],
    overlap: float,
    least: int,
) -> None:  # pragma: no cover - compiled
    shape = labels.shape
    flat, cloud = labels.reshape(-1), doubt.reshape(-1)
    low, high, centre = np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3, np.int64)
    w = np.empty(3)
    covered = np.empty(labels.size, np.int64)
    for i in range(len(places)):
        centre[0] = places[i] // (shape[1] * shape[2])
        centre[1] = places[i] // shape[2] % shape[1]
        centre[2] = places[i] % shape[2]
        for d in range(3):
            reach = int(far[i] / spacing[d])
            low[d] = max(0, centre[d] - reach)
            high[d] = min(shape[d], centre[d] + reach + 1)
        count = taken = 0
        for z in range(low[0], high[0]):
            for y in range(low[1], high[1]):
                for x in range(low[2], high[2]):
                    w[0] = (z - centre[0]) * spacing[0]
                    w[1] = (y - centre[1]) * spacing[1]
                    w[2] = (x - centre[2]) * spacing[2]
                    if _is_inside(w, lengths[i], inverse, corners, number):
                        j = (z * shape[1] + y) * shape[2] + x
                        covered[count] = j
                        count += 1
                        taken += flat[j] != 0
                        unsure[i] |= cloud[j]
        if taken <= overlap * count and count - taken > least:
            accepted[i] = True
            for j in covered[:count]:
                if flat[j] == 0:
                    flat[j] = i + 1
        if unsure[i]:
            for j in covered[:count]:
                cloud[j] = True


@numba.njit(cache=True, nogil=True)
def _is_inside(
    w: NDArray[np.float64],
    lengths: NDArray[np.float32],
    inverse: NDArray[np.float64],
    corners: NDArray[np.int64],
    number: NDArray[np.int64],
) -> bool:  # pragma: no cover - compiled
    """Whether a vector from the middle of a shape ends inside the shape."""
    ndim, most = inverse.shape[1], number.shape[0] // 2
    first, last = (0, 2) if abs(w[0]) >= abs(w[2]) else (2, 0)
    middle = 1
    if abs(w[middle]) > abs(w[first]):
        first, middle = middle, first
    if abs(w[last]) > abs(w[middle]):
        middle, last = last, middle
    order = (first, middle, last)
    direction = np.zeros(3, np.int64)
    for cone in range(len(inverse)):
        total, reached, fits = 0.0, 0.0, True
        for k in range(ndim):
            part = 0.0
            for d in range(ndim):
                part += inverse[cone, k, d] * abs(w[order[d]])
            if part < -1e-9:
                fits = False
                break
            if part > 1e-9:  # others may have no direction, along an axis that does not exist
                for d in range(3):
                    axis = order[d]
                    direction[axis] = corners[cone, k, d] * (1 if w[axis] >= 0 else -1)
                channel = number[direction[0] + most, direction[1] + most, direction[2] + most]
                total += part
                reached += part * lengths[channel]
        if fits:
            length = np.sqrt(w[0] ** 2 + w[1] ** 2 + w[2] ** 2)
            return bool(length * total <= reached)
    return False


def farthest(reach: float, spacing: tuple[float, ...]) -> tuple[int, ...]:
    """Return how many voxels a length spans along each axis, rounded up."""
    return tuple(ceil(reach / size) for size in spacing)
