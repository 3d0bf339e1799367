"""Random intensities: a different stain, lamp, camera or focus.

In the order in which a microscope distorts an image::

    objects    the stain                 single objects * factor, as a soft mask
    gradient   the light                 v * (1 + amplitude * a smooth random field)
    blur       the optics                Gaussian, sigma in voxels; along z blur * blur_z
    coarse_z   few planes                every n-th plane, between them repeated or interpolated
    gamma      staining and display      sign(v) |v|^gamma, which leaves 0 and 1 in place
    gain       the lamp, the exposure    v * gain
    offset     the camera's black level  v + offset
    shot       photons                   + normal noise of sd  shot * sqrt(max(v, 0))
    noise      the camera's electronics  + normal noise of sd  noise

All on normalised intensities, of which 0 and 1 are two percentiles of the volume: the 1st and the
99.8th, or others where `low_percentile` and `high_percentile` draw them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import exp, isfinite, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.training.data.resample import (
    Weights,
    filtered,
    gaussian_weights,
    linear_weights,
)
from embedseg_large.volumes.intensity import PERCENTILES, IntensityRange, quantiles
from embedseg_large.volumes.volume import Volume

Range = tuple[float, float]
"""Range from which a number is drawn, uniformly or, for factors, uniformly in its logarithm."""

QUANTILES = (0.1, 0.2, 0.5, 1, 2, 4, 8, 12, 88, 92, 96, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98)
"""Percentiles that are measured for an image; those between them are interpolated."""

_ORDER = ("objects", "gradient", "blur", "coarse_z", "gamma", "gain", "offset", "shot", "noise")
"""Changes of a crop, in the order of the table above."""

_FACTORS = ("objects", "coarse_z", "gamma", "gain")
"""Changes drawn uniformly in their logarithm: halving is as likely as doubling."""

_NEUTRAL = {"objects": 1.0, "coarse_z": 1.0, "gamma": 1.0, "gain": 1.0}
_NEUTRAL |= {"low_percentile": PERCENTILES[0], "high_percentile": PERCENTILES[1]}
"""Neutral values; 0 for all others."""

_LIMITS = {
    "objects": (1e-3, 1e3),
    "coarse_z": (1.0, 64.0),
    "gamma": (1e-3, 1e3),
    "gain": (1e-3, 1e3),
    "offset": (-1e6, 1e6),
    "low_percentile": (0.1, 12.0),
    "high_percentile": (88.0, 99.98),
}

_KNOTS = 3
"""Random values along each axis of a smooth field."""

_SOFT = 0.7
"""Deviation in voxels of the edge of a factor of single objects."""


@dataclass(frozen=True, slots=True)
class Change:
    """A range to draw a number from, and a probability.

    Parameters
    ----------
    low, high
        Minimum and maximum.
    probability
        Fraction of the crops that are changed, independently for each channel.
    """

    low: float
    high: float
    probability: float = 1.0

    def _towards(self, neutral: float, share: float, *, is_factor: bool) -> Change:
        """Return a range that is closer to the neutral value."""
        if is_factor:
            low, high = (neutral * exp(share * log(v / neutral)) for v in (self.low, self.high))
        else:
            low, high = (neutral + share * (v - neutral) for v in (self.low, self.high))
        return replace(self, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensitySettings:
    """Changes of intensities; none by default.

    Raises
    ------
    UsageError
        If a range is empty or not possible; the message names it.
    """

    objects: Change | None = None
    """Factor of the brightness of single objects; below 1 they are dimmed."""
    objects_share: Range = (0.05, 0.6)
    """Fraction of the objects of a crop that `objects` changes, drawn for each crop."""
    gradient: Change | None = None
    """Standard deviation of a smooth random field by which the crop is multiplied."""
    blur: Change | None = None
    """Standard deviation of a Gaussian along y and x, in voxels."""
    blur_z: Range = (1.0, 1.0)
    """Its standard deviation along z, as a multiple of that along y and x."""
    coarse_z: Change | None = None
    """Distance between kept planes, in planes; the others are computed from them."""
    gamma: Change | None = None
    """Exponent of the intensity."""
    gain: Change | None = None
    """Factor of the intensity."""
    offset: Change | None = None
    """Offset added to the intensity."""
    shot: Change | None = None
    """Standard deviation of noise where the intensity is 1; it grows with its square root."""
    noise: Change | None = None
    """Standard deviation of noise that does not depend on the intensity."""
    low_percentile: Change | None = None
    """Percentile of the image that becomes 0, instead of 1."""
    high_percentile: Change | None = None
    """Percentile of the image that becomes 1, instead of 99.8."""

    def __post_init__(self) -> None:
        for name, change in self._changes().items():
            least, most = _LIMITS.get(name, (0.0, 1e6))
            if not (least <= change.low <= change.high <= most):
                raise UsageError(
                    f"{name} is {(change.low, change.high)}; "
                    f"pass two ascending numbers from {least:g} to {most:g}"
                )
            if not 0 <= change.probability <= 1:
                raise UsageError(
                    f"{name} has probability {change.probability}; pass a number from 0 to 1"
                )
        for name, least, most in (("objects_share", 0.0, 1.0), ("blur_z", 1e-2, 1e2)):
            low, high = getattr(self, name)
            if not (isfinite(high) and least <= low <= high <= most):
                raise UsageError(
                    f"{name} is {(low, high)}; "
                    f"pass two ascending numbers from {least:g} to {most:g}"
                )

    def _changes(self) -> dict[str, Change]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Change)}

    @property
    def is_nothing(self) -> bool:
        """Whether no crop is ever changed."""
        return not any(change.probability for change in self._changes().values())

    @property
    def draws_percentiles(self) -> bool:
        """Whether percentiles other than 1 and 99.8 may become 0 and 1."""
        return self.low_percentile is not None or self.high_percentile is not None

    @classmethod
    def robust(cls) -> IntensitySettings:
        """Return ranges for models that should work on images from other labs."""
        return cls(
            objects=Change(0.2, 1.0, 0.25),
            gradient=Change(0.1, 0.45, 0.3),
            blur=Change(0.3, 1.3, 0.45),
            blur_z=(0.5, 2.5),
            coarse_z=Change(1.5, 4.0, 0.2),
            gamma=Change(0.4, 2.2, 0.45),
            gain=Change(0.6, 1.7, 0.45),
            offset=Change(-0.1, 0.5, 0.4),
            shot=Change(0.0, 0.15, 0.45),
            noise=Change(0.0, 0.1, 0.45),
            low_percentile=Change(0.2, 8.0, 0.5),
            high_percentile=Change(98.5, 99.98, 0.5),
        )

    def narrowed(self, share: float) -> IntensitySettings:
        """Return ranges scaled towards no change: 1 unchanged, 0 none.

        Probabilities are unchanged.
        """
        changes: dict[str, Any] = {
            name: change._towards(_NEUTRAL.get(name, 0.0), share, is_factor=name in _FACTORS)
            for name, change in self._changes().items()
        }
        low, high = self.blur_z
        return replace(self, blur_z=(low**share, high**share), **changes)


def quantiles_of(volume: Volume) -> tuple[tuple[float, ...], ...]:
    """Return the intensities of an image at `QUANTILES`, for each channel."""
    return tuple(quantiles(one, QUANTILES) for one in volume.by_channel())


def drawn_ranges(
    tables: Sequence[Sequence[float]],
    ranges: Sequence[IntensityRange],
    settings: IntensitySettings,
    rng: np.random.Generator,
) -> tuple[IntensityRange, ...]:
    """Draw which percentiles of an image become 0 and 1.

    Parameters
    ----------
    tables
        Intensities of the image at `QUANTILES`, for each channel.
    ranges
        The range of each channel if nothing is drawn.
    settings
        What to draw from.
    rng
        The only source of randomness.
    """
    return tuple(
        _drawn_range(table, usual, settings, rng)
        for table, usual in zip(tables, ranges, strict=True)
    )


def _drawn_range(
    table: Sequence[float],
    usual: IntensityRange,
    settings: IntensitySettings,
    rng: np.random.Generator,
) -> IntensityRange:
    """Low percentiles p are drawn uniformly in log p, high ones in log(100 - p)."""
    low, high = usual.low, usual.high
    chances = rng.random(4)
    if (change := settings.low_percentile) and chances[0] < change.probability:
        low = np.interp(_geometric(change.low, change.high, chances[1]), QUANTILES, table)
    if (change := settings.high_percentile) and chances[2] < change.probability:
        rest = _geometric(100 - change.high, 100 - change.low, chances[3])
        high = np.interp(100 - rest, QUANTILES, table)
    return IntensityRange(float(low), float(high)) if low < high else usual


def distort(
    image: NDArray[np.float32],
    settings: IntensitySettings,
    rng: np.random.Generator,
    objects: NDArray[Any] | Sequence[NDArray[np.bool_]] = (),
) -> NDArray[np.float32]:
    """Change the intensities of a crop at random, each channel independently.

    Parameters
    ----------
    image
        Normalised, float32 ``(channels, *spatial)``; not changed.
    settings
        What to draw from.
    rng
        The only source of randomness.
    objects
        The objects of the crop: labels ``(*spatial)`` or one mask for each.

    Returns
    -------
    float32 of the same shape.
    """
    return np.stack([_distort_channel(channel, settings, rng, objects) for channel in image])


def _distort_channel(
    image: NDArray[np.float32],
    settings: IntensitySettings,
    rng: np.random.Generator,
    objects: NDArray[Any] | Sequence[NDArray[np.bool_]],
) -> NDArray[np.float32]:
    # draw all numbers first, used or not, so that changes are independent of each other
    drawn = {name: _drawn(name, getattr(settings, name), rng) for name in _ORDER}
    ratio = _geometric(*settings.blur_z, rng.random())
    step, offset, repeats = drawn["coarse_z"], rng.random(), rng.random() < 0.5
    if drawn["objects"] != 1 and len(objects):
        share = rng.uniform(*settings.objects_share)
        image = image * _object_factors(objects, settings.objects, share, rng)
    if drawn["gradient"] > 0:
        field = np.float32(drawn["gradient"]) * smooth_field(image.shape, rng)
        image = image * np.clip(1 + field, 0.15, 3)
    if drawn["blur"] > 0:
        sigmas = [drawn["blur"] * (ratio if axis == -3 else 1) for axis in _axes(image)]
        pairs = zip(image.shape, sigmas, strict=True)
        image = filtered(image, [gaussian_weights(n, sigma) for n, sigma in pairs])
    if step > 1 and image.ndim == 3:
        weights = coarse_weights(len(image), step, offset, repeats=repeats)
        image = filtered(image, [weights, None, None])
    if drawn["gamma"] != 1:
        image = np.copysign(np.abs(image) ** np.float32(drawn["gamma"]), image)
    image = image * np.float32(drawn["gain"]) + np.float32(drawn["offset"])
    if drawn["shot"] or drawn["noise"]:
        return _with_noise(image, drawn["shot"], drawn["noise"], rng)
    return image


def _axes(image: NDArray[Any]) -> range:
    return range(-image.ndim, 0)


def _object_factors(
    objects: NDArray[Any] | Sequence[NDArray[np.bool_]],
    change: Change | None,
    share: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return a factor for each voxel: that of its object, with soft edges; 1 elsewhere."""
    assert change is not None
    if isinstance(objects, np.ndarray) and objects.dtype.kind != "b":
        labels = np.maximum(objects, 0)
    else:
        labels = np.zeros(objects[0].shape, np.int64)
        for number, mask in enumerate(objects, start=1):
            labels[mask] = number
    n = int(labels.max())
    changed, where = rng.random((2, n + 1))
    factors = change.low * (change.high / change.low) ** where
    factors[(changed >= share) | (np.arange(n + 1) == 0)] = 1
    field: NDArray[np.float32] = factors.astype(np.float32)[labels]
    return filtered(field, [gaussian_weights(size, _SOFT) for size in field.shape])


def smooth_field(shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a smooth random field of that shape, of mean 0 and deviation 1."""
    knots = rng.standard_normal((_KNOTS,) * len(shape), np.float32)
    field = filtered(knots, [linear_weights(_KNOTS, n) for n in shape])
    field -= field.mean()
    field /= max(float(field.std()), 1e-6)
    return field


def coarse_weights(n: int, step: float, offset: float, *, repeats: bool) -> Weights:
    """Return the weights that compute all planes from every `step`-th one.

    Parameters
    ----------
    n
        Number of planes.
    step
        Distance between kept planes, in planes.
    offset
        Position of the first kept plane, in steps, 0 to 1.
    repeats
        Whether the others repeat the nearest kept plane, of two equally near ones the earlier or
        the later, by the offset; otherwise they are interpolated linearly.

    Returns
    -------
    float32 ``(n, n)``, every row adds up to 1.
    """
    kept = np.unique(np.arange(min(offset * step, n - 1), n, step).astype(int))
    planes = np.arange(n)
    weights = np.stack([np.interp(planes, kept, row) for row in np.eye(len(kept))], axis=1)
    if repeats:
        earlier = 1e-3 if offset < 0.5 else -1e-3  # always the earlier one would displace images
        weights = np.eye(len(kept))[np.abs(planes[:, None] - kept - earlier).argmin(axis=1)]
    full = np.zeros((n, n), np.float32)
    full[:, kept] = weights
    return full


def _with_noise(
    image: NDArray[np.float32], shot: float, noise: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add both noises at once: their variances add up."""
    variance = np.float32(shot**2) * np.maximum(image, 0) + np.float32(noise**2)
    noisy: NDArray[np.float32] = np.sqrt(variance)
    noisy *= rng.standard_normal(image.shape, np.float32)
    noisy += image
    return noisy


def _drawn(name: str, change: Change | None, rng: np.random.Generator) -> float:
    """Draw a number, or return the neutral one; uses two random numbers in either case."""
    happens, where = rng.random(2)
    if change is None or happens >= change.probability:
        return _NEUTRAL.get(name, 0.0)
    if name in _FACTORS:
        return _geometric(change.low, change.high, where)
    return float(change.low + (change.high - change.low) * where)


def _geometric(low: float, high: float, where: float) -> float:
    """Interpolate between two numbers in the logarithm."""
    return float(low * (high / low) ** where)
