"""Output of commands: errors in one line, progress bars, tables."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from embedseg_large.errors import (
    EmbedSegError,
    ModelError,
    UsageError,
    VolumeError,
    printable,
    without_logins,
)

if TYPE_CHECKING:
    from embedseg_large.runs.progress import Observer

P = ParamSpec("P")
T = TypeVar("T")

WRONG_USE = 2
FAILURE = 1
UNPROVEN = 3
"""Exit code: labels were written, but are not proven as requested."""
INTERRUPTED = 130
_LONGEST_PATH = 300


def reported(
    interrupted: str = "interrupted; nothing was written",
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Turn the errors of embedseg_large into one line and an exit code.

    Parameters
    ----------
    interrupted
        The message on Ctrl-C.
    """

    def decorate(command: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return command(*args, **kwargs)
            except EmbedSegError as error:
                print_error(str(error))
                mistaken = isinstance(error, UsageError | VolumeError | ModelError)
                raise typer.Exit(WRONG_USE if mistaken else FAILURE) from None
            except OSError as error:  # of a path that nothing else has checked
                if error.filename is None:
                    raise
                where, why = os.fsdecode(error.filename), error.strerror or type(error).__name__
                print_error(f"{where[:_LONGEST_PATH]}: cannot be read or written ({why})")
                logging.getLogger(__name__).debug("%s", where, exc_info=True)
                raise typer.Exit(FAILURE) from None
            except KeyboardInterrupt:
                typer.echo(interrupted, err=True)
                raise typer.Exit(INTERRUPTED) from None

        return run

    return decorate


def print_error(text: str) -> None:
    """Print an error to stderr, in one line."""
    from rich.markup import escape

    console = stderr_console(highlight=False, soft_wrap=True)
    line = printable(without_logins(" ".join(text.split())))
    console.print(f"[bold red]error:[/] {escape(line)}")


def stderr_console(**options: Any) -> Console:
    """Return a console on stderr, with colours and bars only if it is a terminal.

    Rich also trusts the environment, which claims so for notebooks and batch jobs that are not
    terminals.
    """
    return Console(stderr=True, emoji=False, force_terminal=sys.stderr.isatty(), **options)


def stop_on_sigterm() -> None:
    """Clean up at a batch system's time limit as on Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def set_up_logging(verbose: bool) -> None:
    """Log to stderr: warnings, and with `verbose` the progress."""
    from rich.logging import RichHandler

    handler = RichHandler(console=stderr_console(), show_path=False, rich_tracebacks=False)
    handler.setFormatter(_Printable())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("embedseg_large").setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:  # read by Dask on import, here and in worker processes
        os.environ.setdefault("DASK_DISTRIBUTED__LOGGING__DISTRIBUTED", "critical")


class _Printable(logging.Formatter):
    """Formats messages, in which names and values of files from elsewhere may stand."""

    def format(self, record: logging.LogRecord) -> str:
        """Escape what no terminal should get."""
        return "\n".join(map(printable, without_logins(super().format(record)).splitlines()))


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Observer | None]:
    """Show a run on stderr: bars in a terminal, else a line now and then; None if `quiet`."""
    if quiet:
        yield None
        return
    from embedseg_large.cli.runbars import RunBars, RunLines

    console = stderr_console(highlight=False, markup=False, soft_wrap=True)
    shown = RunBars(stderr_console()) if console.is_terminal else RunLines(console.print)
    with shown as observer:
        yield observer


def print_json(values: Any) -> None:
    """Print values as JSON to stdout."""
    json.dump(values, sys.stdout, indent=2)
    sys.stdout.write("\n")


def check_folder_of(path: Path) -> None:
    """Refuse a file that could not be written at the end of the run.

    Raises
    ------
    UsageError, OutputError
        As `embedseg_large.storage.disk.check_file`.
    """
    from embedseg_large.storage.disk import check_file

    check_file(path)


def write_json(path: Path, values: Any) -> None:
    """Write values as JSON to a file, which appears complete or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    from embedseg_large.storage.disk import whole_file

    text = json.dumps(values, indent=2) + "\n"
    with whole_file(path) as begun:
        begun.write_text(text)


def print_facts(title: str | None, facts: Mapping[str, Any]) -> None:
    """Print names and values as a table."""
    heading = None if title is None else _cell(title)
    table = Table(title=heading, title_justify="left", show_header=False, box=None, padding=(0, 1))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(_cell(name), _cell(str(value)))
    _print(table)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of values, right-aligned except for the first column."""
    table = Table(box=None, padding=(0, 1))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(_cell, row))
    _print(table)


def _cell(text: str) -> Text:
    """Return a text for a table, without markup or terminal control characters."""
    return Text(printable(text))


def _print(table: Table) -> None:
    """Print a table and an empty line; numbers and paths may exceed the width but are never cut."""
    console = Console(emoji=False, force_terminal=sys.stdout.isatty())
    console.width = max(console.width, 100) if console.is_terminal else 1000
    with console.capture() as captured:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")


def wait_briefly() -> None:
    """Let OpenMP threads spin only briefly while they wait, unless the user has set this.

    By default they spin for a long time. Next to other work on the same cores, spinning threads
    block the threads they wait for: a training step took 14 s instead of 0.4 s. Not spinning at all
    doubles the time of a step on a quiet machine, where a brief spin costs nothing. Must be called
    before torch is imported, because torch reads this variable on import.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
