"""Segment a volume of any size: PREDICT, CLUSTER, CHECK, FINISH.

::

       halo halo halo halo
       halo ┌────────┐ halo    1 PREDICT  every voxel's embedding is predicted by exactly one tile
       halo │  core  │ halo    2 CLUSTER  core + halo are clustered; an instance is named by the
       halo │        │ halo               global index of its seed voxel
       halo └────────┘ halo    3 CHECK    neighbours saw the same seams: compare, see more, join
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
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Unpack

from embedseg_large.errors import UsageError
from embedseg_large.labels.instances import InstanceTable
from embedseg_large.labels.tables import table_warning
from embedseg_large.labels.target import PendingLabels
from embedseg_large.runs.dask.backend import chosen, client_of
from embedseg_large.runs.dask.cluster_file import ClusterSettings, offers_gpu
from embedseg_large.runs.events import Published, RunBegun
from embedseg_large.runs.facts import token
from embedseg_large.runs.local import SerialExecutor
from embedseg_large.runs.log_file import log_to
from embedseg_large.runs.paths import lock_folder
from embedseg_large.runs.progress import Observer, Progress, Watcher
from embedseg_large.runs.record import RunRecord, new_name
from embedseg_large.runs.run_folder import Run, RunPlace, open_run
from embedseg_large.runs.runner import Recorder
from embedseg_large.runs.tasks import Executor
from embedseg_large.segmentation.instances import columns_known, write_instances
from embedseg_large.segmentation.intensities import (
    find_fields,
    find_intensity,
    find_intensity_of_part,
)
from embedseg_large.segmentation.intensity_field import IntensityField
from embedseg_large.segmentation.pipeline import Found, find_instances, tasks_of, write_labels
from embedseg_large.segmentation.report import SegmentResult, merged, published_result
from embedseg_large.segmentation.request.facts import facts_of
from embedseg_large.segmentation.request.memory import check_memory
from embedseg_large.segmentation.request.options import SegmentOptions
from embedseg_large.segmentation.request.provenance import provenance
from embedseg_large.segmentation.request.request import Order, prepare
from embedseg_large.segmentation.request.scale import Scale, scale_of, voxel_size_warning
from embedseg_large.segmentation.saved_predictions import keep
from embedseg_large.segmentation.segmenters.loading import executor_here, place
from embedseg_large.segmentation.segmenters.protocol import Network
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.segmentation.spool import reopenable
from embedseg_large.segmentation.stages.clean import CleanReport
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.steps import Stage
from embedseg_large.stitching.relabel import label_dtype
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.intensity import IntensityRange, range_warning

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)


def segment(
    volume: Any,
    model: Network | str | os.PathLike[str] | None = None,
    labels: str = "nuclei",
    *,
    client: Client | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    cluster_config: str | os.PathLike[str] | None = None,
    watcher: Watcher | Observer | None = None,
    log: str | os.PathLike[str] | None = None,
    performance_report: str | os.PathLike[str] | None = None,
    **options: Unpack[SegmentOptions],
) -> SegmentResult:
    """Segment a volume, and write its labels as OME-Zarr.

    Parameters
    ----------
    volume
        A `Volume`, or anything that `open_volume` accepts: path of an OME-Zarr or TIFF, an array.
    model
        A model, a bundled name, the file of a model, or an original EmbedSeg folder. None: the
        bundled ``nuclei-3d`` or ``nuclei-2d``, by the axes of the volume.
    labels
        Name of the label group: ``labels/NAME`` in the image's store or under `output`.
    client
        A `distributed.Client` whose workers do the work.
    workers
        Number of local worker processes to start. With none of this, `client`, `scheduler` and
        `cluster_config` the work is done in this process.
    scheduler
        Address of a running Dask scheduler.
    cluster_config
        File with the settings of a cluster to start or to use, see
        `embedseg_large.runs.dask.cluster_file`.
    watcher
        Notified of progress: a `Watcher` of finished tiles, an `Observer` of every event.
    log
        Local file to which all events are appended, one JSON object per line: see
        `embedseg_large.runs.log_file`.
    performance_report
        HTML file for Dask's report of what the workers did. Needs bokeh at the scheduler.
    **options
        See `embedseg_large.segmentation.request.options.SegmentOptions`: channel, timepoint, level,
        region, axes, voxel_size, object_diameter, mask, dark_below, output, ngff_version,
        overwrite, scratch, keep_predictions, from_predictions, intensity_range, intensity_sample,
        intensity_per_timepoint, intensity_field, device, tta, dtype, tile, context, cluster_tile,
        halo, max_halo, strict, min_object_size, foreground, seed, margin, keep_largest_piece,
        fill_holes. Sizes of tiles are voxels of the grid that the network sees: the volume's own,
        or with `object_diameter` the model's.

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
    _check_names(options)
    with log_to(log) as written, Progress(watcher, written).telling_failure() as progress:
        where = chosen(client, workers, scheduler, cluster_config)
        if where is None and performance_report is not None:
            raise UsageError(
                "a performance report describes Dask workers, and this run has none; add workers, "
                "or leave out the report"
            )
        if isinstance(where, ClusterSettings) and offers_gpu(where):
            # of the workers, whatever there is here
            options["device"] = options.get("device") or "cuda"
        order = prepare(volume, model, labels, **options)
        check_memory(where, order)
        with begin(order) as run, _executor(order, run, where, performance_report) as executor:
            return run_order(order, run, executor, progress)


def begin(order: Order) -> AbstractContextManager[Run]:
    """Begin the run of an order, or go on with it."""

    def without_older() -> None:
        if order.keep:
            order.scratch.predictions.remove_all()  # of an earlier run, or of none that finished

    target, facts = order.target, facts_of(order)
    place = RunPlace(
        folder=folder_at(order.scratch.path),
        lock=lock_folder(target.store, target.name),
        overwrite=target.overwrite,
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


def _check_names(options: SegmentOptions) -> None:
    """Refuse a mistyped name here, where the user called, as Python would."""
    for name in sorted(set(options) - SegmentOptions.__optional_keys__):
        alike = get_close_matches(name, SegmentOptions.__optional_keys__, n=1)
        advice = f"; did you mean {alike[0]!r}?" if alike else ""
        raise TypeError(f"segment() got an unexpected keyword argument {name!r}{advice}")


@contextmanager
def _executor(
    order: Order,
    run: Run,
    where: Client | ClusterSettings | None,
    report: str | os.PathLike[str] | None,
) -> Iterator[Executor]:
    """What does the work."""
    settings = order.settings
    if where is None:
        network = place(order.network, device=settings.device, dtype=settings.dtype)
        yield executor_here(network, settings.device)
        return
    from embedseg_large.runs.dask.executor import executor_on
    from embedseg_large.runs.dask.performance import performance_report
    from embedseg_large.runs.dask.preflight import check_workers
    from embedseg_large.segmentation.segmenters.loading import network_spec

    inputs = [v.path for v in (order.volume, order.foreground.mask) if v and v.path]
    inputs += [] if order.kept_in is None else [order.kept_in]
    with ExitStack() as stack:
        client = stack.enter_context(client_of(where, settings.device))
        check_workers(
            client,
            device=settings.device,
            places=[run.folder.path, order.target.store],
            needs_gpu=order.kept_in is None,
            inputs=inputs,
        )
        if report is not None:
            stack.enter_context(performance_report(client, report))
        spec = network_spec(order.network, settings.device, settings.dtype, run.folder)
        yield stack.enter_context(executor_on(client, spec))


def run_order(order: Order, run: Run, executor: Executor, progress: Progress) -> SegmentResult:
    """Do what was ordered: all stages, then publish. A failure leaves older labels as they are."""
    made = order.target.complete(run.name)
    if made is not None:  # a kill came between the publication and the end of the run
        return published_result(order.target.path, made)
    began = time.perf_counter()
    logger.info("segmenting %s into %s", order.volume.shape, order.target.path)
    logger.info("settings: %s", order.settings.as_dict())
    warnings = _warned(voxel_size_warning(order.volume, order.network, order.resampling))
    warnings += _warned(order.volume.time_or_depth())
    warnings += _warned(table_warning(order.target.store, order.target.name, token(run.facts)))
    progress.tell(_beginning(order, run))
    recorder = Recorder(executor, run.journal, progress)
    found = _find_all(order, run, recorder)
    pending, instances = _write_all(found, order, run, recorder)
    seams = merged([f.seams for f in found])
    scale = _scale(order, found)
    segmenter = order.network.name if isinstance(order.network, TileSegmenter) else None
    if order.scale is None:  # a scale that was found by itself has its evidence
        warnings += _warned(scale.warning)
    for text in (
        _blank_warning(found),
        *_range_warnings(order, found),
        *seams.warnings(segmenter),
    ):
        warnings += _warned(text)
    summary: dict[str, Any] = {
        "n_instances": sum(f.n_instances for f in found),
        "segmenter": segmenter,
        "labels": order.target.path,
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
    if order.settings.cleaning():
        summary["cleaning"] = sum((f.cleaning for f in found), CleanReport()).as_dict()
    if order.is_series:
        summary["timepoints"] = {f.job.timepoint: f.n_instances for f in found}
    if order.keep:
        summary["predictions"] = order.scratch.predictions.path
    run.check()
    pending.publish(summary, instances)
    progress.tell(
        Published(
            labels=order.target.path,
            instances=summary["n_instances"],
            seconds=summary["seconds"],
        )
    )
    return SegmentResult(
        path=order.target.path,
        n_instances=summary["n_instances"],
        seams=seams,
        summary=summary,
    )


def _warned(text: str | None) -> list[str]:
    """Log a warning, if it is one, and hand it on for the summary."""
    if text is None:
        return []
    logger.warning(text)
    return [text]


def _blank_warning(found: Sequence[Found]) -> str | None:
    """Say which timepoints of a series hold no data."""
    blank = [str(f.job.timepoint) for f in found if f.is_blank]
    if not blank:
        return None
    return f"timepoint {', '.join(blank)}: no voxel holds data, so there are no labels"


def _range_warnings(order: Order, found: Sequence[Found]) -> list[str]:
    """Say which intensities may be the wrong ones, once for each channel."""
    if order.kept is not None or order.by_otsu or order.volume.dtype.kind == "b":
        return []
    texts = []
    for channel in range(len(found[0].job.intensity)):
        each = (range_warning(f.job.intensity[channel]) for f in found if not f.is_blank)
        text = next((t for t in each if t is not None), None)
        where = f"channel {channel}: " if len(found[0].job.intensity) > 1 else ""
        texts += [] if text is None else [where + text]
    return texts


def _scale(order: Order, found: Sequence[Found]) -> Scale:
    extents = [extent for one in found for extent in one.extents]
    automatic = order.level_is_automatic
    return scale_of(order.volume, order.network, order.resampling, extents, is_automatic=automatic)


def _beginning(order: Order, run: Run) -> RunBegun:
    return RunBegun(
        labels=order.target.path,
        run=run.name,
        resumed=run.resumed,
        token=token(run.facts),
        facts=run.facts,
        host=platform.node(),
        process=os.getpid(),
    )


def _find_all(order: Order, run: Run, recorder: Recorder) -> list[Found]:
    """All stages but the last of every timepoint, one after the other."""
    found: list[Found] = []
    common = None if order.intensity_per_timepoint else find_intensity(order, recorder)
    evened = None if order.intensity_per_timepoint else find_fields(order, recorder)
    for part in order.parts():
        section = recorder.within(part.section)
        intensity = find_intensity_of_part(part, section) if common is None else common
        fields = find_fields(part, section) if evened is None else evened
        for one in intensity:
            logger.info("intensities %g to %g become 0 to 1", one.low, one.high)
        run.check()
        job = _job(part, intensity, fields, recorder.executor)
        todo, left = tasks_of(job, part), len(order.timepoints) - len(found)
        run.update(tasks={name: n * len(order.timepoints) for name, n in todo.items()})
        recorder.progress.plan({name: n * left for name, n in todo.items()})
        found.append(find_instances(job, part, section))
        run.check()
        if part.kept is None and not part.keep:
            job.scratch.predictions.remove_all()  # nobody reads them any more
        if order.keep:
            keep(part.scratch.predictions, part, found[-1].predictions, intensity, fields)
    return found


def _job(
    order: Order,
    intensity: tuple[IntensityRange, ...],
    fields: tuple[IntensityField, ...],
    executor: Executor,
) -> Job:
    """All that tasks need to know."""
    job = Job(
        volume=order.volume,
        timepoint=order.volume.timepoint,
        intensity=intensity,
        fields=fields,
        foreground=order.foreground,
        resampling=order.resampling,
        settings=order.settings,
        scratch=order.scratch,
        region=order.region,
        segments=order.segments,
        in_memory=order.volume.path is None,
    )
    return job if isinstance(executor, SerialExecutor) else reopenable(job)


def _write_all(
    found: Sequence[Found], order: Order, run: Run, recorder: Recorder
) -> tuple[PendingLabels, InstanceTable]:
    """The last stage of every timepoint."""
    most = max(f.n_instances for f in found)
    run.check()
    pending = order.target.create(label_dtype(most), run=run.name)
    levels = range(pending.n_levels)
    shards = sum(1 for level in levels for _ in pending.regions(level, order.region))
    run.update(pending=pending.path, shards=shards * len(found))
    recorder.progress.plan({Stage.FINISH: shards * len(found)})
    for one in found:
        write_labels(one, pending, recorder.within(one.section))
    instances = pending.instances(most, columns_known(found[0]))
    run.check()
    instances.create()
    for one in found:
        write_instances(one, instances)
    return pending, instances
