"""What a user may choose about a conversion, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from embedseg_large.options import Flag, Options
from embedseg_large.runs.options import WorkerOptions


@dataclass(frozen=True, kw_only=True)
class SourceOptions(Options):
    """What the source is, if its metadata do not say."""

    heading: ClassVar[str | None] = "Source"

    axes: Annotated[
        str | None, Flag("Letters of the axes, e.g. zyx; for a folder, those of one file.")
    ] = None
    """As in `open_volume`: overrides what the source says. Of a folder, the axes of one file."""
    voxel_size: Annotated[
        Sequence[float] | None, Flag("Voxel size in µm.", form="numbers", metavar="Z,Y,X")
    ] = None
    """As in `open_volume`: overrides what the source says."""
    pattern: Annotated[
        str | None,
        Flag(
            "For a folder: pattern of the file names, with {t}, {c}, {z} in place of "
            "the numbers, such as 't{t}_c{c}_z{z}.tif'.",
            metavar="NAMES",
        ),
    ] = None
    """Of a folder: names of its files, ``{t}``, ``{c}`` and ``{z}`` where they count."""
    stack: Annotated[
        str | None,
        Flag("For a folder: the axis along which its files follow each other.", metavar="t|c|z"),
    ] = None
    """Of a folder: ``"t"``, ``"c"`` or ``"z"``, the axis that files in natural order stand for."""
    allow_missing: Annotated[
        bool, Flag("Read missing files, and missing planes of a TIFF, as zeros; not for a folder.")
    ] = False
    """Whether zeros may stand for files and planes of a TIFF that are not there; not for a
    folder."""
    series: Annotated[
        int | None, Flag("Which of several images in a TIFF. Default: the largest.")
    ] = None
    """Which of several images in a TIFF, or in each file of a folder; default: the largest."""


@dataclass(frozen=True, kw_only=True)
class StoreOptions(Options):
    """How the image is stored."""

    heading: ClassVar[str | None] = "Output"

    ngff_version: Annotated[
        str, Flag("0.5 or 0.6 (zarr 3), or 0.4 (zarr 2).", shows_default=True)
    ] = "0.5"
    """``"0.5"`` or ``"0.6"`` (zarr 3, sharded), or ``"0.4"`` (zarr 2)."""
    chunks: Annotated[Sequence[int] | None, Flag("Shape of a chunk.", form="sizes")] = None
    """Chunk shape along (z,) y, x; default 64³ or 512² in shards, 128³ or 1024² for 0.4."""
    channel_names: Annotated[
        Sequence[str] | None,
        Flag("Names of the channels.", form="words", metavar="NAME,NAME,..."),
    ] = None
    """One name per channel; viewers show them. Default: words that the pattern finds for ``{c}``,
    or the names in the source."""
    labels: Annotated[
        bool | None,
        Flag(
            "The voxels are labels: coarse levels are sampled, not averaged, and whole "
            "numbers stored as float become integers. Default: what the source says; integers that "
            "look like labels are sampled."
        ),
    ] = None
    """Whether the voxels are labels, of which coarse levels are samples, not means. Default: what
    the source says; of a source that says nothing, what looks like labels is sampled, too. Labels
    that were saved as float become integers."""


@dataclass(frozen=True, kw_only=True)
class ComponentsOption(Options):
    """What becomes of a mask."""

    heading: ClassVar[str | None] = "Output"

    components: Annotated[
        bool,
        Flag("The source is a mask: number its connected pieces, and write these as labels."),
    ] = False
    """Whether the source is a mask whose connected pieces become labels, see
    `embedseg_large.conversion.components`."""


@dataclass(frozen=True, kw_only=True)
class OverwriteOption(Options):
    """What becomes of what is there."""

    overwrite: Annotated[bool, Flag("Replace existing output.")] = False
    """Whether a zarr group that is there may be replaced (it is kept until the new one is whole),
    or an unfinished conversion started over."""


@dataclass(frozen=True, kw_only=True)
class WriteOptions(OverwriteOption, StoreOptions):
    """How an image is stored, and what becomes of what is there."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(WorkerOptions, WriteOptions, ComponentsOption, SourceOptions):
    """What `convert` takes by name."""
