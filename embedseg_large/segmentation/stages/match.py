"""MATCH: objects that tiles describe differently get the same name if they overlap.

See `embedseg_large.stitching.matching`. Only tiles that disagree with a neighbour are
compared, each with those around it, including those at edges and corners.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.runs.journal import Note
from embedseg_large.runs.tasks import Call, Each, Runner, Task
from embedseg_large.segmentation.scratch.scratch import StoredResult
from embedseg_large.segmentation.scratch.versions import TileVersion, TileVersions
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.stitching.matching import Matches, Seam, SeamOverlaps, SeamView, match, overlaps
from embedseg_large.tiling.grid import Index, Tile


class Matched(NamedTuple):
    """Record of a tile and some of its neighbours."""

    seams: list[tuple[int, SeamOverlaps]]
    """Number of each neighbour, and the overlaps with it."""

    def noted(self) -> Note:
        """Return the note for the journal."""
        return 0, [[tile, *(column.tolist() for column in found)] for tile, found in self.seams]

    @classmethod
    def recalled(cls, note: Note) -> Matched:
        """Restore the record from a note."""
        seams = []
        for tile, *columns in note[1]:
            kinds = zip(columns, _KINDS, strict=True)
            seams.append((tile, SeamOverlaps(*(np.array(c, kind) for c, kind in kinds))))
        return cls(seams)


_KINDS = (np.uint64, np.uint64, np.int64, np.int64, np.int64, np.bool_, np.bool_, np.uint64)
"""Dtypes of the columns of `SeamOverlaps`."""


@dataclass(slots=True)
class Matching:
    """The comparison of all tiles that may disagree with their neighbours."""

    job: Job
    runner: Runner
    results: TileVersions
    """Result of each tile."""
    _seams: list[Seam] = field(default_factory=list)

    def run(self, tiles: Collection[Index], disputed: NDArray[np.uint64]) -> Matches:
        """Match objects of neighbours among tiles that disagree about `disputed` names."""
        pairs = {tile: [n for n in _after(tile) if n in tiles] for tile in sorted(tiles)}
        self.runner.progress.begin(Stage.CHECK, len(pairs))
        self.runner.run(Each(map(self._task, pairs, pairs.values()), self._note))
        return match(self._seams, disputed)

    def _task(self, index: Index, neighbours: list[Index]) -> Task:
        grid = self.job.clustering()

        def make() -> Call:
            versions = [self.results[tile] for tile in (index, *neighbours)]
            return Call(match_tile, (self.job, versions), where=f"tile {grid.tile(index).core}")

        return Task(
            stage=Stage.CHECK,
            make=make,
            index=index,
            ledger=LedgerKind.MATCH.part(),
            number=grid.number(index),
            noted=Matched.noted,
            recalled=Matched.recalled,
        )

    def _note(self, task: Task, record: Matched) -> None:
        assert task.index is not None
        number = self.job.clustering().number(task.index)
        self._seams.extend((number, other, found) for other, found in record.seams)


def _after(index: Index) -> Iterator[Index]:
    """Yield half of the neighbours of a tile: those after it in raster order."""
    for steps in product((-1, 0, 1), repeat=len(index)):
        if steps > (0,) * len(index):
            yield tuple(i + step for i, step in zip(index, steps, strict=True))


def match_tile(job: Job, versions: Sequence[TileVersion]) -> Matched:
    """MATCH: compare the first of some tiles with each of the others."""
    own, *others = _seen(job, versions)
    number = job.clustering().number
    return Matched([(number(other.tile.index), _compared(own, other)) for other in others])


class _SeenInTile(NamedTuple):
    """Everything that a tile sees."""

    tile: Tile
    labels: NDArray[np.unsignedinteger]
    names: NDArray[np.uint64]
    near: NDArray[np.bool_]

    def within(self, box: Box, core: Box) -> SeamView:
        """Return the part in a box, which contains a part of another tile's core."""
        labels = self.labels[box.slices_in(self.tile.region)]
        return SeamView(labels, self.names, self.near, core.intersect(box).slices_in(box))


def _compared(one: _SeenInTile, other: _SeenInTile) -> SeamOverlaps:
    box = one.tile.region.intersect(other.tile.region)
    return overlaps(one.within(box, other.tile.core), other.within(box, one.tile.core))


def _seen(job: Job, versions: Sequence[TileVersion]) -> Iterator[_SeenInTile]:
    results = job.scratch.read_results(versions)
    tables = job.scratch.read_entries(versions, map(job.clustering().number, _tiles(versions)))
    for version, result, table in zip(versions, results, tables, strict=True):
        near = np.concatenate([np.zeros(1, np.bool_), table.core_sizes > 0])
        yield _SeenInTile(*whole_view(job, version, result), near)


def _tiles(versions: Sequence[TileVersion]) -> Iterator[Index]:
    return (version.tile for version in versions)


def whole_view(
    job: Job, version: TileVersion, result: StoredResult
) -> tuple[Tile, NDArray[np.unsignedinteger], NDArray[np.uint64]]:
    """Return a tile, the local labels of its whole region, and the name of each label."""
    grid = job.clustering(version.level)
    tile = grid.tile(version.tile)
    # behind the seams with its neighbours, see CLUSTER
    labels, names = result.local_seam(sum(1 for _ in grid.faces(version.tile)), tile.region.shape)
    return tile, labels, names
