"""Tasks, their sources, and their results."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from embedseg_large.errors import (
    EmbedSegError,
    ModelError,
    OutputError,
    RunError,
    UnreachableError,
    UsageError,
)
from embedseg_large.runs.events import Event
from embedseg_large.runs.journal import Note
from embedseg_large.runs.progress import Progress

ATTEMPTS = 3
"""Number of attempts before a task counts as failed."""
PAUSE_SECONDS = 0.1
"""Seconds before the second attempt; four times as long before each further one."""

_FATAL = (UsageError, ModelError, OutputError, UnreachableError, RunError)
"""Errors that a retry would not fix."""

logger = logging.getLogger(__name__)


class Call(NamedTuple):
    """The part of a task that travels to a worker."""

    function: Callable[..., Any]
    """Picklable; called as ``function(*item)``, with the network as first argument if needed."""
    item: tuple[Any, ...]
    needs_network: bool = False
    where: str = ""
    """Its region, for messages."""
    voxels: int = 0
    """Voxels it is responsible for."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One call of a stage; created only if it must run, not if the journal knows its result."""

    stage: str
    """predict, cluster, ... : name of the stage in progress bars and tables."""
    make: Callable[[], Call]
    index: tuple[int, ...] | None = None
    """The tile, for stages with tiles."""
    ledger: str = ""
    """Ledger for its result in the journal; empty: none, it is repeated."""
    number: int = 0
    """Number of the task in its ledger."""
    noted: Callable[[Any], Note] = lambda result: (int(result), None)
    """Converts a result to a journal entry."""
    recalled: Callable[[Note], Any] = lambda note: note[0]
    """Restores the result from a journal entry."""

    @cached_property
    def call(self) -> Call:
        """The call."""
        return self.make()


class Done(NamedTuple):
    """A finished task."""

    result: Any
    seconds: float
    worker: str = ""
    """Name of the worker; empty: the requesting process."""
    tracebacks: tuple[str, ...] = ()
    """Tracebacks of failed attempts before the successful one."""


class Failed(NamedTuple):
    """A failed task; picklable for any error."""

    error: EmbedSegError
    is_fatal: bool = False
    """Whether other tasks would fail in the same way: the run ends at once."""
    worker: str = ""
    """As for `Done`."""
    tracebacks: tuple[str, ...] = ()
    """Tracebacks of all failed attempts."""


class TaskSource(Protocol):
    """Yields tasks as they become possible, and receives their results."""

    def next(self) -> Task | None:
        """A task that can start now, or None if there is none (yet)."""

    def done(self, task: Task, result: Any) -> None:
        """A task has finished."""


class TaskQueue(Protocol):
    """Supplies an executor with tasks, from a `TaskSource`; see `embedseg_large.runs.runner`."""

    def next(self) -> Task | None:
        """A task that can start now, or None if there is none (yet)."""

    def finished(self, task: Task, outcome: Done | Failed) -> None:
        """Called when a task has ended. Raises if the run should end too."""

    def tell(self, event: Event) -> None:
        """Called for an event that concerns no single task."""


class Executor(Protocol):
    """Runs tasks: one after another, or on a cluster."""

    def run(self, work: TaskQueue) -> None:
        """Execute all tasks."""


class Runner(Protocol):
    """Runs all tasks of a source; passed to stages."""

    @property
    def progress(self) -> Progress:
        """Notified of the work."""

    def run(self, source: TaskSource) -> None:
        """Run all unfinished tasks.

        Raises
        ------
        EmbedSegError
            If tasks failed, after all others were finished.
        """


def perform(call: Call, network: Callable[[], Any]) -> Done | Failed:
    """Run one call in this process, with retries, and time it."""
    began = time.perf_counter()
    tracebacks: tuple[str, ...] = ()
    for attempt in range(ATTEMPTS):
        try:
            front = (network(),) if call.needs_network else ()
            result = call.function(*front, *call.item)
            return Done(result, time.perf_counter() - began, tracebacks=tracebacks)
        except Exception as error:
            tracebacks += (traceback.format_exc(),)
            failed = Failed(_plain(error), isinstance(error, _FATAL), tracebacks=tracebacks)
            logger.debug("attempt %d failed:\n%s", attempt + 1, tracebacks[-1])
        if failed.is_fatal:
            break
        if attempt + 1 < ATTEMPTS:
            time.sleep(PAUSE_SECONDS * 4**attempt)
    return failed


def _plain(error: Exception) -> EmbedSegError:
    """An error of this package without its chain, which may not be picklable."""
    if isinstance(error, EmbedSegError):
        return type(error)(str(error))
    return RunError(f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class Each:
    """A source of independent tasks."""

    tasks: Iterator[Task]
    note: Callable[[Task, Any], None] = lambda task, result: None  # noqa: ARG005
    """Called with each result, in order of arrival."""

    def next(self) -> Task | None:
        """The next task."""
        return next(self.tasks, None)

    def done(self, task: Task, result: Any) -> None:
        """Pass the result on."""
        self.note(task, result)
