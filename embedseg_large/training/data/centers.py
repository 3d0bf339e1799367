"""The centre of an object, towards which the network learns to point.

Three centres (Lalit et al. 2021): the *medoid*, the voxel of least summed Euclidean distance to
the object's other voxels; the *approximate medoid*, the voxel nearest the coordinatewise median;
and the *centroid*, the rounded mean. Among equals the first in raster order wins. Medoids lie in
their object, however it is bent; a centroid may not.

The medoid is found exactly without the n² distances. The sum of distances to n points,

    S(z) = sum_i |z - p_i|,

is a convex function of z, so each voxel y at which S and its gradient are known bounds it
everywhere (a cutting plane, Kelley 1960)::

    S(z) >= S(y) + grad S(y) · (z - y)

Voxels are tried in order of ascending bound until no bound is below the best sum: a few dozen
passes over a compact object instead of n. In the worst case, a hollow sphere, every voxel of the
inner surface is about equally good and has to be tried. Memory is needed only for a few
coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.training.options import CenterMethod

_TIE = 1e-11
"""Relative difference below which two sums of distances are equal: rounding of n additions."""


def centers(
    labels: NDArray[np.integer[Any]],
    method: CenterMethod = "medoid",
    spacing: Sequence[float] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the centre of every object of a label array.

    Parameters
    ----------
    labels
        Integers ``(*spatial)``; objects are above 0, whatever else is not an object.
    method, spacing
        As for `center`.

    Returns
    -------
    ids, centers
        int64 ``(K,)``, the labels found, ascending; int64 ``(K, ndim)``, their centres in voxels.
    """
    flat = labels.ravel()
    voxels = np.flatnonzero(flat > 0)
    order = np.argsort(flat[voxels], kind="stable")  # raster order stays within an object
    ids, starts = np.unique(flat[voxels[order]], return_index=True)
    objects = np.split(voxels[order], starts[1:]) if len(ids) else []
    found = [
        center(np.stack(np.unravel_index(members, labels.shape), axis=-1), method, spacing)
        for members in objects
    ]
    return ids.astype(np.int64), np.array(found, np.int64).reshape(-1, labels.ndim)


def center(
    coordinates: NDArray[np.integer[Any]],
    method: CenterMethod = "medoid",
    spacing: Sequence[float] | None = None,
) -> NDArray[np.int64]:
    """Find the centre of one object.

    Parameters
    ----------
    coordinates
        Integers ``(n, ndim)``: z, y, x of the object's voxels, in raster order (as from
        `numpy.argwhere`), at least one.
    method
        ``"medoid"``, ``"approximate-medoid"`` or ``"centroid"`` (rounded half to even).
    spacing
        Size of a voxel along each axis, in any unit; equal sizes by default. It determines
        distances for the two medoids.

    Returns
    -------
    int64 ``(ndim,)``: z, y, x of the centre in voxels.

    Raises
    ------
    UsageError
        If the object is empty, the spacing does not match, or there is no such method.
    """
    n, ndim = coordinates.shape
    sizes = np.ones(ndim) if spacing is None else np.asarray(spacing, np.float64)
    if n == 0:
        raise UsageError("an object without voxels has no centre; leave it out")
    if sizes.shape != (ndim,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise UsageError(f"spacing {spacing} over {ndim} axes; pass {ndim} positive numbers")
    if method == "centroid":
        rounded: NDArray[np.int64] = np.rint(coordinates.mean(axis=0)).astype(np.int64)
        return rounded
    if method not in get_args(CenterMethod):
        raise UsageError(f"no centre {method!r}; choose from {', '.join(get_args(CenterMethod))}")
    points = coordinates * sizes
    start = _nearest_to_median(points)
    chosen = start if method == "approximate-medoid" else _medoid(points, start)
    found: NDArray[np.int64] = coordinates[chosen].astype(np.int64)
    return found


def _nearest_to_median(points: NDArray[np.float64]) -> int:
    """Return the first of the points ``(n, ndim)`` nearest to their coordinatewise median."""
    squared = ((points - np.median(points, axis=0)) ** 2).sum(axis=1)
    return int(np.argmax(squared <= squared.min() * (1 + _TIE)))


def _medoid(points: NDArray[np.float64], start: int) -> int:
    """Return the first of the points ``(n, ndim)`` of least summed distance, trying one first."""
    columns = np.zeros((3, len(points)))
    columns[: points.shape[1]] = points.T
    sums = _tried_sums(columns, start)
    return int(np.argmax(sums <= sums.min() * (1 + _TIE)))


@numba.njit(cache=True, nogil=True)
def _tried_sums(
    points: NDArray[np.float64], start: int
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Return the sum of distances for every point ``(3, n)`` that may be the medoid, else inf."""
    n = points.shape[1]
    sums = np.full(n, np.inf)
    bounds = np.zeros(n)  # inf once the point has been tried
    slope = np.empty(3)
    best, at = np.inf, start
    while bounds[at] <= best * (1 + _TIE):
        y = points[:, at].copy()
        sums[at] = _sum_and_slope(points, y, slope)
        best = min(best, sums[at])
        bounds[at] = np.inf
        at = _raise_bounds(points, y, sums[at], slope, bounds)
    return sums


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "arcp"})
def _sum_and_slope(
    points: NDArray[np.float64], y: NDArray[np.float64], slope: NDArray[np.float64]
) -> float:  # pragma: no cover - compiled
    """Return the sum of distances from `y`, and write its gradient."""
    total, a, b, c = 0.0, 0.0, 0.0, 0.0
    for i in range(points.shape[1]):
        dz, dy, dx = y[0] - points[0, i], y[1] - points[1, i], y[2] - points[2, i]
        distance = np.sqrt(dz * dz + dy * dy + dx * dx)
        inverse = 1.0 / max(distance, 1e-300)  # the point itself has gradient 0 there
        total += distance
        a += dz * inverse
        b += dy * inverse
        c += dx * inverse
    slope[0], slope[1], slope[2] = a, b, c
    return total


@numba.njit(cache=True, nogil=True)
def _raise_bounds(
    points: NDArray[np.float64],
    y: NDArray[np.float64],
    value: float,
    slope: NDArray[np.float64],
    bounds: NDArray[np.float64],
) -> int:  # pragma: no cover - compiled
    """Apply the cutting plane through `y`; return the first point of least bound."""
    least, at = np.inf, 0
    for i in range(points.shape[1]):
        plane = value
        for d in range(3):
            plane += slope[d] * (points[d, i] - y[d])
        bounds[i] = max(bounds[i], plane)
        if bounds[i] < least:
            least, at = bounds[i], i
    return at
