"""How a run tells what it is doing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


class Watcher(Protocol):
    """Somebody who looks at a run, such as a progress bar."""

    def begin(self, stage: str, tiles: int) -> None:
        """A stage has more tiles to do (again, if it comes back to work)."""

    def advance(self, stage: str) -> None:
        """One tile of a stage is done."""


@dataclass(slots=True)
class StageClock:
    """What a stage has cost so far."""

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
    """Counts the work of each stage, and tells a watcher."""

    watcher: Watcher | None = None
    clocks: dict[str, StageClock] = field(default_factory=dict)

    def begin(self, stage: str, tiles: int) -> None:
        """Announce tiles of a stage."""
        self.clocks.setdefault(stage, StageClock())
        if self.watcher is not None:
            self.watcher.begin(stage, tiles)

    def recall(self, stage: str) -> None:
        """Count one tile that an earlier attempt has finished."""
        clock = self.clocks.setdefault(stage, StageClock())
        clock.tiles += 1
        clock.recalled += 1
        if self.watcher is not None:
            self.watcher.advance(stage)

    def advance(self, stage: str, voxels: int, seconds: float) -> None:
        """Count one finished tile."""
        clock = self.clocks.setdefault(stage, StageClock())
        clock.tiles += 1
        clock.voxels += voxels
        clock.seconds += seconds
        if self.watcher is not None:
            self.watcher.advance(stage)
