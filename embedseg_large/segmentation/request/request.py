"""What a user asked for, as a value: whole when it is made, and nothing is done yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.labels.target import LabelTarget
from embedseg_large.segmentation.intensity_field import IntensityField
from embedseg_large.segmentation.request.foreground import Foreground
from embedseg_large.segmentation.scratch.scratch import Scratch
from embedseg_large.segmentation.segmenters.protocol import Segmenter
from embedseg_large.segmentation.settings import SegmentSettings
from embedseg_large.storage.folder import Folder
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.intensity import IntensityRange
from embedseg_large.volumes.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityChoice:
    """What is to become 0 and 1."""

    given: tuple[IntensityRange, ...] | None = None
    """The ranges, one a channel; None: to be found."""
    sample: float | None = None
    """Fraction of the volume to look at; None: all of it."""
    per_timepoint: bool = False
    """Whether each timepoint has ranges of its own."""
    field: str = "none"
    """How uneven light is evened out before: none, depth or smooth."""
    by_otsu: bool = False
    """Whether Otsu's threshold becomes 1, in place of a percentile."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run that can be done, as far as metadata tell."""

    volume: Volume
    segmenter: Segmenter
    settings: SegmentSettings
    resampling: Resampling
    """To the grid that the segmenter sees."""
    region: Box | None
    """The part of the volume to segment; None: all of it."""
    target: LabelTarget
    scratch: Scratch
    intensity: IntensityChoice
    foreground: Foreground
    """Where to look."""
    timepoints: tuple[int | None, ...]
    """Those to segment, of a volume with a time axis; else just None."""
    keep: bool
    """Whether predictions outlive the run."""
    saved_in: str | None
    """Folder of the predictions of an earlier run, in place of those of the network."""
    scale: Mapping[str, Any] | None
    """How the scale was found by itself, see `ScaleChoice.as_dict`; None: it was stated, or not."""
    level_is_automatic: bool
    """Whether a coarser level was chosen, by voxel sizes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the grid that is predicted and clustered."""
        return self.resampling.target

    @property
    def part(self) -> Box | None:
        """The part of that grid that labels are wanted of; None: all of it."""
        return None if self.region is None else self.resampling.covering(self.region)

    @property
    def predicts(self) -> bool:
        """Whether a network has to predict."""
        return self.segmenter.traits.predicts and self.saved_in is None

    @property
    def is_series(self) -> bool:
        """Whether the volume has a time axis."""
        return self.timepoints != (None,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedPredictions:
    """Predictions of a finished run, at one timepoint."""

    folder: Folder
    versions: NDArray[np.uint32]
    """Of each prediction tile."""
    intensity: tuple[IntensityRange, ...]
    """What became 0 and 1 in each channel."""
    fields: tuple[IntensityField, ...] = ()
    """What evened out each channel before."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timepoint:
    """One timepoint of a request."""

    number: int | None
    """None where the volume has no time axis."""
    volume: Volume
    """At that timepoint."""
    scratch: Scratch
    """What is kept of it."""
    saved: SavedPredictions | None = None
    """In place of predictions of the network."""

    @property
    def section(self) -> str:
        """What tells its files and ledgers from those of others."""
        return section_of(self.number)


def section_of(timepoint: int | None) -> str:
    """What tells files and ledgers of a timepoint from those of others."""
    return "" if timepoint is None else f"t{timepoint:05d}"
