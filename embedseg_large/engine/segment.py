"""Segment a volume of any size: PREDICT, CLUSTER, CHECK, FINISH.

::

       halo halo halo halo
       halo ┌────────┐ halo    1 PREDICT  every voxel's embedding is predicted by exactly one tile
       halo │  core  │ halo    2 CLUSTER  core + halo are clustered; an instance is named by the
       halo │        │ halo               global index of its seed voxel
       halo └────────┘ halo    3 CHECK    neighbours saw the same seams: compare, see more, join
       halo halo halo halo     4 FINISH   rank the names, write labels, pyramid and metadata

Labels are a function of image, network, settings and prediction tiles. How the clustering was cut
up, on how many workers and in which order, leaves no trace while nothing is joined.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from embedseg_large.engine.job import Job
from embedseg_large.engine.network import Network, place
from embedseg_large.engine.options import SegmentOptions
from embedseg_large.engine.order import Order, prepare
from embedseg_large.engine.progress import Progress, Watcher
from embedseg_large.engine.provenance import provenance
from embedseg_large.engine.recorder import Recorder
from embedseg_large.engine.report import SegmentResult, seam_report
from embedseg_large.engine.runs import Run, open_run
from embedseg_large.engine.seams import SeamCheck, SeamState
from embedseg_large.engine.serial import SerialExecutor
from embedseg_large.engine.spool import reopenable
from embedseg_large.engine.stages import Numbering, downsample, finish
from embedseg_large.engine.tasks import Call, Each, Executor, PredictThenCluster, Task
from embedseg_large.errors import UsageError
from embedseg_large.io.intensity import Histogram, IntensityRange, intensity_ranges
from embedseg_large.io.labels import PendingLabels
from embedseg_large.stitching.relabel import label_dtype, offsets

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
    watcher: Watcher | None = None,
    **options: Unpack[SegmentOptions],
) -> SegmentResult:
    """Segment a volume, and write its labels as OME-Zarr.

    Parameters
    ----------
    volume
        A `Volume`, or what `open_volume` takes: path of an OME-Zarr or TIFF, an array.
    model
        A model, a bundled name, the file of a model, or an original EmbedSeg folder. None: the
        bundled ``nuclei-3d`` or ``nuclei-2d``, by the axes of the volume.
    labels
        Name of the label group: ``labels/NAME`` in the image's store or under `output`.
    client
        A `distributed.Client` whose workers do the work.
    workers
        Number of local worker processes to start. With neither this nor `client` nor
        `scheduler` the work is done in this process.
    scheduler
        Address of a running Dask scheduler.
    watcher
        Is told of progress.
    **options
        See `embedseg_large.engine.options.SegmentOptions`: channel, timepoint, level, axes,
        voxel_size, object_diameter, output, ngff_version, overwrite, scratch, intensity_range,
        intensity_sample, device, tta, dtype, tile, context, cluster_tile, halo, max_halo,
        strict, min_object_size, foreground, seed. Sizes and margins of tiles are voxels of the
        grid that the network sees: the volume's own, or with `object_diameter` the model's.

    Returns
    -------
    SegmentResult
        The path of the labels, their number, the seam report, and a summary.

    Raises
    ------
    UsageError
        When an option cannot be used; nothing has been computed then.
    LabelsExistError
        When labels of that name exist and `overwrite` is false.
    VolumeError
        When the volume cannot be used: metadata, NaN, constant, a corrupt chunk.
    ModelError
        When the model cannot be used, or does not fit the volume.
    OutputError
        When the output cannot be written. Older labels are still there then.
    """
    _check_choice(client, workers, scheduler)
    order = prepare(volume, model, labels, **options)
    with (
        open_run(order) as run,
        _executor(order, run, client, workers, scheduler) as executor,
    ):
        return run_order(order, run, executor, Progress(watcher))


def _check_choice(client: Client | None, workers: int | None, scheduler: str | None) -> None:
    if sum(x is not None for x in (client, workers, scheduler)) > 1:
        raise UsageError("client, workers and scheduler exclude each other; give one of them")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}; give at least 1, or none to work in this process")


@contextmanager
def _executor(
    order: Order,
    run: Run,
    client: Client | None,
    workers: int | None,
    scheduler: str | None,
) -> Iterator[Executor]:
    """The executor that was asked for: in this process, or on workers."""
    settings = order.settings
    if client is None and workers is None and scheduler is None:
        network = place(order.network, device=settings.device, dtype=settings.dtype)
        yield SerialExecutor(network)
        return
    from embedseg_large.engine.run import DaskExecutor, local_client, remote_client
    from embedseg_large.engine.workers import network_spec

    with ExitStack() as stack:
        if scheduler is not None:
            client = stack.enter_context(remote_client(scheduler))
        elif client is None:
            client = stack.enter_context(local_client(workers or 1, settings.device))
        executor = DaskExecutor(client, network_spec(order.network, settings, run.folder))
        stack.callback(executor.close)
        yield executor


def run_order(order: Order, run: Run, executor: Executor, progress: Progress) -> SegmentResult:
    """Do what was ordered: all stages, then publish. A failure leaves older labels as they are."""
    began = time.perf_counter()
    logger.info("segmenting %s into %s", order.volume.spatial_shape, order.target.path)
    logger.info("settings: %s", order.settings.as_dict())
    recorder = Recorder(executor, run.journal, progress)
    job = _start(order, run, recorder)
    tiles = _predict_and_cluster(job, recorder)
    state = SeamCheck(job, recorder, progress, tiles.predictions, tiles.views).run()
    logger.info("%d faces, %d rounds of repair", state.faces, state.rounds)
    numbering = Numbering(joins=state.joins, before=offsets(state.counts), versions=state.layers)
    seams = seam_report(job, state, numbering)
    pending = order.target.create(label_dtype(int(numbering.before[-1])), run=run.name)
    run.tell({"pending": pending.path})
    _finish(job, pending, numbering, state, recorder)
    summary: dict[str, Any] = {
        "n_instances": int(numbering.before[-1]),
        "labels": order.target.path,
        "seams": seams.as_dict(),
        "stages": {name: clock.as_dict() for name, clock in progress.clocks.items()},
        "resumed": {name: c.recalled for name, c in progress.clocks.items() if c.recalled},
        "seconds": round(time.perf_counter() - began, 3),
        **provenance(order, job.intensity),
    }
    run.lock.check_now()
    pending.publish(summary)
    return SegmentResult(
        path=order.target.path,
        n_instances=summary["n_instances"],
        seams=seams,
        summary=summary,
    )


def _start(order: Order, run: Run, recorder: Recorder) -> Job:
    """Statistics, and all that tasks need to know."""
    intensity = _intensity(order, run, recorder)
    for found in intensity:
        logger.info("intensities %g to %g become 0 to 1", found.low, found.high)
    job = Job(
        volume=order.volume,
        timepoint=order.volume.timepoint,
        fill_value=order.volume.fill_value,
        intensity=intensity,
        resampling=order.resampling,
        settings=order.settings,
        scratch=order.scratch,
    )
    run.tell({"tiles": {"predict": len(job.prediction), "cluster": len(job.clustering())}})
    return job if isinstance(recorder.executor, SerialExecutor) else reopenable(job)


def _intensity(order: Order, run: Run, recorder: Recorder) -> tuple[IntensityRange, ...]:
    """The range of each channel: as given, or of the whole volume."""
    if order.intensity is not None:
        return order.intensity
    known = run.journal.find("statistics", 0)
    if known is not None:
        return tuple(IntensityRange(**values) for values in known[1])
    run_on: Any = map  # where the volume is in this process's memory
    if isinstance(recorder.executor, SerialExecutor) or order.volume.path is not None:
        run_on = partial(_map, recorder, "statistics")
    found = intensity_ranges(order.volume, sample=order.intensity_sample, map=run_on)
    run.journal.note("statistics", 0, (0, [asdict(r) for r in found]))
    run.journal.flush()
    return found


def _map(
    recorder: Recorder,
    stage: str,
    function: Callable[[Any], Histogram],
    items: Iterable[Any],
) -> list[Histogram]:
    """`map` on an executor, summed up as results come: there may be many, of a megabyte each."""
    todo = list(items)
    recorder.progress.begin(stage, len(todo))
    total = [Histogram(np.empty(0, np.uint32), np.empty(0, np.int64))]

    def add(_: Task, result: Histogram) -> None:
        total[0] += result

    recorder.run(Each((Task(stage=stage, call=Call(function, (i,))) for i in todo), add))
    return total


def _predict_and_cluster(job: Job, recorder: Recorder) -> PredictThenCluster:
    recorder.progress.begin("predict", len(job.prediction))
    recorder.progress.begin("cluster", len(job.clustering()))
    tiles = PredictThenCluster(job)
    recorder.run(tiles)
    return tiles


def _finish(
    job: Job, pending: PendingLabels, numbering: Numbering, state: SeamState, recorder: Recorder
) -> None:
    """Write the final labels, then level by level the pyramid."""
    for level in range(pending.n_levels):
        recorder.progress.begin("finish", sum(1 for _ in pending.regions(level)))
        recorder.run(Each(_finish_tasks(job, pending, numbering, state, level)))


def _finish_tasks(
    job: Job, pending: PendingLabels, numbering: Numbering, state: SeamState, level: int
) -> Iterator[Task]:
    grid = job.clustering()
    for number, box in enumerate(pending.regions(level)):
        if level == 0:
            views = state.views.part(grid.span(job.on_grid(box)))
            call = Call(finish, (job, pending, numbering, box, views))
        else:
            call = Call(downsample, (job, pending, level, box))
        yield Task(
            stage="finish",
            call=call,
            where=f"level {level}, {box}",
            voxels=0 if level else box.size,
            ledger=f"finish/{level}",
            number=number,
        )
