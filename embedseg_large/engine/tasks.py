"""Tasks, where they come from, and what comes of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from embedseg_large.engine.job import Job
from embedseg_large.engine.network import Network
from embedseg_large.engine.stages import cluster, predict
from embedseg_large.tiling.grid import Index


class Task(NamedTuple):
    """One call of a stage."""

    stage: str
    """predict, cluster, ... : names the stage in progress bars and tables."""
    function: Callable[..., Any]
    """Picklable; called as ``function(*item)``, with the network in front where it is needed."""
    item: tuple[Any, ...]
    needs_network: bool = False
    voxels: int = 0
    """Voxels the task is responsible for."""


class Done(NamedTuple):
    """A finished task."""

    result: Any
    seconds: float


class Source(Protocol):
    """Gives tasks as they become possible, and learns what came of them."""

    def next(self) -> Task | None:
        """A task that can start now, or None if there is none (yet)."""

    def done(self, task: Task, result: Any) -> None:
        """A task has finished."""


class Executor(Protocol):
    """Runs tasks: one after another, or on a cluster."""

    def run(self, source: Source) -> Iterator[tuple[Task, Any]]:
        """Run all tasks of a source, and give their results as they come.

        The first failure ends the run and is raised.
        """


def perform(task: Task, network: Callable[[], Network]) -> Done:
    """Run one task where it is, and time it."""
    began = time.perf_counter()
    front = (network(),) if task.needs_network else ()
    result = task.function(*front, *task.item)
    return Done(result, time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Each:
    """A source of independent tasks."""

    tasks: Iterator[Task]

    def next(self) -> Task | None:
        """The next task."""
        return next(self.tasks, None)

    def done(self, task: Task, result: Any) -> None:
        """Nothing waits for it."""


def predict_tile(network: Network, job: Job, index: Index) -> bool:
    """PREDICT as a task."""
    return predict(job, network, index)


@dataclass(slots=True)
class PredictThenCluster:
    """PREDICT every tile, and CLUSTER each one as soon as all predictions it reads are there.

    Clustering comes first when both are possible, so that it keeps up with the network.
    """

    job: Job
    skipped: int = 0
    """Prediction tiles that were all background."""
    _todo: Iterator[Index] = field(init=False)
    _ready: deque[Index] = field(init=False, default_factory=deque)
    _predicted: np.ndarray[Any, np.dtype[np.bool_]] = field(init=False)
    _queued: np.ndarray[Any, np.dtype[np.bool_]] = field(init=False)

    def __post_init__(self) -> None:
        self._todo = iter(self.job.prediction)
        self._predicted = np.zeros(self.job.prediction.counts, dtype=np.bool_)
        self._queued = np.zeros(self.job.clustering().counts, dtype=np.bool_)

    def next(self) -> Task | None:
        """A tile to cluster, or else a tile to predict."""
        if self._ready:
            return cluster_task(self.job, self._ready.popleft(), 0)
        index = next(self._todo, None)
        if index is None:
            return None
        voxels = self.job.prediction.tile(index).core.size
        return Task("predict", predict_tile, (self.job, index), True, voxels)

    def done(self, task: Task, result: Any) -> None:
        """Note a prediction, and queue the tiles it completes."""
        if task.stage != "predict":
            return
        self.skipped += not result
        index = task.item[1]
        self._predicted[index] = True
        grid = self.job.clustering()
        reading = self.job.prediction.tile(index).core.grow(grid.margin)
        for tile in grid.touching(reading.clip(self.job.shape)):
            if not self._queued[tile] and self._complete(tile):
                self._queued[tile] = True
                self._ready.append(tile)

    def _complete(self, tile: Index) -> bool:
        region = self.job.clustering().tile(tile).region
        needed = tuple(slice(a, b) for a, b in self.job.prediction.span(region))
        return bool(self._predicted[needed].all())


def cluster_task(job: Job, index: Index, level: int) -> Task:
    """CLUSTER of one tile at a level of its halo."""
    voxels = job.clustering().tile(index).core.size
    return Task("cluster", cluster, (job, index, level), False, voxels)
