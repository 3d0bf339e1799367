"""How an image is opened: which part of it, and information missing from its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedseg_large.options import Options
from embedseg_large.volumes.nodata import NoData


@dataclass(frozen=True, kw_only=True)
class Opening(Options):
    """What `open_volume` takes by name, kept by the volume so that it can be opened again."""

    channel: int | str | None = 0
    """The channel to select, by number or name; None keeps all of several channels."""
    timepoint: int | None = None
    """The timepoint to select; None keeps all of several timepoints."""
    level: int = 0
    """Index of the level in the metadata, 0 being the finest."""
    axes: str | None = None
    """Letters of the stored axes, such as ``"tczyx"``. Required if the metadata do not name them
    and the array has neither two (y, x) nor three axes (z, y, x); overrides the metadata."""
    voxel_size: Sequence[float] | None = None
    """Distance between voxels of this level in µm along (z,) y, x; overrides the metadata. Without
    it, the size is known only if every spatial axis is stored with a length unit."""
    nodata: str | float | NoData | None = None
    """Value of voxels that hold no data, such as NaN; ``"none"`` if all voxels hold data. Default,
    ``"auto"``: blank planes, regions and chunks hold none."""
    allow_missing: bool = False
    """Whether missing files and planes of a TIFF are read as zeros."""
    series: int | None = None
    """Which of several images in a TIFF; default: the largest."""

    def said(self) -> dict[str, Any]:
        """Return the information missing from the file, as keywords that JSON can hold."""
        size = self.voxel_size
        said = {
            "axes": self.axes,
            "voxel_size": None if size is None else [float(step) for step in size],
            "series": self.series,
            "allow_missing": self.allow_missing or None,
        }
        return {name: value for name, value in said.items() if value is not None}
