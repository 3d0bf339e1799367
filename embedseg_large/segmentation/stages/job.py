"""Everything a task needs to know, small enough to travel with each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from embedseg_large.geometry import Box
from embedseg_large.segmentation.intensity_field import IntensityField
from embedseg_large.segmentation.request.foreground import Foreground
from embedseg_large.segmentation.scratch.scratch import Scratch
from embedseg_large.segmentation.segmenters.network_segmenter import EMBEDDING
from embedseg_large.segmentation.segmenters.protocol import Traits
from embedseg_large.segmentation.settings import SegmentSettings
from embedseg_large.stitching.relabel import Layers
from embedseg_large.tiling.grid import Grid
from embedseg_large.tiling.resampling import Resampling, nearest_voxels
from embedseg_large.volumes.intensity import IntensityRange
from embedseg_large.volumes.volume import Volume


@dataclass(frozen=True, kw_only=True)
class Job:
    """One volume, one network, one set of settings, one scratch folder."""

    volume: Volume
    timepoint: int | None
    """The timepoint of the labels' time axis, where there is one."""
    intensity: tuple[IntensityRange, ...]
    """One for each channel."""
    fields: tuple[IntensityField, ...] = ()
    """What evens out each channel before; none where nothing does."""
    foreground: Foreground = field(default_factory=Foreground)
    """Where to look."""
    resampling: Resampling
    """From the volume's grid to the one that the network sees."""
    settings: SegmentSettings
    scratch: Scratch
    region: Box | None = None
    """The part of the volume that labels are wanted of; None: all of it."""
    traits: Traits = EMBEDDING
    """How instances are found, and what may be said about them."""
    in_memory: bool = False
    """Whether the user gave an array, not a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the grid that is predicted and clustered, spatial axes only."""
        return self.resampling.target

    @cached_property
    def prediction(self) -> Grid:
        """Tiles of PREDICT: core and context. They are those of the whole volume, always."""
        return Grid(self.shape, self.settings.tile, self.settings.context, padded=True)

    @cached_property
    def halos(self) -> tuple[tuple[int, ...], ...]:
        """Halo of a clustering tile at each level.

        In finer steps for a preview, whose tiles see more until they are certain.
        """
        return self.settings.halos(halfway=self.region is not None and self.traits.proves)

    @cached_property
    def part(self) -> Box | None:
        """The part of the grid that labels are wanted of; None: all of it."""
        return None if self.region is None else self.on_grid(self.region)

    def clustering(self, level: int = 0) -> Grid:
        """Tiles of CLUSTER at a level: core and halo."""
        return Grid(self.shape, self.settings.cluster_tile, self.halos[level], within=self.part)

    @cached_property
    def seen(self) -> Box:
        """The part of the grid that is clustered, before any halo is raised."""
        return self.clustering().seen()

    def on_grid(self, box: Box) -> Box:
        """The part of the grid that a box of the volume gets its labels from."""
        return self.resampling.covering(box)

    def in_volume(self, voxel: Sequence[int]) -> tuple[int, ...]:
        """The voxel of the volume that holds the middle of a voxel of the grid."""
        pairs = zip(voxel, self.resampling.source, self.resampling.target, strict=True)
        return tuple(int(nearest_voxels(v, v + 1, n, m)[0]) for v, n, m in pairs)

    @property
    def layers(self) -> Layers:
        """Cut of the instances into layers of clustering tiles."""
        return Layers(self.settings.cluster_tile[0], prod(self.shape[1:]))
