"""Progress of a run: bars in a terminal, a line now and then in the log of a batch job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from embedseg_large.cli.units import clock
from embedseg_large.runs.events import Event, Planned, StageBegun, TaskEvent
from embedseg_large.runs.forecast import Forecast, StageForecast
from embedseg_large.runs.progress import Observer

LINE_SECONDS = 30.0
"""Seconds between two lines if there is no terminal."""


class RunBars(Observer, AbstractContextManager["RunBars"]):
    """One bar per stage, and the estimated end."""

    def __init__(self, console: Console) -> None:
        self._forecast = Forecast()
        self._bars = _Bars(self._forecast, console)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> RunBars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def notice(self, event: Event) -> None:
        """Update the bars that changed."""
        self._forecast.notice(event)
        match event:
            case Planned():
                for stage in event.tasks:
                    self._move(stage)
            case StageBegun():
                self._move(event.stage)
                self._bars.start_task(self._tasks[event.stage])
            case TaskEvent():
                self._move(event.stage)

    def _move(self, name: str) -> None:
        stage = self._forecast.stages[name]
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, start=False, counts="", rate="")
        self._bars.update(
            self._tasks[name],
            total=stage.total,
            completed=stage.done,
            counts=_counts(stage),
            rate=_rate(stage),
        )


class _Bars(Progress):
    """A table of bars with a line below."""

    def __init__(self, forecast: Forecast, console: Console) -> None:
        self._forecast = forecast
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[counts]}", justify="right"),
            TextColumn("{task.fields[rate]}", justify="right"),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=4,  # leave the cores to the run
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """The table, and the times of the whole run."""
        yield from super().get_renderables()
        yield Text(_times(self._forecast), style="dim")


class RunLines(Observer, AbstractContextManager["RunLines"]):
    """A line every so many seconds, as long as there is progress.

    Parameters
    ----------
    write
        Function that writes a line, without its end.
    every
        Seconds.
    """

    def __init__(self, write: Callable[[str], None], every: float = LINE_SECONDS) -> None:
        self._write = write
        self._every = every
        self._forecast = Forecast()
        self._stop = threading.Event()
        self._voice = threading.Thread(target=self._speak, daemon=True)

    def __enter__(self) -> RunLines:
        self._voice.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._voice.join()

    def notice(self, event: Event) -> None:
        """Store the progress for the next line."""
        self._forecast.notice(event)

    def _speak(self) -> None:
        while not self._stop.wait(self._every):
            if line := progress_line(self._forecast):
                self._write(line)


def progress_line(forecast: Forecast) -> str:
    """The current stage and its speed, in one line; empty between two stages."""
    stages = [
        f"{name} {_counts(stage)} {_rate(stage)}".rstrip()
        for name, stage in tuple(forecast.stages.items())
        if stage.is_active
    ]
    return " · ".join([*stages, _times(forecast)]) if stages else ""


def _counts(stage: StageForecast) -> str:
    failed = f" ({stage.failed:,} failed)" if stage.failed else ""
    return f"{stage.done:,}/{stage.total:,}{failed}"


def _rate(stage: StageForecast) -> str:
    rate = stage.voxels.rate / 1e6
    return f"{rate:.3g} million voxels/s" if rate else ""


def _times(forecast: Forecast) -> str:
    elapsed, left = f"{clock(forecast.elapsed)} elapsed", forecast.left
    if forecast.is_waiting:
        return f"{elapsed}, waiting for workers ..."
    if not forecast.has_work:
        return elapsed
    return f"{elapsed}, " + ("time left unknown so far" if left is None else f"{clock(left)} left")
