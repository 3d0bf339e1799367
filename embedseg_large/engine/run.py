"""The Dask twin: the same tasks on the workers of a `distributed` cluster.

A bounded number of tasks is in flight, so that the scheduler and the client hold a few futures
however many tiles there are. Only records travel; voxels go from store to worker to store.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from math import inf
from uuid import uuid4

from distributed import Client, Future, KilledWorker, LocalCluster, as_completed

from embedseg_large.engine.tasks import Done, Failed, Task, Work
from embedseg_large.engine.workers import NetworkPlugin, NetworkSpec, perform_on_worker
from embedseg_large.errors import RunError, UsageError

TASKS_PER_WORKER = 2
"""Tasks in flight a worker thread: one runs, one waits."""
CONNECT_SECONDS = 10
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
        self._resources = {"GPU": 1} if _offers_gpu(client, spec.device) else None
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
                with _lost_scheduler():
                    future = next(finished)
                outcome = _outcome(future)
                work.finished(running.pop(future), outcome)
                self._fill(work, running, finished)
        finally:
            self._end(running)

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
        while len(running) < TASKS_PER_WORKER * self.workers:
            task = work.next()
            if task is None:
                return
            with _lost_scheduler():
                future = self._submit(task)
                finished.add(future)
            running[future] = task

    def _submit(self, task: Task) -> Future[Done | Failed]:
        return self._client.submit(
            perform_on_worker,
            task.call,
            self._key,
            key=f"{task.stage}-{uuid4().hex}",
            resources=self._resources if task.call.needs_network else None,
            pure=False,
        )


def _outcome(future: Future[Done | Failed]) -> Done | Failed:
    """What came of a task, or of the worker that it was sent to.

    Raises
    ------
    RunError
        When the scheduler is gone.
    """
    with _lost_scheduler():
        try:
            outcome: Done | Failed = future.result()
        except KilledWorker:
            outcome = Failed(
                RunError(
                    "it killed its worker again and again, most likely for want of memory; give "
                    "workers more of it, or use smaller tiles (--tile, --cluster-tile)"
                )
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


def _offers_gpu(client: Client, device: str) -> bool:
    """Whether GPU workers are wanted and there.

    Raises
    ------
    UsageError
        When the network is to run on GPUs and no worker offers one: its tasks would wait for ever.
    """
    if not device.startswith("cuda"):
        return False
    offers = client.run(lambda dask_worker: dask_worker.state.total_resources.get("GPU", 0))
    if not any(offers.values()):
        raise UsageError(
            f"device is {device}, but none of {len(offers)} workers offers the resource GPU; "
            'start workers with --resources "GPU=1"'
        )
    return True


@contextmanager
def local_client(workers: int, device: str = "cpu") -> Iterator[Client]:
    """A client of a new local cluster of single-threaded worker processes."""
    resources = {"GPU": 1} if device.startswith("cuda") else None
    with _interrupts_ignored():
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",  # any free port: 8787 may be taken
            resources=resources,
        )
    with cluster, Client(cluster) as client:
        yield client


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes that are started meanwhile ignore Ctrl-C, which a terminal sends to all of them.

    This process alone decides what an interrupt means; workers would each print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def remote_client(address: str) -> Iterator[Client]:
    """A client of the scheduler at an address.

    Raises
    ------
    UsageError
        When nothing answers there.
    """
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        if not client.nthreads():
            raise UsageError(f"the scheduler at {address} has no workers; start some first")
        yield client
