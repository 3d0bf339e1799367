"""Ownership of objects that tiles describe differently, in turns; see `stitching.ownership`.

Only objects left undecided by matching are claimed, and only tiles around them take part.

CLAIM: first, each core is claimed for all other objects that its own tile sees there. Then each
tile claims voxels for its undecided objects, after neighbours with an earlier turn. SETTLE: the
labels of each core are what the surrounding tiles have claimed there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.clean import cut_by
from embedseg_large.geometry import Box
from embedseg_large.runs.journal import Note
from embedseg_large.runs.tasks import Call, Each, Runner, Task
from embedseg_large.segmentation.scratch.versions import MISSING, TileVersion, TileVersions
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.match import whole_view
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.stitching.ownership import Claims, claim, turn
from embedseg_large.stitching.tile_result import TileResult, numbered
from embedseg_large.tiling.grid import Grid, Index

CORE, WHOLE, CUT = "core", "whole", "cut"
_PASSES = (WHOLE, CUT)
"""First objects completely within a tile's region; then, after every tile's turn, the others."""


class Claimed(NamedTuple):
    """Record of a tile that had its turn."""

    version: int
    same: NDArray[np.uint64]
    """(p, 2) names that turned out to be of one object."""

    def noted(self) -> Note:
        """Return the note for the journal."""
        return self.version, self.same.tolist()

    @classmethod
    def recalled(cls, note: Note) -> Claimed:
        """Restore the record from a note."""
        version, same = note
        return cls(version, np.array(same, np.uint64).reshape(-1, 2))


@dataclass(slots=True)
class Ownership:
    """The turns of one run."""

    job: Job
    runner: Runner
    results: TileVersions
    """Result of each tile."""
    left: NDArray[np.uint64]
    """Names left undecided by matching."""
    _claims: TileVersions = field(init=False)
    _held: dict[Index, NDArray[np.uint64]] = field(init=False)
    _same: dict[tuple[str, Index], NDArray[np.uint64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # claims and settled results are other versions of the results that they derive from
        self._claims = self.results.unmade()
        self._held = _by_tile(self.job, self.left)

    def run(self) -> NDArray[np.uint64]:
        """Go through all turns and replace the results.

        Returns
        -------
        (p, 2) names that turned out to be of one object.
        """
        grid = self.job.clustering()
        claiming = sorted(self._claiming())
        around = {
            i for index in claiming for i in product(*(range(*s) for s in _around(grid, index)))
        }
        about = sorted(around)
        self._do((self._core_task(index) for index in about), len(about), self._note_core)
        for of, now in product(_PASSES, range(2 ** len(grid.shape))):
            turns = [index for index in claiming if turn(index) == now]
            tasks = (self._claim_task(index, of, now) for index in turns)
            self._do(tasks, len(turns), partial(self._note_claim, of))
        self._do((self._settle_task(index) for index in about), len(about), self._note_settled)
        none = np.empty((0, 2), np.uint64)
        return np.concatenate([none, *(self._same[key] for key in sorted(self._same))])

    def _claiming(self) -> set[Index]:
        """Find the tiles that see the middle of an undecided object."""
        grid, highest = self.job.clustering(), self.job.halos[self.results.highest]
        near = {
            i for h in self._held for i in grid.touching(grid.entire().tile(h).core.grow(highest))
        }
        return {index for index in near if self._left_in(index).size}

    def _left_in(self, index: Index) -> NDArray[np.uint64]:
        """Find undecided names whose middle a tile may see, ascending."""
        region = self.job.clustering(self.results[index].level).tile(index).region
        seen = self.job.clustering().entire().touching(region)
        names = [self._held[i] for i in seen if i in self._held]
        return np.sort(np.concatenate([np.empty(0, np.uint64), *names]))

    def _core_task(self, index: Index) -> Task:
        grid = self.job.clustering()
        item = (self.job, self.results[index], self._left_in(index))
        return Task(
            stage=Stage.CHECK,
            make=partial(Call, claim_core, item, where=f"tile {grid.tile(index).core}"),
            index=index,
            ledger=LedgerKind.CLAIM.part(CORE),
            number=grid.number(index),
        )

    def _note_core(self, task: Task, version: int) -> None:
        assert task.index is not None
        self._claims.put(self.results[task.index]._replace(version=version))

    def _do(self, tasks: Iterator[Task], count: int, note: Any) -> None:
        if count:
            self.runner.progress.begin(Stage.CHECK, count)
            self.runner.run(Each(tasks, note))

    def _claim_task(self, index: Index, of: str, now: int) -> Task:
        def make() -> Call:
            claims = self._claims.part(_around(self.job.clustering(), index))
            item = (self.job, self.results[index], claims, self._left_in(index), of)
            return Call(claim_tile, item, where=f"tile {self.job.clustering().tile(index).core}")

        return Task(
            stage=Stage.CHECK,
            make=make,
            index=index,
            ledger=LedgerKind.CLAIM.part(of, now),
            number=self.job.clustering().number(index),
            noted=Claimed.noted,
            recalled=Claimed.recalled,
        )

    def _note_claim(self, of: str, task: Task, record: Claimed) -> None:
        assert task.index is not None
        self._same[of, task.index] = record.same
        self._claims.put(self.results[task.index]._replace(version=record.version))

    def _settle_task(self, index: Index) -> Task:
        grid = self.job.clustering()
        claims = self._claims.part(_around(grid, index))
        return Task(
            stage=Stage.CHECK,
            make=partial(Call, settle_tile, (self.job, index, claims), where=f"tile {index}"),
            index=index,
            ledger=LedgerKind.SETTLE.part(),
            number=grid.number(index),
        )

    def _note_settled(self, task: Task, version: int) -> None:
        assert task.index is not None
        self.results.put(self.results[task.index]._replace(version=version))


def _around(grid: Grid, index: Index) -> list[tuple[int, int]]:
    """Return the half-open range of the tiles around a tile, along each axis."""
    spans = zip(index, grid.span(grid.covered), strict=True)
    return [(max(i - 1, first), min(i + 2, end)) for i, (first, end) in spans]


def _reach(job: Job, name: TileVersion) -> Box:
    """Return the box where a tile may claim: the part of the surrounding cores that it sees."""
    grid = job.clustering(name.level)
    around = _around(grid, name.tile)
    lowest, highest = (
        grid.tile(tuple(i)).core for i in zip(*((a, b - 1) for a, b in around), strict=True)
    )
    return grid.tile(name.tile).region.intersect(Box(lowest.start, highest.stop))


def _by_tile(job: Job, names: NDArray[np.uint64]) -> dict[Index, NDArray[np.uint64]]:
    """Group names by the tile of the whole grid whose core holds their middle."""
    grid = job.clustering()
    tiles = np.ravel_multi_index(tuple(_tiles_of(job, names).T), grid.counts)
    order = np.argsort(tiles, kind="stable")
    numbers, first = np.unique(tiles[order], return_index=True)
    indices = zip(*(a.tolist() for a in np.unravel_index(numbers, grid.counts)), strict=True)
    return dict(zip(indices, np.split(names[order], first[1:]), strict=False))


def _tiles_of(job: Job, names: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n, ndim) index of the tile whose core holds the middle of each object."""
    voxels = np.unravel_index((names - np.uint64(1)).astype(np.int64), job.shape)
    return np.stack([v // n for v, n in zip(voxels, job.clustering().step, strict=True)], axis=-1)


def claim_core(job: Job, own: TileVersion, left: NDArray[np.uint64]) -> int:
    """CLAIM the core of a tile for all of its objects except those in `left`.

    Returns the version of the claims.
    """
    core, reach = job.clustering(own.level).tile(own.tile).core, _reach(job, own)
    (result,), (table,) = job.scratch.read_results([own]), job.scratch.read_entries([own], [0])
    labels, _ = result.core(core.shape)
    kept = ~np.isin(table.ids, left)
    numbers = np.concatenate([np.zeros(1), np.where(kept, np.cumsum(kept), 0)]).astype(np.uint32)
    claimed = np.zeros(reach.shape, np.uint32)
    claimed[core.slices_in(reach)] = numbers[labels]
    found = TileResult.plain(claimed, table.ids[kept], table.sizes[kept], table.owned[kept])
    return job.scratch.write_result(own.tile, own.level, found)


def claim_tile(
    job: Job, own: TileVersion, claims: TileVersions, left: NDArray[np.uint64], of: str
) -> Claimed:
    """CLAIM: the turn of one tile. `claims` are the earlier ones of this and surrounding tiles.

    `of` selects among the objects in `left`: those completely in its region, or those cut by it;
    see `_PASSES`.
    """
    reach = _reach(job, own)
    (result,) = job.scratch.read_results([own])
    tile, labels, known = whole_view(job, own, result)
    labels, names = np.where(np.isin(known, left)[labels], labels, 0), known[1:]
    seen, is_cut = labels, cut_by(labels, tile.region.open_faces(job.shape), names.size)[1:]
    labels = labels[reach.slices_in(tile.region)]
    # with cores smaller than the halo, a tile may see more than it may claim
    too_large = is_cut | (_sizes(seen, names.size) > _sizes(labels, names.size))

    taken, parts = np.zeros(reach.shape, np.uint64), []
    for box, ids in _claims_in(job, claims, reach):
        np.copyto(taken[box.slices_in(reach)], ids, where=taken[box.slices_in(reach)] == 0)
        parts.append((box.slices_in(reach), ids))
    near = _occurring(labels[tile.core.slices_in(reach)], names.size)
    allowed = _may_claim(job, own.tile, names)
    free = near & (allowed & ~too_large if of == WHOLE else allowed | too_large)
    found = claim(labels, names, free, near, taken, parts)
    added = _added(job, claims[own.tile], found)
    return Claimed(job.scratch.write_result(own.tile, own.level, added), found.same)


def _added(job: Job, before: TileVersion, found: Claims) -> TileResult:
    """Combine what a tile claimed before with what it claims now, as a result."""
    (result,), (table,) = (
        job.scratch.read_results([before]),
        job.scratch.read_entries([before], [0]),
    )
    labels, known = result.core(found.ids.shape)
    new = np.where(labels > 0, np.uint64(0), found.ids)
    ids = np.where(labels > 0, known[labels], new)
    names = np.union1d(table.ids, new[new > 0])
    sizes, owned = np.zeros(names.size, np.int64), np.isin(names, found.given)
    at = np.searchsorted(names, table.ids)
    sizes[at] = table.sizes
    owned[at] |= table.owned
    added, counts = np.unique(new[new > 0], return_counts=True)
    sizes[np.searchsorted(names, added)] += counts
    numbers = numbered(ids, names)
    return TileResult.plain(numbers, names, sizes, owned)


def _claims_in(
    job: Job, claims: TileVersions, box: Box
) -> Iterator[tuple[Box, NDArray[np.uint64]]]:
    """Yield what surrounding tiles have claimed in a box, in the order of their turns."""
    made = (name for name in claims if name.version != MISSING)
    for name in sorted(made, key=lambda name: (turn(name.tile), name.tile)):
        reach = _reach(job, name)
        common = reach.intersect(box)
        if common.size:
            (result,) = job.scratch.read_results([name])
            labels, names = result.core(reach.shape)
            yield common, names[labels[common.slices_in(reach)]]


def _occurring(labels: NDArray[np.unsignedinteger], count: int) -> NDArray[np.bool_]:
    """Which of the labels 1..count occur."""
    occurring: NDArray[np.bool_] = _sizes(labels, count) > 0
    return occurring


def _sizes(labels: NDArray[np.unsignedinteger], count: int) -> NDArray[np.int64]:
    """Voxels of each of the labels 1..count."""
    return np.bincount(labels.reshape(-1), minlength=count + 1)[1:]


def _may_claim(job: Job, index: Index, names: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which objects have their centre in this tile, in an earlier one, or in none."""
    grid, now = job.clustering(), turn(index)
    voxels = np.unravel_index((names - np.uint64(1)).astype(np.int64), job.shape)
    tiles = _tiles_of(job, names)
    bits = 1 << np.arange(len(index))[::-1]
    earlier = (tiles & 1) @ bits < now
    own = (tiles == np.array(index)).all(axis=-1)
    axes = zip(voxels, grid.covered.start, grid.covered.stop, strict=True)
    covered = np.logical_and.reduce([(a <= v) & (v < b) for v, a, b in axes])
    allowed: NDArray[np.bool_] = own | earlier | ~covered
    return allowed


def settle_tile(job: Job, index: Index, claims: TileVersions) -> int:
    """SETTLE: the labels of a core are what was claimed there; return their version."""
    core, name = job.clustering().tile(index).core, claims[index]
    ids = np.zeros(core.shape, np.uint64)
    for box, claimed in _claims_in(job, claims, core):
        part = ids[box.slices_in(core)]
        np.copyto(part, claimed, where=part == 0)
    (entries,) = job.scratch.read_entries([name], [0])
    given = entries.select(entries.owned)
    names = np.union1d(ids[ids > 0], given.ids)
    labels = numbered(ids, names)
    sizes = np.zeros(names.size, np.int64)
    at = np.searchsorted(names, given.ids)
    sizes[at] = given.sizes
    owned = np.zeros(names.size, np.bool_)
    owned[at] = True
    return job.scratch.write_result(
        index, name.level, TileResult.plain(labels, names, sizes, owned)
    )
