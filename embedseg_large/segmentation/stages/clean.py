"""CLEAN: drop loose pieces of instances and fill their holes, after CHECK and before FINISH.

1. DECIDE: the tile whose core holds an instance's seed gathers it from the cores of all tiles that
   its region touches, and determines its changes, see `embedseg_large.clustering.clean`. CHECK
   has verified that the whole instance is there.
2. APPLY: each tile applies, in its core, the decisions of the tiles around it.

Both read results from before CLEAN, and write separate files: labels do not depend on tiles or
order. Instances that the seam report lists as joined, which no tile sees whole, and those cut by
the border of a region are left unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.clean import Changes, apply, changes_of, cut_by
from embedseg_large.geometry import Box
from embedseg_large.runs.journal import Note
from embedseg_large.runs.tasks import Call, Each, Runner, Task
from embedseg_large.segmentation.scratch.versions import EMPTY, TileVersion, TileVersions
from embedseg_large.segmentation.seams import SeamState
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.predict import read_normalised
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.stitching.tile_result import TileResult, numbered
from embedseg_large.tiling.grid import Index

Names = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanReport:
    """The changes made by CLEAN."""

    instances_with_pieces: int = 0
    """Instances of which only the largest piece was kept."""
    pieces_dropped: int = 0
    """Number of their other pieces."""
    voxels_dropped: int = 0
    """Voxels of these pieces, on the clustered grid."""
    instances_with_holes: int = 0
    """Instances whose holes were filled."""
    voxels_filled: int = 0
    """Voxels of these holes, on that grid."""
    left: int = 0
    """Instances left unchanged: joined, or cut by the border of a region."""

    def as_dict(self) -> dict[str, int]:
        """The report as values that JSON can hold."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __add__(self, other: CleanReport) -> CleanReport:
        return CleanReport(**{n: v + getattr(other, n) for n, v in self.as_dict().items()})


class Decided(NamedTuple):
    """Record of a tile that has decided about its instances."""

    version: int
    """Version of its changes; `EMPTY` if there are none."""
    instances: int
    pieces: int
    voxels: int
    left: int

    def noted(self) -> Note:
        """For the journal."""
        return self.version, list(self[1:])

    @classmethod
    def recalled(cls, note: Note) -> Decided:
        """Restore the record from a note."""
        version, counts = note
        return cls(version, *counts)


class Applied(NamedTuple):
    """Record of a core that was cleaned."""

    version: int
    """Version of its result."""
    voxels: int
    """Number of filled voxels."""
    names: list[int]
    """The instances to which they were assigned."""

    def noted(self) -> Note:
        """For the journal."""
        return self.version, [self.voxels, self.names]

    @classmethod
    def recalled(cls, note: Note) -> Applied:
        """Restore the record from a note."""
        version, (voxels, names) = note
        return cls(version, voxels, names)


@dataclass(slots=True)
class Cleaning:
    """CLEAN of one run."""

    job: Job
    runner: Runner
    state: SeamState
    """The outcome of CHECK; its results are not modified."""
    results: TileVersions = field(init=False)
    """Cleaned result of each tile."""
    report: CleanReport = field(init=False, default_factory=CleanReport)
    _changes: TileVersions = field(init=False)
    _left: Names = field(init=False)
    _filled: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        before, joins = self.state.results, self.state.joins
        self.results = TileVersions(before.origin, before.levels.copy(), before.versions.copy())
        self._changes = before.unmade()
        joined = np.array(self.state.joined, np.uint64)
        unaccounted = np.array(self.state.unaccounted, np.uint64)
        names = [joined, unaccounted, joins.ids, joins.representative]
        self._left = np.unique(np.concatenate(names))

    def run(self) -> None:
        """Decide in every tile, then apply in every tile."""
        grid = self.job.clustering()
        self.runner.progress.begin(Stage.CLEAN, 2 * len(grid))
        self.runner.run(Each((self._decide_task(index) for index in grid), self._note_decided))
        self.runner.run(Each((self._apply_task(index) for index in grid), self._note_applied))
        self.report += CleanReport(
            instances_with_holes=len(self._filled), left=len(self.state.joined)
        )

    def _decide_task(self, index: Index) -> Task:
        grid, own = self.job.clustering(), self.state.results[index]

        def make() -> Call:
            region = self.job.clustering(own.level).tile(index).region
            results = self.state.results.part(grid.span(region))
            item = (self.job, own, results, self._left)
            return Call(decide, item, where=f"tile {grid.tile(index).core}")

        return self._task(index, "decide", make, Decided)

    def _apply_task(self, index: Index) -> Task:
        grid, own = self.job.clustering(), self.state.results[index]

        def make() -> Call:
            core = grid.tile(index).core
            far = self.job.halos[self.state.results.highest]
            changes = self._changes.part(grid.span(core.grow(far)))
            return Call(apply_changes, (self.job, own, changes), where=f"tile {core}")

        return self._task(index, "apply", make, Applied)

    def _task(self, index: Index, step: str, make: Any, record: Any) -> Task:
        return Task(
            stage=Stage.CLEAN,
            make=make,
            index=index,
            ledger=LedgerKind.CLEAN.part(step),
            number=self.job.clustering().number(index),
            noted=record.noted,
            recalled=record.recalled,
        )

    def _note_decided(self, task: Task, record: Decided) -> None:
        assert task.index is not None
        self._changes.put(self._changes[task.index]._replace(version=record.version))
        self.report += CleanReport(
            instances_with_pieces=record.instances,
            pieces_dropped=record.pieces,
            voxels_dropped=record.voxels,
            left=record.left,
        )

    def _note_applied(self, task: Task, record: Applied) -> None:
        assert task.index is not None
        self.results.put(self.results[task.index]._replace(version=record.version))
        self.report += CleanReport(voxels_filled=record.voxels)
        self._filled.update(record.names)


def decide(job: Job, own: TileVersion, results: TileVersions, left: Names) -> Decided:
    """CLEAN: determine the changes to the instances whose seed lies in a core.

    Parameters
    ----------
    own
        The tile's result.
    results
        Results of the tiles that its region touches.
    left
        Names of instances that are left unchanged, ascending.
    """
    tile = job.clustering(own.level).tile(own.tile)
    box = tile.region.intersect(job.clustering().covered)
    numbers, names = _gathered(job, results, box, tile.core, left)
    cut = cut_by(numbers, _open_faces(job, box), names.size)
    numbers[cut[numbers]] = 0
    found = changes_of(numbers, job.settings.cleaning())
    version = EMPTY
    if found.dropped.size or found.enclosed.size:
        dropped, enclosed = (_moved(at, box.shape, box, job) for at in found[:2])
        named = (dropped, enclosed, names[found.numbers - 1], found.holes)
        version = job.scratch.write_changes(own.tile, named)
    counts = (found.instances, found.pieces, int(found.dropped.size), int(np.count_nonzero(cut)))
    return Decided(version, *counts)


def _gathered(
    job: Job, results: TileVersions, box: Box, core: Box, left: Names
) -> tuple[NDArray[np.int32], Names]:
    """Find instances of a box whose seed lies in a core: voxel numbers 1..n, and names, (n,)."""
    tiles = [name for name in results if name.version > EMPTY]
    read = list(job.scratch.read_results(tiles))
    known = [result.arrays["ids"] for result in read]
    names = np.unique(np.concatenate([np.empty(0, np.uint64), *known]))
    at = np.unravel_index((names - np.uint64(1)).astype(np.int64), job.shape)
    axes = zip(at, core.start, core.stop, strict=True)
    own = np.logical_and.reduce([(a <= v) & (v < b) for v, a, b in axes])
    names = names[own & ~np.isin(names, left)]
    numbers = np.zeros(box.shape, np.int32)
    for name, result, ids in zip(tiles, read, known, strict=True):
        mine = np.isin(ids, names)
        if mine.any():
            place = job.clustering().tile(name.tile).core
            common = place.intersect(box)
            labels = result.core(place.shape)[0][common.slices_in(place)]
            number = np.where(mine, np.searchsorted(names, ids) + 1, 0).astype(np.int32)
            numbers[common.slices_in(box)] = np.concatenate([np.zeros(1, np.int32), number])[labels]
    return numbers, names


def _open_faces(job: Job, box: Box) -> list[tuple[bool, bool]]:
    """Find faces of a box at the border of a region behind which the volume continues."""
    covered = job.clustering().covered
    axes = zip(box.start, box.stop, covered.start, covered.stop, job.shape, strict=True)
    return [(a == first > 0, b == end < length) for a, b, first, end, length in axes]


def _moved(
    at: NDArray[np.int64], shape: tuple[int, ...], origin: Box, job: Job
) -> NDArray[np.int64]:
    """Positions in the raveled volume of positions in a raveled box."""
    voxel = np.unravel_index(at, shape)
    moved = tuple(v + a for v, a in zip(voxel, origin.start, strict=True))
    positions: NDArray[np.int64] = np.ravel_multi_index(moved, job.shape)
    return positions


def apply_changes(job: Job, own: TileVersion, changes: TileVersions) -> Applied:
    """CLEAN: apply in a core the `changes` decided by the tiles around it."""
    core = job.clustering().tile(own.tile).core
    here = _changes_within(job, changes, core)
    if not here.dropped.size and not here.enclosed.size:
        return Applied(own.version, 0, [])
    (result,) = job.scratch.read_results([own])
    labels, names = result.core(core.shape)
    ids = names[labels]
    before, emptied = ids.copy(), ids.copy()
    emptied.reshape(-1)[here.dropped] = 0
    if apply(ids, here).size:  # but voxels without data belong to no object
        ids[_without_data(job, core) & (ids != before)] = 0
    filled = ids[(ids != emptied) & (ids != 0)]  # also a dropped piece in a hole of its instance
    version = own.version
    if not np.array_equal(ids, before):
        names = np.unique(ids[ids > 0])
        changed = TileResult.plain(numbered(ids, names), names)
        version = job.scratch.write_result(own.tile, own.level, changed)
    return Applied(version, int(filled.size), np.unique(filled).tolist())


def _without_data(job: Job, core: Box) -> NDArray[np.bool_]:
    """Find voxels of a core that hold no data, or are outside the mask."""
    seen = read_normalised(job, core)
    if seen is None:
        return np.ones(core.shape, np.bool_)
    return np.zeros(core.shape, np.bool_) if seen.absent is None else seen.absent


def _changes_within(job: Job, changes: TileVersions, core: Box) -> Changes:
    """Return the changes in a core: positions in it, and instances by name."""
    found: list[tuple[NDArray[Any], ...]] = []
    names = [name for name in changes if name.version > EMPTY]
    for dropped, enclosed, who, holes in job.scratch.read_changes(names):
        lost, (given, inside) = _within(dropped, core, job)[0], _within(enclosed, core, job)
        found.append((lost, given, who[inside], holes[inside]))
    none = (np.empty(0, np.int64),) * 2 + (np.empty(0, np.uint64), np.empty(0, np.int64))
    parts = [np.concatenate(column) for column in zip(none, *found, strict=True)]
    return Changes(parts[0], parts[1], parts[2], parts[3], pieces=0, instances=0)


def _within(
    at: NDArray[np.int64], core: Box, job: Job
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Convert positions in the volume to positions in a core, and return which lie in it."""
    voxel = np.unravel_index(at, job.shape)
    axes = zip(voxel, core.start, core.stop, strict=True)
    inside = np.logical_and.reduce([(a <= v) & (v < b) for v, a, b in axes])
    own = tuple(v[inside] - a for v, a in zip(voxel, core.start, strict=True))
    return np.ravel_multi_index(own, core.shape), inside
