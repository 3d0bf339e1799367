"""Random views of a crop: its orientation and magnification as the network sees it.

A `View` is a value, drawn from settings and a random generator before anything is read, because it
decides what is read: the box in the image is just large enough for the crop::

    image ─ box ─► padded ─ magnified by `zoom` ─► turned by `symmetry` ─► crop
             source_shape(crop, view)                                      crop

Intensities are changed by `embedseg_large.training.data.intensities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import isfinite, log

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.symmetry import SignedPermutation, group, obstacle
from embedseg_large.training.data.intensities import IntensitySettings, Range


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSettings:
    """Augmentation of crops; by default that of the paper: axis-aligned rotations and flips.

    Raises
    ------
    UsageError
        If a value is not possible; the message names it.
    """

    symmetries: str | None = None
    """A mode of `embedseg_large.symmetry.group`; None for all turns in the YX plane and all flips
    that the data allow."""
    scale: Range = (1.0, 1.0)
    """Magnification along all axes, log-uniform; above 0."""
    stretch: float = 1.0
    """Each axis is also magnified by its own factor from 1/stretch to stretch, log-uniform."""
    intensity: IntensitySettings = field(default_factory=IntensitySettings)
    """Changes of the intensities; none by default."""

    def __post_init__(self) -> None:
        low, high = self.scale
        if not (0 < low <= high and isfinite(high)):
            raise UsageError(f"scale is {self.scale}; pass two ascending numbers above 0")
        if not (self.stretch >= 1 and isfinite(self.stretch)):
            raise UsageError(f"stretch is {self.stretch}; pass a number from 1 on")

    @classmethod
    def none(cls) -> AugmentSettings:
        """Return settings that leave crops unchanged."""
        return cls(symmetries="none")

    @classmethod
    def robust(cls) -> AugmentSettings:
        """Return settings for models that should work on images of other sizes and microscopes."""
        return cls(scale=(0.5, 2.2), stretch=1.3, intensity=IntensitySettings.robust())

    def narrowed(self, share: float) -> AugmentSettings:
        """Return ranges scaled towards no change: 1 unchanged, 0 none.

        Rotations, flips and the probabilities of intensity changes stay the same.
        """
        if share == 1:
            return self
        low, high = self.scale
        return replace(
            self,
            scale=(low**share, high**share),
            stretch=self.stretch**share,
            intensity=self.intensity.narrowed(share),
        )


@dataclass(frozen=True, slots=True)
class View:
    """Orientation and magnification of a crop.

    Parameters
    ----------
    symmetry
        Applied last.
    zoom
        Magnification along each axis of the image; above 1, objects become larger.
    """

    symmetry: SignedPermutation
    zoom: tuple[float, ...]

    @classmethod
    def plain(cls, ndim: int) -> View:
        """Return the view that leaves the image unchanged."""
        return cls(SignedPermutation.identity(ndim), (1.0,) * ndim)


def allowed_symmetries(
    mode: str | None, pitch: Sequence[float], voxel_size: Sequence[float] | None
) -> tuple[SignedPermutation, ...]:
    """List the symmetries to draw from.

    Axes are exchanged only if the network cannot distinguish them: their pitch and the voxel
    size of the images are equal. Flips are always possible.

    Parameters
    ----------
    mode
        A mode of `embedseg_large.symmetry.group`; None for 16 (3D) or 8 (2D), or only the flips
        where y and x differ.
    pitch, voxel_size
        As for `embedseg_large.symmetry.obstacle`.

    Raises
    ------
    UsageError
        If there is no such mode, or the data do not allow it.
    """
    ndim = len(pitch)
    size = None if voxel_size is None else tuple(voxel_size)
    try:
        reason = obstacle(mode or str(2 ** (ndim + 1)), tuple(pitch), size)
    except ValueError as error:
        raise UsageError(f"symmetries: {error}") from error
    if reason is None:
        return group(mode or str(2 ** (ndim + 1)), ndim)
    if mode is not None:
        raise UsageError(f"symmetries {mode!r} do not fit the data: {reason}; pass None")
    axes = tuple(range(ndim))
    return tuple(SignedPermutation(axes, f) for f in product((False, True), repeat=ndim))


def draw_view(
    settings: AugmentSettings, symmetries: Sequence[SignedPermutation], rng: np.random.Generator
) -> View:
    """Draw the view of a crop.

    Parameters
    ----------
    settings
        Ranges of the magnification.
    symmetries
        Symmetries to draw from, with equal probability; see `allowed_symmetries`.
    rng
        The only source of randomness.
    """
    symmetry = symmetries[int(rng.integers(len(symmetries)))]
    low, high = np.log(settings.scale)
    width = log(settings.stretch)
    exponents = rng.uniform(low, high) + rng.uniform(-width, width, symmetry.ndim)
    return View(symmetry, tuple(np.exp(exponents).tolist()))


def unturned_shape(crop: Sequence[int], view: View) -> tuple[int, ...]:
    """Return the shape of a crop before it is turned."""
    return tuple(crop[d] for d in view.symmetry.inverse.axes)


def source_shape(crop: Sequence[int], view: View) -> tuple[int, ...]:
    """Return the number of image voxels that a crop shows along each axis, at least one."""
    unturned = unturned_shape(crop, view)
    return tuple(max(1, round(n / z)) for n, z in zip(unturned, view.zoom, strict=True))


def turn_points(
    points: NDArray[np.float64], symmetry: SignedPermutation, shape: Sequence[int]
) -> NDArray[np.float64]:
    """Turn voxel coordinates as `SignedPermutation.apply` turns an array of a shape.

    Parameters
    ----------
    points
        ``(n, ndim)`` in the array before it is turned.
    symmetry
        The symmetry to apply.
    shape
        Shape of the array before it is turned.
    """
    axes = list(symmetry.axes)
    last = np.asarray(shape, np.float64)[axes] - 1
    return np.where(symmetry.flips, last - points[:, axes], points[:, axes])
