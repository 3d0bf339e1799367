"""``embedseg-large convert``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import typer

from embedseg_large.cli.console import (
    print_facts,
    print_json,
    progress_bars,
    reported,
    stop_on_sigterm,
)
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import AllowMissing, Json, Overwrite, numbers, sizes
from embedseg_large.cli.runoptions import WorkerFlags
from embedseg_large.storage.connection import shown

INTERRUPTED = "interrupted; finished work is kept: rerun the same command to resume"


def words(text: str) -> tuple[str, ...]:
    """Names: ``DAPI,GFP``."""
    return tuple(word.strip() for word in text.split(","))


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the source is, if its metadata do not say."""

    panel: ClassVar[str | None] = "Source"

    axes: Annotated[
        str | None,
        typer.Option(help="Letters of the axes, e.g. zyx; for a folder, those of one file."),
    ] = None
    voxel_size: Annotated[
        Any, typer.Option(parser=numbers, metavar="Z,Y,X", help="Voxel size in µm.")
    ] = None
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="For a folder: pattern of the file names, with {t}, {c}, {z} in place of "
            "the numbers, such as "
            "'t{t}_c{c}_z{z}.tif'.",
        ),
    ] = None
    stack: Annotated[
        str | None,
        typer.Option(
            metavar="t|c|z", help="For a folder: the axis along which its files follow each other."
        ),
    ] = None
    allow_missing: AllowMissing = False
    series: Annotated[
        int | None, typer.Option(help="Which of several images in a TIFF. Default: the largest.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """How the image is stored."""

    panel: ClassVar[str | None] = "Output"

    ngff_version: Annotated[str, typer.Option(help="0.5 (zarr 3) or 0.4 (zarr 2).")] = "0.5"
    chunks: Annotated[
        Any, typer.Option(parser=sizes, metavar="Z,Y,X", help="Shape of a chunk.")
    ] = None
    channel_names: Annotated[
        Any, typer.Option(parser=words, metavar="NAME,NAME,...", help="Names of the channels.")
    ] = None
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--no-labels",
            help="The voxels are labels: coarse levels are sampled, not averaged, and whole "
            "numbers stored as float become integers. Default: detected.",
        ),
    ] = None
    components: Annotated[
        bool,
        typer.Option(
            "--components",
            help="The source is a mask: number its connected pieces, and write these as labels.",
        ),
    ] = False


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
    about: Source,
    target: Target,
    overwrite: Overwrite = False,
    as_json: Json = False,
    where: WorkerFlags,
) -> None:
    """Convert an image of any size to OME-Zarr with a pyramid; can be resumed."""
    from embedseg_large.conversion.convert import convert as run
    from embedseg_large.volumes.volume import open_volume

    stop_on_sigterm()
    with progress_bars(as_json) as watcher:
        run(
            source,
            out,
            **asdict(about),
            **asdict(target),
            overwrite=overwrite,
            watcher=watcher,
            **asdict(where),
        )
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
