"""``embedseg-large segment``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from embedseg_large.cli.console import (
    print_facts,
    print_json,
    print_table,
    progress_bars,
    readable_bytes,
    reported,
    set_up_logging,
    stop_on_sigterm,
)
from embedseg_large.cli.options import Json, Overwrite, Verbose, numbers, pair, sizes, timepoints

_INPUT, _OUTPUT, _TILES, _WORK = "Input", "Output", "Tiles (automatic)", "Work"


def _tile_option(name: str, text: str) -> Any:
    return typer.Option(name, parser=sizes, metavar="Z,Y,X", help=text, rich_help_panel=_TILES)


@reported("interrupted; the same command goes on from here")
def segment(
    store: Annotated[str, typer.Argument(help="OME-Zarr image, or TIFF.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Bundled name, model file, or original EmbedSeg folder. "
            "Default: nuclei-3d, or nuclei-2d for a 2D image.",
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="Name of the labels.", rich_help_panel=_OUTPUT)
    ] = "nuclei",
    channel: Annotated[int, typer.Option(help="Channel.", rich_help_panel=_INPUT)] = 0,
    timepoint: Annotated[
        Any,
        typer.Option(
            parser=timepoints,
            metavar="T",
            help="One timepoint, several, or a range: 3, 0,5,9, 0:10. Default: all.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    level: Annotated[
        int, typer.Option(help="Pyramid level, 0 is the finest.", rich_help_panel=_INPUT)
    ] = 0,
    axes: Annotated[
        str | None,
        typer.Option(
            help="Letters of the axes, where the file has none: zyx.", rich_help_panel=_INPUT
        ),
    ] = None,
    voxel_size: Annotated[
        Any,
        typer.Option(
            parser=numbers,
            metavar="Z,Y,X",
            help="Voxel size in µm, where the file has none.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    object_diameter: Annotated[
        str | None,
        typer.Option(
            metavar="D",
            help="Diameter of your objects along y and x, if it is not the model's: 30 (voxels), "
            "12um, or voxel-size (image and model know theirs).",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Labels or a mask, at any level: look only where it is not 0.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    dark_below: Annotated[
        float | None,
        typer.Option(
            metavar="I",
            help="Skip tiles in which a coarse level has nothing brighter than this.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    intensity_range: Annotated[
        Any,
        typer.Option(
            parser=pair,
            metavar="LO,HI",
            help="Intensities that become 0 and 1. Default: percentiles 1 and 99.8 of the volume.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    intensity_sample: Annotated[
        float | None,
        typer.Option(help="Fraction of the volume to take percentiles of.", rich_help_panel=_INPUT),
    ] = None,
    intensity_per_timepoint: Annotated[
        bool,
        typer.Option(
            "--intensity-per-timepoint",
            help="Percentiles of each timepoint, not of all together.",
            rich_help_panel=_INPUT,
        ),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            help="Store for the labels, if the image's own cannot have them.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    ngff_version: Annotated[
        str | None,
        typer.Option(help="Format of a new output store: 0.5 or 0.4.", rich_help_panel=_OUTPUT),
    ] = None,
    overwrite: Overwrite = False,
    min_object_size: Annotated[
        int | None, typer.Option(help="Instances have more voxels than this.")
    ] = None,
    foreground: Annotated[
        float, typer.Option(help="Seediness above which a voxel is foreground.")
    ] = 0.5,
    seed: Annotated[
        float | None,
        typer.Option(help="Seediness from which a voxel founds an instance. Default: the model's."),
    ] = None,
    tta: Annotated[
        str | None,
        typer.Option(help="Test-time augmentation: none, 4, 8, 16 or 48. Default: the model's."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu or cuda. Default: cuda where there is one.", rich_help_panel=_WORK),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16.", rich_help_panel=_WORK)
    ] = "float32",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Local worker processes to start; none: this process, on all cores.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a Dask scheduler.", rich_help_panel=_WORK),
    ] = None,
    cluster_config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Settings of a cluster to start or to use: local, cuda, slurm, scheduler.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    scratch: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder for what the run keeps until it is finished. Default: beside the store.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    keep_predictions: Annotated[
        bool,
        typer.Option(
            "--keep-predictions",
            help="Leave the predictions there, for --from-predictions.",
            rich_help_panel=_WORK,
        ),
    ] = False,
    from_predictions: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Cluster predictions that were kept, with other thresholds, without the network.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    tile: Annotated[Any, _tile_option("--tile", "Core of a prediction tile.")] = None,
    context: Annotated[Any, _tile_option("--context", "Input seen around it.")] = None,
    cluster_tile: Annotated[
        Any, _tile_option("--cluster-tile", "Core of a clustering tile.")
    ] = None,
    halo: Annotated[Any, _tile_option("--halo", "Predictions seen around it at first.")] = None,
    max_halo: Annotated[
        Any, _tile_option("--max-halo", "The same for tiles that disagree.")
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Tiles that are only uncertain see more, too.", rich_help_panel=_TILES
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what it would take, and stop.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Find every nucleus or cell of a volume, and write one label volume.

    Labels go to labels/NAME in the image's own store, or under --output. They do not depend on
    how the work was cut up: every run checks it, and says so in the seam report. A run that was
    stopped, by whatever, goes on where it was when the same command is given again.
    """
    set_up_logging(verbose)
    stop_on_sigterm()
    options: dict[str, Any] = {
        "channel": channel,
        "timepoint": timepoint,
        "level": level,
        "axes": axes,
        "voxel_size": voxel_size,
        "object_diameter": object_diameter,
        "output": output,
        "ngff_version": ngff_version,
        "overwrite": overwrite,
        "scratch": scratch,
        "keep_predictions": keep_predictions,
        "from_predictions": from_predictions,
        "intensity_range": intensity_range,
        "intensity_sample": intensity_sample,
        "intensity_per_timepoint": intensity_per_timepoint,
        "mask": mask,
        "dark_below": dark_below,
        "tta": True if tta is None else tta,
        "device": device,
        "dtype": dtype,
        "tile": tile,
        "context": context,
        "cluster_tile": cluster_tile,
        "halo": halo,
        "max_halo": max_halo,
        "strict": strict,
        "min_object_size": min_object_size,
        "foreground": foreground,
        "seed": seed,
    }
    if dry_run:
        _print_plan(store, model, labels, options, as_json)
        return
    from embedseg_large.engine.segment import segment as run

    with progress_bars(as_json) as watcher:
        result = run(
            store,
            model,
            labels,
            workers=workers,
            scheduler=scheduler,
            cluster_config=cluster_config,
            watcher=watcher,
            **options,
        )
    if as_json:
        print_json(result.summary)
    else:
        print_summary(result.summary)


def _print_plan(
    store: str, model: str | None, labels: str, options: dict[str, Any], as_json: bool
) -> None:
    from embedseg_large.engine.order import default_model, prepare
    from embedseg_large.engine.plan import make_plan

    order = prepare(store, model, labels, **options)
    plan = make_plan(order)
    if as_json:
        settings = order.settings.as_dict()
        print_json({"plan": plan.as_dict(), "settings": settings, "labels": order.target.path})
        return
    raised = ",".join(map(str, order.settings.max_halo))
    print_facts(
        "What this run would take",
        {
            "volume": _about(order.volume),
            "grid": f"{_text(order.shape)} voxels",
            "model": f"{model or default_model(order.network.ndim)}, on {order.settings.device}",
            "labels": order.target.path,
            "prediction tiles": f"{plan.prediction_tiles} of {_text(order.settings.tile)} voxels",
            "clustering tiles": f"{plan.cluster_tiles} of {_text(order.settings.cluster_tile)}",
            "network input": f"{plan.input_voxels:,} voxels x {order.settings.tta} (TTA)",
            "scratch space": f"at most {readable_bytes(plan.scratch_bytes)}",
            "memory": f"{readable_bytes(plan.worker_bytes)} a worker",
            "memory, largest halo": f"{readable_bytes(plan.raised_bytes)} (halo {raised})",
        },
    )


def _read_from(volume: dict[str, Any]) -> str:
    """Which part of an image labels are of, from their provenance."""
    chosen = ((name, volume[name]) for name in ("channel", "timepoint", "level"))
    return ", ".join(f"{name} {value}" for name, value in chosen if value is not None)


def _about(volume: Any) -> str:
    """What of an image is segmented."""
    parts = [f"{_text(volume.spatial_shape)} voxels"]
    if volume.n_channels > 1 and volume.channel is not None:
        parts.append(f"channel {volume.channel} of 0..{volume.n_channels - 1}")
    if "t" in volume.axes:
        parts.append(f"{volume.n_timepoints} timepoints")
    elif volume.n_timepoints > 1:
        parts.append(f"timepoint {volume.timepoint} of 0..{volume.n_timepoints - 1}")
    if len(volume.levels) > 1:
        parts.append(f"level {volume.level} of 0..{len(volume.levels) - 1}")
    return ", ".join(parts)


def _text(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def print_summary(summary: dict[str, Any]) -> None:
    """Print what a run found, how its seams look, and what its stages took."""
    seams = summary["seams"]
    facts = {
        "image": _read_from(summary["volume"]),
        "instances": f"{summary['n_instances']:,}",
        "labels": summary["labels"],
        "seams": f"{seams['faces']:,} faces, {seams['voxels']:,} voxels compared",
        "": ", ".join(
            f"{seams[kind]:,} {kind}" for kind in ("certified", "agreed", "repaired", "joined")
        ),
        "tiles": f"{seams['tiles_exact']:,} of {seams['tiles']:,} proven exact",
        "time": f"{summary['seconds']:.1f} s",
    }
    if "timepoints" in summary:
        facts["timepoints"] = f"{len(summary['timepoints']):,}, each with labels from 1"
    if summary["skipped"]:
        told = ", ".join(f"{n:,} {reason}" for reason, n in summary["skipped"].items())
        facts["not predicted"] = f"{told} tiles"
    if "predictions" in summary:
        facts["predictions"] = summary["predictions"]
    if summary["resumed"]:
        done = ", ".join(f"{n:,} {stage}" for stage, n in summary["resumed"].items())
        facts["done before"] = f"{done} tasks"
    if summary["volume"]["grid"] != summary["volume"]["shape"]:
        facts["image"] += f", resampled to {_text(summary['volume']['grid'])} voxels"
    if seams["joined"]:
        places = [tuple(o["seed"]) for o in seams["joined_objects"][:5]]
        facts["joined at"] = f"{places} (z, y, x): larger than the largest halo, look at them"
    print_facts(None, facts)
    rows = [
        [
            name,
            f"{clock['tiles']:,}",
            f"{clock['seconds']:.2f}",
            f"{clock['voxels_per_second'] / 1e6:.2f}" if clock["voxels_per_second"] else "",
        ]
        for name, clock in summary["stages"].items()
    ]
    print_table(["stage", "tiles", "task seconds", "million voxels/s"], rows)
