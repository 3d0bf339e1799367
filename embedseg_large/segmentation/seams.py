"""CHECK in rounds: tiles that disagree get larger halos, until they agree or reach the maximum.

1. Compare the results of both sides of every face at the seam.
2. Account for the instances of every layer: each has one owner, and as many voxels as its owner
   saw.
3. Tiles on either side of a seam that disagrees, and tiles whose account is wrong, are clustered
   again with twice the halo. Their faces and the layers they reach are checked again. The same
   holds for tiles at the edge of a preview that are not proven, because they have no neighbour to
   compare with; the additional voxels may have to be predicted first.
4. The rounds end when no halo can be enlarged further. Objects on which tiles still disagree are
   larger than the largest halo; they are joined by overlap, and reported.

A proven tile decides: its result for its core is right, whichever tile disagrees. A face
between two of them needs no agreement, no two of their names are ever joined, and an instance that
is certified is joined with nothing.

Each round depends on the set of disagreements only, never on the order in which they were found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.runs.tasks import Call, Each, Runner, Task
from embedseg_large.segmentation.scratch.versions import MISSING, TileVersion, TileVersions
from embedseg_large.segmentation.segmenters.protocol import Decide
from embedseg_large.segmentation.stages.check import (
    Accounted,
    Checked,
    Held,
    account,
    check,
    faces_above,
    held_by_proven,
    reach_of_layer,
    settle_layer,
)
from embedseg_large.segmentation.stages.claim import Ownership
from embedseg_large.segmentation.stages.cluster import cluster_task, version_of
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.match import Matching
from embedseg_large.segmentation.stages.predict import Predicted, predict_task
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.stitching.join import Joins, join
from embedseg_large.stitching.tile_result import SeamComparison
from embedseg_large.tiling.grid import Face, Index


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamState:
    """The result of CHECK."""

    results: TileVersions
    joins: Joins
    layers: NDArray[np.uint32]
    """Version of the ids of each layer."""
    counts: tuple[int, ...]
    """Instances of each layer, after joining."""
    faces: int
    """Faces between cores."""
    voxels: int
    """Voxels compared, each seam once."""
    rounds: int
    """Rounds in which tiles clustered again."""
    tiles: int
    """Total number of tiles."""
    proven: NDArray[np.bool_]
    """For each tile of the grid: whether it is certain of every voxel of its core, which then
    equals the whole volume's, and holds no joined object."""
    unproven_edge: int
    """In a preview: number of tiles at its edge that are not certain of their core and have no
    neighbour there to agree with."""
    certified: int
    """Instances that nothing unseen could have changed."""
    unaccounted: tuple[int, ...]
    """Ids, ascending, of instances whose owner did not see all their voxels. Those that are not
    joined are nevertheless right: every core that may hold one of their voxels is proven."""
    repaired: tuple[int, ...]
    """Ids on which tiles disagreed before their halos were enlarged; ascending."""
    joined: tuple[int, ...]
    """Ids, after joining, on which tiles still disagreed; ascending."""
    matched: int
    """How many of the joined objects are assembled from what each tile sees in its core: their
    parts in neighbouring tiles were matched by overlap."""


@dataclass(slots=True)
class SeamCheck:
    """The rounds of one run."""

    job: Job
    runner: Runner
    predictions: NDArray[np.uint32]
    """Version of the predictions of each tile."""
    results: TileVersions
    """Version of the result of each tile; updated with every new result."""
    _round: int = 0
    _layers: NDArray[np.uint32] = field(init=False)
    _seams: dict[Face, SeamComparison] = field(default_factory=dict)
    """Faces whose two sides differ."""
    _counts: dict[int, int] = field(default_factory=dict)
    _certain: dict[int, int] = field(default_factory=dict)
    _wrong: dict[int, Accounted] = field(default_factory=dict)
    """Layers whose account does not add up."""
    _doubtful: NDArray[np.bool_] = field(init=False)
    """Tiles that are not certain of every voxel of their core."""
    _disputed: set[int] = field(default_factory=set)
    _settled: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """Names of objects that were matched by overlap."""
    _faces: int = 0
    _voxels: int = 0

    def __post_init__(self) -> None:
        counts = self.job.clustering().counts
        self._doubtful = np.zeros(counts, dtype=np.bool_)
        self._layers = np.zeros(counts[0], dtype=np.uint32)

    def run(self) -> SeamState:
        """Go through all rounds."""
        grid = self.job.clustering()
        self._compare(grid, len(grid))
        faces, voxels = self._faces, self._voxels
        self._account(self._layers_about(grid.seen()))
        while tiles := self._tiles_to_raise():
            self._round += 1
            self._raise(tiles)
            about = {low for tile in tiles for low in self._low_sides(tile)}
            self._compare(sorted(about), len(about))
            self._account(self._layers_of(tiles))
        rounds = self._round
        joins, unsolved = self._solve()
        certain, repaired = self._sort_disputed(unsolved, joins)
        self._settle(joins)
        return SeamState(
            results=self.results,
            joins=joins,
            layers=self._layers,
            counts=tuple(self._counts.get(layer, 0) for layer in range(grid.counts[0])),
            faces=faces,
            voxels=voxels,
            rounds=rounds,
            tiles=len(grid),
            proven=self._proven(),
            unproven_edge=sum(map(self._is_at_edge, self._doubted_tiles())),
            certified=certain,
            unaccounted=tuple(sorted(i for r in self._wrong.values() for i in r.wrong.tolist())),
            repaired=tuple(sorted(repaired)),
            joined=tuple(sorted(unsolved)),
            matched=len(unsolved.intersection(joins.apply(self._settled).tolist())),
        )

    # -- one round -------------------------------------------------------------------------------

    def _compare(self, lows: Iterable[Index], count: int) -> None:
        """Compare the faces above each of some tiles."""
        self.runner.progress.begin(Stage.CHECK, count)
        self.runner.run(Each(map(self._check_task, lows), self._note_check))
        for comparison in self._open_seams().values():
            self._disputed.update(comparison.ids.tolist())

    def _open_seams(self) -> dict[Face, SeamComparison]:
        """Return the faces that disagree and where either tile may be wrong."""
        doubtful = self._doubtful
        return {f: c for f, c in self._seams.items() if doubtful[f.low] or doubtful[f.high]}

    def _check_task(self, index: Index) -> Task:
        grid = self.job.clustering()
        return Task(
            stage=Stage.CHECK,
            make=partial(self._check_call, index),
            index=index,
            ledger=LedgerKind.COMPARE.part(self._round),
            number=grid.number(index),
            noted=Checked.noted,
            recalled=partial(Checked.recalled, grid, index),
        )

    def _check_call(self, index: Index) -> Call:
        grid = self.job.clustering()
        above = [index, *(face.high for face in faces_above(grid, index))]
        span = [(min(axis), max(axis) + 1) for axis in zip(*above, strict=True)]
        item = (self.job, index, self.results.part(span))
        return Call(check, item, where=f"tile {grid.tile(index).core}")

    def _note_check(self, _: Task, record: Checked) -> None:
        self._doubtful[record.tile] = not record.exact
        for face, comparison in record.seams:
            self._faces += 1
            self._voxels += comparison.voxels
            self._seams.pop(face, None)
            if comparison.disagreeing:
                self._seams[face] = comparison

    def _account(self, layers: Collection[int]) -> None:
        """Account for the instances of some layers."""
        self.runner.progress.begin(Stage.CHECK, len(layers))
        self.runner.run(Each(map(self._account_task, layers), self._note_account))
        for ids in self._open_accounts().values():
            self._disputed.update(ids.tolist())

    def _open_accounts(self) -> dict[int, NDArray[np.uint64]]:
        """Return, by layer, ids whose account is wrong, if any tile involved may be wrong."""
        known = {
            n: np.array([i for i in r.wrong.tolist() if self._is_in_doubt(i)], np.uint64)
            for n, r in self._wrong.items()
        }
        return {layer: ids for layer, ids in known.items() if ids.size}

    def _is_in_doubt(self, name: int) -> bool:
        """Whether an instance may have a voxel in a core that is not proven.

        Its voxels point to the region that its seed claims, and so does the seed.
        """
        rule = self.job.settings.clustering()
        if not self.job.traits.proves or rule.reach is None or rule.farthest is None:
            return True
        seed = tuple(int(i) for i in np.unravel_index(name - 1, self.job.shape))
        far = [ceil(r + f) for r, f in zip(rule.reach, rule.farthest, strict=True)]
        about = Box(seed, tuple(i + 1 for i in seed)).grow(far)
        tiles = tuple(slice(a, b) for a, b in self.job.clustering().span(about))
        return bool(self._doubtful[tiles].any())

    def _account_task(self, layer: int) -> Task:
        return Task(
            stage=Stage.CHECK,
            make=partial(self._account_call, layer),
            ledger=LedgerKind.ACCOUNT.part(self._round),
            number=layer,
            noted=Accounted.noted,
            recalled=partial(Accounted.recalled, layer),
        )

    def _account_call(self, layer: int) -> Call:
        results = self.results.part(self._span_of_layer(layer))
        return Call(account, (self.job, layer, results), where=f"layer {layer}")

    def _span_of_layer(self, layer: int) -> tuple[tuple[int, int], ...]:
        """Tiles that may see an instance which begins in a layer."""
        grid = self.job.clustering()
        return grid.span(reach_of_layer(grid, self.job.halos[self.results.highest], layer))

    def _note_account(self, _: Task, record: Accounted) -> None:
        self._layers[record.layer] = record.version
        self._counts[record.layer] = record.instances
        self._certain[record.layer] = record.certain
        self._wrong.pop(record.layer, None)
        if record.wrong.size:
            self._wrong[record.layer] = record

    def _tiles_to_raise(self) -> list[Index]:
        tiles = self._tiles_in_dispute()
        if self.job.settings.strict:
            tiles.update(self._doubted_tiles())
        elif self.job.part is not None and self.job.traits.proves:
            tiles.update(filter(self._is_at_edge, self._doubted_tiles()))
        return sorted(tile for tile in tiles if self._can_see_more(tile))

    def _doubted_tiles(self) -> Iterator[Index]:
        """Tiles that are not certain of every voxel of their core."""
        return self._indices(np.flatnonzero(self._doubtful))

    def _proven(self) -> NDArray[np.bool_]:
        grid = self.job.clustering()
        tiles = tuple(slice(a, b) for a, b in grid.span(grid.covered))
        proven = np.zeros(grid.counts, np.bool_)
        proven[tiles] = ~self._doubtful[tiles]
        return proven

    def _is_at_edge(self, tile: Index) -> bool:
        """Whether a core ends at the edge of a preview, where the volume continues."""
        grid = self.job.clustering()
        core, covered = grid.tile(tile).core, grid.covered
        return any(
            (a == first > 0) or (b == end < length)
            for a, b, first, end, length in zip(
                core.start, core.stop, covered.start, covered.stop, self.job.shape, strict=True
            )
        )

    def _indices(self, numbers: NDArray[np.int64]) -> Iterator[Index]:
        counts = self.job.clustering().counts
        for number in numbers.tolist():
            yield tuple(int(i) for i in np.unravel_index(number, counts))

    def _can_see_more(self, tile: Index) -> bool:
        level = self.results[tile].level
        if level + 1 >= len(self.job.halos):
            return False
        now, then = (self.job.clustering(k).tile(tile).region for k in (level, level + 1))
        return now != then

    def _raise(self, tiles: list[Index]) -> None:
        """Cluster some tiles again, one level up."""
        self._predict_for(tiles)
        self.runner.progress.begin(Stage.CLUSTER, len(tiles))
        above = {tile: self.results[tile].level + 1 for tile in tiles}
        tasks = (cluster_task(self.job, t, above[t], self.predictions) for t in tiles)
        self.runner.run(Each(tasks, lambda task, version: self._put(task, above, version)))

    def _predict_for(self, tiles: list[Index]) -> None:
        """Predict what tiles now need outside the region of a preview."""
        if self.job.part is None or not self.job.traits.predicts:
            return
        grid, missing = self.job.prediction, set[Index]()
        for tile in tiles:
            then = self.job.clustering(self.results[tile].level + 1).tile(tile)
            missing.update(i for i in grid.touching(then.region) if self.predictions[i] == MISSING)
        if missing:
            self.runner.progress.begin(Stage.PREDICT, len(missing))
            tasks = (predict_task(self.job, index) for index in sorted(missing))
            self.runner.run(Each(tasks, self._note_prediction))

    def _note_prediction(self, task: Task, record: Predicted) -> None:
        assert task.index is not None
        self.predictions[task.index] = record.version

    def _put(self, task: Task, above: Mapping[Index, int], version: int | Predicted) -> None:
        assert task.index is not None
        self.results.put(TileVersion(task.index, above[task.index], version_of(version)))

    def _low_sides(self, tile: Index) -> Iterator[Index]:
        """Tiles whose faces above touch `tile`."""
        yield tile
        for face in self.job.clustering().faces(tile):
            yield face.low

    def _layers_of(self, tiles: list[Index]) -> list[int]:
        """Return the layers in which an instance may begin that any of the tiles sees."""
        grid = self.job.clustering(self.results.highest)
        return sorted(
            {layer for tile in tiles for layer in self._layers_about(grid.tile(tile).region)}
        )

    def _layers_about(self, box: Box) -> range:
        """Layers of the whole volume that share a voxel with a box."""
        return range(*self.job.clustering().entire().span(box)[0])

    # -- the end ---------------------------------------------------------------------------------

    def _solve(self) -> tuple[Joins, set[int]]:
        """Resolve the instances on which tiles still disagree.

        Returns
        -------
        Names of the same object, and ids, after joining, that are not proven to be right.
        """
        if self.job.traits.decide is Decide.OWNER:
            return self._owned()
        ids = self._in_dispute()
        alive, sure = self._alive(ids)
        self._disputed.difference_update(alive[sure].tolist())  # any tile that disagrees is wrong
        held, seams = self._held(np.setdiff1d(ids, alive[sure])), self._open_seams()
        for tile in self._indices(np.unique(held.tiles)):
            self._doubtful[tile] = True
        joins = join((seams[face] for face in sorted(seams, key=_order)), held.ids, alive[sure])
        return joins, set(joins.apply(alive[~sure]).tolist())

    def _owned(self) -> tuple[Joins, set[int]]:
        """Resolve them for an external segmenter: by overlap; owners decide about the rest."""
        ids = self._in_dispute()
        if not ids.size:
            return Joins.none(), set()
        found = Matching(self.job, self.runner, self.results).run(self._tiles_in_dispute(), ids)
        self._settled, joins = found.settled, found.joins()
        if found.left.size:
            same = Ownership(self.job, self.runner, self.results, found.left).run()
            joins = found.joins(same)
            self._round += 1
            self._account(self._layers_about(self.job.clustering(self.results.highest).seen()))
        joins = joins.among(self._alive(np.union1d(joins.ids, joins.representative))[0])
        names = [ids, joins.ids, joins.representative, self._in_dispute()]
        alive, _ = self._alive(np.unique(np.concatenate(names)))
        return joins, set(joins.apply(alive).tolist())

    def _tiles_in_dispute(self) -> set[Index]:
        """Tiles at a face that disagrees, and those that see an instance whose account is wrong."""
        tiles = {tile for face in self._open_seams() for tile in (face.low, face.high)}
        for layer in self._open_accounts():
            tiles.update(self._indices(self._wrong[layer].wrong_tiles))
        return tiles

    def _in_dispute(self) -> NDArray[np.uint64]:
        """Ids on which tiles disagree, ascending."""
        seams = [comparison.ids for comparison in self._open_seams().values()]
        ids = [np.empty(0, np.uint64), *seams, *self._open_accounts().values()]
        return np.unique(np.concatenate(ids))

    def _held(self, ids: NDArray[np.uint64]) -> Held:
        """Find which of some ids have voxels in the cores of which proven tiles."""
        layer = self.job.layers.of(ids)
        found = [Held.none()]
        calls = (self._held_task(n, ids[layer == n]) for n in np.unique(layer).tolist())
        if ids.size:
            self.runner.progress.begin(Stage.CHECK, int(np.unique(layer).size))
            self.runner.run(Each(calls, lambda _, record: found.append(record)))
        return Held(*(np.concatenate(column) for column in zip(*found, strict=True)))

    def _held_task(self, layer: int, ids: NDArray[np.uint64]) -> Task:
        def make() -> Call:
            span = self._span_of_layer(layer)
            doubtful = self._doubtful[tuple(slice(a, b) for a, b in span)].copy()
            item = (self.job, ids, self.results.part(span), ~doubtful)
            return Call(held_by_proven, item, where=f"layer {layer}")

        return Task(stage=Stage.CHECK, make=make, number=layer)

    def _alive(self, ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Return those ids that own a voxel, and whether their owner is certain of them."""
        layer = self.job.layers.of(ids)
        found, certain = [np.empty(0, np.uint64)], [np.empty(0, np.bool_)]
        for number in np.unique(layer).tolist():
            known = self.job.scratch.read_layer(number, int(self._layers[number]))
            kept = np.isin(known.ids, ids[layer == number])
            found.append(known.ids[kept])
            certain.append(known.sure[kept])
        return np.concatenate(found), np.concatenate(certain)

    def _settle(self, joins: Joins) -> None:
        """Put joined names into the layers they concern."""
        if joins.ids.size == 0:
            return
        alive = self._alive(joins.ids)[0]
        for layer in np.unique(self.job.layers.of(np.union1d(joins.ids, joins.apply(alive)))):
            version = int(self._layers[layer])
            settled = settle_layer(self.job, int(layer), version, joins, alive)
            self._layers[layer], self._counts[int(layer)] = settled

    def _sort_disputed(self, unsolved: set[int], joins: Joins) -> tuple[int, set[int]]:
        """Return the number of certified instances without disagreement, and the repaired ids."""
        doubted = np.array(sorted(self._disputed), dtype=np.uint64)
        alive, sure = self._alive(doubted)
        solved = ~np.isin(joins.apply(alive), np.array(sorted(unsolved), dtype=np.uint64))
        certified = sum(self._certain.values()) - int(np.count_nonzero(sure))
        return certified, set(alive[solved].tolist())


def _order(face: Face) -> Any:
    return face.low, face.axis
