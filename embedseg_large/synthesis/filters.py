"""Smoothing, resampling and smooth noise, each as one narrow band of weights per axis.

::

    out[i] = sum_t weights[i, t] * in[first[i] + t]        along one axis

A Gaussian, the mean of blocks, and cubic B-splines between coarse samples are such bands. Smooth
results are computed on a coarse grid: a blur of 10 voxels costs no more than one of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numba
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
"""float32 ``(z, y, x)``."""

_RADIUS = 3.0  # of a Gaussian, in standard deviations
_FINE = 1.5  # standard deviation, in coarse samples, that a Gaussian may have there
_SHARP = 0.2  # below that standard deviation a Gaussian does nothing
_SPLINE = sqrt(1 / 3)  # standard deviation of a cubic B-spline, in samples


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Weights of a linear filter along an axis.

    Parameters
    ----------
    first
        int64 ``(n_out,)``: where the weights of each output begin in the input.
    weights
        float32 ``(n_out, taps)``.
    """

    first: NDArray[np.int64]
    weights: NDArray[np.float32]


def gaussian_band(n: int, sigma: float, last: float = 1.0) -> Band:
    """Return a Gaussian; at the edges, only what is inside the image counts.

    `last` is the part of the last voxel that is inside.
    """
    radius = max(1, ceil(_RADIUS * sigma))
    taps = min(2 * radius + 1, n)
    first = np.clip(np.arange(n) - radius, 0, n - taps)
    away = first[:, None] + np.arange(taps) - np.arange(n)[:, None]
    weights = np.exp(-0.5 * (away / sigma) ** 2) * (np.abs(away) <= radius)
    inside = np.append(np.ones(n - 1), last)[first[:, None] + np.arange(taps)]
    total = (weights * inside).sum(axis=1, keepdims=True)
    return Band(first, (weights / total).astype(np.float32))


def mean_band(n: int, size: int) -> Band:
    """Return the means of blocks of `size` voxels, at most `n`; beyond the end is 0."""
    start = np.arange(0, n, size)
    first = np.minimum(start, n - size)
    inside = first[:, None] + np.arange(size) >= start[:, None]
    return Band(first, inside.astype(np.float32) / np.float32(size))


def spline_band(n: int, step: float, start: float, samples: int) -> Band:
    """Return cubic B-splines between samples.

    Parameters
    ----------
    n
        Number of voxels.
    step
        Voxels from one sample to the next.
    start
        Where voxel 0 is, in samples.
    samples
        Number of samples; beyond the ends the first and the last one are repeated.
    """
    at = start + np.arange(n) / step
    base = np.floor(at).astype(np.int64)
    t = at - base
    cubic = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    taps = min(4, samples)
    first = np.clip(base - 1, 0, samples - taps)
    weights = np.zeros((n, taps))
    for k in range(4):
        sample = np.clip(base - 1 + k, 0, samples - 1) - first
        np.add.at(weights, (np.arange(n), np.clip(sample, 0, taps - 1)), cubic[:, k] / 6)
    return Band(first, weights.astype(np.float32))


def linear_band(at: NDArray[np.int64]) -> Band:
    """Return linear interpolation between samples at some voxels: at least the two ends."""
    voxels = np.arange(at[-1] + 1)
    first = np.minimum(np.searchsorted(at, voxels, "right") - 1, len(at) - 2)
    t = ((voxels - at[first]) / np.diff(at)[first]).astype(np.float32)
    return Band(first, np.stack([1 - t, t], axis=1))


def filtered(image: Image, axis: int, band: Band) -> Image:
    """Apply a band along an axis."""
    shape = image.shape
    lines = np.ascontiguousarray(image).reshape(
        int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis + 1 :]))
    )
    out = np.empty((lines.shape[0], len(band.first), lines.shape[2]), np.float32)
    _apply(lines, band.first, band.weights, out)
    return out.reshape(*shape[:axis], len(band.first), *shape[axis + 1 :])


def blurred(image: Image, sigmas: Sequence[float]) -> Image:
    """Apply a Gaussian.

    Parameters
    ----------
    image
        Image to blur; not changed.
    sigmas
        Standard deviation along each axis, in voxels; axes of one voxel are skipped.
    """
    shape = image.shape
    sizes = [_size(n, sigma) for n, sigma in zip(shape, sigmas, strict=True)]
    for axis, (sigma, size) in enumerate(zip(sigmas, sizes, strict=True)):
        if size > 1:  # subtract the blur of the means and the splines
            image = filtered(image, axis, mean_band(shape[axis], size))
            rest = (sigma / size) ** 2 - 1 / 12 - _SPLINE**2
            last = 1 - (-shape[axis] % size) / size
            image = filtered(image, axis, gaussian_band(image.shape[axis], sqrt(rest), last))
        elif size == 1:
            image = filtered(image, axis, gaussian_band(shape[axis], sigma))
    for axis, size in enumerate(sizes):
        if size > 1:
            band = spline_band(shape[axis], size, (1 / size - 1) / 2, image.shape[axis])
            image = filtered(image, axis, band)
    return image


def _size(n: int, sigma: float) -> int:
    """Return the number of voxels per coarse sample; 0 if there is nothing to blur."""
    if n == 1 or sigma < _SHARP:
        return 0
    return max(1, min(int(sigma / _FINE), n // 4))


def smooth_noise(shape: Sequence[int], sigmas: Sequence[float], rng: np.random.Generator) -> Image:
    """Draw smooth noise of mean 0 and standard deviation 1.

    Parameters
    ----------
    shape
        Shape of the result.
    sigmas
        Length over which it is smooth along each axis, in voxels: the standard deviation of the
        Gaussian that white noise would have to be blurred with.
    rng
        The only source of randomness.
    """
    steps = [max(1.0, sigma / _SPLINE) for sigma in sigmas]
    samples = [ceil(n / step) + 4 if n > 1 else 1 for n, step in zip(shape, steps, strict=True)]
    noise = rng.standard_normal(samples, np.float32)
    starts = 1 + rng.random(
        len(samples)
    )  # otherwise the samples of all fields would be at the same positions
    for axis, n in enumerate(shape):
        if n > 1:
            band = spline_band(n, steps[axis], float(starts[axis]), samples[axis])
            noise = filtered(noise, axis, band)
    noise -= noise.mean(dtype=np.float64)
    noise *= np.float32(1 / (noise.std(dtype=np.float64) + 1e-6))
    return noise


@numba.njit(cache=True, nogil=True)
def _apply(lines, first, weights, out):  # type: ignore[no-untyped-def]
    """Filter ``(before, n, after)`` along its middle axis."""
    before, _, after = lines.shape
    count, taps = weights.shape
    for b in range(before):
        for i in range(count):
            at = first[i]
            if after == 1:
                total = np.float32(0)
                for t in range(taps):
                    total += weights[i, t] * lines[b, at + t, 0]
                out[b, i, 0] = total
                continue
            weight = weights[i, 0]
            for a in range(after):
                out[b, i, a] = weight * lines[b, at, a]
            for t in range(1, taps):
                weight = weights[i, t]
                for a in range(after):
                    out[b, i, a] += weight * lines[b, at + t, a]
