"""``embedseg-large convert``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from embedseg_large.cli.console import (
    print_facts,
    print_json,
    progress_bars,
    reported,
    stop_on_sigterm,
)
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json
from embedseg_large.conversion.options import (
    ComponentsOption,
    OverwriteOption,
    SourceOptions,
    StoreOptions,
)
from embedseg_large.runs.options import WorkerOptions
from embedseg_large.storage.connection import shown

INTERRUPTED = "interrupted; finished work is kept: rerun the same command to resume"


@reported(INTERRUPTED)
@grouped
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="TIFF, OME-Zarr, a file that bioio can read, a folder of TIFFs, or "
            "'scan/z{z}.tif'."
        ),
    ],
    out: Annotated[str, typer.Argument(help="OME-Zarr store to create.")],
    *,
    given: Annotated[
        dict[str, Any],
        SourceOptions,
        StoreOptions,
        ComponentsOption,
        OverwriteOption,
        WorkerOptions,
    ],
    as_json: Json = False,
) -> None:
    """Convert an image of any size to OME-Zarr with a pyramid; can be resumed."""
    from embedseg_large.conversion.convert import convert as run
    from embedseg_large.volumes.volume import open_volume

    stop_on_sigterm()
    with progress_bars(as_json) as watcher:
        run(source, out, watcher=watcher, **given)
    volume = open_volume(out, channel=None)
    if as_json:
        print_json(volume.describe())
        return
    size = volume.voxel_size
    facts = {
        "axes": volume.axes,
        "shape": ", ".join(map(str, volume.shape)),
        "voxel size": "not known" if size is None else f"{', '.join(f'{v:g}' for v in size)} µm",
        "levels": len(volume.levels),
    }
    print_facts(shown(out), facts)
