"""The serial twin: the same tasks in this process, without Dask."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

from embedseg_large.runs.devices import THREADS_BESIDE_GPU
from embedseg_large.runs.tasks import Done, Failed, Task, TaskQueue, perform

Running: TypeAlias = deque[tuple[Task, Future[Done | Failed]]]
"""Running tasks, oldest first."""


@dataclass(frozen=True, slots=True)
class SerialExecutor:
    """Runs tasks one after another in this process; on a CPU the network has all of its cores."""

    network: Any = None
    """None if no task needs one."""

    def run(self, work: TaskQueue) -> None:
        """Run all tasks."""
        while (task := work.next()) is not None:
            work.finished(task, perform(task.call, self._needed_network))

    def _needed_network(self) -> Any:
        assert self.network is not None
        return self.network


@dataclass(frozen=True, slots=True)
class OverlappingExecutor(SerialExecutor):
    """Runs tasks side by side in this process, which has a GPU; one at a time is on the GPU.

    ::

        tile 1   read  NETWORK          write
        tile 2         read     NETWORK          write
        tile 3                  read     NETWORK          write

    For the journal and observers, tasks end in the order in which they were given, so every run
    reports the same. Tasks behind a slow one continue meanwhile, for one more round.
    """

    threads: int = THREADS_BESIDE_GPU

    def run(self, work: TaskQueue) -> None:
        """Run all tasks; if the run fails, running tasks finish first."""
        running: Running = deque()
        with ThreadPoolExecutor(self.threads, "task") as pool:
            try:
                self._fill(work, pool, running)
                while running:
                    task, future = running.popleft()
                    work.finished(task, future.result())
                    self._fill(work, pool, running)
            finally:
                for _, future in running:
                    future.cancel()

    def _fill(self, work: TaskQueue, pool: ThreadPoolExecutor, running: Running) -> None:
        while len(running) < 2 * self.threads and (task := work.next()) is not None:
            running.append((task, pool.submit(perform, task.call, self._needed_network)))
