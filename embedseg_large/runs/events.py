"""What happens in a run, as values: what bars, the log, and whoever else looks on are told.

::

    Event
    ├── RunBegun, Planned, Published, RunFailed      the run
    ├── StageBegun, StageEnded                       a stage; it may begin and end several times
    ├── WorkersGone, WorkersBack                     the cluster; the run waits in between
    └── TaskEvent                                    a task
        ├── Recalled                                 an earlier attempt of the run has done it
        ├── TaskDone
        ├── AttemptFailed                            it is tried again, unless TaskFailed follows
        └── TaskFailed
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; the base of all."""

    name: ClassVar[str] = ""
    """What, in the log."""
    level: ClassVar[int] = logging.INFO
    """How much it matters, as in `logging`."""

    def as_dict(self) -> dict[str, Any]:
        """The fields that say something, as values that JSON can hold."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value not in (None, "", {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBegun(Event):
    """A process has begun a run, or goes on with one."""

    name: ClassVar[str] = "run begins"

    labels: str
    """What it will write, without credentials."""
    run: str
    """Name of the run, of all its attempts."""
    resumed: bool
    """Whether an earlier attempt has begun it."""
    token: str
    """Hash of `facts`."""
    facts: Mapping[str, Any]
    """All that decides the labels: settings, model, volume, versions."""
    host: str
    process: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Event):
    """What stages will begin with from now on, if no tile disagrees with another."""

    name: ClassVar[str] = "planned"

    tasks: Mapping[str, int]
    """By stage, of this timepoint and all that follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Event):
    """The labels are in their place."""

    name: ClassVar[str] = "published"

    labels: str
    instances: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(Event):
    """The run has ended without labels; what was done is kept."""

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
    """That many more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnded(Event):
    """A stage has nothing to do, for now. Sums are over all times that it began."""

    name: ClassVar[str] = "stage ends"

    stage: str
    tasks: int
    recalled: int
    """Of these, done in an earlier attempt."""
    voxels: int
    """Of tasks done in this attempt."""
    seconds: float
    """The same, inside tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersGone(Event):
    """The cluster has no workers any more, and the run waits for some to come."""

    name: ClassVar[str] = "waiting for workers"
    level: ClassVar[int] = logging.WARNING


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersBack(Event):
    """The cluster has workers again, and the run goes on."""

    name: ClassVar[str] = "workers are back"

    threads: int
    """Tasks that they do at a time."""
    seconds: float
    """For which there were none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent(Event):
    """Something that happened to a task."""

    stage: str
    section: str = ""
    """Timepoint of a series, as it names files and ledgers: ``t00003``."""
    tile: tuple[int, ...] | None = None
    """Place in the stage's grid, for stages that have tiles."""
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
    """A task raised as often as it is tried, or killed its workers: the run will fail."""

    name: ClassVar[str] = "task failed"
    level: ClassVar[int] = logging.ERROR

    worker: str
    error: str
