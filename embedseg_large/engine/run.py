"""The Dask twin: the same tasks on the workers of a `distributed` cluster.

A bounded number of tasks is in flight, so that the scheduler and the client hold a few futures
however many tiles there are. Only records travel; voxels go from store to worker to store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from math import inf
from typing import Any
from uuid import uuid4

from distributed import Client, Future, KilledWorker, as_completed

from embedseg_large.engine.tasks import Done, Failed, Task, Work
from embedseg_large.engine.workers import NetworkPlugin, NetworkSpec, perform_on_worker
from embedseg_large.errors import RunError

TASKS_PER_WORKER = 2
"""Tasks in flight a worker thread: one runs, one waits."""
COUNT_SECONDS = 2.0
"""How often workers are counted."""
END_SECONDS = 60
"""How long tasks that are at work may take to finish when their run has failed."""

_LOST = (OSError, TimeoutError, RuntimeError, CancelledError)
"""What a client raises whose scheduler is gone."""


class DaskExecutor:
    """Runs tasks on a cluster."""

    def __init__(self, client: Client, spec: NetworkSpec) -> None:
        self._client = client
        self._threads = 0
        self._counted = -inf
        self._key = f"embedseg-large-{uuid4().hex}"
        self._resources = {"GPU": 1} if spec.device.startswith("cuda") else None
        client.register_plugin(NetworkPlugin(self._key, spec))

    @property
    def workers(self) -> int:
        """Number of tasks that run at a time; workers may come and go."""
        now = time.monotonic()
        if now - self._counted > COUNT_SECONDS:
            with _lost_scheduler():
                self._threads = sum(int(n) for n in self._client.nthreads().values())
            self._counted = now
        return max(1, self._threads)

    def close(self) -> None:
        """Take the network off the workers."""
        with suppress(*_LOST):
            self._client.unregister_worker_plugin(self._key)

    def run(self, work: Work) -> None:
        """Do all tasks, a few at a time."""
        running: dict[Future[Done | Failed], Task] = {}
        finished = as_completed(loop=self._client.loop)
        try:
            self._fill(work, running, finished)
            while running:
                for future, outcome in self._next(finished):
                    work.finished(running.pop(future), outcome)
                self._fill(work, running, finished)
        finally:
            self._end(running)

    def _next(self, finished: as_completed) -> Iterator[tuple[Future[Any], Done | Failed]]:
        """Wait for tasks to end, and fetch what came of them: of many workers, many at once."""
        with _lost_scheduler():
            futures = [next(finished), *finished.next_batch(block=False)]
            try:
                outcomes = self._client.gather(futures)
            except KilledWorker:
                outcomes = [_outcome(future) for future in futures]
        yield from zip(futures, outcomes, strict=True)

    def _end(self, running: dict[Future[Done | Failed], Task]) -> None:
        """Cancel what waits, and wait for what runs: it must not write when the run has ended."""
        if not running:
            return
        keys = {future.key for future in running}
        with suppress(*_LOST):
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
        while len(running) + len(tasks) < TASKS_PER_WORKER * self.workers:
            task = work.next()
            if task is None:
                break
            tasks.append(task)
        for needs_network in (False, True):
            chosen = [task for task in tasks if task.call.needs_network == needs_network]
            with _lost_scheduler():
                futures = self._submit(chosen, self._resources if needs_network else None)
                finished.update(futures)
            running.update(zip(futures, chosen, strict=True))

    def _submit(
        self, tasks: list[Task], resources: dict[str, int] | None
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


def _outcome(future: Future[Done | Failed]) -> Done | Failed:
    """What came of a task, or of the worker that it was sent to."""
    try:
        outcome: Done | Failed = future.result()
    except KilledWorker as error:
        return Failed(
            RunError(
                "it killed its worker again and again, most likely for want of memory; give "
                "workers more of it, or use smaller tiles (--tile, --cluster-tile)"
            ),
            worker=str(error.last_worker.name),
        )
    return outcome


@contextmanager
def _lost_scheduler() -> Iterator[None]:
    """Turn what a client raises whose scheduler is gone into one line.

    Raises
    ------
    RunError
        In place of any of these.
    """
    try:
        yield
    except _LOST as error:
        raise RunError(
            "the Dask scheduler was lost, or its tasks were cancelled; what is done is kept, "
            "the same command goes on"
        ) from error
