"""``embedseg-large import``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from embedseg_large.cli.console import print_facts, print_json, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, Overwrite, numbers


@dataclass(frozen=True, kw_only=True)
class OriginalSizes:
    """Sizes that an original checkpoint may not tell."""

    heading: ClassVar[str | None] = None

    grid: Annotated[
        Any,
        typer.Option(
            parser=numbers,
            metavar="Z,Y,X",
            help="grid_z, grid_y, grid_x of the training, if not in data_properties.json.",
        ),
    ] = None
    pixel: Annotated[
        Any,
        typer.Option(
            parser=numbers, metavar="Z,Y,X", help="Likewise pixel_z, pixel_y and pixel_x."
        ),
    ] = None
    voxel_size: Annotated[
        Any,
        typer.Option(
            parser=numbers, metavar="Z,Y,X", help="Voxel size of the training images in µm."
        ),
    ] = None


@reported("interrupted; nothing was written")
@grouped
def import_(
    source: Annotated[
        Path, typer.Argument(help="Folder of an EmbedSeg checkpoint, or an exported package.")
    ],
    out: Annotated[Path, typer.Argument(help="Model file to write, .safetensors.")],
    *,
    sizes: OriginalSizes,
    licence: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Licence of the weights. Default: unknown.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint of the original EmbedSeg, or an exported package, to a model file."""
    from embedseg_large.network.exchange.imported import import_model

    stored = import_model(
        source,
        out,
        grid=sizes.grid,
        pixel=sizes.pixel,
        voxel_size=sizes.voxel_size,
        licence=licence,
        overwrite=overwrite,
    )
    if as_json:
        facts = {"settings": stored.settings.as_dict(), "card": dict(stored.card)}
        print_json({"model": str(out), **facts})
        return
    settings, card = stored.settings, stored.card
    print_facts(
        str(out),
        {
            "network": f"{settings.ndim}D, {settings.channels} channel(s)",
            "pitch": ", ".join(f"{p:g}" for p in settings.pitch),
            "objects": f"about {settings.object_diameter:.0f} voxels wide"
            if settings.object_diameter
            else "of unknown size",
            "voxel size": settings.voxel_size or "unknown",
            "licence": card.get("licence", "not stated in its card"),
            "use it": f"embedseg-large segment STORE --model {out}",
        },
    )
