"""``embedseg-large export-labels``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embedseg_large.cli.console import print_facts, print_json, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json
from embedseg_large.exporting.options import ExportOptions

_SHOWN = 3


@reported("interrupted; a file that was not finished was not written")
@grouped
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
    given: Annotated[dict[str, Any], ExportOptions],
    as_json: Json = False,
) -> None:
    """Write labels for other programs: TIFF, ImageJ ROIs, OBJ or STL meshes."""
    from embedseg_large.exporting import export_labels as engine

    written = engine.export_labels(labels, out, **given)
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
