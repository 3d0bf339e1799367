"""The Dask twin: the same tasks on the workers of a `distributed` cluster.

A bounded number of tasks is in flight, so scheduler and client hold few futures for any number of
tiles. Only records travel; voxels go from store to worker to store. Tasks that take a few
milliseconds travel several at a time (`embedseg_large.runs.dask.batching`).

Tasks that were on a worker when it was killed are suspects: when nothing else is left to do, each
is retried alone on the whole cluster, so that none is blamed for another.

A prediction task requests a share of its worker's GPU, so several run there concurrently. One of
them is on the GPU at a time (`embedseg_large.runs.dask.plugin`); the others read and write.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from uuid import uuid4

from distributed import Client, Future, KilledWorker, as_completed

from embedseg_large.errors import RunError
from embedseg_large.runs.dask.batching import Bundle, StagePace
from embedseg_large.runs.dask.monitor import COUNT_SECONDS, LOST, Workforce, lost_scheduler
from embedseg_large.runs.dask.plugin import NetworkPlugin, perform_on_worker
from embedseg_large.runs.devices import TASKS_PER_GPU, is_gpu
from embedseg_large.runs.resources import ResourceSpec
from embedseg_large.runs.tasks import Done, Failed, Task, TaskQueue

BUNDLES_PER_THREAD = 2
"""Tasks in flight per thread of a worker: one runs, one waits."""
END_SECONDS = 60
"""Seconds that running tasks may take to finish after their run has failed."""
END_PAUSE = 0.5
"""Seconds between two questions to all workers, of which there may be hundreds."""

Outcomes: TypeAlias = list[Done | Failed]
Result = TypeVar("Result")
Awaited: TypeAlias = Coroutine[Any, Any, Result]


@dataclass(slots=True)
class _Flight:
    """The bundles that have been submitted."""

    finished: as_completed
    running: dict[Future[Outcomes], list[Task]] = field(default_factory=dict)
    suspects: deque[Task] = field(default_factory=deque)
    alone: bool = False
    """Whether a suspect is running, alone on the cluster."""


class DaskExecutor:
    """Runs tasks on a cluster."""

    def __init__(self, client: Client, spec: ResourceSpec) -> None:
        self._client = client
        self._workforce = Workforce(client)
        self._pace = StagePace()
        self._key = f"embedseg-large-{uuid4().hex}"
        self._resources = {"GPU": 1 / TASKS_PER_GPU} if is_gpu(spec.device) else None
        client.register_plugin(NetworkPlugin(self._key, spec))

    def close(self) -> None:
        """Remove the network from the workers."""
        with suppress(*LOST):
            self._client.unregister_worker_plugin(self._key)

    def run(self, work: TaskQueue) -> None:
        """Execute all tasks, a few at a time."""
        flight = _Flight(as_completed(loop=self._client.loop))
        try:
            self._fill(work, flight)
            while flight.running or flight.suspects:
                flight.alone = not flight.running
                if flight.alone:
                    self._start([[flight.suspects.popleft()]], flight)
                for future, outcomes in self._next(work, flight.finished):
                    self._settle(work, flight.running.pop(future), outcomes, flight)
                self._workforce.look(work.tell)
                self._fill(work, flight)
        finally:
            self._end(flight.running)

    def _settle(
        self, work: TaskQueue, tasks: list[Task], outcomes: Outcomes | KilledWorker, flight: _Flight
    ) -> None:
        """Pass on the results of tasks."""
        if isinstance(outcomes, KilledWorker):
            if not flight.alone:
                flight.suspects.extend(tasks)
                return
            outcomes = [_killed(outcomes)]
        for task, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, Done):
                self._pace.learn(task.stage, outcome.seconds)
            work.finished(task, outcome)

    def _next(
        self, work: TaskQueue, finished: as_completed
    ) -> Iterator[tuple[Future[Outcomes], Outcomes | KilledWorker]]:
        """Wait for bundles to end, and fetch their results: many at once with many workers."""
        futures = self._patiently(work, _ended(finished))
        found: Sequence[Outcomes | KilledWorker]
        try:
            found = self._patiently(work, self._gather(futures))
        except KilledWorker:
            found = [self._outcomes(work, future) for future in futures]
        yield from zip(futures, found, strict=True)

    def _outcomes(self, work: TaskQueue, future: Future[Outcomes]) -> Outcomes | KilledWorker:
        """The result of a bundle, or of the loss of its worker."""
        try:
            (outcomes,) = self._patiently(work, self._gather([future]))
        except KilledWorker as error:
            return error
        return outcomes

    def _gather(self, futures: list[Future[Outcomes]]) -> Awaited[list[Outcomes]]:
        """Fetch results; those that left with their workers are computed again."""
        gathered: Awaited[list[Outcomes]] = self._client.gather(futures, asynchronous=True)
        return gathered

    def _patiently(self, work: TaskQueue, awaited: Awaited[Result]) -> Result:
        """Wait for the cluster, and report while it has no workers."""
        loop: Any = self._client.loop  # tornado's, whose annotation hides the one of asyncio
        waiting = asyncio.run_coroutine_threadsafe(awaited, loop.asyncio_loop)
        try:
            while not wait([waiting], COUNT_SECONDS).done:
                self._workforce.look(work.tell)
            with lost_scheduler():
                return waiting.result()
        finally:
            waiting.cancel()  # no effect, unless this was interrupted

    def _end(self, running: dict[Future[Outcomes], list[Task]]) -> None:
        """Cancel waiting tasks, and wait for running ones, which must not write after the end."""
        if not running:
            return
        keys = {future.key for future in running}
        with suppress(*LOST):
            self._client.cancel(list(running))
            deadline = time.monotonic() + END_SECONDS
            while (left := deadline - time.monotonic()) > 0 and keys & self._active(left):
                time.sleep(min(END_PAUSE, left))

    def _active(self, seconds: float) -> set[str]:
        """Keys of the tasks that workers are computing; none if one does not answer in time."""

        def active(dask_worker: Any) -> list[str]:
            return list(dask_worker.active_threads.values())

        async def ask() -> Any:
            return await self._client.run(active)

        try:
            found = self._client.sync(ask, callback_timeout=seconds)
        except TimeoutError:
            return set()
        return {key for keys in found.values() for key in keys}

    def _fill(self, work: TaskQueue, flight: _Flight) -> None:
        """Submit enough tasks to keep all workers busy."""
        free = BUNDLES_PER_THREAD * self._workforce.size - len(flight.running)
        if free > 0:
            self._start(self._bundles(work, free), flight)

    def _bundles(self, work: TaskQueue, count: int) -> list[list[Task]]:
        """The next tasks, in this many bundles, or one more if the last task fits into none."""
        bundles: list[list[Task]] = []
        while len(bundles) <= count and (task := work.next()) is not None:
            if bundles and self._pace.takes(bundles[-1], task):
                bundles[-1].append(task)
            else:
                bundles.append([task])
            if len(bundles) == count and self._pace.fills(bundles[-1]):
                break
        return bundles

    def _start(self, bundles: list[list[Task]], flight: _Flight) -> None:
        for needs_network in (False, True):
            chosen = [tasks for tasks in bundles if tasks[0].call.needs_network == needs_network]
            with lost_scheduler():
                futures = self._submit(chosen, self._resources if needs_network else None)
                flight.finished.update(futures)
            flight.running.update(zip(futures, chosen, strict=True))

    def _submit(
        self, bundles: list[list[Task]], resources: dict[str, float] | None
    ) -> list[Future[Outcomes]]:
        if not bundles:
            return []
        futures: list[Future[Outcomes]] = self._client.map(
            perform_on_worker,
            [Bundle(tuple(task.call for task in tasks)) for tasks in bundles],
            plugin=self._key,
            key=[f"{tasks[0].stage}-{uuid4().hex}" for tasks in bundles],
            resources=resources,
            pure=False,
        )
        return futures


def _killed(error: KilledWorker) -> Failed:
    return Failed(
        RunError(
            "its worker was killed repeatedly, most likely because it ran out of memory; give "
            "workers more memory, or use smaller tiles (--tile, --cluster-tile)"
        ),
        worker=str(error.last_worker.name),
    )


@contextmanager
def executor_on(client: Client, spec: ResourceSpec) -> Iterator[DaskExecutor]:
    """An executor, which removes the network from the workers at the end."""
    executor = DaskExecutor(client, spec)
    try:
        yield executor
    finally:
        executor.close()


async def _ended(finished: as_completed) -> list[Future[Outcomes]]:
    """Bundles that have ended: one at least."""
    return [await anext(finished), *finished.next_batch(block=False)]
