"""Events of a run, as values for progress bars, the log, and other observers.

::

    Event
    ├── RunBegun, Planned, Published, RunFailed      the run
    ├── StageBegun, StageEnded                       a stage; it may begin and end several times
    ├── WorkersGone, WorkersBack                     the cluster; the run waits in between
    └── TaskEvent                                    a task
        ├── Recalled                                 done by an earlier attempt of the run
        ├── TaskDone
        ├── AttemptFailed                            it is retried, unless TaskFailed follows
        └── TaskFailed
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event; the base of all."""

    name: ClassVar[str] = ""
    """Name in the log."""
    level: ClassVar[int] = logging.INFO
    """Level, as in `logging`."""

    def as_dict(self) -> dict[str, Any]:
        """The fields with content, as values that JSON can hold."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value not in (None, "", {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBegun(Event):
    """A process has started or resumed a run."""

    name: ClassVar[str] = "run begins"

    labels: str
    """Its output, without credentials."""
    run: str
    """Name of the run, common to all its attempts."""
    resumed: bool
    """Whether an earlier attempt has started it."""
    token: str
    """Hash of `facts`."""
    facts: Mapping[str, Any]
    """Everything that determines the labels: settings, model, volume, versions."""
    host: str
    process: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Event):
    """Tasks of the stages from now on, if no tile disagrees with another."""

    name: ClassVar[str] = "planned"

    tasks: Mapping[str, int]
    """Number of tasks by stage, for this timepoint and all later ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Event):
    """The labels are published."""

    name: ClassVar[str] = "published"

    labels: str
    instances: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(Event):
    """The run has ended without labels; finished work is kept."""

    name: ClassVar[str] = "run failed"
    level: ClassVar[int] = logging.ERROR

    error: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBegun(Event):
    """A stage has more to do."""

    name: ClassVar[str] = "stage begins"

    stage: str
    tasks: int
    """Number of additional tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnded(Event):
    """A stage has nothing to do for now. Sums include all its earlier periods."""

    name: ClassVar[str] = "stage ends"

    stage: str
    tasks: int
    recalled: int
    """Of these, done in an earlier attempt."""
    voxels: int
    """Voxels of tasks done in this attempt."""
    seconds: float
    """The same, inside tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersGone(Event):
    """The cluster has no workers, and the run waits for some."""

    name: ClassVar[str] = "waiting for workers"
    level: ClassVar[int] = logging.WARNING


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersBack(Event):
    """The cluster has workers again, and the run continues."""

    name: ClassVar[str] = "workers are back"

    threads: int
    """Number of tasks that they run at a time."""
    seconds: float
    """Seconds without workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent(Event):
    """An event of a task."""

    stage: str
    section: str = ""
    """Timepoint of a series, as it names files and ledgers: ``t00003``."""
    tile: tuple[int, ...] | None = None
    """Index in the stage's grid, for stages with tiles."""
    where: str = ""
    """Region in voxels, in words: ``tile [0:64, 64:128, 0:64]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled(TaskEvent):
    """An earlier attempt of the run has done a task."""

    name: ClassVar[str] = "recalled"
    level: ClassVar[int] = logging.DEBUG


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDone(TaskEvent):
    """A task is done."""

    name: ClassVar[str] = "task done"

    worker: str
    """Name of the worker; empty: this process."""
    seconds: float
    voxels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(TaskEvent):
    """A task raised."""

    name: ClassVar[str] = "attempt failed"
    level: ClassVar[int] = logging.WARNING

    worker: str
    attempt: int
    """From 1."""
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(TaskEvent):
    """A task failed in all attempts, or killed its workers: the run will fail."""

    name: ClassVar[str] = "task failed"
    level: ClassVar[int] = logging.ERROR

    worker: str
    error: str
