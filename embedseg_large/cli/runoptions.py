"""Options of commands that run for long: who does the work, and what is written about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer


@dataclass(frozen=True, kw_only=True)
class WorkerFlags:
    """Which processes do the work; at most one of these options."""

    panel: ClassVar[str | None] = "Work"

    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Local worker processes to start. Default: this process alone."),
    ] = None
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler.")] = (
        None
    )
    cluster_config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="YAML file of a cluster to start or use: local, cuda, slurm, scheduler.",
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """Those that are used, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class WatchingFlags:
    """Logs and reports of the run."""

    panel: ClassVar[str | None] = "Watching"

    log: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Append all events, one JSON object per line: tasks, failures, tracebacks.",
        ),
    ] = None
    summary: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the output of --json to a file once the labels are published.",
        ),
    ] = None
    performance_report: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.html", help="Write Dask's performance report of the workers. Needs bokeh."
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """What `embedseg_large.segment` takes."""
        return {"log": self.log, "performance_report": self.performance_report}
