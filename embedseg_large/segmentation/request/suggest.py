"""How wide are the objects of an image? Look at a part of it, first as blobs, then with a model.

1. Of some places, the one with the most contrast is cut out; or what the user points at.
2. The size of its blobs is estimated without a model (`embedseg_large.segmentation.request.blobs`).
3. The model looks at it at that scale, and the objects that it finds are measured. If they are of
   another size than was thought, it looks again, at the scale of theirs; if it finds too few, at
   others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import cluster
from embedseg_large.embedding import dequantise
from embedseg_large.errors import IntensityError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.segmentation.request.blobs import blob_diameter
from embedseg_large.segmentation.request.object_size import resampling_for
from embedseg_large.segmentation.request.region import Range, region_of
from embedseg_large.segmentation.request.request import check_fit, load_network, open_image
from embedseg_large.segmentation.request.scale import LEAST_OBJECTS, extents, is_mismatch
from embedseg_large.segmentation.segmenters.protocol import Network
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.intensity import normalise
from embedseg_large.volumes.volume import Volume

CROP = {2: (768, 768), 3: (64, 256, 256)}
"""What is looked at, in voxels of the level, by ndim."""
PROBE = {2: (128, 128), 3: (8, 64, 64)}
"""What is looked at in each of some places, to find one with contrast."""
PLANES = 5
"""Planes of a volume in which blobs are looked for."""
MODEL_CROP = {2: (512, 512), 3: (64, 160, 160)}
"""What the model looks at, in voxels of its own grid."""
GUESSES = (1.0, 2.0, 0.5)
"""Scales at which the model looks until it finds something, by how much larger objects are."""
CLOSE = 1.2
"""Sizes that differ by less are the same, for a guess."""
LARGE = 1 / 6
"""Objects wider than this part of what is looked at are better seen in a coarser level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """How wide objects seem to be; sizes are along y and x, in voxels of the level asked for."""

    diameter: float
    """Of the objects: median of those the model found, or of blobs if it found too few."""
    level: int
    """The level that was looked at, perhaps a coarser one."""
    region: Box
    """What was looked at, in voxels of that level."""
    blobs: float
    """Diameter of the blobs."""
    objects: int
    """Objects that the model found there; 0 if `diameter` is that of the blobs."""
    model_diameter: float | None
    """Of the model's training objects; None where the model does not know."""

    @property
    def is_needed(self) -> bool:
        """Whether the model needs to be told: objects differ from its own by half as much again."""
        return self.model_diameter is not None and is_mismatch(self.diameter / self.model_diameter)

    @property
    def may_help(self) -> bool:
        """Whether the objects differ from the model's at all, though it has learned such ones."""
        known = self.model_diameter
        return known is not None and not self.is_needed and not _are_close(self.diameter, known)

    def as_dict(self) -> dict[str, Any]:
        """The suggestion as values that JSON can hold."""
        return {
            "object_diameter": round(self.diameter, 1),
            "level": self.level,
            "region": {"start": list(self.region.start), "stop": list(self.region.stop)},
            "blob_diameter": round(self.blobs, 1),
            "objects": self.objects,
            "model_diameter": self.model_diameter,
            "mismatch": self.is_needed,
        }


def suggest_diameter(
    volume: Any,
    model: Network | str | os.PathLike[str] | None = None,
    *,
    channel: int | None = 0,
    timepoint: int | None = None,
    level: int | None = None,
    region: Sequence[Range] | None = None,
    axes: str | None = None,
    voxel_size: Sequence[float] | None = None,
) -> Suggestion:
    """Estimate the diameter of the objects of an image, for `object_diameter` of `segment`.

    Parameters
    ----------
    volume, model
        See `segment`.
    channel, timepoint, axes, voxel_size
        As for `open_volume`; of a series the first timepoint, if none is given.
    level
        Level of whose voxels sizes are, and to look at; None: the finest, and to look at a coarser
        one if objects are large.
    region
        Where to look, see `segment`; default: a place with contrast.

    Raises
    ------
    VolumeError
        The image cannot be used, or what is looked at is constant.
    UsageError
        An option cannot be used, or nothing like an object is to be seen.
    ModelError
        The model cannot be used, or does not fit the image.
    """
    asked = opened = open_image(volume, channel, timepoint, level or 0, axes, voxel_size)
    network = load_network(model, opened.ndim)
    check_fit(opened, network)
    seen = _look(opened, region_of(region, opened.spatial_shape))
    while level is None and region is None and _is_large(seen) and (found := _coarser(opened)):
        opened = found
        seen = _look(opened, None)
    if seen.blobs is None:
        raise UsageError(
            f"{opened.name}: nothing like an object in {seen.box}; say where with a region"
        )
    diameter, objects = _measured(opened, network, seen, seen.blobs)
    step = asked.spatial_shape[-1] / opened.spatial_shape[-1]
    return Suggestion(
        diameter=diameter * step,
        level=opened.level,
        region=seen.box,
        blobs=seen.blobs * step,
        objects=objects,
        model_diameter=network.object_diameter,
    )


def _are_close(a: float, b: float) -> bool:
    return abs(log(a / b)) < log(CLOSE)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A part of an image, (channels, *box) and normalised by itself."""

    box: Box
    image: NDArray[np.float32]
    blobs: float | None


def _look(volume: Volume, region: Box | None) -> _Seen:
    """Look for blobs in a region, or where there is contrast."""
    place = _middle(region) if region is not None else max(_probed(volume))[1]
    size = CROP[volume.ndim]
    within = region if region is not None else Box.whole(volume.spatial_shape)
    box = _around(place, size, within)
    stored = _read(volume, box).reshape(-1, *box.shape)
    try:
        image = np.stack([normalise(channel) for channel in stored])
    except UsageError as error:
        raise IntensityError(f"{volume.name}: constant or not finite in {box}") from error
    planes = image.mean(axis=0).clip(0, 1).reshape(-1, *box.shape[-2:])
    chosen = np.unique(np.linspace(0, len(planes) - 1, PLANES + 2).astype(int)[1:-1])
    return _Seen(box, image, blob_diameter(planes[chosen], of_balls=volume.ndim == 3))


def _probed(volume: Volume) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Contrast around places, three an axis, and these; never one at the rim alone."""
    shape = volume.spatial_shape
    for place in product(*((n // 2, n // 4, 3 * n // 4) for n in shape)):
        box = _around(place, PROBE[volume.ndim], Box.whole(shape))
        yield float(np.nanstd(_read(volume, box))), place


def _read(volume: Volume, box: Box) -> NDArray[Any]:
    """Read a box, of a series at its first timepoint."""
    return volume.read(box, 0 if volume.timepoint is None and "t" in volume.axes else None)


def _middle(box: Box) -> tuple[int, ...]:
    return tuple((a + b) // 2 for a, b in zip(box.start, box.stop, strict=True))


def _around(place: Sequence[int], size: Sequence[int], within: Box) -> Box:
    """A box of at most some size around a place, as far as possible, inside another one."""
    axes = zip(place, size, within.start, within.stop, strict=True)
    start = [max(low, min(at - n // 2, high - n)) for at, n, low, high in axes]
    stop = tuple(min(a + n, high) for a, n, high in zip(start, size, within.stop, strict=True))
    return Box(tuple(start), stop)


def _is_large(seen: _Seen) -> bool:
    edge = min(seen.box.shape[-2:])
    return seen.blobs is None or seen.blobs > LARGE * edge


def _coarser(volume: Volume) -> Volume | None:
    """The next level, if it is there and not just a thumbnail."""
    if volume.path is None or volume.level + 1 >= len(volume.levels):
        return None
    channel, timepoint = volume.channel, volume.timepoint
    level = volume.level + 1
    found = open_image(volume.path, channel, timepoint, level, None, None)
    return found if min(found.spatial_shape[-2:]) >= PROBE[volume.ndim][-1] else None


def _measured(volume: Volume, network: Network, seen: _Seen, diameter: float) -> tuple[float, int]:
    """Diameter of the objects that the model finds, and their number; 0 if they are too few."""
    for guess in GUESSES if network.object_diameter is not None else ():
        found = _found(volume, network, seen, guess * diameter)
        if len(found) < LEAST_OBJECTS:
            continue
        first = float(np.median(found))
        if _are_close(first, guess * diameter):
            return first, len(found)
        again = _found(volume, network, seen, first)
        better = again if len(again) >= LEAST_OBJECTS else found
        return float(np.median(better)), len(better)
    return diameter, 0


def _found(volume: Volume, network: Network, seen: _Seen, diameter: float) -> list[float]:
    """Extents, in voxels of the level, of what the model finds if objects are that wide."""
    zoom = resampling_for(volume, network, diameter).zoom
    most = [max(1, int(n / z)) for n, z in zip(MODEL_CROP[volume.ndim], zoom, strict=True)]
    box = _around(_middle(seen.box), most, seen.box)
    grid = Resampling.by(box.shape, zoom)
    image = grid.image(seen.image[(slice(None), *box.slices_in(seen.box))], Box.whole(grid.target))
    stored = network.predict_tile(image, Box.whole(grid.target), "none")
    labels = cluster(
        dequantise(stored), network.min_object_size, seed=network.seed, margin=network.margin
    )
    depth = grid.target[:-2]  # what is cut along z is still about as wide
    low, high = [-1 for _ in depth] + [0, 0], [n + 1 for n in depth] + [*grid.target[-2:]]
    return [extent / zoom[-1] for extent in extents(labels, low, high)]
