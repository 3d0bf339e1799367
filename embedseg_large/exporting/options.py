"""Options of labels for other programs, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from embedseg_large.options import Flag, Options

Drawing = Literal["labels", "mask", "outlines"]
"""What a TIFF shows."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Keyword options of `export_labels`."""

    instances: Annotated[
        Sequence[int] | None,
        Flag("Only these instances. Default: all.", form="sizes", metavar="ID,ID,..."),
    ] = None
    """Labels of the instances to write; None: all."""
    timepoint: Annotated[
        int | Sequence[int] | None,
        Flag("Timepoints; default: all.", form="timepoints", metavar="T|T,T|T:T"),
    ] = None
    """Timepoint or timepoints; None: all."""
    level: Annotated[int, Flag("Pyramid level; 0 is the finest.", shows_default=True)] = 0
    """Level of the labels, 0 being the finest."""
    draw: Annotated[
        Drawing,
        Flag(
            "TIFF: labels; 255 in instances; or 255 on their outlines, plane by plane.",
            form="text",
            metavar="labels|mask|outlines",
            shows_default=True,
        ),
    ] = "labels"
    """Of a TIFF: ``"labels"``; ``"mask"``, 255 in instances; ``"outlines"``, 255 where an instance
    touches something else in its plane."""
    smooth: Annotated[
        float,
        Flag(
            "Meshes: width in voxels of the Gaussian that smooths the surface.",
            metavar="S",
            shows_default=True,
        ),
    ] = 0.0
    """Of meshes: standard deviation in voxels of a Gaussian that smooths the steps of voxels."""
    voxel_size: Annotated[
        Sequence[float] | None,
        Flag("Voxel size in µm; overrides the metadata.", form="numbers", metavar="Z,Y,X"),
    ] = None
    """In µm along (z,) y, x of this level; overrides the metadata."""
    axes: Annotated[str | None, Flag("Letters of the labels' axes, if a file has none: zyx.")] = (
        None
    )
    """Letters of the axes of a file that does not name them."""
    overwrite: Annotated[bool, Flag("Replace existing output.")] = False
    """Whether existing files may be replaced."""
