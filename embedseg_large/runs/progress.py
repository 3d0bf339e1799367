"""How a run tells what it is doing."""

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
    """Somebody who looks at a run, and wants to count."""

    def begin(self, stage: str, tiles: int) -> None:
        """A stage has more tiles to do (again, if it comes back to work)."""

    def advance(self, stage: str) -> None:
        """One tile of a stage is done, in this attempt or an earlier one."""


class Observer(ABC):
    """Somebody who looks at a run, and wants to know everything."""

    @abstractmethod
    def notice(self, event: Event) -> None:
        """Something happened; called in the order of events, always by the same thread."""


class FailedTasks(Observer):
    """Keeps what cannot be done."""

    def __init__(self) -> None:
        self.failed: list[TaskFailed] = []

    def notice(self, event: Event) -> None:
        """Keep it, if it is a failure."""
        if isinstance(event, TaskFailed):
            self.failed.append(event)


class _Counted(Observer):
    """What a watcher is told of all that."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def notice(self, event: Event) -> None:
        if isinstance(event, StageBegun):
            self._watcher.begin(event.stage, event.tasks)
        elif isinstance(event, Recalled | TaskDone):
            self._watcher.advance(event.stage)


@dataclass(slots=True)
class StageClock:
    """What a stage has cost so far."""

    announced: int = 0
    """Tiles that it has, as far as is known."""
    tiles: int = 0
    """Done, in this run or an earlier attempt."""
    recalled: int = 0
    """Of these, done in an earlier attempt."""
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
    """Counts the work of each stage, and tells who looks on."""

    watcher: Watcher | Observer | None = None
    log: Observer | None = None
    """Is told before the watcher, which may end the run."""
    clocks: dict[str, StageClock] = field(default_factory=dict)
    _observers: list[Observer] = field(init=False)

    def __post_init__(self) -> None:
        self._observers = [] if self.log is None else [self.log]
        if isinstance(self.watcher, Observer):
            self._observers.append(self.watcher)
        elif self.watcher is not None:
            self._observers.append(_Counted(self.watcher))

    def tell(self, event: Event) -> None:
        """Tell who looks on."""
        for observer in self._observers:
            observer.notice(event)

    def plan(self, tasks: Mapping[str, int]) -> None:
        """Say how many tasks stages will begin with from now on."""
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
        """Tell of what the body raises, an interruption included."""
        try:
            yield self
        except BaseException as error:
            text = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
            self.tell(RunFailed(error=text, traceback="".join(traceback.format_exception(error))))
            raise
