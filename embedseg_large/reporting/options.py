"""What a user may choose about a report, by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any

from embedseg_large.measurement.options import AxesOptions
from embedseg_large.options import Flag, Options
from embedseg_large.runs.options import WorkerOptions


@dataclass(frozen=True, kw_only=True)
class ShownOptions(Options):
    """What is shown."""

    image: Annotated[
        Any,
        Flag("The image, if it is elsewhere and not recorded.", form="text", metavar="STORE"),
    ] = None
    """Path or URL of the image, if it is stored elsewhere. Default: the one around the labels, or
    the one recorded by the run. Without an image there are no pictures."""
    channel: Annotated[
        int | str | None,
        Flag(
            "Channel to show, a number or name. Default: the one that was segmented.",
            form="text",
            metavar="C",
        ),
    ] = None
    """Channel of the image; default: the one that was segmented, or the first."""
    timepoint: Annotated[
        int | None, Flag("Timepoint of a series. Default: the first that was segmented.")
    ] = None
    """Timepoint of a series; default: the first that was segmented."""


@dataclass(frozen=True, kw_only=True)
class KnownOptions(Options):
    """What else is known about the labels."""

    model: Annotated[
        str | os.PathLike[str] | None,
        Flag("The model, for its card. Bundled ones are recognised automatically.", form="text"),
    ] = None
    """Name, file or folder of the model, for its card; bundled ones are recognised."""
    log: Annotated[
        str | os.PathLike[str] | None,
        Flag(
            "File written by segment --log, for the time of each tile.", form="text", metavar="FILE"
        ),
    ] = None
    """Log of the run (`segment` with `log`), for the time of each tile."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(WorkerOptions, KnownOptions, AxesOptions, ShownOptions):
    """What `report` takes by name."""
