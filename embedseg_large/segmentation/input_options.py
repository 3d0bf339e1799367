"""Which part of an image to use, and its properties: options of `segment` and `suggest`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from embedseg_large.options import Flag, Options


@dataclass(frozen=True, kw_only=True)
class FileOptions(Options):
    """Which image of a file, and what the file does not say."""

    heading: ClassVar[str | None] = "Input"

    channel: Annotated[
        int | str | None,
        Flag("Channel, by number or name.", form="text", metavar="C", shows_default=True),
    ] = 0
    """Channel of a multi-channel image, by number or name; default 0. None: all, for a model of
    several."""
    axes: Annotated[
        str | None,
        Flag("Letters of the axes, if the file has none: zyx."),
    ] = None
    """Letters of the axes of a file that does not name them."""
    voxel_size: Annotated[
        Sequence[float] | None,
        Flag("Voxel size in µm, instead of what the file says.", form="numbers", metavar="Z,Y,X"),
    ] = None
    """Voxel size in µm along (z,) y, x, instead of what the file says."""
    series: Annotated[
        int | None,
        Flag(
            "Which of several images in a file. Default: the largest of a TIFF, all series of a "
            "converted file."
        ),
    ] = None
    """Index of the image in a TIFF; default: the largest."""
    allow_missing: Annotated[
        bool,
        Flag("Read missing files, and missing planes of a TIFF, as zeros."),
    ] = False
    """Whether missing files, and missing planes of a TIFF, are read as zeros; default: no."""


@dataclass(frozen=True, kw_only=True)
class InputOptions(FileOptions):
    """Which part of the image, and its properties."""

    timepoint: Annotated[
        int | Sequence[int] | None,
        Flag(
            "One timepoint, several, or a range: 3, 0,5,9, 0:10. Default: all.",
            form="timepoints",
        ),
    ] = None
    """One timepoint of a series, or several; default: all. Each has separate labels, from 1."""
    level: Annotated[
        int | None,
        Flag(
            "Pyramid level; 0 is the finest. Default: the one closest to the model's voxel "
            "size if both sizes are known, else 0."
        ),
    ] = None
    """Pyramid level; 0 is the finest. Default: that whose voxels are nearest in size to the model's
    where both sizes are known and no diameter is given, else 0."""
    region: Annotated[
        Sequence[slice | Sequence[int | None]] | None,
        Flag(
            "Preview: segment only these voxels of that level. They get the same labels as in"
            " a run over the whole volume; the rest stays 0.",
            form="ranges",
        ),
    ] = None
    """Part of the volume, for a preview: a slice or a pair for each of (z,) y, x, in voxels of that
    level. It gets the labels that the whole would get there, up to their numbers; the rest is 0."""
    nodata: Annotated[
        str | float | None,
        Flag(
            "Value of voxels without data: nan, 65535, ...; none: all voxels hold data. "
            "Default (auto): blank planes and regions, and chunks that were never written, "
            "hold no data.",
            form="text",
            metavar="VALUE",
        ),
    ] = None
    """Value of voxels that hold no data, such as NaN, or ``none``; default: ``auto``, see
    `embedseg_large.volumes.nodata`. There is level 0 for the network, and no instance."""
    object_diameter: Annotated[
        float | str | None,
        Flag(
            "Diameter of your objects along y and x, if it differs from the model's: 30 "
            "(voxels), 12um, or voxel-size (if known for image and model); two, as in 7,15: along "
            "z, and along y and x; auto compares six scales on a sample, then depths in 3D, and "
            "takes the most consistent one. Required with --model classical.",
            form="text",
            metavar="D",
        ),
    ] = None
    """Diameter of the objects along y and x: voxels, ``12um``, or ``voxel-size`` where image and
    model know theirs; two of them, ``"7,15"``, along z, and along y and x; ``auto`` keeps the scale
    at which the model is most consistent with itself on a sample of the volume. The image is
    resampled to the model's scale, labels come back at its own."""
    mask: Annotated[
        Any,
        Flag(
            "Labels or a mask, at any level: segment only where it is not 0.",
            form="text",
            metavar="STORE",
        ),
    ] = None
    """Labels or a mask of the same space, at any pyramid level: a path or an array. Instances are
    searched where it is not 0; all else counts as no data."""
    dark_below: Annotated[
        float | str | None,
        Flag(
            "Skip tiles without a voxel brighter than this on a coarse level; auto: than the noise "
            "of the background.",
            form="text",
            metavar="I",
        ),
    ] = None
    """Tiles without a voxel brighter than this in a coarse level are not predicted. ``auto``: than
    the median and six deviations of the noise of the darkest tenth of some pieces of that level."""
    intensity_range: Annotated[
        tuple[float, float] | None,
        Flag(
            "Intensities that become 0 and 1. Default: percentiles 1 and 99.8 of the volume.",
            form="pair",
            metavar="LO,HI",
        ),
    ] = None
    """Intensities that become 0 and 1; default: percentiles 1 and 99.8 of the whole volume."""
    intensity_sample: Annotated[
        float | None,
        Flag("Fraction of the volume from which percentiles are computed."),
    ] = None
    """Fraction of the volume to take the percentiles from; default: all of it."""
    intensity_per_timepoint: Annotated[
        bool,
        Flag("Compute percentiles per timepoint, not over all timepoints."),
    ] = False
    """Whether percentiles are computed per timepoint; default: over all together."""
    intensity_field: Annotated[
        str,
        Flag(
            "Even out uneven light: none, depth (along z) or smooth (along all axes). "
            "Default: none.",
            form="text",
            metavar="FIELD",
        ),
    ] = "none"
    """How uneven light is evened out before that range is applied: ``none``; ``depth``, by a smooth
    gain along z; or ``smooth``, along all axes. It is measured on the whole volume, and bounded."""


@dataclass(frozen=True, kw_only=True)
class SuggestOptions(FileOptions):
    """Keyword options of `suggest_diameter`."""

    region: Annotated[
        Sequence[slice | Sequence[int | None]] | None,
        Flag("Where to sample. Default: the brightest places.", form="ranges"),
    ] = None
    """Where to look, see `segment`; default: the brightest places."""
    timepoint: Annotated[int | None, Flag("Timepoint. Default: the first.")] = None
    """As for `open_volume`; default: of a series the first timepoint that is not empty."""
    level: Annotated[int | None, Flag("Pyramid level to which voxel counts refer. Default: 0.")] = (
        None
    )
    """Level to look at, and of whose voxels sizes are; default: the finest."""
