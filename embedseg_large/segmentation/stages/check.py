"""CHECK: compare seams, account for instances, write joined names into layers.

Each function reads its inputs, computes, writes files that no other task writes, and returns a
small record. The rounds in which they are called are in `embedseg_large.segmentation.seams`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.runs.journal import Note
from embedseg_large.segmentation.scratch.versions import TileVersions
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.stitching.join import Joins
from embedseg_large.stitching.relabel import settle
from embedseg_large.stitching.tally import Entries, tally
from embedseg_large.stitching.tile_result import SEAM_DEPTH, SeamComparison, compare
from embedseg_large.tiling.grid import Face, Grid, Index


class Checked(NamedTuple):
    """Record of a tile and the seams above it."""

    tile: Index
    exact: bool
    """Whether the tile is certain of every voxel of its core."""
    seams: list[tuple[Face, SeamComparison]]

    def noted(self) -> Note:
        """Return the note for the journal: whether it is exact, and the seams that disagree."""
        seams = {
            str(face.axis): [
                c.voxels,
                c.disagreeing,
                *(a.tolist() for a in (c.low, c.high, c.overlap)),
            ]
            for face, c in self.seams
            if c.disagreeing
        }
        return int(self.exact), seams or None

    @classmethod
    def recalled(cls, grid: Grid, index: Index, note: Note) -> Checked:
        """Restore the record from a note."""
        exact, more = note
        seams = []
        for face in faces_above(grid, index):
            voxels, disagreeing, *ids, overlap = (more or {}).get(
                str(face.axis), [grid.seam(face, SEAM_DEPTH).size, 0, [], [], []]
            )
            low, high = (np.array(i, np.uint64) for i in ids)
            overlap = np.array(overlap, np.int64)
            seams.append((face, SeamComparison(voxels, disagreeing, low, high, overlap)))
        return cls(index, bool(exact), seams)


def faces_above(grid: Grid, index: Index) -> list[Face]:
    """Faces of a tile with the neighbours above it."""
    return [face for face in grid.faces(index) if face.low == index]


def check(job: Job, index: Index, results: TileVersions) -> Checked:
    """CHECK: compare the results of both sides of each face above a tile, at the seam."""
    grid = job.clustering()
    faces = faces_above(grid, index)
    own, *others = job.scratch.read_results(results[i] for i in (index, *(f.high for f in faces)))
    seams = []
    for face, other in zip(faces, others, strict=True):
        shape = grid.seam(face, SEAM_DEPTH).shape
        low, high = (list(grid.faces(i)).index(face) for i in (face.low, face.high))
        seams.append((face, compare(own.seam(low, shape), other.seam(high, shape))))
    return Checked(index, own.exact, seams)


class Accounted(NamedTuple):
    """Record of a layer; its ids are in the scratch folder."""

    layer: int
    version: int
    """Version of its ids."""
    instances: int
    certain: int
    """Number of instances of which their owner is certain."""
    wrong: NDArray[np.uint64]
    wrong_tiles: NDArray[np.int64]

    def noted(self) -> Note:
        """Return the note for the journal."""
        lists = (self.wrong.tolist(), self.wrong_tiles.tolist())
        return self.version, [self.instances, self.certain, *lists]

    @classmethod
    def recalled(cls, layer: int, note: Note) -> Accounted:
        """Restore the record from a note."""
        version, (instances, certain, wrong, tiles) = note
        wrong, tiles = np.array(wrong, np.uint64), np.array(tiles, np.int64)
        return cls(layer, version, instances, certain, wrong, tiles)


def account(job: Job, layer: int, results: TileVersions) -> Accounted:
    """CHECK: account for the instances of a layer, and store their ids.

    `results` are those of all tiles that may see an instance which begins in the layer.
    """
    grid = job.clustering()
    numbers = (grid.number(name.tile) for name in results)
    entries = Entries.joined(job.scratch.read_entries(results, numbers))
    tallied = tally(entries, job.layers, layer, _ownerless(job, entries.ids))
    return Accounted(
        layer,
        job.scratch.write_layer(layer, tallied.alive),
        tallied.alive.ids.size,
        int(np.count_nonzero(tallied.alive.sure)),
        tallied.wrong,
        tallied.wrong_tiles,
    )


class Held(NamedTuple):
    """Instances with voxels in cores that are proven; h pairs."""

    ids: NDArray[np.uint64]
    """(h,) names."""
    tiles: NDArray[np.int64]
    """(h,) number of a proven tile whose core holds a voxel of the instance."""

    @classmethod
    def none(cls) -> Held:
        """No pairs."""
        return cls(np.empty(0, np.uint64), np.empty(0, np.int64))


def held_by_proven(
    job: Job, ids: NDArray[np.uint64], results: TileVersions, proven: NDArray[np.bool_]
) -> Held:
    """CHECK: find which ids of one layer have voxels in the cores of proven tiles.

    `results` and `proven` cover all tiles that may see an instance which begins in the layer.
    """
    grid = job.clustering()
    tiles = [
        tuple(o + int(i) for o, i in zip(results.origin, at, strict=True))
        for at in np.argwhere(proven)
    ]
    numbers = map(grid.number, tiles)
    said = Entries.joined(
        [Entries.none(), *job.scratch.read_entries(map(results.__getitem__, tiles), numbers)]
    )
    held = (said.core_sizes > 0) & np.isin(said.ids, ids)
    return Held(said.ids[held], said.tile[held])


def _ownerless(job: Job, ids: NDArray[np.uint64]) -> NDArray[np.uint64] | None:
    """Return the ids whose seed lies outside the part for which labels are requested."""
    if job.part is None:
        return None
    seeds = np.unravel_index((ids - np.uint64(1)).astype(np.int64), job.shape)
    inside = np.ones(ids.size, np.bool_)
    for at, start, stop in zip(seeds, job.part.start, job.part.stop, strict=True):
        inside &= (at >= start) & (at < stop)
    return ids[~inside]


def reach_of_layer(grid: Grid, halo: tuple[int, ...], layer: int) -> Box:
    """Return the range of tiles that may see an instance which begins in a layer."""
    planes = grid.entire().tile((layer,) + (0,) * (len(grid.shape) - 1)).core
    return Box(
        (max(planes.start[0] - halo[0], 0),) + (0,) * (len(grid.shape) - 1),
        (planes.stop[0] + halo[0], *grid.shape[1:]),
    )


class Settled(NamedTuple):
    """A layer whose names were joined."""

    version: int
    instances: int


def settle_layer(
    job: Job, layer: int, version: int, joins: Joins, joined_alive: NDArray[np.uint64]
) -> Settled:
    """CHECK: replace joined names in a layer's ids."""
    roster = job.scratch.read_layer(layer, version)
    ids = settle(roster.ids, layer, job.layers, joins, joined_alive)
    return Settled(job.scratch.write_layer(layer, roster.of(ids)), int(ids.size))
