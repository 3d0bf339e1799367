"""PREDICT: the fields of a core, from core and context, stored until they are clustered.

The input of segmenters is read here: normalised, on the segmenter's grid, and stamped.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.embedding import Quiet, keep_above, nan_voxel
from embedseg_large.errors import ImageChangedError, IntensityError, ModelError
from embedseg_large.geometry import Box
from embedseg_large.runs.journal import Note
from embedseg_large.runs.tasks import Call, Task
from embedseg_large.segmentation.scratch.versions import ABSENT, DARK, EMPTY, MASKED
from embedseg_large.segmentation.segmenters.protocol import Predictor
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.steps import LedgerKind, Stage
from embedseg_large.tiling.axis import padded_sources
from embedseg_large.tiling.grid import Index, Tile
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.intensity import normalise_channels

SLAB_VOXELS = 2**24
"""Maximum number of voxels that are read and resampled at a time, unless a plane has more."""


class Seen(NamedTuple):
    """The network's input for a box."""

    image: NDArray[np.float32]
    """``(channels, *box)``, normalised; 0 where there is no data."""
    absent: NDArray[np.bool_] | None
    """``(*box)``: voxels that hold no data in any channel; None: all hold some."""


def stamp_of(job: Job, seen: Box) -> int:
    """Return a number that changes when the image changes in a region of the grid."""
    if job.in_memory:  # its content was hashed; workers get a new copy in each attempt
        return 0
    return job.volume.stamp(seen if job.resampling.is_identity else job.resampling.needed(seen))


def read_padded(job: Job, region: Box) -> Seen | None:
    """Read the network's input for a region that may extend into the grid's padding.

    Return None if no voxel holds data.
    """
    sources = [
        padded_sources(a, b, n)
        for a, b, n in zip(region.start, region.stop, job.shape, strict=True)
    ]
    box = Box(tuple(int(s.min()) for s in sources), tuple(int(s.max()) + 1 for s in sources))
    seen = read_normalised(job, box)
    if seen is None:
        return None
    image, absent = seen
    for axis, (source, start) in enumerate(zip(sources, box.start, strict=True)):
        if source[-1] != start + source.size - 1:  # padding: indices are not consecutive
            image = image.take(source - start, axis=axis + 1)
            absent = None if absent is None else absent.take(source - start, axis=axis)
    return Seen(image, absent)


def read_normalised(job: Job, box: Box) -> Seen | None:
    """Read a box of the grid; None if no voxel of it holds data.

    Voxels outside the user's mask count as holding no data.
    """
    return (_read_stored if job.resampling.is_identity else _read_resampled)(job, box)


def _read_stored(job: Job, box: Box) -> Seen | None:
    """Read and normalise a box of the volume."""
    voxels = job.volume.read(box)
    empty = job.volume.without_data(box, voxels).reshape(-1, *box.shape)
    inside = job.foreground.inside(box, job.volume.spatial_shape, job.timepoint)
    if inside is not None:
        empty |= ~inside
    if not empty.any():
        return Seen(_finite(job, box, _normalised(job, _channels(voxels, box), box)), None)
    absent = np.asarray(empty.all(axis=0))
    if absent.all():
        return None
    image = _normalised(job, _channels(voxels, box), box)
    image[empty] = 0.0
    return Seen(_finite(job, box, image), absent if absent.any() else None)


def _channels(voxels: NDArray[Any], box: Box) -> NDArray[Any]:
    return voxels.reshape(-1, *box.shape)


def _normalised(job: Job, voxels: NDArray[Any], box: Box) -> NDArray[np.float32]:
    """Normalise (channels, *box), after applying the intensity field."""
    if job.fields:
        pairs = zip(job.fields, voxels, strict=True)
        voxels = np.stack([field.apply(channel, box) for field, channel in pairs])
    return normalise_channels(voxels, job.intensity)


def _finite(job: Job, box: Box, image: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(image).all():
        raise IntensityError(
            f"{job.volume.name}: NaN or infinite voxels in {box}; "
            "if NaN means no data, pass --nodata nan"
        )
    return image


def _read_resampled(job: Job, box: Box) -> Seen | None:
    """Resample a box slab by slab: the corresponding part of the volume may be far larger."""
    resampling = job.resampling
    image = np.zeros((len(job.intensity), *box.shape), np.float32)
    absent = np.zeros(box.shape, np.bool_)
    for slab in slabs(resampling, box):
        needed, at = resampling.needed(slab), slab.slices_in(box)
        seen = _read_stored(job, needed)
        if seen is None:
            absent[at] = True
            continue
        image[(slice(None), *at)] = resampling.image(seen.image, slab)
        if seen.absent is not None:
            absent[at] = resampling.nearest(seen.absent, slab)
    if absent.all():
        return None
    return Seen(image, absent if absent.any() else None)


def slabs(resampling: Resampling, box: Box) -> list[Box]:
    """Cut a box of the target along its first axis, so that each piece needs few source voxels."""
    planes = SLAB_VOXELS // prod(resampling.needed(box).shape[1:])
    thickness = max(1, int(planes * resampling.zoom[0]))
    edges = [*range(box.start[0], box.stop[0], thickness), box.stop[0]]
    return [Box((a, *box.start[1:]), (b, *box.stop[1:])) for a, b in pairwise(edges)]


KEPT_SEED = 0.1
"""Predictions of voxels with at most this seediness (or probability of foreground) are dropped:
they are never foreground."""


class Predicted(NamedTuple):
    """Record of a tile that was predicted or skipped."""

    version: int
    stamp: int
    """Stamp of its part of the image, taken before reading."""

    def noted(self) -> Note:
        """Return the note for the journal."""
        return self.version, self.stamp


def predict_task(job: Job, index: Index) -> Task:
    """Return the PREDICT task of one tile."""

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
    """Return the record of a prediction, if the image has not changed since.

    Raises
    ------
    ImageChangedError
        If the image has changed since.
    """
    found = Predicted(*note)
    if found.stamp != stamp_of(job, region.clip(job.shape)):
        raise ImageChangedError(
            f"{job.volume.name}: the image has changed in {region} "
            "since this run started; start over with overwrite (--overwrite)"
        )
    return found


def predict(network: Predictor, job: Job, index: Index) -> Predicted:
    """PREDICT: predict the fields of a core, from core and context."""
    tile = job.prediction.tile(index)
    stamp = stamp_of(job, tile.region.clip(job.shape))
    return Predicted(predict_core(job, network, tile), stamp)


def predict_core(job: Job, network: Predictor, tile: Tile) -> int:
    """Predict a core, if it holds any data; returns its version."""
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
    """Refuse predictions that are not numbers.

    Raises
    ------
    ModelError
        If a prediction is not a number; the message names the tile and the voxel.
    """
    found = nan_voxel(stored)
    if found is not None:
        voxel = tuple(a + i for a, i in zip(core.start, found, strict=True))
        raise ModelError(
            f"the network predicted NaN (not a number) at voxel {voxel}, in tile {core}; "
            "its weights are damaged, or its numbers overflow"
        )
