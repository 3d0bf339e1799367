"""``embedseg-large suggest``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedseg_large.cli.console import print_facts, print_json, print_table, reported
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json
from embedseg_large.options import in_digits
from embedseg_large.segmentation.input_options import SuggestOptions

if TYPE_CHECKING:
    from embedseg_large.segmentation.request.suggest import Suggestion


@reported()
@grouped
def suggest(
    store: Annotated[str, typer.Argument(help="OME-Zarr image, or TIFF.")],
    *,
    model: Annotated[
        str | None, typer.Option(help="As for segment. Default: nuclei-3d, or nuclei-2d.")
    ] = None,
    given: Annotated[dict[str, Any], SuggestOptions],
    as_json: Json = False,
) -> None:
    """Find the scale that suits the model best, on a sample of the image.

    Predicts a few places at six scales, and at other depths of the best one, and shows how
    consistent the model is at each. `segment --object-diameter auto` makes the same choice.
    """
    from embedseg_large.segmentation.request.scale_choice import table_of
    from embedseg_large.segmentation.request.suggest import suggest_diameter

    found = suggest_diameter(store, model, **given)
    shown = {name: value for name, value in given.items() if name != "region"}
    command = _command(store, {"model": model} | shown, found)
    if as_json:
        print_json(found.as_dict() | {"command": command})
        return
    heads, rows = table_of(found.choice.as_dict())
    print_table(heads, rows)
    places = ", ".join(map(str, found.choice.places))
    looked_at = f"{places} of level {found.level}" if places else "nothing: the image is empty"
    print_facts(
        None,
        {
            "best scale": found.choice.sentence,
            "looked at": looked_at,
            "run": command,
        },
    )


def _command(store: str, given: dict[str, Any], found: Suggestion) -> str:
    """The suggested command."""
    words = ["embedseg-large", "segment", store]
    for name, value in given.items():
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value is not None and value is not False and (name, value) != ("channel", "0"):
            text = ",".join(map(in_digits, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    if found.diameter is not None:
        size = found.diameter
        words += ["--object-diameter", size if isinstance(size, str) else in_digits(size)]
    if found.states_level:
        words += ["--level", str(found.level)]
    return shlex.join(words)
