"""``embedseg-large segment``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from embedseg_large.batch.options import BatchCall, BatchOptions
from embedseg_large.cli.console import (
    UNPROVEN,
    check_folder_of,
    print_facts,
    print_json,
    print_table,
    progress_bars,
    reported,
    set_up_logging,
    stop_on_sigterm,
    write_json,
)
from embedseg_large.cli.groups import grouped
from embedseg_large.cli.options import Json, Verbose
from embedseg_large.cli.segmentmany import exit_code, is_many, segment_many
from embedseg_large.cli.units import clock, readable_bytes
from embedseg_large.errors import EmbedSegError, UsageError
from embedseg_large.options import Flag, Options
from embedseg_large.runs.options import WorkerOptions
from embedseg_large.segmentation.input_options import InputOptions
from embedseg_large.segmentation.options import (
    ComputingOptions,
    KeepingOptions,
    LogOption,
    ObjectOptions,
    OutputOptions,
    PerformanceOption,
    RunOptions,
    SegmentOptions,
    TileOptions,
)

if TYPE_CHECKING:
    from embedseg_large.segmentation.request.duration import Duration


@dataclass(frozen=True, kw_only=True)
class ModelOption(Options):
    """The first that is said."""

    model: Annotated[
        str | None,
        Flag(
            "Bundled name, model file, or folder of an original EmbedSeg checkpoint; or classical: "
            "threshold and watershed, which needs --object-diameter and no training; or "
            "MODULE:NAME, a function or TileSegmenter of your own, whose module is imported from "
            "this environment or the current folder, and so run. Default: nuclei-3d, or nuclei-2d "
            "for a 2D image."
        ),
    ] = None
    overwrite: Annotated[bool, Flag("Replace existing output.")] = False


@dataclass(frozen=True, kw_only=True)
class DryRunOption(Options):
    """Whether nothing is to be done."""

    dry_run: Annotated[bool, Flag("Print tiles, scratch space, memory and time, and stop.")] = False


@dataclass(frozen=True, kw_only=True)
class NameOption(Options):
    """What the labels are called."""

    heading: ClassVar[str | None] = "Output"

    labels: Annotated[str, Flag("Name of the labels.", shows_default=True)] = "nuclei"


@dataclass(frozen=True, kw_only=True)
class SummaryOption(Options):
    """What is kept of what the command prints."""

    heading: ClassVar[str | None] = "Watching"

    summary: Annotated[
        Path | None,
        Flag("Write the output of --json to a file once the labels are published.", metavar="FILE"),
    ] = None


@reported("interrupted; rerun the same command to resume")
@grouped
def segment(
    store: Annotated[
        str, typer.Argument(help="OME-Zarr image, TIFF or PNG; or a folder of these, or a plate.")
    ],
    *,
    given: Annotated[
        dict[str, Any],
        ModelOption,
        ObjectOptions,
        DryRunOption,
        NameOption,
        OutputOptions,
        BatchOptions,
        InputOptions,
        ComputingOptions,
        WorkerOptions,
        KeepingOptions,
        TileOptions,
        LogOption,
        SummaryOption,
        PerformanceOption,
    ],
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Find every nucleus or cell in a volume, and write one label volume.

    Labels are written to labels/NAME in the image's store, or under --output. They do not depend on
    how the work was cut up: every run checks this and reports it in the seam report. To resume a
    run that was stopped for any reason, rerun the same command.

    For a folder of images or a plate, every image is segmented: one mask each with --out FOLDER.
    The same command skips the images that are finished.

    Exit codes: 0 done; 1 failed, or some of several images failed; 2 wrong usage; 3 done, but with
    --strict and not all tiles proven exact; 130 interrupted.
    """
    set_up_logging(verbose)
    stop_on_sigterm()
    model, file = given.pop("model", None), given.pop("summary", None)
    if file is not None:
        check_folder_of(file)
    if is_many(store, given):
        _refuse_of_one(given)
        options = {"labels": given["labels"]} | BatchCall.among(given)
        summary = segment_many(store, model, options, as_json=as_json)
        code = exit_code(summary)
    elif given["dry_run"]:
        _print_estimate(store, model, given, as_json)
        return
    else:
        options = {"labels": given["labels"]} | RunOptions.among(given)
        run = _run_and_report if as_json else _run
        summary = run(store, model, options)
        (print_json if as_json else print_summary)(summary)
        strict = summary["seams"]["strict"]
        code = UNPROVEN if strict is not None and strict["reached"] < strict["aim"] else 0
    if file is not None:
        write_json(file, summary)
    if code:
        raise typer.Exit(code)


def _refuse_of_one(given: Mapping[str, Any]) -> None:
    if given["dry_run"] or given.keys() & {"log", "performance_report"}:
        raise UsageError(
            "--dry-run, --log and --performance-report are for a single image; leave them out"
        )


def _run(store: str, model: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Segment, and show the progress."""
    from embedseg_large.segmentation.segment import segment as run

    with progress_bars(False) as watcher:
        return run(store, model, watcher=watcher, **options).summary


def _run_and_report(store: str, model: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Segment silently; on failure, print the reason and the failed tasks."""
    from embedseg_large.runs.progress import FailedTasks
    from embedseg_large.segmentation.segment import segment as run

    watcher = FailedTasks()
    try:
        return run(store, model, watcher=watcher, **options).summary
    except EmbedSegError as error:
        print_json({"error": str(error), "failed": [task.as_dict() for task in watcher.failed]})
        raise


def _print_estimate(store: str, model: str | None, given: Mapping[str, Any], as_json: bool) -> None:
    from embedseg_large.runs.dask.backend import chosen, device_on, processes_of, starts_here
    from embedseg_large.segmentation.request.duration import duration_of
    from embedseg_large.segmentation.request.estimate import estimate_of
    from embedseg_large.segmentation.request.prepare import default_model, prepare
    from embedseg_large.segmentation.request.scale import voxel_size_warning

    asked = SegmentOptions(**SegmentOptions.among(given))
    where = chosen(WorkerOptions(**WorkerOptions.among(given)))
    asked = replace(asked, device=device_on(where, asked.device))
    request = prepare(store, model, given["labels"], asked)
    plan = estimate_of(request)
    time = duration_of(
        request,
        plan,
        processes=processes_of(where),
        starts_workers=starts_here(where),
        is_elsewhere=where is not None and not starts_here(where),
    )
    if as_json:
        settings = request.settings.as_dict()
        found = {"plan": plan.as_dict(), "time": None if time is None else time.as_dict()}
        print_json(found | {"settings": settings, "labels": request.target.path})
        return
    raised = ",".join(map(str, request.settings.max_halo))
    most = max(
        plan.worker_bytes, plan.raised_bytes
    )  # the network may need more than the largest halo
    told = voxel_size_warning(request.volume, request.segmenter, request.resampling)
    named = model or default_model(request.volume.ndim)
    region = {} if request.region is None else {"region": str(request.region)}
    print_facts(
        "What this run would take",
        {
            "volume": _about(request.volume),
            **region,
            "grid": f"{_text(request.shape)} voxels",
            "model": f"{named}, on {request.settings.device}",
            "labels": request.target.path,
            **_scale(request.scale),
            **_light(request.intensity.field),
            **_prediction(request, plan),
            "clustering tiles": f"{plan.cluster_tiles} of {_text(request.settings.cluster_tile)}",
            "scratch space": f"at most {readable_bytes(plan.scratch_bytes)}",
            "memory": f"{readable_bytes(plan.worker_bytes)} per worker",
            "memory, largest halo": f"{readable_bytes(most)} (halo {raised})",
            **({} if time is None else {"time": _duration(time)}),
            **({} if told is None else {"look out": told}),
        },
    )


def _read_from(volume: dict[str, Any]) -> str:
    """The part of an image to which labels belong, from their provenance."""
    chosen = ((name, volume[name]) for name in ("channel", "timepoint", "level"))
    return ", ".join(f"{name} {value}" for name, value in chosen if value is not None)


def _sizes(scale: dict[str, Any]) -> str:
    """The width of the objects, and of those in the training data."""
    known = scale["model_diameter"]
    trained = "" if known is None else f"; in the training data {known:.0f}"
    return f"about {scale['found_diameter']:.0f} voxels wide{trained}"


def _region(region: dict[str, Any]) -> str:
    """A region as the user wrote it."""
    ends = zip(region["start"], region["stop"], strict=True)
    return ",".join(f"{a}:{b}" for a, b in ends) + " only; the rest of the labels is 0"


def _scale(found: Mapping[str, Any] | None) -> dict[str, str]:
    from embedseg_large.segmentation.request.scale_choice import described_scale

    return {} if found is None else {"scale": f"{described_scale(found)} (auto)"}


def _light(field: str) -> dict[str, str]:
    return {} if field == "none" else {"light": f"evened out: {field}, measured first"}


def _prediction(request: Any, plan: Any) -> dict[str, str]:
    """The work of the network; empty if there is none."""
    if not request.segmenter.traits.predicts:
        return {}
    return {
        "prediction tiles": f"{plan.prediction_tiles} of {_text(request.settings.tile)} voxels",
        "network input": f"{plan.input_voxels:,} voxels x {_passes(request)}",
    }


def _passes(request: Any) -> str:
    tta = request.settings.tta
    return "1 (one pass)" if tta == "none" else f"{tta} (TTA)"


def _duration(time: Duration) -> str:
    """How long a run takes, what it costs, and how that is known."""
    bound = "at most " if time.is_bound else "about "
    by = "in this process" if time.processes == 1 else f"with {time.processes:,} workers"
    cost = "" if time.processes == 1 else f", {clock(time.process_seconds)} of process time"
    return f"{bound}{clock(time.seconds)} {by}{cost} (from {time.source})"


def _cleaned(told: dict[str, int]) -> str:
    """What was dropped and filled."""
    left = f"; {told['left']:,} instances left unchanged" if told["left"] else ""
    return (
        f"{told['pieces_dropped']:,} loose pieces dropped ({told['voxels_dropped']:,} voxels), "
        f"holes filled in {told['instances_with_holes']:,} instances "
        f"({told['voxels_filled']:,} voxels){left}"
    )


def _ranges(found: list[Any]) -> str:
    """The intensities that became 0 and 1 in each channel, and the share of the image counted."""
    channels = found[0] if isinstance(found[0], list) else found
    texts = [f"{c['low']:g} to {c['high']:g}" for c in channels]
    more = ", of the first timepoint" if channels is not found else ""
    total = sum(c["voxels"] + c["excluded_voxels"] for c in channels)
    left_out = sum(c["excluded_voxels"] for c in channels) / max(total, 1)
    holes = f"; {left_out:.1%} of the voxels hold no data" if left_out else ""
    return f"{'; '.join(texts)} became 0 to 1{more}{holes}"


def _why_joined(summary: dict[str, Any]) -> str:
    if summary["segmenter"] is None:
        return "larger than the largest halo"
    return f"{summary['segmenter']} segments them differently in neighbouring tiles"


def _about(volume: Any) -> str:
    """The segmented part of an image."""
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
    """Print the results of a run, its seams, and the time of its stages."""
    from embedseg_large.segmentation.intensity_field import described
    from embedseg_large.segmentation.request.scale_choice import described_scale, table_of

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
    if "cleaning" in summary:
        facts["cleaned"] = _cleaned(summary["cleaning"])
    if "timepoints" in summary:
        facts["timepoints"] = f"{len(summary['timepoints']):,}, each with labels from 1"
    if isinstance(summary["intensity"], list):
        facts["intensities"] = _ranges(summary["intensity"])
    if summary["skipped"]:
        told = ", ".join(f"{n:,} {reason}" for reason, n in summary["skipped"].items())
        facts["not predicted"] = f"{told} tiles"
    if "predictions" in summary:
        facts["predictions"] = summary["predictions"]
    if summary["resumed"]:
        done = ", ".join(f"{n:,} {stage}" for stage, n in summary["resumed"].items())
        facts["done before"] = f"{done} tasks"
    if summary["scale"]["automatic_level"]:
        facts["image"] += " (automatic: its voxel size is closest to the model's)"
    if summary["volume"]["grid"] != summary["volume"]["shape"]:
        facts["image"] += f", resampled to {_text(summary['volume']['grid'])} voxels"
    if seams["matched"]:
        facts[""] += f" ({seams['matched']:,} of them matched by overlap)"
    if seams["joined"]:
        places = [tuple(o["seed"]) for o in seams["joined_objects"][:5]]
        facts["joined at"] = f"{places} (z, y, x): {_why_joined(summary)}, look at them"
    if summary["scale"]["found_diameter"]:
        facts["objects"] = _sizes(summary["scale"])
    if "intensity_field" in summary:
        facts["light"] = f"evened out: {described(summary['intensity_field'])}"
    if "object_diameter" in summary:
        facts["scale"] = f"{described_scale(summary['object_diameter'])} (auto)"
    if "region" in summary:
        facts["region"] = _region(summary["region"])
    print_facts(None, facts)
    if "object_diameter" in summary:
        print_table(*table_of(summary["object_diameter"]))
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
