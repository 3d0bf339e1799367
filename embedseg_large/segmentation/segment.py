"""Segment a volume of any size: PREDICT, CLUSTER, CHECK, FINISH.

::

       halo halo halo halo
       halo ┌────────┐ halo    1 PREDICT  every voxel's embedding is predicted by exactly one tile
       halo │  core  │ halo    2 CLUSTER  core + halo are clustered; an instance is named by the
       halo │        │ halo               global index of its seed voxel
       halo └────────┘ halo    3 CHECK    compare what neighbours see; enlarge halos, then join
       halo halo halo halo     4 FINISH   rank the names, write labels, pyramid and metadata

Labels are a function of image, network, settings and prediction tiles. The clustering tiles, the
number of workers and the order leave no trace as long as nothing is joined.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from embedseg_large.errors import EmbedSegError, ImageChangedError, UsageError
from embedseg_large.labels.instances import InstanceTable
from embedseg_large.labels.pending import PendingLabels
from embedseg_large.labels.tables import table_warning
from embedseg_large.options import takes
from embedseg_large.runs.dask.backend import chosen, client_of, device_on
from embedseg_large.runs.events import Published, RunBegun
from embedseg_large.runs.facts import token
from embedseg_large.runs.log_file import log_to
from embedseg_large.runs.paths import lock_folder
from embedseg_large.runs.progress import Observer, Progress, Watcher
from embedseg_large.runs.record import RunRecord, new_name
from embedseg_large.runs.run_folder import Run, RunPlace, open_run
from embedseg_large.runs.runner import SerialExecutor, TaskRunner
from embedseg_large.runs.tasks import Executor
from embedseg_large.segmentation.intensities import find_fields, find_intensity, find_intensity_at
from embedseg_large.segmentation.intensity_field import IntensityField
from embedseg_large.segmentation.options import RunOptions
from embedseg_large.segmentation.pipeline import (
    TimepointResult,
    find_instances,
    tasks_of,
    write_labels,
)
from embedseg_large.segmentation.report import (
    SegmentResult,
    SizeScale,
    merged,
    published_result,
    scale_of,
)
from embedseg_large.segmentation.request.estimate import (
    check_memory,
    check_tiles,
    tiles_at_once,
)
from embedseg_large.segmentation.request.prepare import AnyModel, prepare, timepoints_of
from embedseg_large.segmentation.request.request import Request, Timepoint, facts_of, provenance
from embedseg_large.segmentation.request.scale import voxel_size_warning
from embedseg_large.segmentation.saved_predictions import save
from embedseg_large.segmentation.segmenters.loading import executor_here
from embedseg_large.segmentation.spool import reopenable
from embedseg_large.segmentation.stages.clean import CleanReport
from embedseg_large.segmentation.stages.finish import write_instances
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.steps import Stage
from embedseg_large.stitching.relabel import label_dtype
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.intensity import IntensityRange, range_warning

if TYPE_CHECKING:
    from distributed import Client

    from embedseg_large.runs.dask.cluster_file import ClusterSettings

logger = logging.getLogger(__name__)


@takes(RunOptions)
def segment(
    volume: Any,
    model: AnyModel = None,
    labels: str = "nuclei",
    *,
    watcher: Watcher | Observer | None = None,
    **options: Any,
) -> SegmentResult:
    """Segment a volume, and write its labels as OME-Zarr.

    Parameters
    ----------
    volume
        A `Volume`, or anything that `open_volume` accepts: path of an OME-Zarr or TIFF, an array.
    model
        A model, a bundled name, the file of a model, or an original EmbedSeg folder; a
        `TileSegmenter`; or ``module:name``, a function or `TileSegmenter` of your own, whose module
        is imported, and so run. None: the bundled ``nuclei-3d`` or ``nuclei-2d``, by the axes of
        the volume.
    labels
        Name of the label group: ``labels/NAME`` in the image's store or under `output`.
    watcher
        Notified of progress: a `Watcher` of finished tiles, an `Observer` of every event.
    **options

    Returns
    -------
    SegmentResult
        The path of the labels, their number, the seam report, and a summary.

    Raises
    ------
    UsageError
        If an option cannot be used; nothing has been computed then.
    LabelsExistError
        If labels of that name exist and `overwrite` is false.
    VolumeError
        If the volume cannot be used: metadata, NaN, constant, a corrupt chunk.
    ModelError
        If the model cannot be used, or does not suit the volume.
    OutputError
        If the output cannot be written. Older labels then remain.
    """
    asked = RunOptions.of(options, "segment")
    with log_to(asked.log) as written, Progress(watcher, written).telling_failure() as progress:
        where = chosen(asked)
        if where is None and asked.performance_report is not None:
            raise UsageError(
                "a performance report describes Dask workers, and this run has none; add workers, "
                "or leave out the report"
            )
        asked = replace(asked, device=device_on(where, asked.device))
        request = prepare(volume, model, labels, asked)
        check_tiles(request)
        if where is not None:
            check_memory(where, request)

        def attempt(fresh: bool) -> SegmentResult:
            report = asked.performance_report
            with begin(request, fresh) as run, _executor(request, run, where, report) as executor:
                return run_request(request, run, executor, progress)

        try:
            return attempt(fresh=False)
        except ImageChangedError:
            if not request.target.overwrite:
                raise
            logger.warning("the image has changed since the unfinished run started: starting over")
        return attempt(fresh=True)


def begin(request: Request, fresh: bool = False) -> AbstractContextManager[Run]:
    """Start the run of a request, or resume it unless a fresh one is required."""

    def without_older() -> None:
        target.check_free()  # another run may have published them since the target was chosen
        if request.keep:
            request.scratch.predictions.remove_all()  # of an earlier run, finished or not

    target, facts = request.target, facts_of(request)
    place = RunPlace(
        folder=folder_at(request.scratch.path),
        lock=lock_folder(target.store, target.name),
        overwrite=target.overwrite,
        is_whole=lambda _: not fresh,
        discard=lambda unfinished: target.discard(unfinished.pending),
    )
    record = RunRecord(
        name=new_name(),
        labels=target.path,
        overwrite=target.overwrite,
        token=token(facts),
        facts=facts,
    )
    return open_run(place, record, without_older)


@contextmanager
def _executor(
    request: Request,
    run: Run,
    where: Client | ClusterSettings | None,
    report: str | os.PathLike[str] | None,
) -> Iterator[Executor]:
    """Provide the executor of the run."""
    settings = request.settings
    if where is None:
        placed = request.segmenter.placed(settings.device, settings.dtype)
        yield executor_here(placed, settings.device, lambda: tiles_at_once(request))
        return
    from embedseg_large.runs.dask.executor import executor_on
    from embedseg_large.runs.dask.performance import performance_report
    from embedseg_large.runs.dask.preflight import check_workers

    inputs = [v.path for v in (request.volume, request.foreground.mask) if v and v.path]
    inputs += [] if request.saved_in is None else [request.saved_in]
    with ExitStack() as stack:
        client = stack.enter_context(client_of(where, settings.device))
        check_workers(
            client,
            device=settings.device,
            places=[run.folder.path, request.target.store],
            needs_gpu=request.saved_in is None,
            inputs=inputs,
        )
        if report is not None:
            stack.enter_context(performance_report(client, report))
        spec = request.segmenter.spec(settings.device, settings.dtype, run.folder)
        yield stack.enter_context(executor_on(client, spec))


def run_request(
    request: Request, run: Run, executor: Executor, progress: Progress
) -> SegmentResult:
    """Run all stages of a request, then publish. A failure leaves older labels as they are."""
    made = request.target.complete(run.name)
    if made is not None:  # killed between the publication and the end of the run
        return published_result(request.target.path, made)
    began = time.perf_counter()
    logger.info("segmenting %s into %s", request.volume.shape, request.target.path)
    logger.info("settings: %s", request.settings.as_dict())
    warnings = _warned(voxel_size_warning(request.volume, request.segmenter, request.resampling))
    warnings += _warned(request.volume.time_or_depth())
    warnings += _warned(table_warning(request.target.store, request.target.name, token(run.facts)))
    progress.tell(_beginning(request, run))
    runner = TaskRunner(executor, run.journal, progress)
    found = _find_all(request, run, runner)
    pending, instances = _write_all(found, request, run, runner)
    seams = merged([f.seams for f in found])
    scale = _scale(request, found)
    segmenter = request.segmenter.traits.name
    if request.scale is None:  # an automatic scale has its own evidence
        warnings += _warned(scale.warning)
    for text in (
        _blank_warning(found),
        *_range_warnings(request, found),
        *seams.warnings(segmenter),
    ):
        warnings += _warned(text)
    summary: dict[str, Any] = {
        "n_instances": sum(f.n_instances for f in found),
        "segmenter": segmenter,
        "labels": request.target.path,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seams": seams.as_dict(),
        "scale": scale.as_dict(),
        "warnings": warnings,
        "skipped": dict(sum((Counter(f.skipped) for f in found), Counter())),
        "stages": {name: clock.as_dict() for name, clock in progress.clocks.items()},
        "resumed": {name: c.recalled for name, c in progress.clocks.items() if c.recalled},
        "seconds": round(time.perf_counter() - began, 3),
        **provenance(run, [f.job.intensity for f in found], [f.job.fields for f in found]),
        "run": run.name,
    }
    if request.settings.cleaning():
        summary["cleaning"] = sum((f.cleaning for f in found), CleanReport()).as_dict()
    if request.segmenter.traits.method is not None:
        summary["method"] = request.segmenter.traits.method
    if request.is_series:
        summary["timepoints"] = {f.job.timepoint: f.n_instances for f in found}
    if request.keep:
        summary["predictions"] = request.scratch.predictions.path
    with _cleared(pending, run):
        run.check()
        pending.publish(summary, instances)
    progress.tell(
        Published(
            labels=request.target.path,
            instances=summary["n_instances"],
            seconds=summary["seconds"],
        )
    )
    return SegmentResult(
        path=request.target.path,
        n_instances=summary["n_instances"],
        seams=seams,
        summary=summary,
    )


def _warned(text: str | None) -> list[str]:
    """Log a warning, if there is one, and return it for the summary."""
    if text is None:
        return []
    logger.warning(text)
    return [text]


def _blank_warning(found: Sequence[TimepointResult]) -> str | None:
    """Report which timepoints of a series hold no data."""
    blank = [str(f.job.timepoint) for f in found if f.is_blank]
    if not blank:
        return None
    return f"timepoint {', '.join(blank)}: no voxel holds data, so there are no labels"


def _range_warnings(request: Request, found: Sequence[TimepointResult]) -> list[str]:
    """Report intensity ranges that may be wrong, once per channel."""
    if request.intensity.high != "percentile" or request.volume.dtype.kind == "b":
        return []
    texts = []
    for channel in range(len(found[0].job.intensity)):
        each = (range_warning(f.job.intensity[channel]) for f in found if not f.is_blank)
        text = next((t for t in each if t is not None), None)
        where = f"channel {channel}: " if len(found[0].job.intensity) > 1 else ""
        texts += [] if text is None else [where + text]
    return texts


def _scale(request: Request, found: Sequence[TimepointResult]) -> SizeScale:
    return scale_of(
        request.volume.level,
        request.resampling.zoom[-1],
        request.segmenter.object_diameter,
        [extent for one in found for extent in one.extents],
        is_automatic=request.level_is_automatic,
        stated=request.stated_size,
    )


def _beginning(request: Request, run: Run) -> RunBegun:
    return RunBegun(
        labels=request.target.path,
        run=run.name,
        resumed=run.resumed,
        token=token(run.facts),
        facts=run.facts,
        host=platform.node(),
        process=os.getpid(),
    )


def _find_all(request: Request, run: Run, runner: TaskRunner) -> list[TimepointResult]:
    """Run all stages but the last, for one timepoint after the other."""
    found: list[TimepointResult] = []
    each = request.intensity.per_timepoint or request.saved_in is not None
    common = None if each else find_intensity(request, runner)
    evened = None if each else find_fields(request, runner)
    for at in timepoints_of(request):
        section = runner.within(at.section)
        intensity = find_intensity_at(request, at, section) if common is None else common
        fields = find_fields(request, section, at) if evened is None else evened
        for one in intensity:
            logger.info("intensities %g to %g become 0 to 1", one.low, one.high)
        run.check()
        job = _job(request, at, intensity, fields)
        if not isinstance(runner.executor, SerialExecutor):
            job = reopenable(job)
        todo, left = tasks_of(job, at), len(request.timepoints) - len(found)
        run.update(tasks={name: n * len(request.timepoints) for name, n in todo.items()})
        runner.progress.plan({name: n * left for name, n in todo.items()})
        found.append(find_instances(job, at, section))
        run.check()
        if at.saved is None and not request.keep:
            job.scratch.predictions.remove_all()  # no longer needed
        if request.keep:
            save(request, at, found[-1].predictions, intensity, fields)
    return found


def _job(
    request: Request,
    at: Timepoint,
    intensity: tuple[IntensityRange, ...],
    fields: tuple[IntensityField, ...],
) -> Job:
    """Collect everything that tasks need."""
    return Job(
        volume=at.volume,
        timepoint=at.volume.timepoint,
        intensity=intensity,
        fields=fields,
        foreground=request.foreground,
        resampling=request.resampling,
        settings=request.settings,
        scratch=at.scratch,
        region=request.region,
        traits=request.segmenter.traits,
        in_memory=at.volume.path is None,
    )


@contextmanager
def _cleared(pending: PendingLabels, run: Run) -> Iterator[None]:
    """Remove hidden labels that this process created after its run was already over."""
    try:
        yield
    except Exception:
        with suppress(EmbedSegError):  # the first error is the one to report
            if not run.is_there:
                pending.discard()
        raise


def _write_all(
    found: Sequence[TimepointResult], request: Request, run: Run, runner: TaskRunner
) -> tuple[PendingLabels, InstanceTable]:
    """Run the last stage of every timepoint."""
    most = max(f.n_instances for f in found)
    run.check()
    pending = request.target.create(label_dtype(most), run=run.name)
    levels = range(pending.n_levels)
    shards = sum(1 for level in levels for _ in pending.regions(level, request.region))
    with _cleared(pending, run):
        run.update(pending=pending.path, shards=shards * len(found))
        runner.progress.plan({Stage.FINISH: shards * len(found)})
        for one in found:
            write_labels(one, pending, runner.within(one.section))
        instances = pending.instances(most, (*request.segmenter.traits.columns, "seam"))
        run.check()
        instances.create()
        for one in found:
            write_instances(one.job, one.numbering, one.state, instances)
    return pending, instances
