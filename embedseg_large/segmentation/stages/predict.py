"""PREDICT: the fields of a core, from core and context, kept for whoever clusters them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.embedding import Quiet, keep_above, nan_voxel
from embedseg_large.errors import ModelError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.runs.journal import Note
from embedseg_large.runs.tasks import Call, Task
from embedseg_large.segmentation.scratch.versions import ABSENT, DARK, EMPTY, MASKED
from embedseg_large.segmentation.segmenters.protocol import Predictor
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.read import read_padded, stamp_of
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.tiling.grid import Index, Tile

KEPT_SEED = 0.1
"""Predictions of voxels whose seediness (or probability of foreground) is at most this are not
kept: they are never foreground."""


class Predicted(NamedTuple):
    """Record of a tile that was predicted, or need not be."""

    version: int
    stamp: int
    """Of the part of the image that it was made from, before it was read."""

    def noted(self) -> Note:
        """For the journal."""
        return self.version, self.stamp


def predict_task(job: Job, index: Index) -> Task:
    """PREDICT of one tile."""

    def make() -> Call:
        core = job.prediction.tile(index).core
        return Call(predict, (job, index), True, f"tile {core}", core.size)

    return Task(
        stage=Stage.PREDICT,
        make=make,
        index=index,
        ledger=LedgerKind.PREDICT.part(),
        number=job.prediction.number(index),
        noted=Predicted.noted,
        recalled=lambda note: unchanged(job, job.prediction.tile(index).region, note),
    )


def unchanged(job: Job, region: Box, note: Note) -> Predicted:
    """What was noted of a prediction, if the image is still what it was made from.

    Raises
    ------
    UsageError
        When the image has changed since.
    """
    found = Predicted(*note)
    if found.stamp != stamp_of(job, region.clip(job.shape)):
        raise UsageError(
            f"{job.volume.name}: the image has changed in {region} "
            "since this run started; start over with overwrite (--overwrite)"
        )
    return found


def predict(network: Predictor, job: Job, index: Index) -> Predicted:
    """PREDICT: the embedding of a core, from core and context."""
    tile = job.prediction.tile(index)
    stamp = stamp_of(job, tile.region.clip(job.shape))
    return Predicted(predict_core(job, network, tile), stamp)


def predict_core(job: Job, network: Predictor, tile: Tile) -> int:
    """Predict a core, if there is anything to see; returns its version."""
    inside = job.foreground.inside(tile.core, job.shape, job.timepoint)
    if inside is not None and not inside.any():
        return MASKED
    if job.foreground.is_dark(tile.region.clip(job.shape), job.shape, job.timepoint):
        return DARK
    seen = read_padded(job, tile.region)
    if seen is None:
        return ABSENT
    at = tile.core.slices_in(tile.region)
    if seen.absent is not None:
        holds = ~seen.absent[at]
        if not holds.any():
            return ABSENT
        inside = holds if inside is None else inside & holds
    bound = job.settings.augment_above
    quiet = {"quiet": Quiet(at, bound)} if bound else {}
    whole = network.predict_tile(seen.image, tile.region, job.settings.tta, **quiet)
    stored = whole[(slice(None), *at)]
    _refuse_nan(stored, tile.core)
    kept, count = keep_above(stored, min(KEPT_SEED, job.settings.foreground), inside)
    return job.scratch.write_prediction(tile.index, kept) if count else EMPTY


def _refuse_nan(stored: NDArray[np.float16], core: Box) -> None:
    """Stop at a network that does not know what it says.

    Raises
    ------
    ModelError
        When a prediction is not a number; it names the tile and the voxel.
    """
    found = nan_voxel(stored)
    if found is not None:
        voxel = tuple(a + i for a, i in zip(core.start, found, strict=True))
        raise ModelError(
            f"the network predicted NaN (not a number) at voxel {voxel}, in tile {core}; "
            "its weights are damaged, or its numbers overflow"
        )
