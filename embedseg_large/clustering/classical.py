"""The classical method: threshold, distance transform, seeded watershed.

1. The image is slightly smoothed; voxels brighter than the threshold are foreground.
2. Each foreground voxel gets its distance to the background, in object diameters. Along an axis
with longer voxels an object has fewer of them, so distances are correct there too. 3. Maxima of the
smoothed distance, half a radius apart, are the seeds. 4. Each seed floods downhill: touching
objects are separated at their narrowest place.

All of it is local to about one and a half objects. Only the assignment of a voxel that several
seeds reach at the same time may depend on more distant voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError

SMOOTHING = 0.04
"""Standard deviation of the filter on the image and on the distance, in diameters."""
SEED_DISTANCE = 0.25
"""Minimum distance between two seeds along at least one axis, in diameters."""
FARTHEST = 1.0
"""Maximum distance, in diameters: greater depth does not matter, and is beyond the halo."""


def watershed(
    image: NDArray[np.float32], diameter: Sequence[float], threshold: float = 1.0
) -> NDArray[np.int32]:
    """Find bright round objects.

    Parameters
    ----------
    image
        ``(*spatial)``, 2D or 3D.
    diameter
        Diameter of an object along each axis, in voxels.
    threshold
        Intensity above which a voxel is foreground, after smoothing.

    Returns
    -------
    int32 of that shape, 0 for background.

    Raises
    ------
    UsageError
        If a diameter is not positive or missing for an axis, or scikit-image is not installed.
    """
    if len(diameter) != image.ndim or not all(d > 0 for d in diameter):
        raise UsageError(f"diameter is {tuple(diameter)}; it needs {image.ndim} positive numbers")
    flood = _imported()
    sigma = [SMOOTHING * d for d in diameter]
    foreground = ndimage.gaussian_filter(image, sigma) > threshold
    distance = _distances(foreground, diameter, sigma)
    span = [2 * max(1, round(SEED_DISTANCE * d)) + 1 for d in diameter]
    highest = ndimage.maximum_filter(distance, size=span) == distance
    seeds, _ = ndimage.label(highest & foreground, np.ones((3,) * image.ndim))
    labels: NDArray[np.int32] = flood(-distance, seeds, mask=foreground)
    return labels


def _distances(
    foreground: NDArray[np.bool_], diameter: Sequence[float], sigma: Sequence[float]
) -> NDArray[np.float32]:
    """Smoothed distance to the background, in diameters; also 0 next to it."""
    if foreground.all():  # no background to measure a distance to
        return np.full(foreground.shape, FARTHEST, np.float32)
    pitch = [1 / d for d in diameter]
    distance = ndimage.distance_transform_edt(foreground, sampling=pitch).astype(np.float32)
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(np.minimum(distance, FARTHEST), sigma)
    return smooth


def _imported() -> Any:
    try:
        from skimage.segmentation import watershed as flood
    except ModuleNotFoundError:
        raise missing_extra() from None
    return flood


def check_installed() -> None:
    """Refuse to go on without scikit-image.

    Raises
    ------
    UsageError
        With the command that installs it.
    """
    _imported()


def missing_extra() -> UsageError:
    """The message for a user without scikit-image."""
    return UsageError(
        'the classical method needs scikit-image; pip install "embedseg-large[classical]"'
    )
