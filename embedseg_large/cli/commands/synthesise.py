"""``embedseg-large synthesise``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedseg_large.cli.console import print_facts, print_json, reported, stderr_console
from embedseg_large.cli.options import Json, Overwrite


@reported("interrupted; the volumes written so far are complete")
def synthesise(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    count: Annotated[int, typer.Option(help="Number of volumes.", min=1)] = 24,
    settings: Annotated[
        str | None,
        typer.Option(
            help="Properties: diameter=12:30,anisotropy=2 (voxels), or a YAML or JSON file.",
            metavar="FILE|WORDS",
        ),
    ] = None,
    ndim: Annotated[int | None, typer.Option(help="2 or 3. Default: 3.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.", min=0)] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write synthetic images of nuclei and their masks, for viewing or training.

    OUT/images and OUT/masks hold TIFFs with matching names, and OUT/settings.yaml all settings.
    """
    from embedseg_large.synthesis.files import synthesise as write

    with stderr_console(quiet=as_json).status("drawing") as status:
        images = write(
            out,
            count,
            settings=settings,
            ndim=ndim,
            seed=seed,
            overwrite=overwrite,
            tell=lambda done, of: status.update(f"volume {done} of {of}"),
        )
    values = {"images": str(out / "images"), "masks": str(out / "masks"), "count": len(images)}
    if as_json:
        print_json(values)
    else:
        print_facts(None, values | {"settings": out / "settings.yaml"})
