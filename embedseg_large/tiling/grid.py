"""Tiles of a volume: the product of the cuts of its axes.

::

    margin ┌────────┐ margin     core     what the tile writes: cores cover every voxel once
           │  core  │            margin   context (extra input) or halo (extra predictions)
    margin └────────┘ margin     region   core + margin, clipped to the volume
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from embedseg_large.geometry import Box
from embedseg_large.tiling import axis as ax

Index = tuple[int, ...]
"""Place of a tile in its grid, one number an axis."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One unit of work."""

    index: Index
    core: Box
    region: Box


@dataclass(frozen=True, slots=True)
class Face:
    """The seam between two neighbouring cores."""

    axis: int
    low: Index
    high: Index


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular cut of a volume into tiles."""

    shape: tuple[int, ...]
    """Shape of the volume."""
    step: tuple[int, ...]
    """Shape of a core; those at the far end may be smaller."""
    margin: tuple[int, ...]
    """Voxels seen beyond the core, on each side of each axis."""
    padded: bool = False
    """Whether regions may reach into the padding to a multiple of the network's stride."""

    @property
    def counts(self) -> Index:
        """Number of tiles along each axis."""
        return tuple(ax.count(n, s) for n, s in zip(self.shape, self.step, strict=True))

    def __len__(self) -> int:
        return prod(self.counts)

    def __iter__(self) -> Iterator[Index]:
        """Indices of all tiles in raster order."""
        return product(*(range(n) for n in self.counts))

    @property
    def bounds(self) -> tuple[int, ...]:
        """Shape within which regions lie."""
        return tuple(ax.round_up(n, ax.STRIDE) for n in self.shape) if self.padded else self.shape

    def number(self, index: Index) -> int:
        """Place of a tile in raster order."""
        number = 0
        for i, count in zip(index, self.counts, strict=True):
            number = number * count + i
        return number

    def tile(self, index: Index) -> Tile:
        """The tile at a place of the grid."""
        core = Box(*zip(*map(ax.core, index, self.shape, self.step), strict=True))
        # A core that ends an axis sees all of the padding, which is the volume's, not the tile's.
        ends = zip(core.stop, self.shape, self.bounds, strict=True)
        stops = tuple(bound if stop == length else stop for stop, length, bound in ends)
        region = Box(*zip(*map(ax.grown, core.start, stops, self.margin, self.bounds), strict=True))
        return Tile(index, core, region)

    def with_margin(self, margin: tuple[int, ...]) -> Grid:
        """The same cores with another margin."""
        return replace(self, margin=margin)

    def touching(self, box: Box) -> Iterator[Index]:
        """Tiles whose core shares a voxel with `box`, in raster order."""
        return product(*(range(a, b) for a, b in self.span(box)))

    def span(self, box: Box) -> tuple[tuple[int, int], ...]:
        """Half-open range of tile numbers along each axis whose cores share a voxel with `box`."""
        clipped = box.clip(self.shape)
        return tuple(
            (a // s, ax.count(b, s))
            for a, b, s in zip(clipped.start, clipped.stop, self.step, strict=True)
        )

    def faces(self, index: Index) -> Iterator[Face]:
        """Faces of a tile with its neighbours, those below and those above."""
        for axis, number in enumerate(index):
            if number > 0:
                yield Face(axis, _moved(index, axis, -1), index)
            if number + 1 < self.counts[axis]:
                yield Face(axis, index, _moved(index, axis, 1))

    def seam(self, face: Face, depth: int) -> Box:
        """The `depth` layers of voxels on either side of a face, as wide as the face."""
        low, high = self.tile(face.low).core, self.tile(face.high).core
        start, stop = list(low.start), list(low.stop)
        start[face.axis] = max(low.stop[face.axis] - depth, low.start[face.axis])
        stop[face.axis] = min(high.start[face.axis] + depth, high.stop[face.axis])
        return Box(tuple(start), tuple(stop))


def _moved(index: Index, axis: int, by: int) -> Index:
    return (*index[:axis], index[axis] + by, *index[axis + 1 :])
