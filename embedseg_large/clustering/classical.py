"""The classical method: threshold, maxima, seeded watershed.

1. The image is smoothed slightly, or structures of interest are enhanced; voxels brighter than
the threshold are foreground. 2. Each foreground voxel gets a height: by *shape* its distance to the
background, in object diameters (along an axis with longer voxels an object has fewer of them, so
distances are correct there too), or by *intensity* the smoothed image. 3. Maxima of the smoothed
height, a minimum distance apart, are the seeds. 4. Each seed floods downhill: touching objects are
separated at their narrowest, or darkest, place.

Everything is local to about one and a half objects, plus the range of the enhancement. Only the
assignment of a voxel that several seeds reach at the same time may depend on more distant voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError
from embedseg_large.extras import extra

SPLITS = ("shape", "intensity")
"""Where touching objects are separated: at their narrowest, or at their darkest place."""
ENHANCE = ("none", "speckles", "tubes", "edges")
"""What is enhanced before the threshold: nothing, bright balls, bright tubes, or rims."""

SMOOTHING = 0.04
"""Standard deviation of the filter on the image and on the distance, in diameters."""
INTENSITY_SMOOTHING = 0.12
"""That of the filter on intensities whose maxima are seeds, in diameters."""
SEPARATION = 0.25
"""Minimum distance between two seeds along at least one axis, in diameters."""
FARTHEST = 1.0
"""Maximum distance, in diameters: greater depth does not matter, and is beyond the halo."""
ENHANCED = 0.2
"""Default threshold of speckles and tubes, in parts of the contrast of the image."""
_TRUNCATE = 4.0
"""Deviations at which filters of scipy end."""
_LEAST_SIGMA = 0.65
"""In voxels: the derivative of a narrower sampled Gaussian vanishes."""


def watershed(
    image: NDArray[np.float32],
    diameter: Sequence[float],
    threshold: float = 1.0,
    split: str = "shape",
    separation: float = SEPARATION,
    enhance: str = "none",
) -> NDArray[np.int32]:
    """Find bright objects.

    Parameters
    ----------
    image
        ``(*spatial)``, 2D or 3D.
    diameter
        Diameter of an object along each axis, in voxels.
    threshold
        Intensity above which a voxel is foreground, after smoothing or enhancement.
    split
        Where touching objects are separated.
    separation
        Minimum distance between the seeds of two objects, in diameters.
    enhance
        What is enhanced before the threshold.

    Returns
    -------
    int32 of that shape, 0 for background.

    Raises
    ------
    UsageError
        If a diameter is not positive or missing for an axis, another argument cannot be used, or
        scikit-image is not installed.
    """
    if len(diameter) != image.ndim or not all(d > 0 for d in diameter):
        raise UsageError(f"diameter is {tuple(diameter)}; it needs {image.ndim} positive numbers")
    check_rule(split, separation, enhance)
    flood = _imported()
    foreground = enhanced(image, diameter, enhance) > threshold
    if split == "shape":
        height = _distances(foreground, diameter)
    else:
        height = ndimage.gaussian_filter(image, [INTENSITY_SMOOTHING * d for d in diameter])
    span = [2 * max(1, round(separation * d)) + 1 for d in diameter]
    highest = ndimage.maximum_filter(height, size=span) == height
    seeds, _ = ndimage.label(highest & foreground, np.ones((3,) * image.ndim))
    labels: NDArray[np.int32] = flood(-height, seeds, mask=foreground)
    return labels


def check_rule(split: str, separation: float, enhance: str) -> None:
    """Refuse arguments that cannot be used.

    Raises
    ------
    UsageError
        If one cannot be used; the message names it.
    """
    for name, value, known in (("split", split, SPLITS), ("enhance", enhance, ENHANCE)):
        if value not in known:
            raise UsageError(f"{name} is {value!r}; use one of {', '.join(known)}")
    if not 0 < separation <= 1:
        raise UsageError(f"separation is {separation}; it must be above 0, and at most 1 diameter")


def enhanced(
    image: NDArray[np.float32], diameter: Sequence[float], enhance: str
) -> NDArray[np.float32]:
    """Smooth an image, or enhance balls or tubes as thick as an object, or add its edges.

    The response of all filters is proportional to the contrast, and depends on nothing farther away
    than `radius` says.
    """
    if enhance == "none":
        smooth: NDArray[np.float32] = ndimage.gaussian_filter(
            image, [SMOOTHING * d for d in diameter]
        )
        return smooth
    # derivatives per axis in its own unit, so that filters are as flat as the objects
    sigma, axes = _sigma(diameter, enhance), range(image.ndim)
    if enhance == "tubes":
        return _tubes(image, sigma)
    if enhance == "edges":
        slopes = [np.float32(diameter[axis] / 4) * _derivative(image, sigma, axis) for axis in axes]
        edges: NDArray[np.float32] = np.sqrt(np.sum(np.square(slopes), axis=0, dtype=np.float32))
        edges += ndimage.gaussian_filter(image, [SMOOTHING * d for d in diameter])
        return edges
    bent = [
        np.float32(-(sigma[axis] ** 2)) * _derivative(image, sigma, axis, axis) for axis in axes
    ]
    balls: NDArray[np.float32] = np.sum(bent, axis=0, dtype=np.float32)
    return balls


def _tubes(image: NDArray[np.float32], sigma: Sequence[float]) -> NDArray[np.float32]:
    """Sato's filter: the geometric mean of all curvatures but that along the tube."""
    from skimage import feature

    library: Any = feature  # has no annotations
    bent = [
        np.float32(-sigma[a] * sigma[b]) * _derivative(image, sigma, a, b)
        for a, b in combinations_with_replacement(range(image.ndim), 2)
    ]
    across = library.hessian_matrix_eigvals(bent)[:-1]  # in descending order
    tubes: NDArray[np.float32] = np.prod(np.maximum(across, 0), axis=0, dtype=np.float32)
    return tubes ** np.float32(1 / len(across))


def _derivative(
    image: NDArray[np.float32], sigma: Sequence[float], *axes: int
) -> NDArray[np.float32]:
    """Derivative along some axes, which may repeat, of the smoothed image."""
    order = [axes.count(axis) for axis in range(image.ndim)]
    found: NDArray[np.float32] = ndimage.gaussian_filter(image, sigma, order=order)
    return found


def radius(diameter: Sequence[float], enhance: str) -> tuple[int, ...]:
    """Return how far enhancement sees along each axis, in voxels; 0 where nothing is enhanced."""
    if enhance == "none":
        return (0,) * len(diameter)
    return tuple(ceil(_TRUNCATE * s) + 2 for s in _sigma(diameter, enhance))


def _sigma(diameter: Sequence[float], enhance: str) -> list[float]:
    """Deviation of a filter along each axis, in voxels: that with the largest response."""
    if enhance == "edges":
        return [max(_LEAST_SIGMA, SMOOTHING * d) for d in diameter]
    crossed = len(diameter) if enhance == "speckles" else len(diameter) - 1
    return [d / (2 * sqrt(crossed)) for d in diameter]


def _distances(foreground: NDArray[np.bool_], diameter: Sequence[float]) -> NDArray[np.float32]:
    """Smoothed distance to the background, in diameters; also 0 next to it."""
    if foreground.all():  # no background to measure a distance to
        return np.full(foreground.shape, FARTHEST, np.float32)
    pitch = [1 / d for d in diameter]
    distance = ndimage.distance_transform_edt(foreground, sampling=pitch).astype(np.float32)
    sigma = [SMOOTHING * d for d in diameter]
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(np.minimum(distance, FARTHEST), sigma)
    return smooth


def _imported() -> Any:
    with extra("classical", "the classical method"):
        from skimage.segmentation import watershed as flood
    return flood


def check_installed() -> None:
    """Raise if scikit-image is not installed.

    Raises
    ------
    UsageError
        The message includes the command that installs it.
    """
    _imported()
