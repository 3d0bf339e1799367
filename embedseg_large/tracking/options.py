"""What a user may choose about tracks, by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from embedseg_large.measurement.options import LabelsOptions
from embedseg_large.options import Flag, Options
from embedseg_large.runs.options import WorkerOptions

Tracker = Literal["lap", "laptrack"]
"""Who links the instances."""


@dataclass(frozen=True, kw_only=True)
class LinkOptions(Options):
    """Which instances may be linked."""

    max_distance: Annotated[
        float | None,
        Flag(
            "Maximum distance in µm between an instance and itself one timepoint later. Default: "
            "the median distance between nearest neighbours.",
            metavar="UM",
        ),
    ] = None
    """Maximum distance between the centroids of an instance in successive timepoints, in µm (in
    voxels if the voxel size is unknown). Default: the median distance between nearest neighbours,
    beyond which a position no longer tells instances apart."""
    max_gap: Annotated[
        int,
        Flag("Timepoints that an instance may be missing.", min=0, shows_default=True),
    ] = 1
    """Number of successive timepoints in which an instance may be missing; 0: none."""
    division_distance: Annotated[
        float | None,
        Flag(
            "Maximum distance in µm between a mother and her second daughter; 0: none divide. The "
            "first is linked like any instance, within --max-distance. Default: --max-distance.",
            metavar="UM",
        ),
    ] = None
    """Maximum distance between a mother and the second of her daughters, in µm; 0: no instance
    divides. The first one is linked like any instance, within `max_distance`. Default:
    `max_distance`."""
    tracker: Annotated[
        Tracker,
        Flag(
            "lap, for any number of instances; or laptrack, if installed.",
            form="text",
            metavar="lap|laptrack",
            shows_default=True,
        ),
    ] = "lap"
    """``"lap"``: sparse linear assignment, for any number of instances. ``"laptrack"``: the
    laptrack package, whose memory grows with the square of the number of instances."""


@dataclass(frozen=True, kw_only=True)
class TrackFileOptions(Options):
    """What is written."""

    heading: ClassVar[str | None] = "Output"

    ctc: Annotated[
        str | os.PathLike[str] | None,
        Flag(
            "Folder for files of the Cell Tracking Challenge: res_track.txt and label TIFFs.",
            form="text",
            metavar="FOLDER",
        ),
    ] = None
    """Folder for the files of the Cell Tracking Challenge: ``res_track.txt``, and a label TIFF for
    each timepoint."""
    overwrite: Annotated[bool, Flag("Replace existing tracks.")] = False
    """Whether existing tracks may be replaced."""


@dataclass(frozen=True, kw_only=True)
class TrackOptions(WorkerOptions, TrackFileOptions, LabelsOptions, LinkOptions):
    """What `track` takes by name."""
