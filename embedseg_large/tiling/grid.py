"""Tiles of a volume: the product of the cuts of its axes.

::

    margin ┌────────┐ margin     core     what the tile writes: cores cover every voxel once
           │  core  │            margin   context (extra input) or halo (extra predictions)
    margin └────────┘ margin     region   core + margin, clipped to the volume

A grid for part of the volume (`Grid.within`) never iterates over all tiles of the whole: a preview
of a terabyte costs as much as a preview of a megabyte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from embedseg_large.geometry import Box
from embedseg_large.tiling import axis as ax

Index = tuple[int, ...]
"""Position of a tile in its grid, one number per axis."""


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
    """A regular cut of a volume, or of a part of it, into tiles."""

    shape: tuple[int, ...]
    """Shape of the volume."""
    step: tuple[int, ...]
    """Shape of a core; those at the far end may be smaller."""
    margin: tuple[int, ...]
    """Voxels seen around the core, on each side of each axis."""
    padded: bool = False
    """Whether regions may reach into the padding to a multiple of the network's stride."""
    within: Box | None = None
    """The requested part: the grid contains only tiles whose core shares a voxel with it, and cores
    are clipped to it. Indices are those of the whole grid. None: the whole volume."""

    @property
    def counts(self) -> Index:
        """Number of tiles along each axis, of the whole grid."""
        return tuple(ax.count(n, s) for n, s in zip(self.shape, self.step, strict=True))

    @property
    def covered(self) -> Box:
        """The part covered by the cores."""
        whole = Box.whole(self.shape)
        return whole if self.within is None else self.within.intersect(whole)

    def __len__(self) -> int:
        return self.count(self.covered)

    def __iter__(self) -> Iterator[Index]:
        """Indices of the tiles in raster order."""
        return self.touching(self.covered)

    @property
    def bounds(self) -> tuple[int, ...]:
        """Shape within which regions lie."""
        return tuple(ax.round_up(n, ax.STRIDE) for n in self.shape) if self.padded else self.shape

    def number(self, index: Index) -> int:
        """Index of a tile in raster order."""
        number = 0
        for i, count in zip(index, self.counts, strict=True):
            number = number * count + i
        return number

    def tile(self, index: Index) -> Tile:
        """The tile at a position of the grid."""
        core = Box(*zip(*map(ax.core, index, self.shape, self.step), strict=True))
        if self.within is not None:
            core = core.intersect(self.within)
        # The last core of an axis sees all of the padding, which belongs to the volume, not to the
        # tile.
        ends = zip(core.stop, self.shape, self.bounds, strict=True)
        stops = tuple(bound if stop == length else stop for stop, length, bound in ends)
        region = Box(*zip(*map(ax.grown, core.start, stops, self.margin, self.bounds), strict=True))
        return Tile(index, core, region)

    def with_margin(self, margin: tuple[int, ...]) -> Grid:
        """The same cores with a different margin."""
        return replace(self, margin=margin)

    def entire(self) -> Grid:
        """The grid of the whole volume, of which this is a part."""
        return replace(self, within=None)

    def seen(self) -> Box:
        """The union of all regions."""
        spans = [(a, b - 1) for a, b in self.span(self.covered)]
        first, last = (self.tile(index).region for index in zip(*spans, strict=True))
        return Box(first.start, last.stop)

    def touching(self, box: Box) -> Iterator[Index]:
        """Tiles whose core shares a voxel with `box`, in raster order."""
        return product(*(range(a, b) for a, b in self.span(box)))

    def span(self, box: Box) -> tuple[tuple[int, int], ...]:
        """Half-open range of tile numbers along each axis whose cores share a voxel with `box`."""
        clipped = box.intersect(self.covered)
        return tuple(map(ax.span, clipped.start, clipped.stop, self.step))

    def count(self, box: Box) -> int:
        """Number of tiles whose core shares a voxel with `box`."""
        return prod(b - a for a, b in self.span(box))

    def faces(self, index: Index) -> Iterator[Face]:
        """Faces of a tile with its neighbours in the grid, those below and those above."""
        for axis, (first, end) in enumerate(self.span(self.covered)):
            if index[axis] > first:
                yield Face(axis, _moved(index, axis, -1), index)
            if index[axis] + 1 < end:
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
