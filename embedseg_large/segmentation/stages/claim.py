"""Ownership of objects that tiles describe differently, in turns; see `stitching.ownership`.

CLAIM: each tile claims voxels for its objects, after those of its neighbours that had their
turn. SETTLE: the labels of each core are what the tiles around it have claimed there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.runs.journal import Note
from embedseg_large.runs.tasks import Call, Each, Runner, Task
from embedseg_large.segmentation.scratch.versions import MISSING, TileVersion, TileVersions
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.stitching.join import Joins, join_pairs
from embedseg_large.stitching.ownership import Claims, claim, turn
from embedseg_large.stitching.tile_result import TileResult
from embedseg_large.tiling.grid import Grid, Index

WHOLE, CUT = "whole", "cut"
_PASSES = (WHOLE, CUT)
"""First the objects that a tile's region holds, then, when every tile had its turn, the others."""


class Claimed(NamedTuple):
    """Record of a tile that had its turn."""

    version: int
    same: NDArray[np.uint64]
    """(p, 2) names that turned out to be of one object."""

    def noted(self) -> Note:
        """For the journal."""
        return self.version, self.same.tolist()

    @classmethod
    def recalled(cls, note: Note) -> Claimed:
        """The record that `noted` was made from."""
        version, same = note
        return cls(version, np.array(same, np.uint64).reshape(-1, 2))


@dataclass(slots=True)
class Ownership:
    """The turns of one run."""

    job: Job
    runner: Runner
    results: TileVersions
    """Of each tile."""
    _claims: TileVersions = field(init=False)
    _same: dict[tuple[str, Index], NDArray[np.uint64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # claims and settled results are other versions of the results that they are made from
        self._claims = self.results.unmade()

    def run(self) -> Joins:
        """Go through all turns, replace the results; returns the names that are of one object."""
        grid = self.job.clustering()
        for of, now in product(_PASSES, range(2 ** len(grid.shape))):
            count = sum(turn(index) == now for index in grid)
            tasks = (self._claim_task(index, of, now) for index in grid if turn(index) == now)
            self._do(tasks, count, partial(self._note_claim, of))
        self._do((self._settle_task(index) for index in grid), len(grid), self._note_settled)
        pairs = np.concatenate([self._same[key] for key in sorted(self._same)])
        return join_pairs(pairs[:, 0], pairs[:, 1])

    def _do(self, tasks: Iterator[Task], count: int, note: Any) -> None:
        if count:
            self.runner.progress.begin(Stage.CHECK, count)
            self.runner.run(Each(tasks, note))

    def _claim_task(self, index: Index, of: str, now: int) -> Task:
        def make() -> Call:
            claims = self._claims.part(_around(self.job.clustering(), index))
            item = (self.job, self.results[index], claims, of)
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
    """Half-open range of the tiles around a tile, along each axis."""
    spans = zip(index, grid.span(grid.covered), strict=True)
    return [(max(i - 1, first), min(i + 2, end)) for i, (first, end) in spans]


def _reach(job: Job, name: TileVersion) -> Box:
    """Where a tile may claim: the part of the surrounding cores that it sees."""
    grid = job.clustering(name.level)
    around = _around(grid, name.tile)
    lowest, highest = (
        grid.tile(tuple(i)).core for i in zip(*((a, b - 1) for a, b in around), strict=True)
    )
    return grid.tile(name.tile).region.intersect(Box(lowest.start, highest.stop))


def claim_tile(job: Job, own: TileVersion, claims: TileVersions, of: str) -> Claimed:
    """CLAIM: the turn of one tile. `claims` are those of it and the tiles around it, so far.

    `of` is what it claims: objects that its region holds, or those that are cut, see `_PASSES`.
    """
    grid, reach = job.clustering(own.level), _reach(job, own)
    tile = grid.tile(own.tile)
    (result,) = job.scratch.read_results([own])
    labels, known = result.local_seam(len(list(grid.faces(own.tile))), tile.region.shape)
    names = known[1:]
    seen, is_cut = labels, _cut(labels, tile.region, job.shape, names.size)
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
    before = claims[own.tile]
    if before.version != MISSING:
        found = _added(job, before, found)
    version = job.scratch.write_result(own.tile, own.level, _result_of(found))
    return Claimed(version, found.same)


def _added(job: Job, before: TileVersion, found: Claims) -> Claims:
    """What a tile has claimed before, and claims now."""
    (result,), (entries,) = (
        job.scratch.read_results([before]),
        job.scratch.read_entries([before], [0]),
    )
    labels, names = result.core(found.ids.shape)
    earlier = names[labels]
    given = np.union1d(found.given, entries.ids[entries.owned])
    return Claims(np.where(earlier > 0, earlier, found.ids), given, found.same)


def _claims_in(
    job: Job, claims: TileVersions, box: Box
) -> Iterator[tuple[Box, NDArray[np.uint64]]]:
    """What the tiles around have claimed in a box, in the order of their turns."""
    for name in sorted(_made(claims), key=lambda name: (turn(name.tile), name.tile)):
        reach = _reach(job, name)
        common = reach.intersect(box)
        if common.size:
            (result,) = job.scratch.read_results([name])
            labels, names = result.core(reach.shape)
            yield common, names[labels[common.slices_in(reach)]]


def _made(claims: TileVersions) -> Iterable[TileVersion]:
    spans = zip(claims.origin, claims.versions.shape, strict=True)
    names = (claims[index] for index in product(*(range(o, o + n) for o, n in spans)))
    return [name for name in names if name.version != MISSING]


def _occurring(labels: NDArray[np.unsignedinteger], count: int) -> NDArray[np.bool_]:
    """Which of the labels 1..count occur."""
    occurring: NDArray[np.bool_] = _sizes(labels, count) > 0
    return occurring


def _sizes(labels: NDArray[np.unsignedinteger], count: int) -> NDArray[np.int64]:
    """Voxels of each of the labels 1..count."""
    return np.bincount(labels.reshape(-1), minlength=count + 1)[1:]


def _cut(
    labels: NDArray[np.unsignedinteger], box: Box, shape: tuple[int, ...], count: int
) -> NDArray[np.bool_]:
    """Which labels reach a face of a box that is not a border of the volume."""
    cut = np.zeros(count, np.bool_)
    for axis, (start, stop, length) in enumerate(zip(box.start, box.stop, shape, strict=True)):
        if start > 0:
            cut |= _occurring(np.take(labels, 0, axis), count)
        if stop < length:
            cut |= _occurring(np.take(labels, -1, axis), count)
    return cut


def _may_claim(job: Job, index: Index, names: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which objects have their centre in this tile, in an earlier one, or in none."""
    grid, now = job.clustering(), turn(index)
    voxels = np.unravel_index((names - np.uint64(1)).astype(np.int64), job.shape)
    tiles = np.stack([v // step for v, step in zip(voxels, grid.step, strict=True)], axis=-1)
    bits = 1 << np.arange(len(index))[::-1]
    earlier = (tiles & 1) @ bits < now
    own = (tiles == np.array(index)).all(axis=-1)
    axes = zip(voxels, grid.covered.start, grid.covered.stop, strict=True)
    covered = np.logical_and.reduce([(a <= v) & (v < b) for v, a, b in axes])
    allowed: NDArray[np.bool_] = own | earlier | ~covered
    return allowed


def _result_of(claims: Claims) -> TileResult:
    """Claims in the form of a result, so that they are kept like one."""
    names, labels, sizes = np.unique(claims.ids, return_inverse=True, return_counts=True)
    first = int(names.size > 0 and names[0] == 0)
    return _result(
        labels=(labels.reshape(claims.ids.shape) + (1 - first)).astype(np.uint32),
        ids=names[first:],
        sizes=sizes[first:],
        owned=np.isin(names[first:], claims.given),
    )


def _result(
    labels: NDArray[np.uint32],
    ids: NDArray[np.uint64],
    sizes: NDArray[np.int64],
    owned: NDArray[np.bool_],
) -> TileResult:
    """A result without seams, about which nothing is certain."""
    return TileResult(
        core=labels,
        seams=(),
        ids=ids,
        sizes=sizes,
        core_sizes=np.bincount(labels.reshape(-1), minlength=ids.size + 1)[1:],
        owned=owned,
        certain=np.zeros(ids.size, np.bool_),
        seediness=np.full(ids.size, np.nan, np.float32),
        exact=False,
    )


def settle_tile(job: Job, index: Index, claims: TileVersions) -> int:
    """SETTLE: the labels of a core are what was claimed there. Returns their version."""
    core, name = job.clustering().tile(index).core, claims[index]
    ids = np.zeros(core.shape, np.uint64)
    for box, claimed in _claims_in(job, claims, core):
        part = ids[box.slices_in(core)]
        np.copyto(part, claimed, where=part == 0)
    (entries,) = job.scratch.read_entries([name], [0])
    given = entries.select(entries.owned)
    names = np.union1d(ids[ids > 0], given.ids)
    labels = np.where(ids > 0, np.searchsorted(names, ids) + 1, 0).astype(np.uint32)
    sizes = np.zeros(names.size, np.int64)
    at = np.searchsorted(names, given.ids)
    sizes[at] = given.sizes
    owned = np.zeros(names.size, np.bool_)
    owned[at] = True
    return job.scratch.write_result(index, name.level, _result(labels, names, sizes, owned))
