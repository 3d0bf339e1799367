"""Options of a batch, by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from embedseg_large.options import Flag, Options
from embedseg_large.runs.options import WorkerOptions
from embedseg_large.segmentation.options import SegmentOptions

MaskFormat = Literal["tiff", "ome-zarr"]
"""How masks in a folder are stored."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions(Options):
    """Many images at once."""

    heading: ClassVar[str | None] = "Folders and plates"

    out: Annotated[
        str | os.PathLike[str] | None,
        Flag(
            "Folder for one mask per image, a table and a contact sheet. Default: labels go "
            "into the images' own OME-Zarr stores.",
            form="text",
            metavar="FOLDER",
        ),
    ] = None
    """Folder for the masks, which is made if it does not exist. None: labels go into the images'
    own OME-Zarr stores, and the table into the folder ``SOURCE-LABELS`` beside them."""
    mask_format: Annotated[
        MaskFormat,
        Flag(
            "Format of the masks in that folder.",
            form="text",
            metavar="tiff|ome-zarr",
            shows_default=True,
        ),
    ] = "tiff"
    """``"tiff"``: compressed TIFFs of uint16, or of uint32 where that is too few, with the image's
    voxel size. ``"ome-zarr"``: label volumes with a pyramid."""
    pattern: Annotated[
        str | None,
        Flag("Only files whose names match, e.g. '*_dapi.tif'.", metavar="NAMES"),
    ] = None
    """Wildcards that names of files in a folder must match, such as ``"*_dapi.tif"``."""
    wells: Annotated[
        Sequence[str] | None,
        Flag("Only these wells, e.g. 'B03,C*'.", form="names", metavar="WELL,..."),
    ] = None
    """Wells of a plate (``"B03"``, ``"C*"``); None: all."""
    fields: Annotated[
        Sequence[str] | None,
        Flag("Only these fields of each well.", name="--field", form="names", metavar="FIELD,..."),
    ] = None
    """Fields of view of a plate; None: all."""


@dataclass(frozen=True, kw_only=True)
class BatchCall(BatchOptions, SegmentOptions, WorkerOptions):
    """Keyword options of `segment_images`."""
