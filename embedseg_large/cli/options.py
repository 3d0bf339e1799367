"""Options shared by several commands, and the parsers of their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from embedseg_large.options import Flag, Options


def sizes(text: str) -> tuple[int, ...]:
    """Integers, one per axis: ``64,128,128``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not like 64,128,128") from None


def numbers(text: str) -> tuple[float, ...]:
    """Numbers: ``.5,.75``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not like 0.5,0.75") from None


def names(text: str) -> tuple[str, ...]:
    """Names: ``B03,C*``."""
    found = tuple(word.strip() for word in text.split(","))
    if not all(found):
        raise typer.BadParameter(f"{text!r} is not like B03,C04")
    return found


def words(text: str) -> tuple[str, ...]:
    """Names, any of which may be empty: ``DAPI,GFP``."""
    return tuple(word.strip() for word in text.split(","))


def pair(text: str) -> tuple[float, float]:
    """Two numbers: ``100,2000``."""
    values = numbers(text)
    if len(values) != 2:
        raise typer.BadParameter(f"{text!r} is not two numbers, like 100,2000")
    return values[0], values[1]


def timepoints(text: str) -> int | tuple[int, ...]:
    """One number, several, or a range with exclusive end: ``3``, ``0,5,9`` or ``0:10``."""
    try:
        if ":" in text:
            start, stop = (int(part) for part in text.split(":"))
            return tuple(range(start, stop))
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not like 3, 0,5,9 or 0:10") from None
    return found[0] if len(found) == 1 else found


def ranges(text: str) -> tuple[tuple[int | None, int | None], ...]:
    """A range of voxels per axis: ``0:64,100:300,:``; without a number it extends to the end."""
    try:
        found = [
            [int(end) if end.strip() else None for end in r.split(":")] for r in text.split(",")
        ]
        return tuple((first, end) for first, end in found)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not like 0:64,100:300,:") from None


def channels(text: str) -> str | tuple[str, ...]:
    """One channel by number or name, or several: ``1``, ``DAPI`` or ``GFP,DAPI``."""
    found = names(text)
    return found[0] if len(found) == 1 else found


class Notation(NamedTuple):
    """How the value of an option is written."""

    parser: Callable[[str], Any]
    metavar: str | None = None


FORMS = {
    "sizes": Notation(sizes, "Z,Y,X"),
    "numbers": Notation(numbers),
    "names": Notation(names),
    "words": Notation(words),
    "pair": Notation(pair),
    "channels": Notation(channels, "C,C,..."),
    "timepoints": Notation(timepoints, "T"),
    "ranges": Notation(ranges, "Z0:Z1,Y0:Y1,X0:X1"),
}
"""By name, see `embedseg_large.options.Flag.form`."""

LabelStore = Annotated[
    str,
    typer.Argument(
        help="OME-Zarr image with labels, or the labels themselves: STORE/labels/NAME, TIFF."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log progress to stderr.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]


@dataclass(frozen=True, kw_only=True)
class TableFile(Options):
    """Where the table goes."""

    out: Annotated[
        Path | None,
        Flag("Write one row per instance: .csv, .parquet or .h5ad.", metavar="TABLE"),
    ] = None
