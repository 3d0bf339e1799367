"""The stages of one timepoint, one after the other, on any executor."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.labels.pending import PendingLabels
from embedseg_large.runs.runner import TaskRunner
from embedseg_large.runs.tasks import Call, Each, Task
from embedseg_large.segmentation.report import SeamReport, seam_report
from embedseg_large.segmentation.request.request import Timepoint
from embedseg_large.segmentation.scratch.versions import (
    ABSENT,
    DARK,
    MASKED,
    MISSING,
    TileVersion,
    TileVersions,
)
from embedseg_large.segmentation.seams import SeamCheck, SeamState
from embedseg_large.segmentation.stages.clean import Cleaning, CleanReport
from embedseg_large.segmentation.stages.cluster import cluster_task, version_of
from embedseg_large.segmentation.stages.finish import (
    Numbering,
    downsample,
    extents_of,
    finish,
    finish_halved,
)
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.predict import predict_task
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.stitching.relabel import offsets
from embedseg_large.tiling.grid import Index
from embedseg_large.volumes.intensity import is_blank

logger = logging.getLogger(__name__)

_SKIPPED = {"no data": ABSENT, "outside the mask": MASKED, "dark": DARK}


@dataclass(frozen=True, kw_only=True)
class TimepointResult:
    """All instances of a timepoint: results are in scratch, names are final."""

    job: Job
    section: str
    """Section of the journal, see `Timepoint`."""
    state: SeamState
    numbering: Numbering
    seams: SeamReport
    predictions: NDArray[np.uint32]
    """Version of the predictions of each tile."""
    cleaning: CleanReport
    """What was cleaned."""
    extents: tuple[float, ...]
    """Extents of some instances along y and x, in voxels of the grid."""

    @property
    def n_instances(self) -> int:
        """Number of instances."""
        return int(self.numbering.before[-1])

    @cached_property
    def is_blank(self) -> bool:
        """Whether no voxel of the volume holds data; checked only if no instance was found."""
        return self.n_instances == 0 and is_blank(self.job.volume)

    @property
    def skipped(self) -> dict[str, int]:
        """Tiles that were not predicted, by reason."""
        counts = {name: int((self.predictions == code).sum()) for name, code in _SKIPPED.items()}
        return {name: count for name, count in counts.items() if count}


def tasks_of(job: Job, at: Timepoint) -> dict[Stage, int]:
    """Number of tasks of each stage, if no tile disagrees with another."""
    grid = job.clustering()
    first, end = grid.entire().span(job.seen)[0]
    predicts = job.traits.predicts and at.saved is None
    predicted = {Stage.PREDICT: job.prediction.count(job.seen)} if predicts else {}
    cleaned = {Stage.CLEAN: 2 * len(grid)} if job.settings.cleaning() else {}
    return predicted | {Stage.CLUSTER: len(grid), Stage.CHECK: len(grid) + end - first} | cleaned


def find_instances(job: Job, at: Timepoint, runner: TaskRunner) -> TimepointResult:
    """PREDICT, CLUSTER and CHECK, and CLEAN if requested."""
    tiles = _predict_and_cluster(job, at, runner)
    state = SeamCheck(job, runner, tiles.predictions, tiles.results).run()
    logger.info("%d faces, %d rounds of repair", state.faces, state.rounds)
    numbering = Numbering(joins=state.joins, before=offsets(state.counts), versions=state.layers)
    seams = seam_report(job, state, numbering)
    extents = extents_of(job, state.results, tiles.predictions)
    state, cleaning = _cleaned(job, runner, state)
    return TimepointResult(
        job=job,
        section=at.section,
        state=state,
        numbering=numbering,
        seams=seams,
        predictions=tiles.predictions,
        cleaning=cleaning,
        extents=extents,
    )


def _cleaned(job: Job, runner: TaskRunner, state: SeamState) -> tuple[SeamState, CleanReport]:
    if not job.settings.cleaning():
        return state, CleanReport()
    cleaning = Cleaning(job, runner, state)
    cleaning.run()
    return replace(state, results=cleaning.results), cleaning.report


def _predict_and_cluster(
    job: Job, at: Timepoint, runner: TaskRunner
) -> PredictThenCluster | ClusterAll:
    tiles: PredictThenCluster | ClusterAll
    if at.saved is not None:
        tiles = ClusterAll(job, at.saved.versions)
    elif not job.traits.predicts:
        tiles = ClusterAll(job, np.empty(0, np.uint32))
    else:
        runner.progress.begin(Stage.PREDICT, job.prediction.count(job.seen))
        tiles = PredictThenCluster(job)
    runner.progress.begin(Stage.CLUSTER, len(job.clustering()))
    runner.run(tiles)
    return tiles


def write_labels(found: TimepointResult, pending: PendingLabels, runner: TaskRunner) -> None:
    """FINISH: write the final labels, then level by level the pyramid."""
    for level in range(pending.n_levels):
        count = sum(1 for _ in pending.regions(level, found.job.region))
        runner.progress.begin(Stage.FINISH, count)
        runner.run(Each(_finish_tasks(found, pending, level)))


def _finish_tasks(found: TimepointResult, pending: PendingLabels, level: int) -> Iterator[Task]:
    make = partial(_finish_call, found, pending, level)
    for number, box in enumerate(pending.regions(level, found.job.region)):
        yield Task(
            stage=Stage.FINISH,
            make=partial(make, box),
            ledger=LedgerKind.FINISH.part(level),
            number=number,
        )


def _finish_call(found: TimepointResult, pending: PendingLabels, level: int, box: Box) -> Call:
    job, where = found.job, f"level {level}, {box}"
    if level > 1:
        return Call(downsample, (job, pending, level, box), where=where)
    seen = box if level == 0 else pending.source(level, box)
    results = found.state.results.part(job.clustering().span(job.on_grid(seen)))
    item = (job, pending, found.numbering, box, results)
    if level == 1:
        return Call(finish_halved, item, where=where)
    return Call(finish, item, where=where, voxels=box.size)


@dataclass(slots=True)
class PredictThenCluster:
    """PREDICT what is needed, and CLUSTER each tile as soon as all its predictions exist.

    Clustering comes first when both are possible, so that it keeps up with the network.
    """

    job: Job
    predictions: NDArray[np.uint32] = field(init=False)
    """Version of the predictions of each tile."""
    results: TileVersions = field(init=False)
    _todo: Iterator[Index] = field(init=False)
    _ready: deque[Index] = field(init=False, default_factory=deque)
    _readers: list[list[slice]] = field(init=False)
    """For each axis and index of a prediction tile: indices of the tiles that read it."""
    _awaited: NDArray[np.int64] = field(init=False)
    """Number of predictions that each clustering tile still waits for."""

    def __post_init__(self) -> None:
        counts = self.job.clustering().counts
        self._todo = self.job.prediction.touching(self.job.seen)
        self.predictions = np.full(self.job.prediction.counts, MISSING, dtype=np.uint32)
        self.results = TileVersions.none_yet(counts)
        spans = [_spans(self.job, axis) for axis in range(len(counts))]
        self._readers = [
            _inverse(span, n) for span, n in zip(spans, self.job.prediction.counts, strict=True)
        ]
        self._awaited = np.ones(counts, np.int64)
        for lengths in np.ix_(*([b - a for a, b in span] for span in spans)):
            self._awaited *= lengths

    def next(self) -> Task | None:
        """A tile to cluster, or else a tile to predict."""
        if self._ready:
            return cluster_task(self.job, self._ready.popleft(), 0, self.predictions)
        index = next(self._todo, None)
        return None if index is None else predict_task(self.job, index)

    def done(self, task: Task, result: Any) -> None:
        """Record a result, or a prediction and the tiles it completes."""
        assert task.index is not None
        if task.stage == Stage.CLUSTER:
            self.results.put(TileVersion(task.index, 0, result))
            return
        if self.predictions[task.index] == MISSING:
            self._count_off(task.index)
        self.predictions[task.index] = result.version

    def _count_off(self, index: Index) -> None:
        readers = tuple(axis[i] for axis, i in zip(self._readers, index, strict=True))
        awaited = self._awaited[readers]
        awaited -= 1
        if not awaited.all():
            for at in np.argwhere(awaited == 0).tolist():
                self._ready.append(tuple(s.start + i for s, i in zip(readers, at, strict=True)))


def _spans(job: Job, axis: int) -> list[tuple[int, int]]:
    """For each index of a clustering tile along an axis, the predictions that it reads."""
    grid = job.clustering()
    corner = [a for a, _ in grid.span(grid.covered)]
    spans = [(0, 0)] * grid.counts[axis]
    for i in range(*grid.span(grid.covered)[axis]):
        corner[axis] = i
        spans[i] = job.prediction.span(grid.tile(tuple(corner)).region)[axis]
    return spans


def _inverse(spans: list[tuple[int, int]], count: int) -> list[slice]:
    """For each of `count` indices, the range of the (ascending) spans that contain it."""
    readers: list[slice] = [slice(0, 0)] * count
    for j, (a, b) in enumerate(spans):
        for i in range(a, b):
            readers[i] = slice(readers[i].start if readers[i].stop else j, j + 1)
    return readers


@dataclass(slots=True)
class ClusterAll:
    """CLUSTER every tile: from existing predictions, or with an external segmenter."""

    job: Job
    predictions: NDArray[np.uint32]
    results: TileVersions = field(init=False)
    _todo: Iterator[Index] = field(init=False)

    def __post_init__(self) -> None:
        grid = self.job.clustering()
        self.results = TileVersions.none_yet(grid.counts)
        self._todo = iter(grid)

    def next(self) -> Task | None:
        """The next tile."""
        index = next(self._todo, None)
        return None if index is None else cluster_task(self.job, index, 0, self.predictions)

    def done(self, task: Task, result: Any) -> None:
        """Record a result."""
        assert task.index is not None
        self.results.put(TileVersion(task.index, 0, version_of(result)))
