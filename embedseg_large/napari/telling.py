"""Progress of a run or a training for a window, and how the window cancels it.

The worker thread writes, the window's thread polls. A cancelled run ends with its next event: a
finished tile, or a batch. Finished epochs are kept.
"""

from __future__ import annotations

import threading

from embedseg_large.runs.events import Event, RunFailed
from embedseg_large.runs.forecast import Forecast
from embedseg_large.runs.progress import Observer
from embedseg_large.training.record import EpochRecord, TrainStart, TrainWatcher

_PREDICTING = 20
"""Number of tiles of other stages that take about as long as predicting one."""


class CancelledError(Exception):
    """The user has cancelled the work."""


class WorkStatus:
    """Progress of some work."""

    def __init__(self) -> None:
        self.text = "preparing"
        """Short description of the current step."""
        self.fraction = 0.0
        """Finished fraction."""
        self._cancelled = threading.Event()

    @property
    def is_cancelled(self) -> bool:
        """Whether the user has cancelled the work."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Make the work end as soon as possible."""
        self.text = "ending, after what is under way"
        self._cancelled.set()

    def go_on(self) -> None:
        """Raise a `CancelledError` if the user has cancelled the work."""
        if self.is_cancelled:
            raise CancelledError

    def say(self, text: str, fraction: float) -> None:
        """Record the progress, or raise if cancelled."""
        self.go_on()
        self.text, self.fraction = text, fraction


class ToldOfRun(WorkStatus, Observer):
    """Progress of a run of the engine."""

    def __init__(self) -> None:
        super().__init__()
        self._forecast = Forecast()

    def notice(self, event: Event) -> None:
        """Update the progress; the end of a run is known without an event."""
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
    """Progress of a training."""

    def __init__(self) -> None:
        super().__init__()
        self._epochs = 1
        self._iou = ""

    def begin(self, start: TrainStart) -> None:
        """Record the number of epochs."""
        self._epochs = start.settings.n_epochs
        self.say(f"{start.data.n_objects} objects", 0.0)

    def batch(self, epoch: int, done: int, of: int, loss: float) -> None:
        """Record a finished batch."""
        self.say(
            f"epoch {epoch}/{self._epochs}, batch {done}/{of}, loss {loss:.3f}{self._iou}",
            (epoch - 1 + done / of) / self._epochs,
        )

    def epoch(self, record: EpochRecord) -> None:
        """Record the result of an epoch."""
        self._iou = f", IoU {record.iou:.2f}"
