"""CLUSTER: the instances of a tile, from stored fields or from the image itself.

Either way, the result of a tile describes its core and the seams around it. If a
segmenter sees the image, the result has an additional "seam", the whole region, because ownership
may be decided by it. Nothing can be proven about an unknown segmenter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import Clustering
from embedseg_large.geometry import Box
from embedseg_large.runs.tasks import Call, Task
from embedseg_large.segmentation.segmenters.protocol import TileLabeller
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.predict import (
    Predicted,
    read_normalised,
    stamp_of,
    unchanged,
)
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.stitching.middle import middles, numbered
from embedseg_large.stitching.tile_result import SEAM_DEPTH, Frame, make_result
from embedseg_large.tiling.grid import Index, Tile


def cluster_task(job: Job, index: Index, level: int, predictions: NDArray[np.uint32]) -> Task:
    """Return the CLUSTER task of one tile at a level of its halo.

    Parameters
    ----------
    predictions
        Version of the predictions of every tile; ignored if nothing is predicted.
    """
    grid = job.clustering(level)
    tile = grid.tile(index)

    def make() -> Call:
        where, voxels = f"tile {tile.core}", tile.core.size
        if not job.traits.predicts:
            return Call(cluster_image, (job, index, level), True, where, voxels)
        needed = tuple(slice(a, b) for a, b in job.prediction.span(tile.region))
        item = (job, index, level, predictions[needed].copy())
        return Call(cluster_predictions, item, where=where, voxels=voxels)

    return Task(
        stage=Stage.CLUSTER,
        make=make,
        index=index,
        ledger=LedgerKind.CLUSTER.part(level),
        number=grid.number(index),
        **({} if job.traits.predicts else _stamped(job, tile)),
    )


def _stamped(job: Job, tile: Tile) -> dict[str, Any]:
    """Return the fields of a task that reads the image."""
    return {
        "noted": Predicted.noted,
        "recalled": lambda note: unchanged(job, tile.region, note),
    }


def version_of(result: int | Predicted) -> int:
    """Return the version of a result, regardless of the task that produced it."""
    return result if isinstance(result, int) else result.version


def cluster_predictions(job: Job, index: Index, level: int, predictions: NDArray[np.uint32]) -> int:
    """CLUSTER a tile at a level of its halo; return the version of its result.

    `predictions` are the versions of the predicted tiles that its region touches.
    """
    tile = job.clustering(level).tile(index)
    assert job.traits.decode is not None
    stored = job.scratch.read_prediction(
        job.prediction, tile.region, predictions, job.traits.channels
    )
    found = job.traits.decode(stored, job.settings, tile.region.open_faces(job.shape))
    return _write(job, index, level, found)


def cluster_image(labeller: TileLabeller, job: Job, index: Index, level: int) -> Predicted:
    """CLUSTER: label the image of a tile with a segmenter, at a level of its halo."""
    region = job.clustering(level).tile(index).region
    stamp = stamp_of(job, region)
    labels, count = numbered(
        _labels(labeller, job, region),
        job.settings.min_object_size,
        list(region.open_faces(job.shape)),
    )
    found = Clustering(
        labels=labels,
        seeds=middles(labels, count),
        seediness=np.full(count, np.nan, np.float32),
        certain=np.zeros(count, dtype=np.bool_),
        doubtful=np.arange(labels.size),
    )
    return Predicted(_write(job, index, level, found), stamp)


def _write(job: Job, index: Index, level: int, found: Clustering) -> int:
    """Store the result of a tile for the instances of its region."""
    grid = job.clustering(level)
    tile = grid.tile(index)
    whole = () if job.traits.predicts else (tile.region,)
    frame = Frame(
        region=tile.region,
        core=tile.core,
        seams=(*(grid.seam(face, SEAM_DEPTH) for face in grid.faces(index)), *whole),
        volume_shape=job.shape,
        covered=job.part,
    )
    result = make_result(
        found.labels, found.seeds, found.certain, found.doubtful, found.seediness, frame=frame
    )
    return job.scratch.write_result(index, level, result)


def _labels(labeller: TileLabeller, job: Job, region: Box) -> NDArray[Any]:
    """Label a region; all 0 if it holds no data."""
    nothing = np.zeros(region.shape, np.uint8)
    inside = job.foreground.inside(region, job.shape, job.timepoint)
    if inside is not None and not inside.any():
        return nothing
    if job.foreground.is_dark(region, job.shape, job.timepoint):
        return nothing
    seen = read_normalised(job, region)
    if seen is None:
        return nothing
    labels: NDArray[Any] = labeller.label_tile(seen.image, region)
    if seen.absent is not None:
        labels = np.where(seen.absent, 0, labels)
    return labels if inside is None else np.where(inside, labels, 0)
