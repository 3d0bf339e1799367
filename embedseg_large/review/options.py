"""Which review of labels is meant, and who measures them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from embedseg_large.options import Flag, Options
from embedseg_large.runs.options import WorkerOptions


@dataclass(frozen=True, kw_only=True)
class NameOptions(Options):
    """Which one of several reviews."""

    name: Annotated[
        str | None,
        Flag("Name of the reviewed labels. Default: NAME_reviewed."),
    ] = None
    """Name of the reviewed labels; default: ``NAME_reviewed``. Labels may have several reviews."""
    timepoint: Annotated[
        int | None,
        Flag("Timepoint of a series; each has a review of its own.", metavar="T"),
    ] = None
    """Timepoint of a series; each has a log of its own."""


@dataclass(frozen=True, kw_only=True)
class ReviewOptions(WorkerOptions, NameOptions):
    """What `open_review` takes by name; workers measure the instances, the first time."""
