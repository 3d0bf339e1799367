"""Tasks, where they come from, and what comes of them."""

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
"""How often a task is tried before it counts as failed."""
PAUSE_SECONDS = 0.1
"""Before the second attempt; four times as long before each further one."""

_HOPELESS = (UsageError, ModelError, OutputError, UnreachableError, RunError)
"""What another attempt would not mend."""

logger = logging.getLogger(__name__)


class Call(NamedTuple):
    """The part of a task that travels to a worker."""

    function: Callable[..., Any]
    """Picklable; called as ``function(*item)``, with the network in front where it is needed."""
    item: tuple[Any, ...]
    needs_network: bool = False
    where: str = ""
    """The region it works on, for messages."""
    voxels: int = 0
    """Voxels it is responsible for."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One call of a stage; made when it must be done, not when a journal knows its result."""

    stage: str
    """predict, cluster, ... : names the stage in progress bars and tables."""
    make: Callable[[], Call]
    index: tuple[int, ...] | None = None
    """The tile, of stages that have tiles."""
    ledger: str = ""
    """Where the journal notes its result; empty: nowhere, it is done again."""
    number: int = 0
    """Of the task in its ledger."""
    noted: Callable[[Any], Note] = lambda result: (int(result), None)
    """What is noted of a result."""
    recalled: Callable[[Note], Any] = lambda note: note[0]
    """The result, from what was noted."""

    @cached_property
    def call(self) -> Call:
        """What is to be done."""
        return self.make()


class Done(NamedTuple):
    """A finished task."""

    result: Any
    seconds: float
    worker: str = ""
    """Name of who did it; empty: the process that asked for it."""
    tracebacks: tuple[str, ...] = ()
    """Of attempts that failed, before the one that did not."""


class Failed(NamedTuple):
    """A task that could not be done; picklable, whatever went wrong."""

    error: EmbedSegError
    is_hopeless: bool = False
    """Whether other tasks would fail as this one did: the run ends at once."""
    worker: str = ""
    """As of `Done`."""
    tracebacks: tuple[str, ...] = ()
    """Of all attempts that raised."""


class Source(Protocol):
    """Gives tasks as they become possible, and learns what came of them."""

    def next(self) -> Task | None:
        """A task that can start now, or None if there is none (yet)."""

    def done(self, task: Task, result: Any) -> None:
        """A task has finished."""


class Work(Protocol):
    """What an executor works off; made from a `Source` by `embedseg_large.runs.runner`."""

    def next(self) -> Task | None:
        """A task that can start now, or None if there is none (yet)."""

    def finished(self, task: Task, outcome: Done | Failed) -> None:
        """A task has ended. Raises if the run should end, too."""

    def tell(self, event: Event) -> None:
        """Something happened that concerns no single task."""


class Executor(Protocol):
    """Runs tasks: one after another, or on a cluster."""

    def run(self, work: Work) -> None:
        """Do all tasks."""


class Recording(Protocol):
    """Does all tasks of a source; what stages are given."""

    @property
    def progress(self) -> Progress:
        """Is told of the work."""

    def run(self, source: Source) -> None:
        """Do what is not done yet.

        Raises
        ------
        EmbedSegError
            When tasks failed, after all others were done.
        """


def perform(call: Call, network: Callable[[], Any]) -> Done | Failed:
    """Do one call where it is, if need be again, and time it."""
    began = time.perf_counter()
    tracebacks: tuple[str, ...] = ()
    for attempt in range(ATTEMPTS):
        try:
            front = (network(),) if call.needs_network else ()
            result = call.function(*front, *call.item)
            return Done(result, time.perf_counter() - began, tracebacks=tracebacks)
        except Exception as error:
            tracebacks += (traceback.format_exc(),)
            failed = Failed(_plain(error), isinstance(error, _HOPELESS), tracebacks=tracebacks)
            logger.debug("attempt %d failed:\n%s", attempt + 1, tracebacks[-1])
        if failed.is_hopeless:
            break
        if attempt + 1 < ATTEMPTS:
            time.sleep(PAUSE_SECONDS * 4**attempt)
    return failed


def _plain(error: Exception) -> EmbedSegError:
    """An error of this package without the chain behind it, which may not travel."""
    if isinstance(error, EmbedSegError):
        return type(error)(str(error))
    return RunError(f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class Each:
    """A source of independent tasks."""

    tasks: Iterator[Task]
    note: Callable[[Task, Any], None] = lambda task, result: None  # noqa: ARG005
    """Is told of each result, in the order in which they come."""

    def next(self) -> Task | None:
        """The next task."""
        return next(self.tasks, None)

    def done(self, task: Task, result: Any) -> None:
        """Pass the result on."""
        self.note(task, result)
