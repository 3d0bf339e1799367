"""Progress of a training in a terminal: facts, a bar, and a line per epoch."""

from __future__ import annotations

from contextlib import AbstractContextManager

from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from embedseg_large.cli.console import stderr_console
from embedseg_large.training.record import EpochRecord, TrainStart, TrainWatcher

WIDTH = 9
"""Width of the column of a loss term, in characters."""
_SLOW = 3600.0  # seconds of history for the estimate of the time left: includes validations


class TrainBars(TrainWatcher, AbstractContextManager["TrainBars"]):
    """Writes to stderr; the bar only in a terminal.

    Parameters
    ----------
    quiet
        Whether to write nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = stderr_console(quiet=quiet, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[batch]}"),
            TimeElapsedColumn(),
            TextColumn("·"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            refresh_per_second=2,  # leave the cores to the training
            transient=True,
            speed_estimate_period=_SLOW,
            disable=quiet or not self._console.is_terminal,
        )
        self._reading = self._console.status("reading images and masks")
        self._epochs = self._before = 0
        self._task: TaskID | None = None

    def __enter__(self) -> TrainBars:
        self._reading.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._reading.stop()
        self._progress.stop()

    def begin(self, start: TrainStart) -> None:
        """Print the facts, and the header of the table of epochs."""
        self._reading.stop()
        table = Table(show_header=False, box=None, padding=(0, 1))
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        for name, fact in start.facts().items():
            table.add_row(name, fact)
        self._console.print(table)
        names = ("loss", *start.terms[1:])  # the total first
        heads = "".join(f"{name[: WIDTH - 1]:>{WIDTH}}" for name in names)
        self._progress.start()
        self._say(f"\nepoch{heads}    IoU   AP at IoU .5 .6 .7 .8 .9      * best so far")
        self._epochs, self._before = start.settings.n_epochs, start.epochs_done

    def batch(self, epoch: int, done: int, of: int, loss: float) -> None:
        """Move the bar."""
        if self._task is None:
            batches = (self._epochs - self._before) * of
            self._task = self._progress.add_task("", total=batches, batch="")
        now = f"batch {done}/{of} loss {loss:.2f}" if done < of else "validating the model"
        self._progress.update(
            self._task, advance=1, description=f"epoch {epoch} of {self._epochs}", batch=now
        )

    def epoch(self, record: EpochRecord) -> None:
        """Print a line."""
        terms = "".join(f"{value:{WIDTH}.4f}" for value in record.loss.values())
        ap = "" if record.ap is None else " ".join(f"{v:.3f}" for v in record.ap.values())
        best = " *" if record.best and record.ap is not None else ""
        self._say(f"{record.epoch:5d}{terms}  {record.iou:.3f}   {ap}{best}")
        for name, values in record.sets.items():
            by_iou = " ".join(f"{v:.3f}" for v in values.values())
            self._say(f"{name[:46]:>46}   {by_iou}")

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)
