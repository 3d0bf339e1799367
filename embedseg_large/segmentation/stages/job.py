"""Everything a task needs to know, small enough to travel with every task.

That includes regions to skip: outside a mask, and where a coarse level is dark. A mask applies
voxel by voxel, so the result does not depend on tiles: nothing outside it becomes part of an
instance, and a tile without any of its voxels is not predicted. Darkness applies tile by tile: a
tile is not predicted if no voxel of a coarse level in it or its context is brighter than a
threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import MetadataError, UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.segmentation.intensity_field import IntensityField
from embedseg_large.segmentation.scratch.scratch import Scratch
from embedseg_large.segmentation.segmenters.network_segmenter import EMBEDDING
from embedseg_large.segmentation.segmenters.protocol import KnownSizes, Traits
from embedseg_large.segmentation.settings import SegmentSettings
from embedseg_large.stitching.relabel import Layers
from embedseg_large.tiling.grid import Grid
from embedseg_large.tiling.resampling import Resampling, nearest_voxels
from embedseg_large.volumes.background import background_ceiling
from embedseg_large.volumes.intensity import IntensityRange
from embedseg_large.volumes.volume import Volume, open_volume

_VOXELS_PER_DIAMETER = 4
"""Minimum width of an object, in voxels, on the level that is checked for darkness."""
USUAL_DIAMETER = 20.0
"""Diameter of an object in voxels, if the model does not state it."""


@dataclass(frozen=True, kw_only=True)
class Foreground:
    """Which parts of a volume are worth predicting."""

    mask: Volume | None = None
    """Not 0 where instances may be; any pyramid level of the same space."""
    coarse: Volume | None = None
    """The level that is checked for darkness."""
    dark: float = 0.0
    """Maximum intensity that counts as dark."""

    def inside(
        self, box: Box, shape: Sequence[int], timepoint: int | None
    ) -> NDArray[np.bool_] | None:
        """Return which voxels of a box, on a grid of a given shape, are in the mask, if any."""
        if self.mask is None:
            return None
        found = _looked_up(self.mask, box, shape, timepoint)
        inside: NDArray[np.bool_] = found != 0
        return inside & ~np.isnan(found) if found.dtype.kind == "f" else inside

    def is_dark(self, box: Box, shape: Sequence[int], timepoint: int | None) -> bool:
        """Whether nothing in a box, on a grid of a given shape, is bright."""
        if self.coarse is None:
            return False
        return bool(_looked_up(self.coarse, box, shape, timepoint).max() <= self.dark)


AUTO = "auto"
"""Derives the brightness of dark tiles from the image: the noise of its background."""


def _looked_up(
    volume: Volume, box: Box, shape: Sequence[int], timepoint: int | None
) -> NDArray[Any]:
    """Sample a volume at the voxels of a box on another grid over the same space."""
    axes = zip(box.start, box.stop, volume.spatial_shape, shape, strict=True)
    indices = [nearest_voxels(*axis) for axis in axes]
    needed = Box(tuple(int(i[0]) for i in indices), tuple(int(i[-1]) + 1 for i in indices))
    voxels = volume.read(needed, timepoint if volume.timepoint is None else None)
    at = [i - start for i, start in zip(indices, needed.start, strict=True)]
    return voxels[np.ix_(*at)]


def foreground_of(
    volume: Volume, network: KnownSizes, mask: Any, dark_below: float | str | None
) -> Foreground:
    """Open and check the user's restrictions on where to look.

    Parameters
    ----------
    volume
        The image.
    network
        The network or segmenter, which knows the object size.
    mask
        Anything that `open_volume` accepts, over the same space as the image, at any resolution.
    dark_below
        Intensity of the image, or ``auto``: that of its background noise.

    Raises
    ------
    UsageError
        If there is no coarser level to check.
    VolumeError
        If the mask does not match the image.
    """
    found = None if mask is None else _open_mask(mask, volume)
    if dark_below is None:
        return Foreground(mask=found)
    coarse = _coarse(volume, network)
    dark = background_ceiling(coarse) if dark_below == AUTO else _brightness(dark_below)
    return Foreground(mask=found, coarse=coarse, dark=dark)


def _brightness(asked: float | str) -> float:
    try:
        return float(asked)
    except ValueError:
        raise UsageError(f"dark below {asked!r}: pass a brightness, or {AUTO}") from None


def _opened(mask: Any, volume: Volume) -> Volume:
    """Open a mask; a file that does not name its axes has those of the image."""
    try:
        found = open_volume(mask, channel=None)
    except MetadataError:
        found = open_volume(mask, channel=None, axes=volume.spatial_axes)
    return found.flattened() if volume.is_flat else found


def _open_mask(mask: Any, volume: Volume) -> Volume:
    found = mask if isinstance(mask, Volume) else _opened(mask, volume)
    place = "the mask" if found.path is None else found.name
    if found.spatial_axes != volume.spatial_axes or found.n_channels > 1:
        raise VolumeError(f"{place}: axes {found.axes}; a mask needs the image's axes without c")
    sizes = list(zip(volume.spatial_shape, found.spatial_shape, strict=True))
    if any(m > n for n, m in sizes):
        raise VolumeError(f"{place}: shape {found.spatial_shape} is larger than the image's")
    # levels of a pyramid may be a voxel off, since odd lengths are rounded
    if any(abs(n - m * round(n / m)) >= round(n / m) for n, m in sizes):
        raise VolumeError(
            f"{place}: shape {found.spatial_shape} does not match any level of an image of shape "
            f"{volume.spatial_shape}; pass a mask of the whole image"
        )
    if found.timepoint is None and found.n_timepoints not in (1, volume.n_timepoints):
        raise VolumeError(
            f"{place}: {found.n_timepoints} timepoints, the image has {volume.n_timepoints}"
        )
    _check_place(found, volume, place)
    return found


def _check_place(mask: Volume, volume: Volume, place: str) -> None:
    """Refuse a mask whose metadata say that it is of another part of space than the image.

    One with the image's shape may have any voxel size, which many programs do not write.
    """
    if mask.voxel_size is None or volume.voxel_size is None:
        return
    lengths = zip(volume.spatial_shape, mask.spatial_shape, strict=True)
    covering = [s * round(n / m) for s, (n, m) in zip(volume.voxel_size, lengths, strict=True)]
    is_coarser = mask.spatial_shape != volume.spatial_shape
    if is_coarser and not np.allclose(mask.voxel_size, covering, rtol=0.1):
        said, needed = (" x ".join(f"{s:.4g}" for s in v) for v in (mask.voxel_size, covering))
        raise VolumeError(
            f"{place}: voxels of {said} µm, but a mask of {mask.spatial_shape} voxels that covers "
            f"the image has voxels of {needed} µm; pass a mask of the whole image"
        )
    if mask.levels[mask.level].translation is None:  # many programs write none
        return
    shift = np.subtract(mask.origin, volume.origin)
    if (np.abs(shift) > covering).any():
        said = ", ".join(f"{s:.4g}" for s in shift)
        raise VolumeError(
            f"{place}: begins {said} µm beside the image, according to its metadata; pass a mask "
            "of the same space"
        )


def _coarse(volume: Volume, network: KnownSizes) -> Volume:
    """The coarsest level in which an object is still some voxels wide."""
    if volume.path is None or len(volume.levels) <= volume.level + 1:
        raise UsageError(
            f"{volume.name}: there is no coarser level in which to look for dark tiles; pass a "
            "mask instead, or convert the image with a pyramid"
        )
    widest = (network.object_diameter or USUAL_DIAMETER) / _VOXELS_PER_DIAMETER
    chosen = _of_all_times(volume, volume.level + 1)
    for level in range(volume.level + 2, len(volume.levels)):
        found = _of_all_times(volume, level)
        if volume.spatial_shape[-1] / found.spatial_shape[-1] > widest:
            break
        chosen = found
    return chosen


def _of_all_times(volume: Volume, level: int) -> Volume:
    """A level with the time axis that its image has."""
    found = volume.at_level(level)
    return replace(found, timepoint=None) if found.n_timepoints > 1 else found


@dataclass(frozen=True, kw_only=True)
class Job:
    """One volume, one network, one set of settings, one scratch folder."""

    volume: Volume
    timepoint: int | None
    """Index along the labels' time axis, if there is one."""
    intensity: tuple[IntensityRange, ...]
    """One range per channel."""
    fields: tuple[IntensityField, ...] = ()
    """Intensity field of each channel, applied before; empty if unused."""
    foreground: Foreground = field(default_factory=Foreground)
    """Where to look."""
    resampling: Resampling
    """From the volume's grid to the network's."""
    settings: SegmentSettings
    scratch: Scratch
    region: Box | None = None
    """The part of the volume for which labels are requested; None: all of it."""
    traits: Traits = EMBEDDING
    """How instances are found, and what is known about them."""
    in_memory: bool = False
    """Whether the user passed an array rather than a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the grid that is predicted and clustered, spatial axes only."""
        return self.resampling.target

    @cached_property
    def prediction(self) -> Grid:
        """Tiles of PREDICT: core and context. They are always those of the whole volume."""
        return Grid(self.shape, self.settings.tile, self.settings.context, padded=True)

    @cached_property
    def halos(self) -> tuple[tuple[int, ...], ...]:
        """Halo of a clustering tile at each level.

        Previews use finer steps, because their tiles get larger halos until they are certain.
        """
        return self.settings.halos(halfway=self.region is not None and self.traits.proves)

    @cached_property
    def part(self) -> Box | None:
        """The part of the grid for which labels are requested; None: all of it."""
        return None if self.region is None else self.resampling.centers(self.region)

    def clustering(self, level: int = 0) -> Grid:
        """Tiles of CLUSTER at a level: core and halo."""
        return Grid(self.shape, self.settings.cluster_tile, self.halos[level], within=self.part)

    @cached_property
    def seen(self) -> Box:
        """The part of the grid that is clustered, before any halo is enlarged."""
        return self.clustering().seen()

    def on_grid(self, box: Box) -> Box:
        """Return the part of the grid that determines the labels of a box of the volume.

        At the edge of a region it ends with the region: labels beyond are not computed.
        """
        covering = self.resampling.covering(box)
        return covering if self.part is None else covering.intersect(self.part)

    def in_volume(self, voxel: Sequence[int]) -> tuple[int, ...]:
        """Return the voxel of the volume that contains the centre of a voxel of the grid."""
        pairs = zip(voxel, self.resampling.source, self.resampling.target, strict=True)
        return tuple(int(nearest_voxels(v, v + 1, n, m)[0]) for v, n, m in pairs)

    @property
    def layers(self) -> Layers:
        """Division of the instances into layers of clustering tiles."""
        return Layers(self.settings.cluster_tile[0], prod(self.shape[1:]))
