"""Positions of nuclei."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.synthesis.settings import LAYOUTS, SynthesisSettings

Points = NDArray[np.float64]
"""float64 ``(n, ndim)``, (z,) y, x in pixels: along z, voxels times the anisotropy."""

_MOST = 4000  # darts


def draw_centres(
    settings: SynthesisSettings, size: Points, diameter: float, rng: np.random.Generator
) -> tuple[Points, str]:
    """Arrange nuclei in one of several ways.

    Parameters
    ----------
    settings
        Frequencies of the layouts.
    size
        Edge lengths of the volume in pixels, ``(ndim,)``. Some centres lie outside the volume.
    diameter
        Diameter of a nucleus, in pixels.
    rng
        The only source of randomness.

    Returns
    -------
    centres, layout
        At least one centre, and the name of the layout.
    """
    weights = np.array([getattr(settings, name) for name in LAYOUTS])
    layout = LAYOUTS[int(rng.choice(len(LAYOUTS), p=weights / weights.sum()))]
    if layout == "dense":
        points = _grid(size, diameter, rng)
    else:
        points = _darts(size, diameter, rng)
        points = points[_chosen(layout, points, size, diameter, rng)]
        points = points[_apart(points, diameter * rng.uniform(0.62, 0.95))]
    return (points if len(points) else size[None] / 2), layout


def _grid(size: Points, diameter: float, rng: np.random.Generator) -> Points:
    """Return a perturbed grid with holes, whose rows are shifted against each other."""
    step = diameter * rng.uniform(0.85, 1.25)
    axes = [np.arange(-step, n + step, step) for n in size]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    for axis in range(len(size) - 1):  # every other layer, half a step along the next axis
        points[(slice(None),) * axis + (slice(1, None, 2), ..., axis + 1)] += step / 2
    points = points.reshape(-1, len(size)) + rng.uniform(-0.5, 0.5, len(size)) * step
    points += rng.uniform(-0.25, 0.25, points.shape) * step
    return points[rng.random(len(points)) < rng.uniform(0.55, 1)]


def _darts(size: Points, diameter: float, rng: np.random.Generator) -> Points:
    """Throw darts, also just outside the volume, where nuclei still reach into it."""
    wanted = np.prod(size + 0.4 * diameter) / diameter ** len(size)
    count = round(min(_MOST, max(3.0, float(wanted) * rng.uniform(0.8, 2.5))))
    return rng.uniform(-0.2 * diameter, size + 0.2 * diameter, (count, len(size)))


def _chosen(
    layout: str, points: Points, size: Points, diameter: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which darts belong to the layout."""
    if layout == "sparse":
        return _below(np.arange(len(points)), max(2, len(points) * rng.uniform(0.03, 0.3)))
    middle = size * rng.uniform(0.3, 0.7, len(size))
    radius = size.min() * rng.uniform(0.45, 1.0)
    away = np.linalg.norm(points - middle, axis=1)
    if layout == "cluster":
        return _below(away, max(radius, diameter))
    if layout == "shell":
        return _below(np.abs(away - max(radius, diameter)), 0.7 * diameter)
    normal = rng.standard_normal(len(size))
    waves = np.sin(points[:, rng.integers(len(size))] / size.max() * rng.uniform(2, 8))
    height = (points - size / 2) @ (normal / np.linalg.norm(normal))
    thick = diameter * float(rng.choice([0.5, 1.2]))
    return _below(np.abs(height + 0.15 * size.min() * waves), thick)


def _below(values: NDArray[Any], most: float) -> NDArray[np.bool_]:
    below: NDArray[np.bool_] = values < most
    return below


@numba.njit(cache=True, nogil=True)
def _apart(points, distance):  # type: ignore[no-untyped-def]
    """Choose points one by one, each at least `distance` from all earlier ones."""
    count, ndim = points.shape
    kept = np.zeros(count, np.bool_)
    for i in range(count):
        free = True
        for j in range(i):
            if kept[j]:
                square = 0.0
                for axis in range(ndim):
                    square += (points[i, axis] - points[j, axis]) ** 2
                if square < distance * distance:
                    free = False
                    break
        kept[i] = free
    return kept
