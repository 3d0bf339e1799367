"""How commands speak: errors in one line, progress bars, tables."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from embedseg_large.errors import EmbedSegError, ModelError, UsageError, VolumeError

if TYPE_CHECKING:
    from embedseg_large.engine.progress import Watcher

P = ParamSpec("P")
T = TypeVar("T")

WRONG_USE = 2
FAILURE = 1
INTERRUPTED = 130


def reported(
    interrupted: str = "interrupted; nothing was published",
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Turn what embedseg_large raises on purpose into one line and an exit code.

    Parameters
    ----------
    interrupted
        What to say at Ctrl-C.
    """

    def decorate(command: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return command(*args, **kwargs)
            except EmbedSegError as error:
                Console(stderr=True, highlight=False, soft_wrap=True).print(
                    f"[bold red]error:[/] {_escaped(error)}"
                )
                mistaken = isinstance(error, UsageError | VolumeError | ModelError)
                raise typer.Exit(WRONG_USE if mistaken else FAILURE) from None
            except KeyboardInterrupt:
                typer.echo(interrupted, err=True)
                raise typer.Exit(INTERRUPTED) from None

        return run

    return decorate


def _escaped(error: BaseException) -> str:
    from rich.markup import escape

    return escape(" ".join(str(error).split()))


def stop_on_sigterm() -> None:
    """Clean up at a batch system's time limit as at Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def set_up_logging(verbose: bool) -> None:
    """Log to stderr: warnings, or with `verbose` what is being done."""
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("embedseg_large").setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:  # read by Dask when it is imported, here and in the processes of workers
        os.environ.setdefault("DASK_DISTRIBUTED__LOGGING__DISTRIBUTED", "critical")


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Watcher | None]:
    """One bar a stage on stderr; None where nobody would see it."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles"),
        TimeElapsedColumn(),
        TextColumn("·"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bars(progress)


class _Bars:
    """A watcher that moves bars."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}
        self._totals: dict[str, int] = {}

    def begin(self, stage: str, tiles: int) -> None:
        self._totals[stage] = self._totals.get(stage, 0) + tiles
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=0)
        self._progress.update(self._tasks[stage], total=self._totals[stage])

    def advance(self, stage: str) -> None:
        self._progress.advance(self._tasks[stage])


def print_json(values: Any) -> None:
    """Print values as JSON to stdout."""
    json.dump(values, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_facts(title: str | None, facts: Mapping[str, Any]) -> None:
    """Print names and values as a table."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 1))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, str(value))
    _print(table)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of values, right-aligned but for the first."""
    table = Table(box=None, padding=(0, 1))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _print(table)


def _print(table: Table) -> None:
    """Print a table and an empty line; rather over the edge than cutting a number or a path."""
    console = Console()
    console.width = max(console.width, 100) if console.is_terminal else 1000
    with console.capture() as captured:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")


def readable_bytes(count: float) -> str:
    """A number of bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
