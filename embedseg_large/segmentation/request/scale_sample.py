"""The places of a volume on which scales are compared: bright ones, from an evenly spread sample.

They are a function of the volume alone, and their number does not depend on its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.segmentation.stages.job import Foreground
from embedseg_large.volumes.intensity import PERCENTILES
from embedseg_large.volumes.volume import Volume

TILE = {2: (384, 384), 3: (48, 112, 112)}
"""Voxels of the image that are sampled in one place; fewer if magnified."""
PLACES = {2: 3, 3: 2}
"""Number of places that are sampled."""
PROBE = {2: (128, 128), 3: (8, 64, 64)}
PROBES = {2: 9, 3: 5}
"""Number of coarse samples along each axis."""
BRIGHT = 0.3
"""Fraction of the sample's range above which a voxel may belong to an object."""
TIMEPOINTS = 8
"""Maximum number of timepoints searched for one that is not empty."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Voxels of the chosen places."""

    boxes: tuple[Box, ...]
    images: list[tuple[NDArray[np.float32], NDArray[np.bool_] | None]]
    """Normalised ``(channels, *box)``, and which voxels are inside the mask."""
    timepoint: int | None


def first_sample(
    volume: Volume,
    within: Box,
    foreground: Foreground,
    intensity: tuple[float, float] | None,
    timepoints: Sequence[int | None],
) -> Sample | None:
    """Sample the first of some spread timepoints that is not empty; None if all are."""
    spread = np.unique(np.linspace(0, len(timepoints) - 1, TIMEPOINTS).astype(int))
    tried = (_sample(volume, within, foreground, intensity, timepoints[i]) for i in spread)
    return next((found for found in tried if found is not None), None)


def _sample(
    volume: Volume,
    within: Box,
    foreground: Foreground,
    intensity: tuple[float, float] | None,
    timepoint: int | None,
) -> Sample | None:
    """Choose the tiles to sample; None if there is nothing to see."""
    probes = []
    for at in _spread(within, PROBES[volume.ndim], PROBE[volume.ndim]):
        inside = foreground.inside(at, volume.spatial_shape, timepoint)
        if inside is None or inside.any():
            probes.append((at, _read(volume, at, timepoint)))
    if not probes:
        return None
    ranges = _ranges([p for _, p in probes], intensity)
    if ranges is None:
        return None
    shares = [float((_normal(p, ranges).max(axis=0) > BRIGHT).mean()) for _, p in probes]
    boxes: list[Box] = []
    for i in np.argsort(-np.array(shares), kind="stable"):
        box = around(probes[int(i)][0], TILE[volume.ndim], within)
        if shares[int(i)] > 0 and all(not box.intersect(b).size for b in boxes):
            boxes.append(box)
        if len(boxes) == PLACES[volume.ndim]:
            break
    if not boxes:
        return None
    images = [
        (
            _normal(_read(volume, b, timepoint), ranges),
            foreground.inside(b, volume.spatial_shape, timepoint),
        )
        for b in boxes
    ]
    return Sample(tuple(boxes), images, timepoint)


def _read(volume: Volume, box: Box, timepoint: int | None) -> NDArray[np.float32]:
    """Read voxels ``(channels, *box)``, with NaN replaced by 0."""
    at = timepoint if volume.timepoint is None else None
    voxels = volume.read(box, at).reshape(-1, *box.shape).astype(np.float32)
    return np.nan_to_num(voxels, nan=0.0, posinf=0.0, neginf=0.0)


def _spread(within: Box, count: int, size: Sequence[int]) -> Iterator[Box]:
    """Yield small boxes, evenly spread, in raster order; the whole volume if it is small."""
    axes = [
        sorted({a + (2 * i + 1) * (b - a) // (2 * count) for i in range(count)})
        for a, b in zip(within.start, within.stop, strict=True)
    ]
    seen = set[Box]()
    for voxel in product(*axes):
        box = around(Box(voxel, tuple(v + 1 for v in voxel)), size, within)
        if box not in seen:
            seen.add(box)
            yield box


def around(middle: Box, size: Sequence[int], within: Box) -> Box:
    """Return a box of at most `size` around `middle`, shifted to lie inside `within`."""
    axes = list(zip(middle.start, middle.stop, size, within.start, within.stop, strict=True))
    start = [max(low, min((a + b - n) // 2, high - n)) for a, b, n, low, high in axes]
    stop = [min(s + n, high) for s, (_, _, n, _, high) in zip(start, axes, strict=True)]
    return Box(tuple(start), tuple(stop))


def _ranges(
    probes: Sequence[NDArray[np.float32]], given: tuple[float, float] | None
) -> list[tuple[float, float]] | None:
    """Find the intensities of each channel that become 0 and 1; None if the sample is constant."""
    if given is not None:
        return [given] * len(probes[0])
    found = []
    for channel in range(len(probes[0])):
        values = np.concatenate([p[channel].ravel() for p in probes])
        values = values.view(np.uint8) if values.dtype == np.bool_ else values
        held = values[values != 0]  # exact zeros were usually never imaged
        low, high = np.percentile(held if held.size else values, PERCENTILES)
        if low == high:
            low, high = np.percentile(values, PERCENTILES)
        found.append((float(low), float(high)))
    return found if all(low < high for low, high in found) else None


def _normal(
    voxels: NDArray[np.float32], ranges: Sequence[tuple[float, float]]
) -> NDArray[np.float32]:
    column = (-1, *(1,) * (voxels.ndim - 1))
    low, high = (np.array(v, np.float32).reshape(column) for v in zip(*ranges, strict=True))
    normal: NDArray[np.float32] = (voxels - low) / (high - low)
    return normal
