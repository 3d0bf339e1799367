"""How a run reports its progress."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from embedseg_large.runs.events import (
    Event,
    Planned,
    Recalled,
    RunFailed,
    StageBegun,
    StageEnded,
    TaskDone,
    TaskFailed,
)


class Watcher(Protocol):
    """Observer of a run that counts tiles."""

    def begin(self, stage: str, tiles: int) -> None:
        """Called when a stage gets tiles to do, possibly several times."""

    def advance(self, stage: str) -> None:
        """Called when a tile of a stage is done, in this attempt or an earlier one."""


class Observer(ABC):
    """Observer of a run that receives all events."""

    @abstractmethod
    def notice(self, event: Event) -> None:
        """Called for each event, in order, always from the same thread."""


class FailedTasks(Observer):
    """Keeps the failed tasks."""

    def __init__(self) -> None:
        self.failed: list[TaskFailed] = []

    def notice(self, event: Event) -> None:
        """Keep the event if it is a failure."""
        if isinstance(event, TaskFailed):
            self.failed.append(event)


class _Counted(Observer):
    """Forwards to a watcher."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def notice(self, event: Event) -> None:
        if isinstance(event, StageBegun):
            self._watcher.begin(event.stage, event.tasks)
        elif isinstance(event, Recalled | TaskDone):
            self._watcher.advance(event.stage)


@dataclass(slots=True)
class StageClock:
    """The cost of a stage so far."""

    announced: int = 0
    """Number of tiles, as far as known."""
    tiles: int = 0
    """Number done, in this attempt or an earlier one."""
    recalled: int = 0
    """Number of these done in an earlier attempt."""
    voxels: int = 0
    seconds: float = 0.0
    """Time inside tasks, added up over workers."""

    def as_dict(self) -> dict[str, Any]:
        """Totals and rate, as values that JSON can hold."""
        rate = self.voxels / self.seconds if self.seconds > 0 else 0.0
        return {
            "tiles": self.tiles,
            "seconds": round(self.seconds, 3),
            "voxels_per_second": round(rate),
        }


@dataclass(slots=True)
class Progress:
    """Counts the work of each stage, and notifies observers."""

    watcher: Watcher | Observer | None = None
    log: Observer | None = None
    """Notified before the watcher, which may end the run."""
    clocks: dict[str, StageClock] = field(default_factory=dict)
    _observers: list[Observer] = field(init=False)

    def __post_init__(self) -> None:
        self._observers = [] if self.log is None else [self.log]
        if isinstance(self.watcher, Observer):
            self._observers.append(self.watcher)
        elif self.watcher is not None:
            self._observers.append(_Counted(self.watcher))

    def tell(self, event: Event) -> None:
        """Notify the observers."""
        for observer in self._observers:
            observer.notice(event)

    def plan(self, tasks: Mapping[str, int]) -> None:
        """Announce the initial number of tasks of later stages."""
        self.tell(Planned(tasks=dict(tasks)))

    def begin(self, stage: str, tiles: int) -> None:
        """Announce tiles of a stage."""
        self._clock(stage).announced += tiles
        self.tell(StageBegun(stage=stage, tasks=tiles))

    def recall(self, task: Recalled) -> None:
        """Count one tile that an earlier attempt has finished."""
        clock = self._clock(task.stage)
        clock.tiles += 1
        clock.recalled += 1
        self._counted(task, clock)

    def advance(self, task: TaskDone) -> None:
        """Count one finished tile."""
        clock = self._clock(task.stage)
        clock.tiles += 1
        clock.voxels += task.voxels
        clock.seconds += task.seconds
        self._counted(task, clock)

    def _clock(self, stage: str) -> StageClock:
        return self.clocks.setdefault(stage, StageClock())

    def _counted(self, task: Recalled | TaskDone, clock: StageClock) -> None:
        self.tell(task)
        if clock.tiles == clock.announced:
            self.tell(
                StageEnded(
                    stage=task.stage,
                    tasks=clock.tiles,
                    recalled=clock.recalled,
                    voxels=clock.voxels,
                    seconds=round(clock.seconds, 3),
                )
            )

    @contextmanager
    def telling_failure(self) -> Iterator[Progress]:
        """Report an exception of the body, including interruptions."""
        try:
            yield self
        except BaseException as error:
            text = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
            self.tell(RunFailed(error=text, traceback="".join(traceback.format_exception(error))))
            raise
