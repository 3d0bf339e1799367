"""Everything a user may choose about a run, by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from embedseg_large.options import Flag, Options
from embedseg_large.runs.options import WorkerOptions


@dataclass(frozen=True, kw_only=True)
class ObjectOptions(Options):
    """What counts as an object."""

    min_object_size: Annotated[
        int | None,
        Flag("Instances have more voxels than this."),
    ] = None
    """Instances have more voxels of the volume than this."""
    threshold: Annotated[
        float | None,
        Flag(
            "With --model classical: intensity above which a voxel is foreground. Default: "
            "Otsu's threshold of the whole volume.",
            metavar="I",
        ),
    ] = None
    """For the classical method: intensity above which a voxel is foreground; default: Otsu's of the
    whole volume."""
    foreground: Annotated[
        float,
        Flag("Seediness above which a voxel is foreground.", shows_default=True),
    ] = 0.5
    """Seediness above which a voxel is foreground; default 0.5."""
    seed: Annotated[
        float | None,
        Flag("Minimum seediness for a voxel to seed an instance. Default: the model's."),
    ] = None
    """Minimum seediness for a voxel to seed an instance; default: the model's for that
    augmentation."""
    margin: Annotated[
        float | None,
        Flag(
            "Gaussian value (0 to 1) above which a voxel belongs to an object; lower makes "
            "objects larger. Default: the model's."
        ),
    ] = None
    """A voxel belongs to an instance when the seed's Gaussian is above this at its embedding,
    between 0 and 1: lower makes objects larger; default: the model's for that augmentation."""
    keep_largest_piece: Annotated[
        bool | None,
        Flag("Drop loose pieces of objects. Default: the model's setting, usually no."),
    ] = None
    """Whether only the largest connected piece of each instance is kept; default: the model's
    setting, usually no. Decided on the whole instance, on the grid that was clustered."""
    fill_holes: Annotated[
        bool | None,
        Flag(
            "Fill background that is enclosed by an object. Default: the model's setting, "
            "usually no."
        ),
    ] = None
    """Whether background enclosed by one instance becomes part of it; default: the model's setting,
    usually no. Cavities open at the border of the volume are not filled."""
    tta: Annotated[
        bool | int | str,
        Flag("Test-time augmentation: none, 4, 8, 16 or 48. Default: the model's.", form="text"),
    ] = True
    """Test-time augmentation: none, 4, 8, 16, 48, or True for the model's default."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """Where the labels go."""

    heading: ClassVar[str | None] = "Output"

    output: Annotated[
        str | os.PathLike[str] | None,
        Flag("Store for the labels, if they cannot go into the image's store.", form="text"),
    ] = None
    """Store for the labels, if they cannot go into the image's store."""
    ngff_version: Annotated[
        str | None,
        Flag("Format of a new output store: 0.5 or 0.4."),
    ] = None
    """0.5 or 0.4, for a new `output`."""


@dataclass(frozen=True, kw_only=True)
class InputOptions(Options):
    """Which part of the image, and what it is like."""

    heading: ClassVar[str | None] = "Input"

    channel: Annotated[
        int | str | None,
        Flag("Channel, by number or name.", form="text", metavar="C", shows_default=True),
    ] = 0
    """Channel of a multi-channel image, by number or name; default 0. None: all, for a model of
    several."""
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
    """Whether zeros may stand for files and planes of a TIFF that are not there; default: no."""
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
    axes: Annotated[
        str | None,
        Flag("Letters of the axes, if the file has none: zyx."),
    ] = None
    """Letters of the axes of a file that does not name them."""
    voxel_size: Annotated[
        Sequence[float] | None,
        Flag("Voxel size in µm, if the file has none.", form="numbers", metavar="Z,Y,X"),
    ] = None
    """Voxel size in µm along (z,) y, x, if the file has none."""
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
            "(voxels), 12um, or voxel-size (if known for image and model); auto chooses the "
            "scale, of six, at which the model is most consistent on a sample. Required with "
            "--model classical.",
            form="text",
            metavar="D",
        ),
    ] = None
    """Diameter of the objects along y and x: voxels, ``12um``, or ``voxel-size`` where image and
    model know theirs; ``auto`` keeps the scale at which the model is most consistent with itself on
    a sample of the volume. The image is resampled to the model's scale, labels come back at its
    own."""
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
        float | None,
        Flag("Skip tiles in which a coarse level has no brighter voxel than this.", metavar="I"),
    ] = None
    """Tiles without a voxel brighter than this in a coarse level are not predicted."""
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
class ComputingOptions(Options):
    """How the network is run."""

    heading: ClassVar[str | None] = "Work"

    device: Annotated[
        str | None,
        Flag("cpu or cuda. Default: cuda if available."),
    ] = None
    """cpu or cuda; default: cuda if available, else cpu."""
    dtype: Annotated[
        str | None,
        Flag("float32, bfloat16 or float16. Default: float16 on a GPU, else float32."),
    ] = None
    """Number format of the network: float32, bfloat16 or float16; default: float16 on a GPU, else
    float32."""


@dataclass(frozen=True, kw_only=True)
class KeepingOptions(Options):
    """What the run keeps, and what it takes from others."""

    heading: ClassVar[str | None] = "Work"

    scratch: Annotated[
        str | os.PathLike[str] | None,
        Flag(
            "Folder for the files of an unfinished run. Default: beside the store.",
            form="text",
            metavar="DIR",
        ),
    ] = None
    """Folder for the files of an unfinished run, from which it resumes; default: beside the labels'
    store. All workers must see it."""
    keep_predictions: Annotated[
        bool,
        Flag("Keep the predictions there for --from-predictions."),
    ] = False
    """Whether the predictions stay, for `from_predictions`: in ``STORE-LABELS.predictions`` beside
    the store, or in `scratch`."""
    from_predictions: Annotated[
        str | os.PathLike[str] | None,
        Flag(
            "Cluster kept predictions with other thresholds, without running the network.",
            form="text",
            metavar="DIR",
        ),
    ] = None
    """Folder of kept predictions: they are clustered without running the network. Image, model and
    network settings must be the same; thresholds may differ."""


@dataclass(frozen=True, kw_only=True)
class TileOptions(Options):
    """How the volume is cut up."""

    heading: ClassVar[str | None] = "Tiles (automatic)"

    tile: Annotated[
        Sequence[int] | None,
        Flag("Core of a prediction tile.", form="sizes"),
    ] = None
    """Core of a prediction tile, in voxels; multiples of 8."""
    context: Annotated[
        Sequence[int] | None,
        Flag("Image context that the network sees around a prediction tile.", form="sizes"),
    ] = None
    """Image context around a prediction core that the network sees, in voxels; multiples of 8."""
    cluster_tile: Annotated[
        Sequence[int] | None,
        Flag("Core of a clustering tile.", form="sizes"),
    ] = None
    """Core of a clustering tile, in voxels."""
    halo: Annotated[
        Sequence[int] | None,
        Flag("Initial halo around a clustering tile.", form="sizes"),
    ] = None
    """Initial halo around a clustering core, in voxels."""
    max_halo: Annotated[
        Sequence[int] | None,
        Flag("Maximum halo for tiles that disagree with a neighbour.", form="sizes"),
    ] = None
    """Maximum halo for tiles that disagree with a neighbour; default 4 times the halo."""
    strict: Annotated[
        bool,
        Flag(
            "Demand proof: also enlarge the halo of tiles that are merely uncertain. Exit "
            "code 3 if some are not proven at the largest halo; the labels are still written."
        ),
    ] = False
    """Whether to enlarge the halo of tiles that are merely uncertain, too."""


@dataclass(frozen=True, kw_only=True)
class LogOption(Options):
    """The log of the run."""

    heading: ClassVar[str | None] = "Watching"

    log: Annotated[
        str | os.PathLike[str] | None,
        Flag(
            "Append all events, one JSON object per line: tasks, failures, tracebacks.",
            form="text",
            metavar="FILE",
        ),
    ] = None
    """Local file to which all events are appended, one JSON object per line: see
    `embedseg_large.runs.log_file`."""


@dataclass(frozen=True, kw_only=True)
class PerformanceOption(Options):
    """What the workers did."""

    heading: ClassVar[str | None] = "Watching"

    performance_report: Annotated[
        str | os.PathLike[str] | None,
        Flag(
            "Write Dask's performance report of the workers. Needs bokeh.",
            form="text",
            metavar="FILE.html",
        ),
    ] = None
    """HTML file for Dask's report of what the workers did. Needs bokeh at the scheduler."""


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(
    TileOptions, KeepingOptions, ComputingOptions, InputOptions, OutputOptions, ObjectOptions
):
    """What decides labels, and where they go.

    Sizes of tiles are voxels of the grid that the network sees.
    """

    overwrite: Annotated[bool, Flag("Replace existing output.")] = False
    """Whether labels of that name may be replaced."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(SegmentOptions, PerformanceOption, LogOption, WorkerOptions):
    """What `segment` takes by name."""
