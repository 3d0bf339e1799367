"""How wide blobs are, without a model: maxima of a scale space.

The response of a bright disc of diameter d to a Laplacian of a Gaussian, times its variance, is
strongest at the middle of the disc for a deviation of d / √8 (Lindeberg 1998, "Feature detection
with automatic scale selection", for two axes).
"""

from __future__ import annotations

from math import log2, pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SMALLEST = 3.0
"""Diameter of the smallest blobs that are looked for, in voxels."""
LARGEST = 0.5
"""Diameter of the largest, as a part of the shorter edge of the image."""
STEPS = 4
"""Sizes within a factor of two."""
CHORD = 4 / pi
"""Diameter of a ball over the mean diameter of its sections."""


def blob_diameter(planes: NDArray[np.floating], *, of_balls: bool) -> float | None:
    """Estimate how wide bright blobs are along y and x.

    Parameters
    ----------
    planes
        ``(planes, y, x)``, intensities from about 0 to 1.
    of_balls
        Whether the planes are sections of a volume: blobs are sections of balls then, which are
        wider.

    Returns
    -------
    float or None
        In voxels: the median over all blobs, each counting by its area and the square of its
        contrast, since small ones are many (noise, chromatin). None where there are none.
    """
    diameters = _sizes(min(planes.shape[1:]))
    if diameters.size < 3:
        return None
    places = [_maxima(plane, diameters) for plane in planes]
    size, strength = (np.concatenate(column) for column in zip(*places, strict=True))
    if not size.size:
        return None
    order = np.argsort(size, kind="stable")
    total = np.cumsum((strength * size)[order] ** 2)
    median = float(size[order][np.searchsorted(total, total[-1] / 2)])
    return median * CHORD if of_balls else median


def _sizes(edge: int) -> NDArray[np.float64]:
    """Diameters to look for in an image with an edge of that length, ascending."""
    octaves = log2(max(SMALLEST, LARGEST * edge) / SMALLEST)
    steps: NDArray[np.float64] = SMALLEST * 2 ** (np.arange(int(octaves * STEPS) + 1) / STEPS)
    return steps


def _maxima(
    plane: NDArray[np.floating], diameters: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
    """Diameter and contrast of each place that responds more than those around it do."""
    sigmas = diameters / sqrt(8)
    responses = [-(s**2) * ndimage.gaussian_laplace(plane, s, mode="nearest") for s in sigmas]
    space = np.stack(responses)
    peaks = (space == ndimage.maximum_filter(space, size=3)) & (space > 0)
    peaks[[0, -1]] = False  # they respond even more to a size that was not looked for
    return diameters[np.nonzero(peaks)[0]], space[peaks]
