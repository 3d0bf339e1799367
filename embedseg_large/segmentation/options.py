"""All options of a run, by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from embedseg_large.options import Flag, Options
from embedseg_large.runs.options import WorkerOptions
from embedseg_large.segmentation.input_options import InputOptions


@dataclass(frozen=True, kw_only=True)
class ObjectOptions(Options):
    """What counts as an object."""

    min_object_size: Annotated[
        int | None,
        Flag("Keep only instances with more voxels than this. Default: the model's."),
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
    split: Annotated[
        str,
        Flag(
            "With --model classical: separate touching objects where they are narrowest "
            "(shape) or darkest (intensity). Default: shape.",
            form="text",
            metavar="BY",
        ),
    ] = "shape"
    """For the classical method: separate touching objects by ``shape``, at their narrowest place
    (default), or by ``intensity``, at their darkest."""
    separation: Annotated[
        float,
        Flag(
            "With --model classical: minimum distance between the centres of two objects, in "
            "diameters; larger splits less.",
            shows_default=True,
        ),
    ] = 0.25
    """For the classical method: minimum distance between the maxima of two objects along at least
    one axis, in diameters; default 0.25. Larger values split less."""
    enhance: Annotated[
        str,
        Flag(
            "With --model classical: enhance speckles (bright balls) or tubes as thick as the "
            "diameter, or edges, before the threshold. Default: none.",
            form="text",
            metavar="WHAT",
        ),
    ] = "none"
    """For the classical method: ``speckles`` or ``tubes`` as thick as the diameter are enhanced
    before the threshold, which is then one of the response; ``edges`` are added to the image;
    default: ``none``. What the filter sees is part of the halo."""
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
        Flag(
            "Format of a new output store: 0.6, 0.5 or 0.4. Default: 0.6 for 0.6 images, else 0.5."
        ),
    ] = None
    """0.6, 0.5 or 0.4, for a new `output`; default: 0.6 for images of 0.6, else 0.5."""


@dataclass(frozen=True, kw_only=True)
class ComputingOptions(Options):
    """How the network is run."""

    heading: ClassVar[str | None] = "Work"

    device: Annotated[
        str | None,
        Flag("cpu, cuda or mps (Apple). Default: cuda if available."),
    ] = None
    """cpu, cuda or mps (GPUs of Apple; only where asked for); default: cuda if available, else
    cpu."""
    dtype: Annotated[
        str | None,
        Flag("float32, bfloat16 or float16. Default: float16 on a GPU, else float32."),
    ] = None
    """Number format of the network: float32, bfloat16 or float16; default: float16 on a GPU, else
    float32."""
    augment_above: Annotated[
        float | None,
        Flag(
            "Augment only tiles in which the first pass finds a seediness above this; 0: all "
            "tiles. Default: 0.2.",
            metavar="S",
        ),
    ] = None
    """Augment only tiles in which the first pass finds a seediness above this; 0: all tiles.
    Default: the model's, 0.2, far enough below `foreground` to change no label."""


@dataclass(frozen=True, kw_only=True)
class KeepingOptions(Options):
    """What the run keeps, and what it reuses from others."""

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
    """What determines the labels, and where they go.

    Sizes of tiles are voxels of the grid that the network sees.
    """

    overwrite: Annotated[bool, Flag("Replace existing output.")] = False
    """Whether labels of that name may be replaced."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(SegmentOptions, PerformanceOption, LogOption, WorkerOptions):
    """Keyword options of `segment`."""
