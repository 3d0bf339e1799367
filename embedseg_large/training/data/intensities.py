"""Random intensities: another lamp, another camera, another focus.

In the order in which a microscope distorts an image::

    blur      the optics                 Gaussian, sigma in voxels
    gamma     staining and display       sign(v) |v|^gamma, which leaves 0 and 1 in place
    gain      the lamp, the exposure     v * gain
    offset    the camera's black level   v + offset
    shot      photons                    + normal noise of sd  shot * sqrt(max(v, 0))
    noise     the camera's electronics   + normal noise of sd  noise

All on normalised intensities, of which 0 and 1 are the 1st and the 99.8th percentile of the volume.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.training.data.resample import filtered, gaussian_weights

Range = tuple[float, float]
"""A number is drawn between these two, uniformly or, for factors, uniformly in its logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensitySettings:
    """Ranges to draw from; the defaults change nothing.

    Raises
    ------
    UsageError
        A range is empty or not possible; the message names it.
    """

    probability: float = 0.5
    """Of each of the six changes, for each channel of each crop."""
    blur: Range = (0.0, 0.0)
    """Standard deviation of a Gaussian, in voxels."""
    gamma: Range = (1.0, 1.0)
    """Exponent; above 0."""
    gain: Range = (1.0, 1.0)
    """Factor; above 0."""
    offset: Range = (0.0, 0.0)
    """Summand."""
    shot: Range = (0.0, 0.0)
    """Standard deviation of noise where the intensity is 1; it grows with its square root."""
    noise: Range = (0.0, 0.0)
    """Standard deviation of noise that is the same everywhere."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UsageError(f"probability is {self.probability}; pass a number from 0 to 1")
        for field in fields(self)[1:]:
            low, high = getattr(self, field.name)
            least = {"offset": -np.inf, "gamma": 1e-3, "gain": 1e-3}.get(field.name, 0.0)
            if not (isfinite(low) and isfinite(high) and least <= low <= high):
                raise UsageError(
                    f"{field.name} is {(low, high)}; pass two ascending numbers from {least} on"
                )

    @classmethod
    def robust(cls) -> IntensitySettings:
        """Return ranges for models that should work on other people's images."""
        return cls(
            blur=(0.3, 1.3),
            gamma=(0.6, 1.6),
            gain=(0.6, 1.6),
            offset=(-0.1, 0.1),
            shot=(0.0, 0.1),
            noise=(0.0, 0.1),
        )


def distort(
    image: NDArray[np.float32], settings: IntensitySettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Change the intensities of a crop at random, each channel on its own.

    Parameters
    ----------
    image
        Normalised, float32 ``(channels, *spatial)``; not changed.
    settings
        What to draw from.
    rng
        The only source of randomness.

    Returns
    -------
    float32 of the same shape.
    """
    return np.stack([_distort_channel(channel, settings, rng) for channel in image])


def _distort_channel(
    image: NDArray[np.float32], settings: IntensitySettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    blur = _drawn(settings.blur, 0, settings, rng)
    gamma = _drawn(settings.gamma, 1, settings, rng)
    gain = _drawn(settings.gain, 1, settings, rng)
    offset = _drawn(settings.offset, 0, settings, rng)
    shot = _drawn(settings.shot, 0, settings, rng)
    noise = _drawn(settings.noise, 0, settings, rng)
    if blur > 0:
        image = filtered(image, [gaussian_weights(n, blur) for n in image.shape])
    if gamma != 1:
        image = np.copysign(np.abs(image) ** np.float32(gamma), image)
    image = image * np.float32(gain) + np.float32(offset)
    return _with_noise(image, shot, noise, rng) if shot or noise else image


def _with_noise(
    image: NDArray[np.float32], shot: float, noise: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add both noises at once: their variances add up."""
    variance = np.float32(shot**2) * np.maximum(image, 0) + np.float32(noise**2)
    noisy: NDArray[np.float32] = np.sqrt(variance)
    noisy *= rng.standard_normal(image.shape, np.float32)
    noisy += image
    return noisy


def _drawn(
    between: Range, neutral: float, settings: IntensitySettings, rng: np.random.Generator
) -> float:
    """Draw a number, or take the one that changes nothing.

    Two random numbers are used in either case, so that one change does not depend on another.
    """
    happens, where = rng.random(2)
    low, high = between
    if happens >= settings.probability:
        return neutral
    if neutral == 1:  # a factor: half as bright is as likely as twice as bright
        return float(low * (high / low) ** where)
    return float(low + (high - low) * where)
