"""``embedseg-large export-labels``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embedseg_large.cli.console import print_facts, print_json, reported
from embedseg_large.cli.options import Json, LabelAxes, Overwrite, numbers, sizes, timepoints

_SHOWN = 3


@reported("interrupted; a file that was not finished was not written")
def export_labels(
    labels: Annotated[
        str, typer.Argument(help="STORE/labels/NAME, TIFF; or an image with one label group.")
    ],
    out: Annotated[
        str,
        typer.Argument(
            help="File to write: .tif; .zip (ImageJ ROIs); .obj or .stl (meshes). With {t} in the "
            "name one file per timepoint, with {label} one mesh per instance."
        ),
    ],
    *,
    instances: Annotated[
        Any,
        typer.Option(parser=sizes, metavar="ID,ID,...", help="Only these instances. Default: all."),
    ] = None,
    timepoint: Annotated[
        Any,
        typer.Option(parser=timepoints, metavar="T|T,T|T:T", help="Timepoints; default: all."),
    ] = None,
    level: Annotated[int, typer.Option(help="Pyramid level; 0 is the finest.")] = 0,
    draw: Annotated[
        str,
        typer.Option(
            metavar="labels|mask|outlines",
            help="TIFF: labels; 255 in instances; or 255 on their outlines, plane by plane.",
        ),
    ] = "labels",
    smooth: Annotated[
        float, typer.Option(metavar="S", help="Meshes: smooth the steps of voxels; in voxels.")
    ] = 0.0,
    voxel_size: Annotated[
        Any,
        typer.Option(parser=numbers, metavar="Z,Y,X", help="In µm; overrides the metadata."),
    ] = None,
    axes: LabelAxes = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write labels for other programs: TIFF, ImageJ ROIs, OBJ or STL meshes."""
    from embedseg_large.exporting import export_labels as engine

    written = engine.export_labels(
        labels,
        out,
        instances=instances,
        timepoint=timepoint,
        level=level,
        draw=draw,  # type: ignore[arg-type]  # refused if it is another
        smooth=smooth,
        axes=axes,
        voxel_size=voxel_size,
        overwrite=overwrite,
    )
    if as_json:
        print_json(written.as_dict())
        return
    files = written.files
    more = f", ... ({len(files):,} files)" if len(files) > _SHOWN else ""
    facts = {"format": written.format, "written": ", ".join(files[:_SHOWN]) + more}
    if written.count is not None:
        facts["ROIs" if written.format == "rois" else "meshes"] = f"{written.count:,}"
    if written.format != "rois":
        facts["lengths in"] = written.unit
    print_facts(None, facts)
