"""The serial twin: the same tasks in this process, without Dask."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

from embedseg_large.runs.devices import THREADS_BESIDE_GPU
from embedseg_large.runs.tasks import Done, Failed, Task, Work, perform

Running: TypeAlias = deque[tuple[Task, Future[Done | Failed]]]
"""Tasks under way, the oldest first."""


@dataclass(frozen=True, slots=True)
class SerialExecutor:
    """Runs tasks one after another in this process; on a CPU the network has all of its cores."""

    network: Any = None
    """None where no task needs one."""

    def run(self, work: Work) -> None:
        """Do all tasks."""
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

    Tasks end, for the journal and whoever looks on, in the order in which they were given, so that
    a run tells the same each time. Those behind a slow one go on meanwhile, for one more round.
    """

    threads: int = THREADS_BESIDE_GPU

    def run(self, work: Work) -> None:
        """Do all tasks; when the run fails, those that are under way end first."""
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

    def _fill(self, work: Work, pool: ThreadPoolExecutor, running: Running) -> None:
        while len(running) < 2 * self.threads and (task := work.next()) is not None:
            running.append((task, pool.submit(perform, task.call, self._needed_network)))
