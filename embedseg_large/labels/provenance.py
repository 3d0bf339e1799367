"""The recorded provenance of labels, as far as it can be used.

Provenance is untrusted. Each part is optional: a part that a run would not write is left out with a
warning, and the command continues without it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from embedseg_large.errors import printable

logger = logging.getLogger(__name__)

_MOST = (1 << 63) - 1
_CONFIG = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

Count: TypeAlias = Annotated[NonNegativeInt, Field(le=_MOST)]
Number: TypeAlias = int | float
Place: TypeAlias = Annotated[list[Count], Field(min_length=2, max_length=3)]
Sizes: TypeAlias = Annotated[list[Count], Field(min_length=2, max_length=3)]
Setting: TypeAlias = bool | int | float | str | list[Number] | None


def _numbers(value: Any) -> Any:
    np.asarray(value, np.float64).max()  # raises unless it is a full array of numbers
    return value


class _Part(BaseModel):
    model_config = _CONFIG


class Region(_Part):
    """The segmented part of a volume."""

    start: Place
    stop: Place

    @model_validator(mode="after")
    def _is_box(self) -> Region:
        if len(self.start) != len(self.stop):
            raise ValueError("start and stop of different lengths")
        if any(a >= b for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError("stop is not after start")
        return self


class TracedRecord(_Part):
    """An instance that the seam report lists."""

    label: Count
    seed: Place
    timepoint: Count | None = None


class SeamsRecord(_Part):
    """The seam report."""

    faces: Count = 0
    voxels: Count = 0
    rounds: Count = 0
    tiles: Count = 0
    tiles_exact: Count = 0
    certified: Count = 0
    agreed: Count = 0
    repaired: Count = 0
    joined: Count = 0
    matched: Count = 0
    repaired_objects: list[TracedRecord]
    joined_objects: list[TracedRecord]


class Instances(_Part):
    """The stored columns of the instances."""

    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    columns: list[str]


class OpeningRecord(_Part):
    """How the volume was opened."""

    axes: str | None = None
    voxel_size: list[Number] | None = None
    series: Count | None = None
    allow_missing: bool | None = None


class SourceRecord(_Part):
    """The volume that was segmented."""

    path: str | None = None
    opening: OpeningRecord | None = None
    channel: Count | None = None
    level: Count = 0
    timepoint: Count | None = None
    timepoints: list[Count | None] | None = None
    shape: list[Count] | None = None
    grid: list[Count] | None = None
    nodata: str = "auto"


class Range(_Part):
    """Intensities that became 0 and 1."""

    low: float
    high: float
    percentiles: list[float] | None = None
    sampled: float | None = None


class Light(_Part):
    """The gain of a channel."""

    gain: Annotated[list[Any], AfterValidator(_numbers)]


class Evened(_Part):
    """Correction of uneven light."""

    mode: str
    channels: Annotated[list[Light] | list[list[Light]], Field(min_length=1)]


class StageRecord(_Part):
    """Cost of a stage."""

    tiles: Count
    seconds: float
    voxels_per_second: float


class ForegroundRecord(_Part):
    """Restrictions on where to segment."""

    mask: str | None = None
    dark_below: float | None = None


class TrialRecord(_Part):
    """A scale that was tried."""

    diameter: float | None
    depth: float | None = None
    objects: Count
    found: float | None
    views: float
    neighbours: float
    score: float


class Choice(_Part):
    """How the scale was found automatically."""

    asked: Literal["auto"]
    chosen: float | None
    depth: float | None = None
    model_diameter: float
    nothing_found: bool
    trials: list[TrialRecord]


class Settings(_Part):
    """Options of the run."""

    __pydantic_extra__: dict[str, Setting]

    min_object_size: Count = 0
    tile: Sizes = []
    context: Sizes = []
    cluster_tile: Sizes = []
    halo: Sizes = []
    max_halo: Sizes = []


class Cleaned(_Part):
    """Dropped pieces and filled holes."""

    pieces_dropped: Count
    instances_with_pieces: Count
    voxels_dropped: Count
    instances_with_holes: Count
    voxels_filled: Count
    left: Count


class ScaleRecord(_Part):
    """Sizes of objects: diameters in voxels, and what the user stated."""

    model_diameter: float | None = None
    stated: str | None = None


_PARTS: Mapping[str, Any] = {
    "token": str,
    "run": str,
    "labels": str,
    "made": str,
    "published": Number,
    "model": str,
    "segmenter": str | None,
    "method": str,
    "predictions": str,
    "n_instances": Count,
    "warnings": list[str],
    "versions": dict[str, str],
    "settings": Settings,
    "cleaning": Cleaned,
    "stages": dict[str, StageRecord],
    "seams": SeamsRecord,
    "region": Region,
    "instances": Instances,
    "volume": SourceRecord,
    "intensity": Annotated[list[Range] | list[list[Range]], Field(min_length=1)],
    "intensity_field": Evened,
    "foreground": ForegroundRecord,
    "object_diameter": Choice,
    "scale": ScaleRecord,
}
"""Types of the parts that this package reads."""

_ADAPTERS = {
    name: TypeAdapter(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel)
    else TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
    for name, kind in _PARTS.items()
}


def usable(made: Any, where: str) -> dict[str, Any]:
    """Return the valid parts of the provenance of labels.

    Parameters
    ----------
    made
        The stored provenance; empty if it is not an object.
    where
        Location, for warnings.
    """
    if not isinstance(made, dict):
        return {}
    return {name: value for name, value in made.items() if _is_usable(name, value, where)}


def is_choice(said: Any) -> bool:
    """Whether a value is a valid record of an automatic scale."""
    try:
        _ADAPTERS["object_diameter"].validate_python(said)
    except ValidationError:
        return False
    return True


def _is_usable(name: str, value: Any, where: str) -> bool:
    if name not in _ADAPTERS:
        return True
    try:
        _ADAPTERS[name].validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, (name, *first["loc"])))
        logger.warning(
            "%s: ignoring what these labels record of %s, which cannot be used (%s)",
            where,
            printable(at)[:100],
            first["msg"],
        )
        return False
    return True
