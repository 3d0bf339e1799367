"""``embedseg-large suggest``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedseg_large.cli.console import print_facts, print_json, reported
from embedseg_large.cli.options import Json, numbers, ranges

if TYPE_CHECKING:
    from embedseg_large.segmentation.request.suggest import Suggestion


@reported()
def suggest(
    store: Annotated[str, typer.Argument(help="OME-Zarr image, or TIFF.")],
    *,
    model: Annotated[
        str | None, typer.Option(help="As for segment. Default: nuclei-3d, or nuclei-2d.")
    ] = None,
    region: Annotated[
        Any,
        typer.Option(
            parser=ranges,
            metavar="Z0:Z1,Y0:Y1,X0:X1",
            help="Where to look. Default: a place with contrast.",
        ),
    ] = None,
    channel: Annotated[int, typer.Option(help="Channel.")] = 0,
    timepoint: Annotated[int | None, typer.Option(help="Timepoint. Default: the first.")] = None,
    level: Annotated[
        int | None, typer.Option(help="Pyramid level; its voxels are meant. Default: 0.")
    ] = None,
    axes: Annotated[
        str | None, typer.Option(help="Letters of the axes, where the file has none: zyx.")
    ] = None,
    voxel_size: Annotated[
        Any,
        typer.Option(
            parser=numbers, metavar="Z,Y,X", help="Voxel size in µm, where the file has none."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate how wide your objects are, and say what to tell the model, in seconds.

    Looks at a small part of the image: for blobs, and at the objects that the model finds there.
    """
    from embedseg_large.segmentation.request.suggest import suggest_diameter

    given: dict[str, Any] = {"channel": channel, "timepoint": timepoint, "level": level}
    given |= {"axes": axes, "voxel_size": voxel_size}
    found = suggest_diameter(store, model, region=region, **given)
    command = _command(store, {"model": model} | given, found)
    if as_json:
        print_json(found.as_dict() | {"command": command})
        return
    print_facts(
        None,
        {
            "objects": f"about {found.diameter:.0f} voxels wide ({_source(found)})",
            "the model's": _known(found),
            "looked at": f"{found.region} of level {found.level}",
            "run": command,
        },
    )


def _source(found: Suggestion) -> str:
    if found.objects:
        return f"median of {found.objects} that the model found there"
    return "of blobs: the model found too few objects to measure; try another region"


def _known(found: Suggestion) -> str:
    if found.model_diameter is None:
        return "not known; what it learned from decides"
    told = "tell it" if found.is_needed else "no need to tell it"
    if found.may_help:
        told = (
            f"it has learned such ones; compare with --object-diameter {found.diameter:.0f} on a "
            "--region if labels are poor"
        )
    return f"{found.model_diameter:.0f} voxels: {told}"


def _command(store: str, given: dict[str, Any], found: Suggestion) -> str:
    """The command to run."""
    words = ["embedseg-large", "segment", store]
    for name, value in given.items():
        if value is not None and (name, value) != ("channel", 0):
            text = ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    if found.is_needed:
        words += ["--object-diameter", f"{found.diameter:.0f}"]
    return shlex.join(words)
