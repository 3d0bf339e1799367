"""What a user may choose about measured labels, by name; reports take some of it, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from embedseg_large.options import Flag, Options
from embedseg_large.runs.options import WorkerOptions


@dataclass(frozen=True, kw_only=True)
class LabelsOptions(Options):
    """What labels are like, if their file does not say."""

    voxel_size: Annotated[
        Sequence[float] | None,
        Flag("Voxel size in µm; overrides the metadata.", form="numbers", metavar="Z,Y,X"),
    ] = None
    """In µm along (z,) y, x of this level; overrides the metadata."""
    axes: Annotated[
        str | None, Flag("Letters of the labels' axes, if a file has none: zyx, or tzyx.")
    ] = None
    """Letters of the axes of labels that do not name them, such as ``zyx``, or ``tzyx`` of a
    series, for a plain TIFF."""


@dataclass(frozen=True, kw_only=True)
class AxesOptions(LabelsOptions):
    """What labels and image are like, if their files do not say."""

    image_axes: Annotated[str | None, Flag("Likewise for the image: czyx.")] = None
    """Likewise for the image. Those of an image that `segment` was told need not be passed
    again."""


@dataclass(frozen=True, kw_only=True)
class ImageOption(Options):
    """The image of the labels."""

    image: Annotated[
        Any,
        Flag(
            "The image, if it is stored elsewhere and not recorded.", form="text", metavar="STORE"
        ),
    ] = None
    """The image, if it is stored elsewhere: anything that `open_volume` accepts. Default:
    `source`, or if that holds only labels, the image recorded by their run. If `source` is the
    labels themselves, only shapes are measured."""


@dataclass(frozen=True, kw_only=True)
class ParentOption(Options):
    """Other labels around the instances."""

    within: Annotated[
        Any,
        Flag(
            "Other labels of the image, as labels/cells: adds the parent of each instance and "
            "its overlap with it.",
            form="text",
            metavar="LABELS",
        ),
    ] = None
    """Other labels of the same image, in which each instance has its parent: an array, a path, or
    the name of labels in the same store (``"cells"``)."""


@dataclass(frozen=True, kw_only=True)
class TableOption(Options):
    """Where the table goes."""

    into_store: Annotated[
        bool, Flag("Write the table into the store of the labels, for viewers.")
    ] = False
    """Also write the table into the store of the labels, see `embedseg_large.labels.tables`."""


@dataclass(frozen=True, kw_only=True)
class PartOptions(Options):
    """Which part of labels and image is measured."""

    channel: Annotated[
        int | str | Sequence[int | str] | None,
        Flag("Channels, by number or name. Default: all.", form="channels"),
    ] = None
    """Channel or channels of the image, by number or name; default: all."""
    timepoint: Annotated[
        int | Sequence[int] | None,
        Flag("Timepoints. Default: all.", form="timepoints", metavar="T|T,T|T:T"),
    ] = None
    """Timepoint or timepoints; default: all."""
    level: Annotated[
        int,
        Flag(
            "Pyramid level of the labels; the matching level of the image is found.",
            shows_default=True,
        ),
    ] = 0
    """Level of the labels, 0 being the finest. The image level with the same shape is used."""


@dataclass(frozen=True, kw_only=True)
class SubjectOptions(AxesOptions, PartOptions, ImageOption):
    """What is measured."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(WorkerOptions, TableOption, ParentOption, SubjectOptions):
    """What `measure` takes by name."""
