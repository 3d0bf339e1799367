"""Volumes that are generated when a crop is needed."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from math import ceil, prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.synthesis import SynthesisSettings, SyntheticVolume, draw_volume
from embedseg_large.training.data.centers import center
from embedseg_large.training.data.crops import AnnotatedImage
from embedseg_large.training.data.intensities import QUANTILES
from embedseg_large.training.data.objects import ObjectTable
from embedseg_large.training.data.sources import Pair
from embedseg_large.training.data.supply import ANY, CACHE_BYTES, LabelledVolume
from embedseg_large.training.options import CenterMethod
from embedseg_large.volumes.intensity import PERCENTILES, IntensityRange
from embedseg_large.volumes.volume import Volume, open_volume

SAMPLE = 24
"""Number of volumes from which sizes of objects, crop and weights are derived."""

MOST_HELD = {2: 16, 3: 8}
"""Maximum number of validation volumes; each is segmented as a whole."""


class SyntheticSource:
    """Synthetic volumes 0 to N - 1 of a seed; later ones are held out.

    Every volume is shown equally often, and within it every object.

    Parameters
    ----------
    settings
        Settings of the volumes.
    count
        Number of volumes.
    seed
        Seed of the volumes.
    voxel_size
        Voxel size in µm of the images used with them; None: unknown.
    center
        How centres of objects are found; medoids are approximate.
    cache_bytes
        Volumes are kept in memory up to this many bytes, divided among the workers; others are
        generated again.

    Raises
    ------
    UsageError
        If `count` is below 1.
    """

    name = "synthetic"

    def __init__(
        self,
        settings: SynthesisSettings,
        count: int,
        seed: int,
        *,
        voxel_size: Sequence[float] | None = None,
        center: CenterMethod = "approximate-medoid",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if not _is_count(count):
            raise UsageError(f"synthetic is {count!r}; pass a number of volumes, at least 1")
        self.settings, self.count, self.seed = settings, count, seed
        self._voxel_size = voxel_size
        self._center: CenterMethod = "approximate-medoid" if center == "medoid" else center
        self._total = self._left = cache_bytes
        self._kept: dict[int, LabelledVolume] = {}

    @property
    def once(self) -> int:
        """Number of volumes."""
        return self.count

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose volumes: all of them as often as they go into `count`, then some; any object."""
        rounds = [rng.permutation(self.count) for _ in range(ceil(count / self.count))]
        volumes = np.concatenate([np.zeros(0, np.int64), *rounds])[:count]
        return np.stack([volumes, np.full(count, ANY)], axis=-1)

    def volume(self, index: int) -> LabelledVolume:
        """Generate a volume, or take it from memory."""
        if index in self._kept:
            return self._kept[index]
        found = self._labelled(index)
        size = _bytes(found.image.pair)
        if size <= self._left:
            self._left -= size
            self._kept[index] = found
        return found

    def read(self, volume: Volume, box: Box) -> NDArray[Any]:
        """Read a box; the volume is in memory."""
        return volume.read(box)

    def in_worker(self, workers: int) -> SyntheticSource:
        """Start with an empty share of the memory."""
        mine = copy(self)
        mine._total = mine._left = self._total // workers
        mine._kept = {}
        return mine

    def facts(self) -> dict[str, Any]:
        """Return what determines the voxels."""
        return {
            "synthetic_volumes": self.count,
            "synthetic_seed": self.seed,
            "synthetic_settings": self.settings.as_dict(),
        }

    def described(self) -> str:
        """Describe the volumes."""
        shape = " x ".join(map(str, self.settings.volume_shape))
        return f"{self.count:,} volumes of {shape} voxels"

    def sample(self) -> list[Pair]:
        """Generate the volumes on which properties are measured."""
        return [self.volume(i).image.pair for i in range(min(self.count, SAMPLE))]

    def held_out(self, fraction: float) -> list[LabelledVolume]:
        """Generate volumes to validate on: a fraction of those to train on, but not too many."""
        most = MOST_HELD[self.settings.ndim]
        count = min(most, max(1, round(fraction * self.count))) if fraction else 0
        return [self._labelled(self.count + i) for i in range(count)]

    def pitch_of(self, pitch: Sequence[float]) -> tuple[float, ...]:
        """Stretch an isotropic pitch along z by the middle of the anisotropies."""
        low, high = self.settings.anisotropies
        return (*(p * sqrt(low * high) for p in pitch[:-2]), *pitch[-2:])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}, "_left": self._total}

    def _labelled(self, index: int) -> LabelledVolume:
        drawn = draw_volume(self.settings, self.seed, index)
        objects = objects_of(drawn.labels)
        pair = Pair(
            name=f"synthetic {index}",
            image=open_volume(drawn.image, voxel_size=self._voxel_size),
            mask=open_volume(_small(drawn.labels)),
        )
        centers = _centers(drawn, objects, self._center)
        return LabelledVolume(
            AnnotatedImage(
                pair, (range_of(drawn.image),), objects.ids, centers, (table_of(drawn.image),)
            ),
            objects,
        )


def objects_of(labels: NDArray[np.int32]) -> ObjectTable:
    """Return the table of the objects 1 to N of a label array."""
    boxes = ndimage.find_objects(labels)
    edges = np.array([[(axis.start, axis.stop) for axis in box] for box in boxes], np.int64)
    sizes = np.bincount(labels.ravel(), minlength=len(boxes) + 1)[1:].astype(np.int64)
    return ObjectTable(
        np.zeros(len(boxes), np.int64),
        np.arange(1, len(boxes) + 1),
        sizes,
        edges[..., 0],
        edges[..., 1],
    )


def range_of(image: NDArray[np.float32]) -> IntensityRange:
    """Return the percentiles that normalisation uses."""
    low, high = np.percentile(image, PERCENTILES).tolist()
    return IntensityRange(low, max(high, low + 1e-6), PERCENTILES, image.size)


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and bool(value >= 1)


def table_of(image: NDArray[np.float32]) -> tuple[float, ...]:
    """Return the intensities from which other percentiles are drawn."""
    return tuple(np.percentile(image, QUANTILES).tolist())


def _bytes(pair: Pair) -> int:
    return sum(prod(v.shape) * v.dtype.itemsize for v in (pair.image, pair.mask))


def _small(labels: NDArray[np.int32]) -> NDArray[Any]:
    return labels.astype(np.uint16) if labels.max(initial=0) < 2**16 else labels


def _centers(
    drawn: SyntheticVolume, objects: ObjectTable, method: CenterMethod
) -> NDArray[np.float64]:
    """Find the centres of all objects, in voxels; NaN where one is not in its object."""
    spacing = (drawn.anisotropy, 1.0, 1.0)[-drawn.labels.ndim :]
    found = np.full(objects.starts.shape, np.nan)
    for row, number in enumerate(objects.ids):
        box = objects.box(row)
        inside = drawn.labels[box.slices] == number
        voxel = center(np.argwhere(inside), method, spacing)
        if inside[tuple(voxel)]:
            found[row] = voxel + np.asarray(box.start)
    return found
