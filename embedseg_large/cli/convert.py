"""``embedseg-large convert``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embedseg_large.cli.console import print_facts, reported
from embedseg_large.cli.options import Overwrite, numbers, sizes


@reported()
def convert(
    source: Annotated[str, typer.Argument(help="TIFF, OME-TIFF or ImageJ TIFF.")],
    out: Annotated[str, typer.Argument(help="OME-Zarr store to create.")],
    axes: Annotated[
        str | None, typer.Option(help="Letters of the axes, e.g. zyx, where the file has none.")
    ] = None,
    voxel_size: Annotated[
        Any, typer.Option(parser=numbers, metavar="Z,Y,X", help="Voxel size in µm.")
    ] = None,
    ngff_version: Annotated[str, typer.Option(help="0.5 (zarr 3) or 0.4 (zarr 2).")] = "0.5",
    chunks: Annotated[
        Any, typer.Option(parser=sizes, metavar="Z,Y,X", help="Shape of a chunk.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a TIFF to OME-Zarr, with a pyramid, without loading it."""
    from embedseg_large.io.convert import convert as run
    from embedseg_large.io.volume import open_volume

    run(
        source,
        out,
        axes=axes,
        voxel_size=voxel_size,
        ngff_version=ngff_version,
        chunks=chunks,
        overwrite=overwrite,
    )
    volume = open_volume(out, channel=None)
    facts = {"axes": volume.axes, "shape": volume.shape, "voxel size": volume.voxel_size}
    print_facts(out, facts | {"levels": len(volume.levels)})
