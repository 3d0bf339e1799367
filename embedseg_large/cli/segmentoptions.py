"""The options of ``embedseg-large segment``, by topic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from embedseg_large.cli.options import (
    AllowMissing,
    names,
    numbers,
    pair,
    ranges,
    sizes,
    timepoints,
)


@dataclass(frozen=True, kw_only=True)
class Objects:
    """What counts as an object."""

    panel: ClassVar[str | None] = None

    min_object_size: Annotated[
        int | None, typer.Option(help="Instances have more voxels than this.")
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="I",
            help="With --model classical: intensity above which a voxel is foreground. "
            "Default: Otsu's threshold of the whole volume.",
        ),
    ] = None
    foreground: Annotated[
        float, typer.Option(help="Seediness above which a voxel is foreground.")
    ] = 0.5
    seed: Annotated[
        float | None,
        typer.Option(
            help="Minimum seediness for a voxel to seed an instance. Default: the model's."
        ),
    ] = None
    margin: Annotated[
        float | None,
        typer.Option(
            help="Gaussian value (0 to 1) above which a voxel belongs to an object; lower "
            "makes objects larger. Default: the model's."
        ),
    ] = None
    keep_largest_piece: Annotated[
        bool | None,
        typer.Option(
            "--keep-largest-piece/--no-keep-largest-piece",
            help="Drop loose pieces of objects. Default: the model's setting, usually no.",
        ),
    ] = None
    fill_holes: Annotated[
        bool | None,
        typer.Option(
            "--fill-holes/--no-fill-holes",
            help="Fill background that is enclosed by an object. Default: the model's "
            "setting, usually no.",
        ),
    ] = None
    tta: Annotated[
        str | None,
        typer.Option(help="Test-time augmentation: none, 4, 8, 16 or 48. Default: the model's."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the labels go."""

    panel: ClassVar[str | None] = "Output"

    labels: Annotated[str, typer.Option(help="Name of the labels.")] = "nuclei"
    output: Annotated[
        str | None,
        typer.Option(help="Store for the labels, if they cannot go into the image's store."),
    ] = None
    ngff_version: Annotated[
        str | None, typer.Option(help="Format of a new output store: 0.5 or 0.4.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Many:
    """Many images at once."""

    panel: ClassVar[str | None] = "Folders and plates"

    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for one mask per image, a table and a contact sheet. Default: labels go "
            "into the images' own OME-Zarr stores.",
        ),
    ] = None
    mask_format: Annotated[
        str, typer.Option(metavar="tiff|ome-zarr", help="Format of the masks in that folder.")
    ] = "tiff"
    pattern: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Only files of a folder that match, as '*_dapi.tif'."),
    ] = None
    wells: Annotated[
        Any,
        typer.Option(parser=names, metavar="WELL,...", help="Only these wells, as 'B03,C*'."),
    ] = None
    field: Annotated[
        Any,
        typer.Option(parser=names, metavar="FIELD,...", help="Only these fields of each well."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Input:
    """Which part of the image to use, and how to interpret it."""

    panel: ClassVar[str | None] = "Input"

    channel: Annotated[str, typer.Option(metavar="C", help="Channel, by number or name.")] = "0"
    series: Annotated[
        int | None,
        typer.Option(
            help="Which of several images in a file. Default: the largest of a TIFF, all series of "
            "a converted file."
        ),
    ] = None
    allow_missing: AllowMissing = False
    timepoint: Annotated[
        Any,
        typer.Option(
            parser=timepoints,
            metavar="T",
            help="One timepoint, several, or a range: 3, 0,5,9, 0:10. Default: all.",
        ),
    ] = None
    level: Annotated[
        int | None,
        typer.Option(
            help="Pyramid level; 0 is the finest. Default: the one closest to the model's "
            "voxel size if both sizes are known, else 0.",
        ),
    ] = None
    region: Annotated[
        Any,
        typer.Option(
            parser=ranges,
            metavar="Z0:Z1,Y0:Y1,X0:X1",
            help="Preview: segment only these voxels of that level. They get the same "
            "labels as in a run over the whole volume; the rest stays 0.",
        ),
    ] = None
    axes: Annotated[
        str | None, typer.Option(help="Letters of the axes, if the file has none: zyx.")
    ] = None
    voxel_size: Annotated[
        Any,
        typer.Option(
            parser=numbers, metavar="Z,Y,X", help="Voxel size in µm, if the file has none."
        ),
    ] = None
    nodata: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE",
            help="Value of voxels without data: nan, 65535, ...; none: all voxels hold "
            "data. Default (auto): blank planes and regions, and chunks that were "
            "never written, hold no data.",
        ),
    ] = None
    object_diameter: Annotated[
        str | None,
        typer.Option(
            metavar="D",
            help="Diameter of your objects along y and x, if it differs from the model's: "
            "30 (voxels), 12um, or voxel-size (if known for image and model); auto "
            "chooses the scale, of six, at which the model is most consistent on a "
            "sample. Required with --model classical.",
        ),
    ] = None
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="STORE", help="Labels or a mask, at any level: segment only where it is not 0."
        ),
    ] = None
    dark_below: Annotated[
        float | None,
        typer.Option(
            metavar="I", help="Skip tiles in which a coarse level has no brighter voxel than this."
        ),
    ] = None
    intensity_range: Annotated[
        Any,
        typer.Option(
            parser=pair,
            metavar="LO,HI",
            help="Intensities that become 0 and 1. Default: percentiles 1 and 99.8 of the volume.",
        ),
    ] = None
    intensity_sample: Annotated[
        float | None,
        typer.Option(help="Fraction of the volume from which percentiles are computed."),
    ] = None
    intensity_per_timepoint: Annotated[
        bool,
        typer.Option(
            "--intensity-per-timepoint",
            help="Compute percentiles per timepoint, not over all timepoints.",
        ),
    ] = False
    intensity_field: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Even out uneven light: none, depth (along z) or smooth (along all axes). "
            "Default: none.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Computing:
    """How the network is run."""

    panel: ClassVar[str | None] = "Work"

    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda if available.")] = (
        None
    )
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16. Default: float16 on a GPU, else float32."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Which processes do the work; at most one of these options."""

    panel: ClassVar[str | None] = "Work"

    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Local worker processes to start. Default: this process alone."),
    ] = None
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler.")] = (
        None
    )
    cluster_config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="YAML file of a cluster to start or use: local, cuda, slurm, scheduler.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What the run keeps, and what it reuses."""

    panel: ClassVar[str | None] = "Work"

    scratch: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the files of an unfinished run. Default: beside the store.",
        ),
    ] = None
    keep_predictions: Annotated[
        bool,
        typer.Option(
            "--keep-predictions", help="Keep the predictions there for --from-predictions."
        ),
    ] = False
    from_predictions: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Cluster kept predictions with other thresholds, without running the network.",
        ),
    ] = None


def _sizes(name: str, text: str) -> Any:
    return typer.Option(name, parser=sizes, metavar="Z,Y,X", help=text)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How the volume is cut up."""

    panel: ClassVar[str | None] = "Tiles (automatic)"

    tile: Annotated[Any, _sizes("--tile", "Core of a prediction tile.")] = None
    context: Annotated[
        Any, _sizes("--context", "Image context that the network sees around a prediction tile.")
    ] = None
    cluster_tile: Annotated[Any, _sizes("--cluster-tile", "Core of a clustering tile.")] = None
    halo: Annotated[Any, _sizes("--halo", "Initial halo around a clustering tile.")] = None
    max_halo: Annotated[
        Any, _sizes("--max-halo", "Maximum halo for tiles that disagree with a neighbour.")
    ] = None
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Demand proof: also enlarge the halo of tiles that are merely uncertain. "
            "Exit code 3 if some are not proven at the largest halo; the labels are "
            "still written.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Watching:
    """Logs and reports of the run."""

    panel: ClassVar[str | None] = "Watching"

    log: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Append all events, one JSON object per line: tasks, failures, tracebacks.",
        ),
    ] = None
    summary: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the output of --json to a file once the labels are published.",
        ),
    ] = None
    performance_report: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.html", help="Write Dask's performance report of the workers. Needs bokeh."
        ),
    ] = None
