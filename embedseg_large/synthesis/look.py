"""The light of nuclei and their surroundings, before the microscope."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.synthesis.filters import Image, blurred, smooth_noise
from embedseg_large.synthesis.nuclei import Labels
from embedseg_large.synthesis.settings import SynthesisSettings

_CONDENSED = 1.5  # brightness of dividing nuclei, relative to others
_SPOT_DEPTH = 0.75  # maximum position of the centres of spots


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """The scene to be imaged: arrays ``(z, y, x)``.

    Parameters
    ----------
    labels, depth
        As returned by `paint`, numbered from 1 without gaps.
    condensed
        bool ``(n,)``: which nuclei are dividing.
    diameter
        Mean diameter, in pixels.
    anisotropy
        Distance between planes in pixels.
    """

    labels: Labels
    depth: Image
    condensed: NDArray[np.bool_]
    diameter: float
    anisotropy: float

    def sigmas(self, pixels: float) -> tuple[float, float, float]:
        """Return a length in voxels along each axis."""
        return pixels / self.anisotropy, pixels, pixels


def shine(settings: SynthesisSettings, scene: Specimen, rng: np.random.Generator) -> Image:
    """Return the light of a scene, ``(z, y, x)``; a plain nucleus has about 1."""
    image = _chromatin(settings, scene, rng)
    image *= _profile(settings, scene, rng)
    for share, change in ((settings.nucleoli, -1), (settings.chromocentres, 1)):
        if rng.random() < share:
            image *= 1 + change * rng.uniform(0.4, 0.9 if change < 0 else 2) * _spots(scene, rng)
    return _surrounded(settings, scene, image, rng)


def _chromatin(settings: SynthesisSettings, scene: Specimen, rng: np.random.Generator) -> Image:
    """Return the brightness of each nucleus, modulated by a texture."""
    count = len(scene.condensed)
    bright = np.zeros(count + 1, np.float32)
    bright[1:] = np.exp(rng.normal(0, rng.uniform(*settings.brightness_spread), count))
    bright[1:] *= np.where(scene.condensed, _CONDENSED, 1)
    fine, coarse = rng.uniform(*settings.texture, 2)
    shape = scene.labels.shape
    texture = fine * smooth_noise(shape, scene.sigmas(rng.uniform(0.8, 3)), rng)
    texture += 0.6 * coarse * smooth_noise(shape, scene.sigmas(0.25 * scene.diameter), rng)
    image: Image = bright[scene.labels]
    image *= np.clip(1 + texture, 0.15, 3)
    return image


def _profile(settings: SynthesisSettings, scene: Specimen, rng: np.random.Generator) -> Image:
    """Return a factor that depends on the depth in the nucleus."""
    depth, kind = scene.depth, rng.random()
    strength, hollow = rng.random(2).astype(np.float32)
    profile: Image
    if kind < settings.rims:
        profile = 1 + (0.3 + 1.2 * strength) * depth**6 - 0.5 * hollow * (depth < 0.7)
    elif kind < settings.rims + settings.cores:
        profile = 1 - (0.2 + 0.4 * strength) * depth**2
    else:
        profile = np.ones_like(depth)
    return profile


def _spots(scene: Specimen, rng: np.random.Generator) -> Image:
    """Return spots in nuclei, 1 in their middles and 0 far away."""
    spots = np.zeros_like(scene.depth)
    places = np.flatnonzero((scene.labels > 0) & (scene.depth < _SPOT_DEPTH))
    count = min(len(places), int(rng.integers(1, 6)) * len(scene.condensed))
    chosen = rng.choice(places, count, replace=False)
    width = scene.diameter * rng.uniform(0.06, 0.14)
    points = np.stack(np.unravel_index(chosen, spots.shape), axis=1).astype(np.float64)
    _splat(points, np.ones(count, np.float32), np.array(scene.sigmas(width)), spots)
    return np.minimum(spots, 1)


def _surrounded(
    settings: SynthesisSettings, scene: Specimen, image: Image, rng: np.random.Generator
) -> Image:
    """Add light outside nuclei: tissue, cytoplasm, debris."""
    shape, d = image.shape, scene.diameter
    level = rng.uniform(*settings.background)
    smooth = smooth_noise(shape, scene.sigmas(d * rng.uniform(0.5, 2)), rng)
    image = image + level * np.maximum(0.5 + 0.5 * smooth, 0)
    if rng.random() < settings.haze:
        around = blurred((scene.labels > 0).astype(np.float32), scene.sigmas(0.4 * d))
        image += rng.uniform(0.05, 0.35) * around
    if rng.random() < settings.debris:
        count = int(rng.integers(3, 40))
        points = rng.uniform(0, 1, (count, 3)) * np.array(shape)
        if shape[0] == 1:
            points[:, 0] = 0
        power = np.exp(rng.normal(0, 0.7, count))
        power *= rng.uniform(0.5, 3) / power.max()
        width = np.maximum(scene.sigmas(rng.uniform(0.5, 1.5)), 0.4)
        _splat(points, power.astype(np.float32), width, image)
    return image.astype(np.float32, copy=False)


@numba.njit(cache=True, nogil=True)
def _splat(points, powers, sigmas, image):  # type: ignore[no-untyped-def]
    """Add Gaussian spots to an image; points and sigmas are in voxels."""
    low = np.zeros(3, np.int64)
    high = np.zeros(3, np.int64)
    for k in range(len(points)):
        for axis in range(3):
            low[axis] = max(0, int(np.ceil(points[k, axis] - 3 * sigmas[axis])))
            high[axis] = min(
                image.shape[axis], int(np.floor(points[k, axis] + 3 * sigmas[axis])) + 1
            )
        for z in range(low[0], high[0]):
            a = ((z - points[k, 0]) / sigmas[0]) ** 2
            for y in range(low[1], high[1]):
                b = a + ((y - points[k, 1]) / sigmas[1]) ** 2
                for x in range(low[2], high[2]):
                    c = b + ((x - points[k, 2]) / sigmas[2]) ** 2
                    image[z, y, x] += powers[k] * np.float32(np.exp(-0.5 * c))
