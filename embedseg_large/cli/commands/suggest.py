"""``embedseg-large suggest``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from embedseg_large.cli.console import print_facts, print_json, print_table, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, numbers, ranges

if TYPE_CHECKING:
    from embedseg_large.segmentation.request.suggest import Suggestion


@dataclass(frozen=True, kw_only=True)
class SuggestPart:
    """What is looked at, and what it is like."""

    heading: ClassVar[str | None] = None

    region: Annotated[
        Any,
        typer.Option(
            parser=ranges,
            metavar="Z0:Z1,Y0:Y1,X0:X1",
            help="Where to sample. Default: the brightest places.",
        ),
    ] = None
    channel: Annotated[str, typer.Option(metavar="C", help="Channel, by number or name.")] = "0"
    timepoint: Annotated[int | None, typer.Option(help="Timepoint. Default: the first.")] = None
    level: Annotated[
        int | None, typer.Option(help="Pyramid level to which voxel counts refer. Default: 0.")
    ] = None
    axes: Annotated[
        str | None, typer.Option(help="Letters of the axes, if the file has none: zyx.")
    ] = None
    voxel_size: Annotated[
        Any,
        typer.Option(
            parser=numbers, metavar="Z,Y,X", help="Voxel size in µm, if the file has none."
        ),
    ] = None


@reported()
@grouped
def suggest(
    store: Annotated[str, typer.Argument(help="OME-Zarr image, or TIFF.")],
    *,
    model: Annotated[
        str | None, typer.Option(help="As for segment. Default: nuclei-3d, or nuclei-2d.")
    ] = None,
    part: SuggestPart,
    as_json: Json = False,
) -> None:
    """Find the scale that suits the model best, on a sample of the image, in seconds.

    Predicts a few places at six scales, and shows how consistent the model is at each. `segment
    --object-diameter auto` makes the same choice.
    """
    from embedseg_large.segmentation.request.auto_scale import table_of
    from embedseg_large.segmentation.request.suggest import suggest_diameter

    given: dict[str, Any] = {
        "channel": part.channel,
        "timepoint": part.timepoint,
        "level": part.level,
    }
    given |= {"axes": part.axes, "voxel_size": part.voxel_size}
    found = suggest_diameter(store, model, region=part.region, **given)
    command = _command(store, {"model": model} | given, found)
    if as_json:
        print_json(found.as_dict() | {"command": command})
        return
    heads, rows = table_of(found.choice.as_dict())
    print_table(heads, rows)
    places = ", ".join(map(str, found.choice.places)) or "nothing: it is empty"
    print_facts(
        None,
        {
            "best scale": found.choice.sentence,
            "looked at": f"{places} of level {found.level}",
            "run": command,
        },
    )


def _command(store: str, given: dict[str, Any], found: Suggestion) -> str:
    """The suggested command."""
    words = ["embedseg-large", "segment", store]
    for name, value in given.items():
        if value is not None and (name, value) != ("channel", "0"):
            text = ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    if found.diameter is not None:
        words += ["--object-diameter", f"{found.diameter:g}"]
    return shlex.join(words)
