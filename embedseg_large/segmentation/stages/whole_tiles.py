"""CLUSTER with a segmenter that is not ours: it sees a tile, and says which objects are in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.segmentation.segmenters.protocol import Predictor
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.predict import Predicted, stamp_of_region
from embedseg_large.segmentation.stages.read import read_normalised
from embedseg_large.stitching.middle import middles, numbered
from embedseg_large.stitching.seam import SEAM_DEPTH
from embedseg_large.stitching.view import make_view
from embedseg_large.tiling.grid import Index


def segment_tile(segmenter: Predictor, job: Job, index: Index, level: int) -> Predicted:
    """CLUSTER: what a segmenter says about a tile, at a level of its halo.

    The view ends with one more "seam", the whole region: ownership may be decided by it. Nothing
    can be proven about a segmenter that we do not know, so that no voxel is certain.
    """
    grid = job.clustering(level)
    tile = grid.tile(index)
    stamp = stamp_of_region(job, tile.region)
    least = job.settings.min_object_size
    open_faces = [
        (start > 0, stop < length)
        for start, stop, length in zip(tile.region.start, tile.region.stop, job.shape, strict=True)
    ]
    labels, count = numbered(_labels(segmenter, job, tile.region), least, open_faces)
    view = make_view(
        labels,
        middles(labels, count),
        certain=np.zeros(count, dtype=np.bool_),
        doubtful=np.arange(labels.size),
        region=tile.region,
        core=tile.core,
        seams=[*(grid.seam(face, SEAM_DEPTH) for face in grid.faces(index)), tile.region],
        volume_shape=job.shape,
        covered=job.part,
    )
    return Predicted(job.scratch.write_view(index, level, view), stamp)


def _labels(segmenter: Predictor, job: Job, region: Box) -> NDArray[Any]:
    """Labels of a region; all 0 where there is nothing to see."""
    nothing = np.zeros(region.shape, np.uint8)
    inside = job.foreground.inside(region, job.shape, job.timepoint)
    if inside is not None and not inside.any():
        return nothing
    if job.foreground.is_dark(region, job.shape, job.timepoint):
        return nothing
    seen = read_normalised(job, region)
    if seen is None:
        return nothing
    labels: NDArray[Any] = segmenter.predict_tile(seen.image, region, job.settings.tta)
    if seen.absent is not None:
        labels = np.where(seen.absent, 0, labels)
    return labels if inside is None else np.where(inside, labels, 0)
