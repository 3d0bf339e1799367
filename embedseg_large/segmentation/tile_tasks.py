"""Stages of a tile as tasks, and the order in which they become possible."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.runs.journal import Note
from embedseg_large.runs.tasks import Call, Task
from embedseg_large.segmentation.scratch.versions import MISSING, ViewName, Views
from embedseg_large.segmentation.segmenters.protocol import Predictor
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.predict import Predicted, cluster, predict, stamp_of_region
from embedseg_large.segmentation.stages.whole_tiles import segment_tile
from embedseg_large.segmentation.steps import Ledger, Stage
from embedseg_large.tiling.grid import Index


def predict_tile(network: Predictor, job: Job, index: Index) -> Predicted:
    """PREDICT as a call."""
    return predict(job, network, index)


@dataclass(slots=True)
class PredictThenCluster:
    """PREDICT what is needed, and CLUSTER each tile as soon as all predictions it reads are there.

    Clustering comes first when both are possible, so that it keeps up with the network.
    """

    job: Job
    predictions: NDArray[np.uint32] = field(init=False)
    """Version of the predictions of each tile."""
    views: Views = field(init=False)
    _todo: Iterator[Index] = field(init=False)
    _ready: deque[Index] = field(init=False, default_factory=deque)
    _readers: list[list[slice]] = field(init=False)
    """For each axis and place of a prediction tile: places of the tiles that read it."""
    _awaited: NDArray[np.int64] = field(init=False)
    """Number of predictions that each clustering tile still waits for."""

    def __post_init__(self) -> None:
        counts = self.job.clustering().counts
        self._todo = self.job.prediction.touching(self.job.seen)
        self.predictions = np.full(self.job.prediction.counts, MISSING, dtype=np.uint32)
        self.views = Views.none_yet(counts)
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
        """Note a view, or a prediction and the tiles it completes."""
        assert task.index is not None
        if task.stage == Stage.CLUSTER:
            self.views.put(ViewName(task.index, 0, result))
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
    """For each place of a clustering tile along an axis, the predictions that it reads."""
    grid = job.clustering()
    corner = [a for a, _ in grid.span(grid.covered)]
    spans = [(0, 0)] * grid.counts[axis]
    for i in range(*grid.span(grid.covered)[axis]):
        corner[axis] = i
        spans[i] = job.prediction.span(grid.tile(tuple(corner)).region)[axis]
    return spans


def _inverse(spans: list[tuple[int, int]], count: int) -> list[slice]:
    """For each of `count` places, the spans that contain it: they ascend, so it is a range."""
    readers: list[slice] = [slice(0, 0)] * count
    for j, (a, b) in enumerate(spans):
        for i in range(a, b):
            readers[i] = slice(readers[i].start if readers[i].stop else j, j + 1)
    return readers


@dataclass(slots=True)
class ClusterPredicted:
    """CLUSTER every tile: of predictions that are there already, or with another segmenter."""

    job: Job
    predictions: NDArray[np.uint32]
    views: Views = field(init=False)
    _todo: Iterator[Index] = field(init=False)

    def __post_init__(self) -> None:
        grid = self.job.clustering()
        self.views = Views.none_yet(grid.counts)
        self._todo = iter(grid)

    def next(self) -> Task | None:
        """The next tile."""
        index = next(self._todo, None)
        return None if index is None else cluster_task(self.job, index, 0, self.predictions)

    def done(self, task: Task, result: Any) -> None:
        """Note a view."""
        assert task.index is not None
        self.views.put(ViewName(task.index, 0, version_of(result)))


def predict_task(job: Job, index: Index) -> Task:
    """PREDICT of one tile."""

    def make() -> Call:
        core = job.prediction.tile(index).core
        return Call(predict_tile, (job, index), True, f"tile {core}", core.size)

    return Task(
        stage=Stage.PREDICT,
        make=make,
        index=index,
        ledger=Ledger.PREDICT.part(),
        number=job.prediction.number(index),
        noted=Predicted.noted,
        recalled=lambda note: _unchanged(job, job.prediction.tile(index).region, note),
    )


def _unchanged(job: Job, region: Box, note: Note) -> Predicted:
    """What was noted of a prediction, if the image is still what it was made from.

    Raises
    ------
    UsageError
        When the image has changed since.
    """
    found = Predicted(*note)
    if found.stamp != stamp_of_region(job, region.clip(job.shape)):
        raise UsageError(
            f"{job.volume.name}: the image has changed in {region} "
            "since this run started; start over with overwrite (--overwrite)"
        )
    return found


def cluster_task(job: Job, index: Index, level: int, predictions: NDArray[np.uint32]) -> Task:
    """CLUSTER of one tile at a level of its halo.

    Parameters
    ----------
    predictions
        Version of the predictions of every tile.
    """
    if job.segments:
        return _segment_task(job, index, level)
    grid = job.clustering(level)

    def make() -> Call:
        tile = grid.tile(index)
        needed = tuple(slice(a, b) for a, b in job.prediction.span(tile.region))
        item = (job, index, level, predictions[needed].copy())
        return Call(cluster, item, where=f"tile {tile.core}", voxels=tile.core.size)

    return Task(
        stage=Stage.CLUSTER,
        make=make,
        index=index,
        ledger=Ledger.CLUSTER.part(level),
        number=grid.number(index),
    )


def _segment_task(job: Job, index: Index, level: int) -> Task:
    """CLUSTER of one tile at a level of its halo, with a segmenter that is not ours."""
    grid = job.clustering(level)

    def make() -> Call:
        core = grid.tile(index).core
        return Call(segment_tile, (job, index, level), True, f"tile {core}", core.size)

    return Task(
        stage=Stage.CLUSTER,
        make=make,
        index=index,
        ledger=Ledger.CLUSTER.part(level),
        number=grid.number(index),
        noted=Predicted.noted,
        recalled=lambda note: _unchanged(job, grid.tile(index).region, note),
    )


def version_of(view: int | Predicted) -> int:
    """Version of a view that was clustered, or came from a segmenter."""
    return view if isinstance(view, int) else view.version
