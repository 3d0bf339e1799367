"""What a user may choose about an evaluation, by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from embedseg_large.options import Flag, Options
from embedseg_large.runs.options import WorkerOptions

Localisation = Literal["iou", "boundary", "reference"]
"""How well two objects coincide."""

BOUNDARY_WIDTH = 2
"""Voxels. A tenth of a nucleus of 20 voxels; Cheng et al. take 2 % of a photograph's diagonal."""


@dataclass(frozen=True, kw_only=True)
class MatchingOptions(Options):
    """When two objects are the same."""

    localisation: Annotated[
        Localisation,
        Flag(
            "What thresholds apply to: the IoU of masks, the IoU of their boundaries, "
            "or the intersection over the true object.",
            form="text",
            metavar="iou|boundary|reference",
            shows_default=True,
        ),
    ] = "iou"
    """``"iou"`` of masks, ``"boundary"`` IoU (Cheng et al. 2021), or ``"reference"``: intersection
    over the true instance."""
    boundary_width: Annotated[int, Flag("Thickness of a boundary in voxels. Default: 2.")] = (
        BOUNDARY_WIDTH
    )
    """Thickness of the shell that boundary IoU compares, in voxels along every axis; at most 4096
    in 2D and 128 in 3D."""


@dataclass(frozen=True, kw_only=True)
class ErrorsOption(Options):
    """Where errors are listed."""

    errors: Annotated[
        str | os.PathLike[str] | None,
        Flag(
            "Write a table of all objects, found or not: .csv or .parquet.",
            form="text",
            metavar="TABLE",
        ),
    ] = None
    """Path (.csv or .parquet) of a table of all instances, found, split, merged, missed or a
    false positive, with positions. An existing file is replaced."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions(Options):
    """What the labels are like."""

    axes: Annotated[str | None, Flag("Letters of the axes, if a file has none: zyx.")] = None
    """Letters of the axes of files that do not name them, such as ``zyx`` for a plain TIFF."""
    timepoint: Annotated[
        int | None, Flag("Timepoint to compare, of labels that are a series.", min=0)
    ] = None
    """Which timepoint of a series to compare; a side without a time axis is compared as it is."""
    allow_missing: Annotated[
        bool, Flag("Read missing files, and missing planes of a TIFF, as zeros.")
    ] = False
    """Whether zeros may stand for files and planes of a TIFF that are not there."""
    overlapping: Annotated[
        bool,
        Flag(
            "Labels of three axes are stacks of masks, (objects, y, x), of a 2D image. Assumed "
            "anyway if the other side has two axes."
        ),
    ] = False
    """Whether labels of three axes are stacks of masks of a 2D image, ``(objects, y, x)``: one
    object per plane, which may overlap others. Also assumed of one side if the other has two
    axes."""
    ignore: Annotated[
        int,
        Flag(
            "Value of unannotated true voxels; negative values are always unannotated.",
            name="--ignore-label",
            shows_default=True,
        ),
    ] = -1
    """Value of unannotated true voxels, as for `train`; negative values are always unannotated.
    They are ignored, and so are the parts of predicted objects that lie in them. Negative voxels of
    a prediction are background."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(WorkerOptions, LabelOptions, ErrorsOption, MatchingOptions):
    """What `evaluate` takes by name."""
