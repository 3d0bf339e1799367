"""Speed of a run, and an estimate of its end.

Stages overlap: some tiles are clustered while others are still predicted. The remaining work of all
stages is measured in seconds inside tasks, and is assumed to be done at the recent pace of all
tasks together:

    time left = sum over stages (tasks left * mean seconds of its tasks) / pace
    pace      = recent seconds inside tasks per second of time: the number of busy workers

Work of earlier attempts only counts as done. A stage without finished tasks in this attempt counts
as nothing, so at first the time left is a lower bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import exp

from embedseg_large.runs.events import (
    Event,
    Planned,
    Recalled,
    StageBegun,
    TaskDone,
    TaskFailed,
    WorkersBack,
    WorkersGone,
)
from embedseg_large.runs.progress import Observer

MEMORY_SECONDS = 300.0
"""Time in which the estimate follows a change of pace, such as new workers."""


@dataclass(slots=True)
class Pace:
    """An amount per second, with exponentially decreasing weight of older seconds."""

    since: float
    """End of the counted time."""
    _amount: float = 0.0
    _seconds: float = 0.0

    def add(self, amount: float, now: float) -> None:
        """Count an amount that was done between the last call and now."""
        passed = now - self.since
        kept = exp(-passed / MEMORY_SECONDS)
        self._amount = self._amount * kept + amount
        self._seconds = self._seconds * kept + passed
        self.since = now

    def skip(self, now: float) -> None:
        """Leave out the time since the last call."""
        self.since = now

    @property
    def rate(self) -> float:
        """The amount per second; 0 if nothing is known."""
        return self._amount / self._seconds if self._seconds > 0 else 0.0


@dataclass(slots=True)
class StageForecast:
    """What is known about a stage."""

    voxels: Pace
    """Voxels per second of time, by all workers together."""
    planned: int = 0
    """Tasks that will be announced."""
    announced: int = 0
    done: int = 0
    """Tasks done in this attempt or an earlier one."""
    failed: int = 0
    _worked: int = 0
    _seconds: float = 0.0

    @property
    def total(self) -> int:
        """Tasks that it will have, as far as is known."""
        return self.planned + self.announced

    @property
    def is_active(self) -> bool:
        """Whether it has started and is not finished."""
        return self.done + self.failed < self.announced

    @property
    def work_left(self) -> float | None:
        """Seconds inside tasks; None if it is not known how long one takes."""
        left = self.total - self.done - self.failed
        if left <= 0:
            return 0.0
        return left * self._seconds / self._worked if self._worked else None

    def begin(self, tasks: int, now: float) -> None:
        """Announce more tasks; the time in which it had none does not count."""
        if not self.is_active:
            self.voxels.skip(now)
        self.announced += tasks
        self.planned = max(0, self.planned - tasks)

    def recall(self, now: float) -> None:
        """Count a task of an earlier attempt."""
        self.done += 1
        self.voxels.skip(now)

    def advance(self, task: TaskDone, now: float) -> None:
        """Count a task of this attempt."""
        self.done += 1
        self._worked += 1
        self._seconds += task.seconds
        self.voxels.add(task.voxels, now)


@dataclass(slots=True)
class Forecast(Observer):
    """Follows a run, and estimates its end."""

    clock: Callable[[], float] = time.monotonic
    stages: dict[str, StageForecast] = field(default_factory=dict)
    """In the order in which they became known."""
    is_waiting: bool = False
    """Whether there are no workers."""
    _began: float = field(init=False)
    _work: Pace = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._work = Pace(self._began)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self._began

    @property
    def has_work(self) -> bool:
        """Whether a stage that is known has tasks left."""
        return any(stage.work_left != 0 for stage in tuple(self.stages.values()))

    @property
    def left(self) -> float | None:
        """Seconds until the end of all known stages; None while there is no estimate."""
        known = [stage.work_left for stage in tuple(self.stages.values())]
        work = sum(seconds for seconds in known if seconds is not None)
        if not self._work.rate or (not work and None in known):
            return None
        return max(0.0, work / self._work.rate - (self.clock() - self._work.since))

    def notice(self, event: Event) -> None:
        """Learn from an event."""
        now = self.clock()
        match event:
            case Planned():
                self._plan(event.tasks, now)
            case StageBegun():
                if not any(stage.is_active for stage in self.stages.values()):
                    self._work.skip(now)
                self._stage(event.stage, now).begin(event.tasks, now)
            case Recalled():
                self._work.skip(now)
                self._stage(event.stage, now).recall(now)
            case TaskDone():
                self._work.add(event.seconds, now)
                self._stage(event.stage, now).advance(event, now)
            case TaskFailed():
                self._stage(event.stage, now).failed += 1
            case WorkersGone():
                self.is_waiting = True
            case WorkersBack():
                self._go_on(now)

    def _go_on(self, now: float) -> None:
        """Leave out the time without workers."""
        self.is_waiting = False
        for pace in (self._work, *(stage.voxels for stage in self.stages.values())):
            pace.skip(now)

    def _stage(self, name: str, now: float) -> StageForecast:
        return self.stages.setdefault(name, StageForecast(Pace(now)))

    def _plan(self, tasks: Mapping[str, int], now: float) -> None:
        for name, count in tasks.items():
            self._stage(name, now).planned = count
