"""``embedseg-large track``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

from embedseg_large.cli.console import print_facts, print_json, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, LabelStore, TableFile
from embedseg_large.measurement.options import LabelsOptions
from embedseg_large.runs.options import WorkerOptions
from embedseg_large.tracking.options import LinkOptions, TrackFileOptions


@dataclass(frozen=True, kw_only=True)
class TrackTable(TableFile):
    """The table, among the other files."""

    heading: ClassVar[str | None] = "Output"


@reported(interrupted="interrupted; older tracks are unchanged")
@grouped
def track(
    store: LabelStore,
    *,
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the labels; required if there are several."),
    ] = None,
    given: Annotated[
        dict[str, Any], LinkOptions, LabelsOptions, TrackFileOptions, TrackTable, WorkerOptions
    ],
    as_json: Json = False,
) -> None:
    """Link the instances of a time series into tracks, with divisions."""
    from embedseg_large.storage.tables import check_table_path, write_table
    from embedseg_large.tracking.track import summary
    from embedseg_large.tracking.track import track as engine

    out = given.pop("out", None)
    if out is not None:
        check_table_path(out)
    tracks = engine(store, labels, **given)
    if out is not None:
        write_table(out, tracks.table.columns, tracks.table.region)
    if as_json:
        print_json(tracks.as_dict() | {"table": None if out is None else str(out)})
        return
    print_facts(None, summary(tracks) | ({} if out is None else {"table": str(out)}))
