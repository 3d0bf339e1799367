"""``embedseg-large status``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from embedseg_large.cli.console import print_facts, print_json, print_table, reported
from embedseg_large.cli.options import Json

if TYPE_CHECKING:
    from embedseg_large.segmentation.status import Finished, RunStatus


@reported()
def status(
    store: Annotated[
        str, typer.Argument(help="Store that receives the labels, or the folder of a run.")
    ],
    labels: Annotated[str, typer.Option(help="Name of the labels.")] = "nuclei",
    scratch: Annotated[
        str | None, typer.Option(metavar="DIR", help="As passed to the run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the progress of a run started here or elsewhere, or its finished labels."""
    from embedseg_large.segmentation.status import Finished, run_status

    found = run_status(store, labels, scratch)
    if as_json:
        print_json(found.as_dict())
    elif isinstance(found, Finished):
        print_facts(None, {"labels": found.labels, "run": _finished(found)})
    else:
        _show(found)


def _finished(found: Finished) -> str:
    """Describe existing labels in one line."""
    if found.n_instances is None:
        return "none; the labels exist, but were made by another program"
    made = "" if found.made is None else f", made {_minute(found.made)}"
    return f"finished, {found.n_instances:,} instances{made}"


def _minute(made: str) -> str:
    """A time in the local time zone."""
    return f"{datetime.fromisoformat(made).astimezone():%Y-%m-%d %H:%M}"


def _show(found: RunStatus) -> None:
    at = found.holder
    state = (
        "no process is working on it; rerun the same command to resume"
        if at is None
        else f"process {at.get('pid')} on {at.get('host')}, since {at.get('since')}"
    )
    print_facts(None, {"labels": found.labels, "run": found.folder, "running": state})
    rows = [
        [name, f"{done:,}", "" if total is None else f"{total:,}"]
        for name, (done, total) in found.stages.items()
    ]
    print_table(["stage", "tasks done", "of"], rows)
