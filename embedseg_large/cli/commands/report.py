"""``embedseg-large report``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from embedseg_large.cli.console import print_facts, print_json, readable_bytes, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import ImageAxes, Json, LabelAxes, LabelStore, VoxelSize
from embedseg_large.cli.runoptions import WorkerFlags


@dataclass(frozen=True, kw_only=True)
class ShownPart:
    """What is shown, and what it is like."""

    panel: ClassVar[str | None] = None

    image: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="The image, if it is elsewhere and not recorded."),
    ] = None
    channel: Annotated[
        str | None,
        typer.Option(
            metavar="C",
            help="Channel to show, a number or name. Default: the one that was segmented.",
        ),
    ] = None
    timepoint: Annotated[
        int | None,
        typer.Option(help="Of a series. Default: the first that was segmented."),
    ] = None
    voxel_size: VoxelSize = None
    axes: LabelAxes = None
    image_axes: ImageAxes = None


@dataclass(frozen=True, kw_only=True)
class ReportSources:
    """What else is known about the labels."""

    panel: ClassVar[str | None] = None

    model: Annotated[
        str | None,
        typer.Option(help="The model, for its card. Bundled ones are recognised automatically."),
    ] = None
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File written by segment --log, for the time of each tile."
        ),
    ] = None


@reported(interrupted="interrupted; nothing was written")
@grouped
def report(
    store: LabelStore,
    *,
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the labels. Default: the only ones."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="HTML", help="File to write.")] = Path("report.html"),
    part: ShownPart,
    beside: ReportSources,
    as_json: Json = False,
    where: WorkerFlags,
) -> None:
    """Write one HTML file about labels: pictures, instances to check, seams, settings."""
    from embedseg_large.reporting.report import report as write

    written = write(
        store,
        labels,
        out=out,
        image=part.image,
        channel=part.channel,
        timepoint=part.timepoint,
        axes=part.axes,
        image_axes=part.image_axes,
        voxel_size=part.voxel_size,
        model=beside.model,
        log=beside.log,
        **asdict(where),
    )
    if as_json:
        print_json(written.as_dict())
        return
    joined = {} if written.joined is None else {"joined at seams": f"{written.joined:,}"}
    pictures = {} if written.has_image else {"pictures": "none, because there is no readable image"}
    size = readable_bytes(written.bytes)
    facts = {"instances": f"{written.n_instances:,}", **joined, **pictures}
    print_facts(None, facts | {"report": f"{written.path} ({size})"})
