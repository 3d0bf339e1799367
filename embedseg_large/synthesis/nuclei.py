"""Nuclei as ellipsoids with an uneven surface, and the voxels that belong to each.

1. Every nucleus is an ellipsoid with individual radii and orientation. A few are dividing: a thin
   plate (metaphase), or two small ones side by side (anaphase).
2. The depth of a voxel in a nucleus is its distance in the norm of the ellipsoid, 0 in the middle
   and 1 at the surface, plus smooth noise, which makes the surface uneven.
3. A voxel belongs to the nucleus in which it is deepest. Overlapping nuclei therefore share a wall.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.synthesis.filters import Image
from embedseg_large.synthesis.layout import Points
from embedseg_large.synthesis.settings import SynthesisSettings

Labels = NDArray[np.int32]
"""int32 ``(z, y, x)``, 0 background."""

Floats = NDArray[np.float64]

_PLATE = (1.15, 1.15, 0.38)  # radii of a metaphase plate over those of a nucleus
_HALF = 0.6  # radius of one half of an anaphase over that of a nucleus


@dataclass(frozen=True, slots=True, eq=False)
class Nuclei:
    """Ellipsoids in a volume of three axes, in pixels.

    Parameters
    ----------
    centres
        float64 ``(n, 3)``.
    forms
        float64 ``(n, 3, 3)``: a point ``p`` is inside where ``|form @ (p - centre)| < 1``.
    radii
        float64 ``(n,)``: longest radius of each nucleus.
    condensed
        bool ``(n,)``: whether each belongs to a dividing cell, which is brighter and untextured.
    """

    centres: Floats
    forms: Floats
    radii: Floats
    condensed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.radii)


def draw_nuclei(
    settings: SynthesisSettings, centres: Points, diameter: float, rng: np.random.Generator
) -> Nuclei:
    """Place a nucleus, or the two of an anaphase, at every centre.

    Parameters
    ----------
    settings
        Settings of the volume.
    centres
        ``(n, ndim)``.
    diameter
        Mean diameter, in pixels.
    rng
        The only source of randomness.
    """
    count, ndim = centres.shape
    radius = diameter / 2 * np.exp(rng.normal(0, rng.uniform(*settings.size_spread), count))
    axes = np.exp(rng.normal(0, 0.1, (count, 3)))
    stretch = rng.uniform(*settings.elongation)
    axes[:, 2] *= rng.choice([1.0, stretch, 1 / stretch], count, p=[0.2, 0.6, 0.2])
    kind = rng.random(count)
    plate = kind < settings.metaphases
    pair = ~plate & (kind < settings.metaphases + settings.anaphases)
    axes /= np.prod(axes[:, -ndim:], axis=1, keepdims=True) ** (1 / ndim)
    axes[plate] = _PLATE
    turns: Floats = rotations(count, ndim, rng)
    common = rng.random(count) < (0.8 if rng.random() < settings.aligned else 0)
    turns[common] = rotations(1, ndim, rng)
    places = np.zeros((count, 3))
    places[:, -ndim:] = centres
    apart = turns[pair, 2, :] * (radius[pair] * 0.75)[:, None]
    radius[pair] *= _HALF
    places[pair] -= apart
    order = np.concatenate([np.arange(count), np.flatnonzero(pair)])
    places = np.concatenate([places, places[pair] + 2 * apart])
    forms = turns / (radius[:, None] * axes)[..., None]
    longest = radius * axes.max(axis=1)
    return Nuclei(places, forms[order], longest[order], np.logical_or(plate, pair)[order])


def rotations(count: int, ndim: int, rng: np.random.Generator) -> Floats:
    """Draw rotations, ``(count, 3, 3)``, uniformly; in 2D they leave z unchanged."""
    if ndim == 2:
        angle = rng.uniform(0, 2 * np.pi, count)
        w, x, y, z = np.cos(angle / 2), np.sin(angle / 2), 0 * angle, 0 * angle
    else:
        numbers = rng.standard_normal((4, count))
        w, x, y, z = numbers / np.linalg.norm(numbers, axis=0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.ascontiguousarray(np.moveaxis(np.array(rows), -1, 0))


def paint(nuclei: Nuclei, uneven: Image, anisotropy: float) -> tuple[Labels, Image]:
    """Return the nucleus of each voxel, counted from 1, and its depth in it.

    Parameters
    ----------
    nuclei
        What to paint.
    uneven
        Offset added to the distance from the middle, ``(z, y, x)``.
    anisotropy
        Distance between planes in pixels.

    Returns
    -------
    labels, depth
        int32 and float32 ``(z, y, x)``; the depth is 0 in the middle, and 1 outside nuclei.
    """
    labels = np.zeros(uneven.shape, np.int32)
    depth = np.ones(uneven.shape, np.float32)
    reach = 1 - min(float(uneven.min()), 0.0)
    _paint(
        nuclei.centres, nuclei.forms, nuclei.radii * reach + 1, reach, anisotropy, uneven, labels,
        depth,
    )  # fmt: skip
    return labels, depth


def separate(labels: Labels) -> None:
    """Make a gap between touching nuclei: remove voxels next to another nucleus in the plane."""
    before = labels.copy()
    _separate(before, labels)


def keep_pieces(labels: Labels, smallest: float, smallest_cut: float) -> NDArray[np.int64]:
    """Keep the largest piece of every object if it is large enough, and number them from 1.

    Parameters
    ----------
    labels
        Objects from 1 on; changed in place.
    smallest
        Minimum number of voxels of an object.
    smallest_cut
        Minimum number of voxels of an object at the border of the volume.

    Returns
    -------
    int64 ``(n,)``: the old numbers, in the order of the new ones.
    """
    count = int(labels.max(initial=0))
    roots = _pieces(labels)
    kept = _largest(labels, roots, count)
    sizes = np.bincount(roots, minlength=labels.size)[kept]
    cut = np.zeros(count + 1, np.bool_)
    for axis in (axis for axis in range(3) if labels.shape[axis] > 1):
        for side in (0, -1):
            cut[np.unique(labels.take(side, axis=axis))] = True
    good = (kept >= 0) & (sizes >= np.where(cut, smallest_cut, smallest))
    good[0] = False
    numbers = np.where(good, np.cumsum(good), 0).astype(np.int32)
    _renumber(labels, roots, kept, numbers)
    return np.flatnonzero(good)


@numba.njit(cache=True, nogil=True)
def _paint(  # type: ignore[no-untyped-def]
    centres, forms, reaches, reach, anisotropy, uneven, labels, depth
):
    """See `paint`; `reaches` are in pixels."""
    for k in range(len(reaches)):
        m = forms[k].astype(np.float32)
        low = np.zeros(3, np.int64)
        high = np.zeros(3, np.int64)
        for axis in range(3):
            step = anisotropy if axis == 0 else 1.0
            low[axis] = max(0, int(np.floor((centres[k, axis] - reaches[k]) / step)))
            high[axis] = min(
                labels.shape[axis], int(np.ceil((centres[k, axis] + reaches[k]) / step)) + 1
            )
        for z in range(low[0], high[0]):
            dz = np.float32(z * anisotropy - centres[k, 0])
            for y in range(low[1], high[1]):
                dy = np.float32(y - centres[k, 1])
                a = m[0, 0] * dz + m[0, 1] * dy
                b = m[1, 0] * dz + m[1, 1] * dy
                c = m[2, 0] * dz + m[2, 1] * dy
                for x in range(low[2], high[2]):
                    dx = np.float32(x - centres[k, 2])
                    u = a + m[0, 2] * dx
                    v = b + m[1, 2] * dx
                    w = c + m[2, 2] * dx
                    square = u * u + v * v + w * w
                    if square < reach * reach:
                        found = max(np.float32(np.sqrt(square)) + uneven[z, y, x], np.float32(0))
                        if found < depth[z, y, x]:
                            depth[z, y, x] = found
                            labels[z, y, x] = k + 1


@numba.njit(cache=True, nogil=True)
def _separate(before, labels):  # type: ignore[no-untyped-def]
    planes, height, width = before.shape
    for z in range(planes):
        for y in range(height):
            for x in range(width):
                mine = before[z, y, x]
                if mine == 0:
                    continue
                for j in range(max(0, y - 1), min(height, y + 2)):
                    for i in range(max(0, x - 1), min(width, x + 2)):
                        other = before[z, j, i]
                        if other != 0 and other != mine:
                            labels[z, y, x] = 0


@numba.njit(cache=True, nogil=True)
def _root(parents, voxel):  # type: ignore[no-untyped-def]
    while parents[voxel] != voxel:
        parents[voxel] = parents[parents[voxel]]
        voxel = parents[voxel]
    return voxel


@numba.njit(cache=True, nogil=True)
def _pieces(labels):  # type: ignore[no-untyped-def]
    """Return for each voxel the first voxel of its (face-connected) piece."""
    flat = labels.ravel()
    parents = np.arange(flat.size)
    planes, height, width = labels.shape
    voxel = 0
    for z in range(planes):
        for y in range(height):
            for x in range(width):
                mine = flat[voxel]
                if mine:
                    for back, inside in ((1, x > 0), (width, y > 0), (width * height, z > 0)):
                        if inside and flat[voxel - back] == mine:
                            one = _root(parents, voxel)
                            two = _root(parents, voxel - back)
                            parents[max(one, two)] = min(one, two)
                voxel += 1
    for voxel in range(flat.size):
        parents[voxel] = parents[parents[voxel]]  # its parent, which comes first, is done
    return parents


@numba.njit(cache=True, nogil=True)
def _largest(labels, roots, count):  # type: ignore[no-untyped-def]
    """Return the root of the largest piece of each label, -1 where there is none."""
    flat = labels.ravel()
    sizes = np.zeros(flat.size, np.int64)
    for voxel in range(flat.size):
        sizes[roots[voxel]] += 1
    kept = np.full(count + 1, -1, np.int64)
    for voxel in range(flat.size):
        mine = flat[voxel]
        if mine and roots[voxel] == voxel and (kept[mine] < 0 or sizes[voxel] > sizes[kept[mine]]):
            kept[mine] = voxel
    return kept


@numba.njit(cache=True, nogil=True)
def _renumber(labels, roots, kept, numbers):  # type: ignore[no-untyped-def]
    flat = labels.reshape(-1)
    for voxel in range(flat.size):
        mine = flat[voxel]
        flat[voxel] = numbers[mine] if mine and roots[voxel] == kept[mine] else 0


def smallest_sizes(diameter: float, anisotropy: float, ndim: int) -> tuple[float, float]:
    """Return the minimum sizes of whole nuclei and of nuclei at the border of the volume."""
    ball = np.pi / 4 * diameter**2 if ndim == 2 else np.pi / 6 * diameter**3 / anisotropy
    return max(12.0, 0.12 * ball), max(12.0, 0.05 * ball)
