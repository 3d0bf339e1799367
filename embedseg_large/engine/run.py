"""The Dask twin: the same tasks on the workers of a `distributed` cluster.

A bounded number of tasks is in flight, so that the scheduler and the client hold a few futures
however many tiles there are. Only records travel; voxels go from store to worker to store.

A task of the network asks for a share of its worker's GPU, so that several are under way there. Of
these one is on the GPU at a time (`embedseg_large.engine.workers`); the others read and write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias, TypeVar
from uuid import uuid4

from distributed import Client, Future, KilledWorker, as_completed

from embedseg_large.engine.network import TASKS_PER_GPU, is_gpu
from embedseg_large.engine.tasks import Done, Failed, Task, Work
from embedseg_large.engine.workers import NetworkPlugin, NetworkSpec, perform_on_worker
from embedseg_large.engine.workforce import COUNT_SECONDS, LOST, Workforce, lost_scheduler
from embedseg_large.errors import RunError

TASKS_PER_WORKER = 2
"""Tasks in flight a worker thread: one runs, one waits."""
END_SECONDS = 60
"""How long tasks that are at work may take to finish when their run has failed."""

Result = TypeVar("Result")
Awaited: TypeAlias = Coroutine[Any, Any, Result]


class DaskExecutor:
    """Runs tasks on a cluster."""

    def __init__(self, client: Client, spec: NetworkSpec) -> None:
        self._client = client
        self._workforce = Workforce(client)
        self._key = f"embedseg-large-{uuid4().hex}"
        self._resources = {"GPU": 1 / TASKS_PER_GPU} if is_gpu(spec.device) else None
        client.register_plugin(NetworkPlugin(self._key, spec))

    def close(self) -> None:
        """Take the network off the workers."""
        with suppress(*LOST):
            self._client.unregister_worker_plugin(self._key)

    def run(self, work: Work) -> None:
        """Do all tasks, a few at a time."""
        running: dict[Future[Done | Failed], Task] = {}
        finished = as_completed(loop=self._client.loop)
        try:
            self._fill(work, running, finished)
            while running:
                for future, outcome in self._next(work, finished):
                    work.finished(running.pop(future), outcome)
                self._workforce.look(work.tell)
                self._fill(work, running, finished)
        finally:
            self._end(running)

    def _next(
        self, work: Work, finished: as_completed
    ) -> Iterator[tuple[Future[Any], Done | Failed]]:
        """Wait for tasks to end, and fetch what came of them: of many workers, many at once."""
        futures = self._patiently(work, _ended(finished))
        try:
            outcomes = self._patiently(work, self._gather(futures))
        except KilledWorker:
            outcomes = [self._outcome(work, future) for future in futures]
        yield from zip(futures, outcomes, strict=True)

    def _outcome(self, work: Work, future: Future[Done | Failed]) -> Done | Failed:
        """What came of a task, or of the worker that it was sent to."""
        try:
            (outcome,) = self._patiently(work, self._gather([future]))
        except KilledWorker as error:
            return Failed(
                RunError(
                    "it killed its worker again and again, most likely for want of memory; give "
                    "workers more of it, or use smaller tiles (--tile, --cluster-tile)"
                ),
                worker=str(error.last_worker.name),
            )
        return outcome

    def _gather(self, futures: list[Future[Done | Failed]]) -> Awaited[list[Done | Failed]]:
        """Fetch results; those that left with their workers are computed again."""
        gathered: Awaited[list[Done | Failed]] = self._client.gather(futures, asynchronous=True)
        return gathered

    def _patiently(self, work: Work, awaited: Awaited[Result]) -> Result:
        """Wait for something of the cluster, and say so while it has no workers."""
        loop: Any = self._client.loop  # tornado's, whose annotation hides the one of asyncio
        waiting = asyncio.run_coroutine_threadsafe(awaited, loop.asyncio_loop)
        try:
            while not wait([waiting], COUNT_SECONDS).done:
                self._workforce.look(work.tell)
            with lost_scheduler():
                return waiting.result()
        finally:
            waiting.cancel()  # of no effect, unless this was interrupted

    def _end(self, running: dict[Future[Done | Failed], Task]) -> None:
        """Cancel what waits, and wait for what runs: it must not write when the run has ended."""
        if not running:
            return
        keys = {future.key for future in running}
        with suppress(*LOST):
            self._client.cancel(list(running))
            deadline = time.monotonic() + END_SECONDS
            while time.monotonic() < deadline and keys & self._active():
                time.sleep(0.05)

    def _active(self) -> set[str]:
        """Keys of the tasks that workers are computing at this moment."""
        found = self._client.run(lambda dask_worker: list(dask_worker.active_threads.values()))
        return {key for keys in found.values() for key in keys}

    def _fill(
        self, work: Work, running: dict[Future[Done | Failed], Task], finished: as_completed
    ) -> None:
        tasks: list[Task] = []
        while len(running) + len(tasks) < TASKS_PER_WORKER * self._workforce.size:
            task = work.next()
            if task is None:
                break
            tasks.append(task)
        for needs_network in (False, True):
            chosen = [task for task in tasks if task.call.needs_network == needs_network]
            with lost_scheduler():
                futures = self._submit(chosen, self._resources if needs_network else None)
                finished.update(futures)
            running.update(zip(futures, chosen, strict=True))

    def _submit(
        self, tasks: list[Task], resources: dict[str, float] | None
    ) -> list[Future[Done | Failed]]:
        if not tasks:
            return []
        futures: list[Future[Done | Failed]] = self._client.map(
            perform_on_worker,
            [task.call for task in tasks],
            plugin=self._key,
            key=[f"{task.stage}-{uuid4().hex}" for task in tasks],
            resources=resources,
            pure=False,
        )
        return futures


@contextmanager
def executor_on(client: Client, spec: NetworkSpec) -> Iterator[DaskExecutor]:
    """An executor, which takes the network off the workers at the end."""
    executor = DaskExecutor(client, spec)
    try:
        yield executor
    finally:
        executor.close()


async def _ended(finished: as_completed) -> list[Future[Done | Failed]]:
    """Tasks that have ended: one at least."""
    return [await anext(finished), *finished.next_batch(block=False)]
