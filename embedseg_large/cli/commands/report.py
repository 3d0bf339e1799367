"""``embedseg-large report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from embedseg_large.cli.console import print_facts, print_json, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, LabelStore
from embedseg_large.cli.units import readable_bytes
from embedseg_large.measurement.options import AxesOptions
from embedseg_large.reporting.options import KnownOptions, ShownOptions
from embedseg_large.runs.options import WorkerOptions


@reported(interrupted="interrupted; nothing was written")
@grouped
def report(
    store: LabelStore,
    *,
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the labels; required if there are several."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="HTML", help="File to write.")] = Path("report.html"),
    given: Annotated[dict[str, Any], ShownOptions, AxesOptions, KnownOptions, WorkerOptions],
    as_json: Json = False,
) -> None:
    """Write one HTML file about labels: pictures, instances to check, seams, settings."""
    from embedseg_large.reporting.report import report as write

    written = write(store, labels, out=out, **given)
    if as_json:
        print_json(written.as_dict())
        return
    joined = {} if written.joined is None else {"joined at seams": f"{written.joined:,}"}
    pictures = {} if written.has_image else {"pictures": "none, because there is no readable image"}
    size = readable_bytes(written.bytes)
    facts = {"instances": f"{written.n_instances:,}", **joined, **pictures}
    print_facts(None, facts | {"report": f"{written.path} ({size})"})
