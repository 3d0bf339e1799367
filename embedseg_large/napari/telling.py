"""What a run or a training tells a window: how far it is; and how the window ends it.

The thread that works writes, the thread of the window reads now and then. A run that was cancelled
ends at the next thing that it tells: a finished tile, or a batch. Epochs that are done are kept.
"""

from __future__ import annotations

import threading

from embedseg_large.runs.events import Event, RunFailed
from embedseg_large.runs.forecast import Forecast
from embedseg_large.runs.progress import Observer
from embedseg_large.training.record import EpochRecord, TrainStart, TrainWatcher

_PREDICTING = 20
"""Tiles of other stages that take about as long as predicting one."""


class CancelledError(Exception):
    """The user has ended the work."""


class WorkStatus:
    """How far some work is."""

    def __init__(self) -> None:
        self.text = "preparing"
        """What is being done, in a few words."""
        self.fraction = 0.0
        """How much of it is done."""
        self._cancelled = threading.Event()

    @property
    def is_cancelled(self) -> bool:
        """Whether the user has had enough."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Have the work end as soon as it can."""
        self.text = "ending, after what is under way"
        self._cancelled.set()

    def go_on(self) -> None:
        """Raise a `CancelledError`, if the user has ended the work."""
        if self.is_cancelled:
            raise CancelledError

    def say(self, text: str, fraction: float) -> None:
        """Say how far it is, or raise."""
        self.go_on()
        self.text, self.fraction = text, fraction


class ToldOfRun(WorkStatus, Observer):
    """How far a run of the engine is."""

    def __init__(self) -> None:
        super().__init__()
        self._forecast = Forecast()

    def notice(self, event: Event) -> None:
        """Learn from an event; how a run ends is known without it."""
        if isinstance(event, RunFailed):
            return
        self._forecast.notice(event)
        self.say(self._stages(), self._share())

    def _stages(self) -> str:
        stages = self._forecast.stages.items()
        text = " · ".join(f"{name} {s.done}/{s.total}" for name, s in stages if s.is_active)
        left = self._forecast.left
        return text + ("" if left is None or not text else f", about {left:.0f} s left")

    def _share(self) -> float:
        done = of = 0
        for name, stage in self._forecast.stages.items():
            weight = _PREDICTING if name == "predict" else 1
            done, of = done + weight * stage.done, of + weight * stage.total
        return done / of if of else 0.0


class ToldOfTraining(WorkStatus, TrainWatcher):
    """How far a training is."""

    def __init__(self) -> None:
        super().__init__()
        self._epochs = 1
        self._iou = ""

    def begin(self, start: TrainStart) -> None:
        """Learn how long it will be."""
        self._epochs = start.settings.n_epochs
        self.say(f"{start.data.n_objects} objects", 0.0)

    def batch(self, epoch: int, done: int, of: int, loss: float) -> None:
        """Say which batch is done."""
        self.say(
            f"epoch {epoch}/{self._epochs}, batch {done}/{of}, loss {loss:.3f}{self._iou}",
            (epoch - 1 + done / of) / self._epochs,
        )

    def epoch(self, record: EpochRecord) -> None:
        """Remember what an epoch brought."""
        self._iou = f", IoU {record.iou:.2f}"
