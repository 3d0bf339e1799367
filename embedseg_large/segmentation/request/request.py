"""What a user requested, as a value that is complete before any work is done.

Its facts are everything that determines the labels. Two runs are equivalent if their facts are
equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.labels.pending import LabelTarget
from embedseg_large.runs.facts import Facts, token
from embedseg_large.runs.run_folder import Run
from embedseg_large.segmentation.intensity_field import IntensityField
from embedseg_large.segmentation.scratch.scratch import Scratch
from embedseg_large.segmentation.segmenters.protocol import Segmenter
from embedseg_large.segmentation.settings import SegmentSettings
from embedseg_large.segmentation.stages.job import Foreground
from embedseg_large.storage.connection import shown
from embedseg_large.storage.folder import Folder
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.intensity import IntensityRange
from embedseg_large.volumes.volume import Volume

High: TypeAlias = Literal["percentile", "otsu"] | float
"""What becomes 1: a percentile, and another one 0; or Otsu's threshold or a given intensity, and
the darkest voxel 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityChoice:
    """Which intensities become 0 and 1."""

    given: tuple[IntensityRange, ...] | None = None
    """The ranges, one per channel; None: to be determined."""
    sample: float | None = None
    """Fraction of the volume to read; None: all of it."""
    per_timepoint: bool = False
    """Whether each timepoint has separate ranges."""
    field: str = "none"
    """Prior correction of uneven light: none, depth or smooth."""
    high: High = "percentile"
    """What becomes 1 if no range is given."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run that is feasible, as far as the metadata show."""

    volume: Volume
    segmenter: Segmenter
    settings: SegmentSettings
    resampling: Resampling
    """From the volume's grid to the segmenter's."""
    region: Box | None
    """The part of the volume to segment; None: all of it."""
    target: LabelTarget
    scratch: Scratch
    intensity: IntensityChoice
    foreground: Foreground
    """Where to look."""
    timepoints: tuple[int | None, ...]
    """Timepoints to segment; just None if the volume has no time axis."""
    keep: bool
    """Whether predictions outlive the run."""
    saved_in: str | None
    """Folder with predictions of an earlier run, used instead of the network."""
    scale: Mapping[str, Any] | None
    """How the scale was found automatically, see `ScaleChoice.as_dict`; None: it was not."""
    stated_size: str | None
    """The size of objects that the user stated, ``7,15`` or ``12um``; None: none."""
    level_is_automatic: bool
    """Whether a coarser level was chosen, by voxel sizes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the grid that is predicted and clustered."""
        return self.resampling.target

    @property
    def part(self) -> Box | None:
        """The part of that grid for which labels are requested; None: all of it."""
        return None if self.region is None else self.resampling.centers(self.region)

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
    """Version of each prediction tile."""
    intensity: tuple[IntensityRange, ...]
    """Intensities that became 0 and 1 in each channel."""
    fields: tuple[IntensityField, ...] = ()
    """Intensity field of each channel, applied before."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timepoint:
    """One timepoint of a request."""

    number: int | None
    """None if the volume has no time axis."""
    volume: Volume
    """The volume at that timepoint."""
    scratch: Scratch
    """Its kept predictions."""
    saved: SavedPredictions | None = None
    """Predictions used instead of the network."""

    @property
    def section(self) -> str:
        """Prefix that distinguishes its files and ledgers from those of other timepoints."""
        return section_of(self.number)


def section_of(timepoint: int | None) -> str:
    """Return the prefix of a timepoint's files and ledgers."""
    return "" if timepoint is None else f"t{timepoint:05d}"


FORMATS = {"predictions": 2, "scratch": 3}
"""Versions of the file formats of a run: predictions, which may outlive it, and everything else in
its scratch folder. Increase one with every change to these files: then a run started by an older
program is refused instead of misread.
"""

_LIBRARIES = ("embedseg-large", "numpy", "numba", "torch", "zarr")
_FACTS_OF_NETWORK = ("model", "volume", "intensity", "foreground")
_PARTS_OF_NETWORK = ("device", "dtype", "tta", "augment_above", "tile", "context")


def facts_of(request: Request) -> Facts:
    """Everything that determines the labels of a run."""
    series = {"timepoints": list(request.timepoints)} if request.is_series else {}
    return _facts(request, _volume(request.volume, request.shape) | series)


def _facts(request: Request, volume: Facts) -> Facts:
    given, field = request.intensity.given, request.intensity.field
    return {
        "settings": request.settings.as_dict(),
        "model": request.segmenter.fingerprint,
        "volume": volume,
        "intensity": {
            "range": None if given is None else [asdict(r) for r in given],
            "sample": request.intensity.sample,
            "per_timepoint": request.intensity.per_timepoint,
            **({} if field == "none" else {"field": field}),
        },
        "foreground": _foreground(request.foreground),
        "formats": dict(FORMATS),
        "versions": {name: version(name) for name in _LIBRARIES},
        **_region(request),
        **({} if request.scale is None else {"object_diameter": dict(request.scale)}),
    }


def facts_of_predictions(request: Request, volume: Volume) -> Facts:
    """Everything that determines the network's predictions, however they are used.

    Parameters
    ----------
    request
        The run.
    volume
        The request's volume, at one timepoint.
    """
    facts = _facts(request, _volume(volume, request.shape))
    settings = {name: facts["settings"][name] for name in _PARTS_OF_NETWORK}
    formats = {"predictions": FORMATS["predictions"]}
    return {n: facts[n] for n in _FACTS_OF_NETWORK} | {"settings": settings, "formats": formats}


def _volume(volume: Volume, grid: Sequence[int]) -> Facts:
    about = ("level", "channel", "timepoint")
    path = None if volume.path is None else shown(volume.path)
    return {name: getattr(volume, name) for name in about} | {
        "path": path,
        "shape": list(volume.spatial_shape),
        "grid": list(grid),
        "dtype": str(volume.dtype),
        "nodata": str(volume.nodata),
        **({"image": volume.image} if volume.image else {}),
        "content": image_hash(volume),
        "files": volume.storage.digest,
        **({"opening": said} if (said := volume.opening.said()) else {}),
    }


def _region(request: Request) -> Facts:
    """Return the region, if there is one: first voxels, and those after the last."""
    if request.region is None:
        return {}
    return {"region": {"start": list(request.region.start), "stop": list(request.region.stop)}}


def _foreground(where: Foreground) -> Facts:
    mask = where.mask
    return {
        "mask": None if mask is None else shown(mask.path or ""),
        "mask content": None if mask is None else image_hash(mask),
        "dark_below": None if where.coarse is None else where.dark,
    }


def image_hash(volume: Volume) -> str:
    """Return a hash that changes with the image: of voxels in memory, or of the file's metadata."""
    from dask.base import tokenize

    if volume.path is None:
        return str(tokenize(volume.storage.array))
    parts = [volume.axes, volume.chunks, volume.shards, volume.zarr_format, str(volume.fill_value)]
    return str(tokenize(parts))


def provenance(
    run: Run,
    intensity: Sequence[Sequence[IntensityRange]],
    fields: Sequence[Sequence[IntensityField]],
) -> Facts:
    """Everything that determines the labels, as values that JSON can hold, and its token.

    Parameters
    ----------
    run
        The run, which knows its facts.
    intensity
        Intensities that became 0 and 1, for each timepoint and channel.
    fields
        Intensity fields applied before, for each timepoint and channel.
    """
    found = [[asdict(r) for r in channels] for channels in intensity]
    ranges = found if run.facts["intensity"]["per_timepoint"] else found[0]
    evened = [[one.as_dict() for one in channels] for channels in fields]
    light: Facts = {}
    if evened and evened[0]:
        mode = run.facts["intensity"]["field"]
        same = not run.facts["intensity"]["per_timepoint"]
        light = {"intensity_field": {"mode": mode, "channels": evened[0] if same else evened}}
    return run.facts | light | {"intensity": ranges, "token": token(run.facts)}
