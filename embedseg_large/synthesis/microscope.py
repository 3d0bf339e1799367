"""The effects of optics and camera on a scene, in the order of the light path."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedseg_large.synthesis.filters import (
    Image,
    blurred,
    filtered,
    linear_band,
    smooth_noise,
)
from embedseg_large.synthesis.look import Specimen
from embedseg_large.synthesis.settings import LEAST_DEPTH, SynthesisSettings

_LOSSLESS = 1e6  # number of photons beyond which shot noise does not matter
_COUNTED = 30.0  # number of photons up to which their discreteness is visible
_SMALL = 14.0  # diameter of nuclei in pixels below which the optics are sharper in proportion


def project(
    settings: SynthesisSettings, scene: Specimen, image: Image, rng: np.random.Generator
) -> Image:
    """Blur, dim and shade the light of a scene."""
    d, shape = scene.diameter, image.shape
    sigma = rng.uniform(*settings.blur) * min(1.0, d / _SMALL)
    longer = rng.uniform(*settings.axial_blur)
    along_z = min(sigma * longer, 0.3 * d) / scene.anisotropy
    image = blurred(image, (along_z, sigma, sigma))
    if rng.random() < settings.out_of_focus:
        strength, wide = rng.uniform(0.05, 0.5), rng.uniform(0.3, 0.8) * d
        image += np.float32(strength) * blurred(image, scene.sigmas(wide))
    if rng.random() < settings.attenuation:
        image *= _falling(shape, rng)
    if rng.random() < settings.shading:
        field = smooth_noise(shape, [n / 2 for n in shape], rng)
        image *= np.maximum(1 + np.float32(rng.uniform(0.1, 0.4)) * field, np.float32(0.2))
    return image


def record(
    settings: SynthesisSettings, scene: Specimen, image: Image, rng: np.random.Generator
) -> Image:
    """Turn light into numbers: photons, noise, stripes, and processing."""
    image = np.maximum(image / max(_percentile(image, 99.8), 1e-6), 0)
    image += np.float32(rng.uniform(*settings.offset) * (rng.random() < 0.6))
    photons = np.exp(rng.uniform(*np.log(settings.photons)))
    image = _counted(image, photons, rng.uniform(*settings.read_noise), rng)
    if rng.random() < settings.stripes:
        image *= _stripes(image.shape, rng)
    if rng.random() < settings.smoothing:
        sigma = rng.uniform(0.4, 1.1)
        image = blurred(image, (sigma * rng.integers(2), sigma, sigma))
    if rng.random() < settings.interpolation and image.shape[0] > 8:
        step = int(rng.integers(2, 4))
        if scene.diameter / scene.anisotropy >= LEAST_DEPTH * step:  # or nuclei would vanish
            image = _interpolated(image, step)
    if rng.random() < 0.3:
        image = np.copysign(np.abs(image) ** np.float32(rng.uniform(*settings.gamma)), image)
    if rng.random() < settings.saturation:
        image = np.minimum(image, np.float32(_percentile(image, rng.uniform(95, 99.5))))
    if rng.random() < settings.black:
        image = np.maximum(image, np.float32(_percentile(image, rng.uniform(5, 60))))
    return image


def _interpolated(image: Image, step: int) -> Image:
    """Keep each `step`-th plane and the last one, and interpolate between them."""
    kept = np.unique(np.append(np.arange(0, len(image), step), len(image) - 1))
    return filtered(image[kept], 0, linear_band(kept))


def _percentile(image: Image, percent: float) -> float:
    """Return a percentile of a quarter of the voxels."""
    return float(np.percentile(image.ravel()[::4], percent))


def _falling(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return brightness that falls along an axis, mostly z, from one of its ends."""
    axis = 0 if shape[0] > 1 and rng.random() < 0.7 else int(rng.integers(1, 3))
    along = np.linspace(0, 1, shape[axis])[:: int(rng.choice([-1, 1]))]
    falling = np.exp(-rng.uniform(0, 1.6) * along).astype(np.float32)
    return falling.reshape([-1 if a == axis else 1 for a in range(3)])


def _counted(image: Image, photons: float, noise: float, rng: np.random.Generator) -> Image:
    """Add the noise of photons and of the camera."""
    if photons < _COUNTED:
        counted = rng.poisson(image * np.float32(photons)).astype(np.float32)
        image = counted / np.float32(photons)
        return image + np.float32(noise) * rng.standard_normal(image.shape, np.float32)
    variance = np.float32(noise**2) + image * np.float32(photons < _LOSSLESS) / np.float32(photons)
    noisy: Image = image + np.sqrt(variance) * rng.standard_normal(image.shape, np.float32)
    return noisy


def _stripes(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the gain of rows, the same in all planes, or of planes."""
    planes = shape[0] > 1 and rng.random() < 0.5
    gains = rng.standard_normal((shape[0], 1, 1) if planes else (1, shape[1], 1), np.float32)
    return 1 + np.float32(rng.uniform(0.02, 0.12)) * gains
