"""The stages of one timepoint, one after the other, on any executor."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.labels.target import PendingLabels
from embedseg_large.runs.runner import Recorder
from embedseg_large.runs.tasks import Call, Each, Task
from embedseg_large.segmentation.report import SeamReport, seam_report
from embedseg_large.segmentation.request.request import Order
from embedseg_large.segmentation.request.scale import extents_of
from embedseg_large.segmentation.scratch.versions import ABSENT, DARK, MASKED
from embedseg_large.segmentation.seams import SeamCheck, SeamState
from embedseg_large.segmentation.stages.clean import Cleaning, CleanReport
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.predict import Numbering, downsample, finish, finish_halved
from embedseg_large.segmentation.steps import Ledger, Stage
from embedseg_large.segmentation.tile_tasks import ClusterPredicted, PredictThenCluster
from embedseg_large.stitching.relabel import offsets
from embedseg_large.volumes.intensity import is_blank

logger = logging.getLogger(__name__)

_SKIPPED = {"no data": ABSENT, "outside the mask": MASKED, "dark": DARK}


@dataclass(frozen=True, kw_only=True)
class Found:
    """All instances of a timepoint: their views are in scratch, their labels are settled."""

    job: Job
    section: str
    """Of the journal, see `Order`."""
    state: SeamState
    numbering: Numbering
    seams: SeamReport
    predictions: NDArray[np.uint32]
    """Version of each tile."""
    cleaning: CleanReport
    """What was cleaned."""
    extents: tuple[float, ...]
    """Of some instances along y and x, in voxels of the grid."""

    @property
    def n_instances(self) -> int:
        """Number of instances."""
        return int(self.numbering.before[-1])

    @cached_property
    def is_blank(self) -> bool:
        """Whether no voxel of the volume holds data; looks only where nothing was found."""
        return self.n_instances == 0 and is_blank(self.job.volume)

    @property
    def skipped(self) -> dict[str, int]:
        """Tiles that were not predicted, by reason."""
        counts = {name: int((self.predictions == code).sum()) for name, code in _SKIPPED.items()}
        return {name: count for name, count in counts.items() if count}


def tasks_of(job: Job, order: Order) -> dict[Stage, int]:
    """Number of tasks of each stage, if no tile disagrees with another."""
    grid = job.clustering()
    first, end = grid.entire().span(job.seen)[0]
    predicted = (
        {} if order.kept or job.segments else {Stage.PREDICT: job.prediction.count(job.seen)}
    )
    cleaned = {Stage.CLEAN: 2 * len(grid)} if job.settings.cleaning() else {}
    return predicted | {Stage.CLUSTER: len(grid), Stage.CHECK: len(grid) + end - first} | cleaned


def find_instances(job: Job, order: Order, recorder: Recorder) -> Found:
    """PREDICT, CLUSTER and CHECK, and CLEAN where it is wanted."""
    tiles = _predict_and_cluster(job, order, recorder)
    state = SeamCheck(job, recorder, tiles.predictions, tiles.views).run()
    logger.info("%d faces, %d rounds of repair", state.faces, state.rounds)
    numbering = Numbering(joins=state.joins, before=offsets(state.counts), versions=state.layers)
    seams = seam_report(job, state, numbering)
    extents = extents_of(job, state.views, tiles.predictions)
    state, cleaning = _cleaned(job, recorder, state)
    return Found(
        job=job,
        section=order.section,
        state=state,
        numbering=numbering,
        seams=seams,
        predictions=tiles.predictions,
        cleaning=cleaning,
        extents=extents,
    )


def _cleaned(job: Job, recorder: Recorder, state: SeamState) -> tuple[SeamState, CleanReport]:
    if not job.settings.cleaning():
        return state, CleanReport()
    cleaning = Cleaning(job, recorder, state)
    cleaning.run()
    return replace(state, views=cleaning.views), cleaning.report


def _predict_and_cluster(
    job: Job, order: Order, recorder: Recorder
) -> PredictThenCluster | ClusterPredicted:
    tiles: PredictThenCluster | ClusterPredicted
    if order.kept is not None:
        tiles = ClusterPredicted(job, order.kept.versions)
    elif job.segments:
        tiles = ClusterPredicted(job, np.empty(0, np.uint32))
    else:
        recorder.progress.begin(Stage.PREDICT, job.prediction.count(job.seen))
        tiles = PredictThenCluster(job)
    recorder.progress.begin(Stage.CLUSTER, len(job.clustering()))
    recorder.run(tiles)
    return tiles


def write_labels(found: Found, pending: PendingLabels, recorder: Recorder) -> None:
    """FINISH: write the final labels, then level by level the pyramid."""
    for level in range(pending.n_levels):
        count = sum(1 for _ in pending.regions(level, found.job.region))
        recorder.progress.begin(Stage.FINISH, count)
        recorder.run(Each(_finish_tasks(found, pending, level)))


def _finish_tasks(found: Found, pending: PendingLabels, level: int) -> Iterator[Task]:
    make = partial(_finish_call, found, pending, level)
    for number, box in enumerate(pending.regions(level, found.job.region)):
        yield Task(
            stage=Stage.FINISH,
            make=partial(make, box),
            ledger=Ledger.FINISH.part(level),
            number=number,
        )


def _finish_call(found: Found, pending: PendingLabels, level: int, box: Box) -> Call:
    job, where = found.job, f"level {level}, {box}"
    if level > 1:
        return Call(downsample, (job, pending, level, box), where=where)
    seen = box if level == 0 else pending.source(level, box)
    views = found.state.views.part(job.clustering().span(job.on_grid(seen)))
    item = (job, pending, found.numbering, box, views)
    if level == 1:
        return Call(finish_halved, item, where=where)
    return Call(finish, item, where=where, voxels=box.size)
