"""The layer between a source of tasks and the executor: the journal, and failures.

A task that the journal knows is not repeated. A task that fails does not end the run: the others
are finished, and then the run reports what is missing. A later run executes only that.

The executors of this process are here, too: the serial twins of `embedseg_large.runs.dask`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from embedseg_large.errors import EmbedSegError, RunError
from embedseg_large.runs.devices import THREADS_BESIDE_GPU
from embedseg_large.runs.events import AttemptFailed, Event, Recalled, TaskDone, TaskFailed
from embedseg_large.runs.journal import Journal, Section
from embedseg_large.runs.progress import Progress
from embedseg_large.runs.tasks import Done, Executor, Failed, Task, TaskQueue, TaskSource, perform

MANY = 20
"""Number of failures that end a run at once, if fewer tasks than that were finished."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class TaskRunner:
    """Runs tasks on an executor, and records them in a journal."""

    executor: Executor
    journal: Journal | Section | None
    """None: nothing is recorded."""
    progress: Progress

    def within(self, section: str) -> TaskRunner:
        """The same, for tasks whose ledgers have a separate section of the journal."""
        if not section or not isinstance(self.journal, Journal):
            return self
        return replace(self, journal=Section(self.journal, section))

    def run(self, source: TaskSource) -> None:
        """Run the unfinished tasks of a source; see `Runner`."""
        work = _Noted(source, self.journal, self.progress)
        try:
            self.executor.run(work)
        finally:
            if self.journal is not None:
                self.journal.flush()
        if work.failures:
            raise failure(work.failures, noted=self.journal is not None, is_all=True)


@dataclass(slots=True)
class _Noted:
    """The tasks of a source that the journal does not know."""

    source: TaskSource
    journal: Journal | Section | None
    progress: Progress
    failures: list[tuple[Task, Failed]] = field(default_factory=list)
    _done: int = 0

    def next(self) -> Task | None:
        """The next task that is not done."""
        while (task := self.source.next()) is not None:
            note = None
            if self.journal is not None and task.ledger:
                note = self.journal.find(task.ledger, task.number)
            if note is None:
                return task
            self.progress.recall(Recalled(**self._about(task)))
            self.source.done(task, task.recalled(note))
        return None

    def finished(self, task: Task, outcome: Done | Failed) -> None:
        """Record a result, or keep a failure for later."""
        about = self._about(task) | {"where": task.call.where, "worker": outcome.worker}
        for number, text in enumerate(outcome.tracebacks, 1):
            self.progress.tell(AttemptFailed(attempt=number, traceback=text, **about))
        if isinstance(outcome, Failed):
            self.progress.tell(TaskFailed(error=str(outcome.error), **about))
            self._failed(task, outcome)
            return
        self._done += 1
        voxels, seconds = task.call.voxels, round(outcome.seconds, 4)
        self.progress.advance(TaskDone(voxels=voxels, seconds=seconds, **about))
        if self.journal is not None and task.ledger:
            self.journal.note(task.ledger, task.number, task.noted(outcome.result))
        self.source.done(task, outcome.result)

    def tell(self, event: Event) -> None:
        """Pass it on."""
        self.progress.tell(event)

    def _about(self, task: Task) -> dict[str, Any]:
        """Return the identification of the task, for events."""
        section = self.journal.name if isinstance(self.journal, Section) else ""
        return {"stage": task.stage, "section": section, "tile": task.index}

    def _failed(self, task: Task, outcome: Failed) -> None:
        if outcome.is_fatal:
            raise outcome.error
        self.failures.append((task, outcome))
        if len(self.failures) >= max(MANY, self._done):
            raise failure(self.failures, noted=self.journal is not None, is_all=False)


def failure(failures: list[tuple[Task, Failed]], *, noted: bool, is_all: bool) -> EmbedSegError:
    """One error that summarises all, of their class if they share one.

    Parameters
    ----------
    failures
        What failed.
    noted
        Whether the same command resumes.
    is_all
        Whether all other tasks are finished, rather than given up.
    """
    kinds = {type(failed.error) for _, failed in failures}
    kind = kinds.pop() if len(kinds) == 1 else RunError
    told = [_told(task, failed) for task, failed in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        told.append(f"and {len(failures) - _SHOWN} more")
    if noted:
        rest = "All other tasks are finished" if is_all else "So many failures end a run"
        told[-1] += f". {rest}. Fix the cause and rerun the same command to resume"
    return kind("; ".join(told))


def _told(task: Task, failed: Failed) -> str:
    place = f"{task.stage} of {task.call.where}" if task.call.where else task.stage
    return f"{place}: {failed.error}"


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
    """Runs tasks side by side in this process.

    Beside a GPU, where one at a time is on it::

        tile 1   read  NETWORK          write
        tile 2         read     NETWORK          write
        tile 3                  read     NETWORK          write

    On a CPU, the passes of all tiles share its cores.

    For the journal and observers, tasks end in the order in which they were given, so every run
    reports the same. Tasks behind a slow one continue meanwhile, for one more round.
    """

    threads: int = THREADS_BESIDE_GPU
    entered: Callable[[Any], AbstractContextManager[Any]] = nullcontext
    """Returns the context that gives tasks the network; leaving it ends pending work."""

    def run(self, work: TaskQueue) -> None:
        """Run all tasks; if the run fails, running tasks finish first."""
        running: Running = deque()
        with (
            ThreadPoolExecutor(self.threads, "task") as pool,
            self.entered(self.network) as network,
        ):

            def start(task: Task) -> Future[Done | Failed]:
                return pool.submit(perform, task.call, lambda: network)

            try:
                self._fill(work, start, running)
                while running:
                    task, future = running.popleft()
                    work.finished(task, future.result())
                    self._fill(work, start, running)
            finally:
                for _, future in running:
                    future.cancel()

    def _fill(
        self, work: TaskQueue, start: Callable[[Task], Future[Done | Failed]], running: Running
    ) -> None:
        while len(running) < 2 * self.threads and (task := work.next()) is not None:
            running.append((task, start(task)))
