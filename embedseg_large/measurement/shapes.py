"""Size, position and shape of instances, from their sums.

Lengths of principal axes are those of the ellipsoid (2D: ellipse) with the same second moments,
``2 · sqrt((ndim + 2) · eigenvalue of the covariance)``, as in scikit-image. Sphericity is
``π^(1/3) · (6 V)^(2/3) / surface`` (Wadell 1935), in 2D ``4 π · area / perimeter²``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.measurement.directions import worth_of_crossings
from embedseg_large.measurement.regions import Regions

Columns = dict[str, NDArray[Any]]

_AXES = ("z", "y", "x")
_PRODUCT = ((4, 5, 6), (5, 7, 8), (6, 8, 9))
"""Columns of `Regions.sums` with the products of coordinates."""


def columns_of(
    regions: Regions,
    shape: Sequence[int],
    voxel_size: Sequence[float] | None,
    channels: Sequence[int] = (),
    part: Box | None = None,
    origin: Sequence[float] | None = None,
) -> Columns:
    """Describe instances: columns of equal length, one row per instance, by ascending label.

    Parameters
    ----------
    regions
        Sums over a whole volume.
    shape
        Shape of the volume, (z,) y, x.
    voxel_size
        Voxel size in µm along (z,) y, x. Without it there are no columns in µm, and lengths are in
        voxels, which are assumed to be isotropic.
    channels
        Number of each channel of `regions.intensities`.
    part
        The part of the volume that has labels; None: all of it.
    origin
        Position of the centre of the first voxel in µm along (z,) y, x; None: 0.

    Returns
    -------
    label
        uint64.
    voxels, volume_um3
        Size; in 2D ``pixels`` and ``area_um2``.
    z, y, x, z_um, y_um, x_um
        Centroid: in voxels from the centre of the volume's first voxel, and in µm from `origin`.
    z_start, ..., z_stop, ..., z_start_um, ..., z_stop_um, ...
        Bounding box, half open; in µm from edge to edge of its voxels.
    surface_um2, sphericity
        In 2D ``perimeter_um`` and ``circularity``; see `embedseg_large.measurement.directions`.
        Objects of a few voxels can have more than 1.
    axis_major_um, axis_middle_um, axis_minor_um
        Lengths of the principal axes; in 2D without the middle one. If the voxel size is unknown,
        the names have no unit.
    touches_border
        Whether the instance touches the border of the volume or of the part, where it may be cut.
    intensity_mean_0, intensity_min_0, intensity_max_0, intensity_std_0
        Intensities of each channel.
    """
    ndim = len(shape)
    size = (1.0,) * ndim if voxel_size is None else tuple(voxel_size)
    units = ("", "", "") if voxel_size is None else ("_um", "_um2", "_um3")
    volumes = regions.sizes * np.float64(prod(size))
    columns: Columns = {"label": regions.ids, "voxels" if ndim == 3 else "pixels": regions.sizes}
    if voxel_size is not None:
        columns[f"volume{units[2]}" if ndim == 3 else f"area{units[1]}"] = volumes
    centroids, covariance = _moments(regions, ndim)
    columns |= _places(regions, centroids, voxel_size, origin)
    columns |= _surfaces(regions, volumes, size, units)
    columns |= _principal_axes(covariance * np.outer(size, size), units[0])
    low, high = regions.low[:, 3 - ndim :], regions.high[:, 3 - ndim :]
    ends = part or Box.whole(shape)
    beyond = (low <= np.array(ends.start)) | (high >= np.array(ends.stop))
    columns["touches_border"] = np.asarray(beyond.any(axis=1))
    for channel, intensities in zip(channels, regions.intensities, strict=True):
        found = intensities.statistics(regions.sizes)
        columns |= {f"intensity_{name}_{channel}": values for name, values in found.items()}
    return columns


def _moments(regions: Regions, ndim: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centroid (n, ndim) and covariance (n, ndim, ndim) in voxels.

    Relative to the voxel nearest to the centroid all sums are small, and therefore exact modulo
    2⁶⁴. If even these could be too large, the covariance is NaN.
    """
    n, axes = regions.sizes, range(3 - ndim, 3)
    middle = np.rint(regions.sums[:, 1:4] / n[:, np.newaxis]).astype(np.int64)
    about = (regions.sums[:, 1:4] - n[:, np.newaxis] * middle) / n[:, np.newaxis]
    covariance = np.empty((n.size, ndim, ndim))
    for i in axes:
        for j in axes:
            s_i, s_j, c_i, c_j = regions.sums[:, 1 + i], regions.sums[:, 1 + j], *middle.T[[i, j]]
            products = regions.sums[:, _PRODUCT[i][j]] - c_i * s_j - c_j * s_i + n * c_i * c_j
            covariance[:, i - 3, j - 3] = products / n - about[:, i] * about[:, j]
    extent = (regions.high - regions.low).max(axis=1, initial=0)
    covariance[n * np.square(extent, dtype=np.float64) >= 2.0**63] = np.nan
    return (middle + about)[:, 3 - ndim :], covariance


def _places(
    regions: Regions,
    centroids: NDArray[np.float64],
    voxel_size: Sequence[float] | None,
    origin: Sequence[float] | None,
) -> Columns:
    """Return the columns of centroids and bounding boxes."""
    ndim = centroids.shape[1]
    names = _AXES[3 - ndim :]
    starts, stops = regions.low[:, 3 - ndim :], regions.high[:, 3 - ndim :]
    columns: Columns = dict(zip(names, centroids.T, strict=True))
    at = np.zeros(ndim) if origin is None else np.asarray(origin)
    if voxel_size is not None:
        columns |= _named("{}_um", names, centroids * voxel_size + at)
    columns |= _named("{}_start", names, starts) | _named("{}_stop", names, stops)
    if voxel_size is not None:
        columns |= _named("{}_start_um", names, (starts - 0.5) * voxel_size + at)
        columns |= _named("{}_stop_um", names, (stops - 0.5) * voxel_size + at)
    return columns


def _named(pattern: str, names: Sequence[str], values: NDArray[Any]) -> Columns:
    return {pattern.format(name): column for name, column in zip(names, values.T, strict=True)}


def _surfaces(
    regions: Regions, volumes: NDArray[np.float64], size: Sequence[float], units: Sequence[str]
) -> Columns:
    """Surface and sphericity; in 2D perimeter and circularity."""
    # Term by term: a matrix product may add in a different order for a different number of rows.
    worth = worth_of_crossings(size)
    surface = sum((c * w for c, w in zip(regions.crossings.T, worth, strict=True)), np.zeros(1))
    surface = np.broadcast_to(surface, volumes.shape)
    if len(size) == 2:
        circularity = 4 * pi * volumes / np.square(surface)
        return {f"perimeter{units[0]}": surface, "circularity": circularity}
    sphericity = np.cbrt(pi) * np.cbrt(np.square(6 * volumes)) / surface
    return {f"surface{units[1]}": surface, "sphericity": sphericity}


def _principal_axes(covariance: NDArray[np.float64], unit: str) -> Columns:
    """Lengths of the principal axes, longest first."""
    ndim = covariance.shape[1]
    known = np.isfinite(covariance).all(axis=(1, 2))
    variances = np.full(covariance.shape[:2], np.nan)
    variances[known] = np.linalg.eigvalsh(covariance[known])[:, ::-1]
    lengths = 2 * np.sqrt((ndim + 2) * np.maximum(variances, 0))
    names = ("major", "middle", "minor") if ndim == 3 else ("major", "minor")
    return _named("axis_{}" + unit, names, lengths)
