"""Synthetic embryos: labels of packed cells, their embeddings, and their images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.embedding import Embedding, dequantise
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.testing.ellipsoids import count_for, paint, scatter
from embedseg_large.testing.objects import Flaws, Objects

_BRIGHTNESS = (600.0, 1400.0)  # of an object above the background
_WALL = 0.45  # brightness of the voxels that touch another object, relative to the inside


def synthetic_embryo(
    shape: Sequence[int],
    *,
    n_objects: int | None = None,
    density: float = 0.6,
    diameter: float = 16.0,
    spacing: float = 0.75,
    anisotropy: float = 1.0,
    seed: int = 0,
) -> NDArray[np.uint32]:
    """Create labels of densely packed, touching cells.

    Parameters
    ----------
    shape
        Voxels along (z,) y, x.
    n_objects
        Number of objects; otherwise `density` decides.
    density
        Fraction of the volume that the cells would fill if they did not overlap. What they do
        fill is less, about 0.5 for 0.6.
    diameter
        Mean diameter of a cell in y and x, in voxels.
    spacing
        Minimum distance between two centres, in diameters: below about 1 cells cut each other and
        share a wall, from 1.2 on none touch.
    anisotropy
        Distance between planes in pixels; cells have fewer voxels along z accordingly.
    seed
        Seed of the embryo.

    Returns
    -------
    uint32 of that shape, ids 1..n in arbitrary order, 0 for background. Every id occurs.

    Raises
    ------
    UsageError
        If `n_objects` of that diameter and spacing do not fit.
    """
    diameters = (diameter / anisotropy, diameter, diameter)[-len(shape) :]
    count = count_for(shape, density, diameters) if n_objects is None else n_objects
    ellipsoids = scatter(shape, count, diameters, spacing, np.random.default_rng(seed))
    if n_objects is not None and len(ellipsoids) < n_objects:
        raise UsageError(
            f"only {len(ellipsoids)} of {n_objects} objects of diameter {diameter} fit into "
            f"{tuple(shape)}; make them smaller or closer (spacing is {spacing})"
        )
    return _numbered(paint(shape, ellipsoids))


def embedding_of(labels: NDArray[Any], *, noise: float = 0.0, seed: int = 0) -> Embedding:
    """Return the embedding that a perfect network would predict for a label array.

    Parameters
    ----------
    labels
        Integers, 2D or 3D, 0 for background.
    noise
        Offsets err by up to this many voxels along each axis.
    seed
        Seed of the noise.

    Returns
    -------
    Embedding
        Every voxel of an object points at the object's own voxel that is nearest to its centroid
        (exactly, without noise). Seeds fall from almost 1 at that voxel to 0.6 far from it, and
        are 0 outside objects. The same values as `OracleNetwork` predicts.
    """
    flaws = Flaws(noise=noise, seed=seed)
    ids = labels.astype(np.int64, copy=False)
    return dequantise(Objects.of(labels).predict(ids, Box.whole(labels.shape), flaws))


def render(
    labels: NDArray[Any],
    *,
    blur: float = 1.0,
    background: float = 100.0,
    noise: float = 1.0,
    seed: int = 0,
) -> NDArray[np.uint16]:
    """Render the image of a fluorescence microscope from a label array.

    Parameters
    ----------
    labels
        Integers, 2D or 3D, 0 for background.
    blur
        Standard deviation of the point spread function, in voxels.
    background
        Intensity of the background.
    noise
        Strength of the shot noise; 1 is that of counted photons.
    seed
        Seed of brightness and noise.

    Returns
    -------
    uint16 of that shape. Objects differ in brightness and are darker where they touch.
    """
    rng = np.random.default_rng(seed)
    ids, place = np.unique(labels, return_inverse=True)
    light = np.where(ids == 0, 0.0, rng.uniform(*_BRIGHTNESS, ids.size)).astype(np.float32)
    signal = light[place.reshape(labels.shape)]
    wall = ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3)
    signal[wall] *= _WALL
    clean = ndimage.gaussian_filter(signal, blur) + np.float32(background)
    noisy = clean + noise * np.sqrt(clean) * rng.standard_normal(clean.shape, np.float32)
    counts: NDArray[np.uint16] = np.clip(np.rint(noisy), 0, 65535).astype(np.uint16)
    return counts


def _numbered(owner: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Renumber so that every id from 1 on occurs."""
    present = np.bincount(owner.reshape(-1)) > 0
    present[0] = False
    numbers = np.where(present, np.cumsum(present), 0).astype(np.uint32)
    return numbers[owner]
