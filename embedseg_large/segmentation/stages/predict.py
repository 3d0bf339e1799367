"""The four stages, as functions of a job and one piece of work.

Each opens what it needs, computes, writes what it alone owns, and returns a small record. Run twice
it does the same twice. Nothing here knows who calls it: a loop, or a Dask worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import OpenFaces, cluster_points
from embedseg_large.clustering.points import AXES, points_of_stored
from embedseg_large.embedding import keep_above, nan_voxel
from embedseg_large.errors import ModelError
from embedseg_large.geometry import Box
from embedseg_large.labels.target import PendingLabels
from embedseg_large.runs.journal import Note
from embedseg_large.segmentation.scratch.versions import ABSENT, DARK, EMPTY, MASKED, Views
from embedseg_large.segmentation.segmenters.protocol import Predictor
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.read import Seen, read_normalised
from embedseg_large.stitching.join import Joins
from embedseg_large.stitching.relabel import Ranking, occurring, rename, settle
from embedseg_large.stitching.seam import SEAM_DEPTH, Comparison, compare
from embedseg_large.stitching.tally import Entries, tally
from embedseg_large.stitching.view import make_view
from embedseg_large.tiling.axis import padded_sources
from embedseg_large.tiling.grid import Face, Grid, Index, Tile

KEPT_SEED = 0.1
"""Predictions of voxels whose seediness is at most this are not kept: they are never foreground."""


class Predicted(NamedTuple):
    """Record of a tile that was predicted, or need not be."""

    version: int
    stamp: int
    """Of the part of the image that it was made from, before it was read."""

    def noted(self) -> Note:
        """For the journal."""
        return self.version, self.stamp


def stamp_of(job: Job, index: Index) -> int:
    """What changes when the image does, in the region of a prediction tile."""
    return stamp_of_region(job, job.prediction.tile(index).region.clip(job.shape))


def stamp_of_region(job: Job, seen: Box) -> int:
    """What changes when the image does, in a region of the grid."""
    if job.in_memory:  # its content was hashed; a copy of it for workers is written at each attempt
        return 0
    return job.volume.stamp(seen if job.resampling.is_identity else job.resampling.needed(seen))


def predict(job: Job, network: Predictor, index: Index) -> Predicted:
    """PREDICT: the embedding of a core, from core and context."""
    stamp = stamp_of(job, index)
    return Predicted(_predict(job, network, job.prediction.tile(index)), stamp)


def _predict(job: Job, network: Predictor, tile: Tile) -> int:
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
    whole = network.predict_tile(seen.image, tile.region, job.settings.tta)
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


def read_padded(job: Job, region: Box) -> Seen | None:
    """What a network sees of a region that may reach into the grid's padding.

    None where no voxel holds data.
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
        if source[-1] != start + source.size - 1:  # padding: not simply one after the other
            image = image.take(source - start, axis=axis + 1)
            absent = None if absent is None else absent.take(source - start, axis=axis)
    return Seen(image, absent)


def cluster(job: Job, index: Index, level: int, predictions: NDArray[np.uint32]) -> int:
    """CLUSTER: what a tile says, at a level of its halo. Returns the version of its view.

    `predictions` are the versions of the predicted tiles that its region touches.
    """
    grid = job.clustering(level)
    tile = grid.tile(index)
    settings = job.settings.clustering()
    stored = job.scratch.read_prediction(job.prediction, tile.region, predictions)
    points = points_of_stored(stored, settings)
    result = cluster_points(points, settings, _open_faces(tile, job.shape))
    view = make_view(
        result.labels.reshape(tile.region.shape),
        result.seeds,
        result.certain,
        result.doubtful,
        result.seediness,
        region=tile.region,
        core=tile.core,
        seams=[grid.seam(face, SEAM_DEPTH) for face in grid.faces(index)],
        volume_shape=job.shape,
        covered=job.part,
    )
    return job.scratch.write_view(index, level, view)


def _open_faces(tile: Tile, shape: tuple[int, ...]) -> OpenFaces:
    """Faces of the region beyond which the volume goes on."""
    known = ((False, False),) * (AXES - len(shape))
    region = zip(tile.region.start, tile.region.stop, shape, strict=True)
    return known + tuple((start > 0, stop < length) for start, stop, length in region)


class Checked(NamedTuple):
    """Record of a tile and the seams above it."""

    tile: Index
    exact: bool
    """Whether the tile is certain of every voxel of its core."""
    seams: list[tuple[Face, Comparison]]

    def noted(self) -> Note:
        """For the journal: whether it is exact, and the seams that disagree."""
        seams = {
            str(face.axis): [
                c.voxels,
                c.disagreeing,
                *(a.tolist() for a in (c.low, c.high, c.overlap)),
            ]
            for face, c in self.seams
            if c.disagreeing
        }
        return int(self.exact), seams or None

    @classmethod
    def recalled(cls, grid: Grid, index: Index, note: Note) -> Checked:
        """The record that `noted` was made from."""
        exact, more = note
        seams = []
        for face in faces_above(grid, index):
            voxels, disagreeing, *ids, overlap = (more or {}).get(
                str(face.axis), [grid.seam(face, SEAM_DEPTH).size, 0, [], [], []]
            )
            low, high = (np.array(i, np.uint64) for i in ids)
            overlap = np.array(overlap, np.int64)
            seams.append((face, Comparison(voxels, disagreeing, low, high, overlap)))
        return cls(index, bool(exact), seams)


def faces_above(grid: Grid, index: Index) -> list[Face]:
    """Faces of a tile with the neighbours above it."""
    return [face for face in grid.faces(index) if face.low == index]


def check(job: Job, index: Index, views: Views) -> Checked:
    """CHECK: compare what both sides of each face above a tile say about the seam."""
    grid = job.clustering()
    faces = faces_above(grid, index)
    own, *others = job.scratch.read_views(views[i] for i in (index, *(f.high for f in faces)))
    seams = []
    for face, other in zip(faces, others, strict=True):
        shape = grid.seam(face, SEAM_DEPTH).shape
        low, high = (list(grid.faces(i)).index(face) for i in (face.low, face.high))
        seams.append((face, compare(own.seam(low, shape), other.seam(high, shape))))
    return Checked(index, own.exact, seams)


class Accounted(NamedTuple):
    """Record of a layer; its ids are in the scratch folder."""

    layer: int
    version: int
    """Of its ids."""
    instances: int
    certain: int
    """Instances their owner is certain of."""
    wrong: NDArray[np.uint64]
    wrong_tiles: NDArray[np.int64]

    def noted(self) -> Note:
        """For the journal."""
        lists = (self.wrong.tolist(), self.wrong_tiles.tolist())
        return self.version, [self.instances, self.certain, *lists]

    @classmethod
    def recalled(cls, layer: int, note: Note) -> Accounted:
        """The record that `noted` was made from."""
        version, (instances, certain, wrong, tiles) = note
        wrong, tiles = np.array(wrong, np.uint64), np.array(tiles, np.int64)
        return cls(layer, version, instances, certain, wrong, tiles)


def account(job: Job, layer: int, views: Views) -> Accounted:
    """CHECK: account for the instances of a layer, and keep their ids.

    `views` are those of all tiles that may see one which begins in the layer.
    """
    grid = job.clustering()
    about = [
        tuple(o + i for o, i in zip(views.origin, at, strict=True))
        for at in np.ndindex(views.levels.shape)
    ]
    names, numbers = (views[tile] for tile in about), map(grid.number, about)
    entries = Entries.joined(job.scratch.read_entries(names, numbers))
    result = tally(entries, job.layers, layer, _ownerless(job, entries.ids))
    return Accounted(
        layer,
        job.scratch.write_layer(layer, result.alive),
        result.alive.ids.size,
        int(np.count_nonzero(result.alive.sure)),
        result.wrong,
        result.wrong_tiles,
    )


class Held(NamedTuple):
    """Instances with voxels in cores that are proven; h pairs."""

    ids: NDArray[np.uint64]
    """(h,) names."""
    tiles: NDArray[np.int64]
    """(h,) number of a tile that is proven, and whose core holds a voxel of it."""

    @classmethod
    def none(cls) -> Held:
        """No pairs."""
        return cls(np.empty(0, np.uint64), np.empty(0, np.int64))


def held_by_proven(
    job: Job, ids: NDArray[np.uint64], views: Views, proven: NDArray[np.bool_]
) -> Held:
    """CHECK: which of some ids, of one layer, have voxels in the cores of proven tiles.

    `views` and `proven` are those of all tiles that may see one which begins in the layer.
    """
    grid = job.clustering()
    tiles = [
        tuple(o + int(i) for o, i in zip(views.origin, at, strict=True))
        for at in np.argwhere(proven)
    ]
    numbers = map(grid.number, tiles)
    said = Entries.joined(
        [Entries.none(), *job.scratch.read_entries(map(views.__getitem__, tiles), numbers)]
    )
    held = (said.core_sizes > 0) & np.isin(said.ids, ids)
    return Held(said.ids[held], said.tile[held])


def _ownerless(job: Job, ids: NDArray[np.uint64]) -> NDArray[np.uint64] | None:
    """Those of some ids whose seed lies outside of the part that labels are wanted of."""
    if job.part is None:
        return None
    seeds = np.unravel_index((ids - np.uint64(1)).astype(np.int64), job.shape)
    inside = np.ones(ids.size, np.bool_)
    for at, start, stop in zip(seeds, job.part.start, job.part.stop, strict=True):
        inside &= (at >= start) & (at < stop)
    return ids[~inside]


def reach_of_layer(grid: Grid, halo: tuple[int, ...], layer: int) -> Box:
    """Where the tiles lie that may see an instance which begins in a layer."""
    planes = grid.entire().tile((layer,) + (0,) * (len(grid.shape) - 1)).core
    return Box(
        (max(planes.start[0] - halo[0], 0),) + (0,) * (len(grid.shape) - 1),
        (planes.stop[0] + halo[0], *grid.shape[1:]),
    )


class Settled(NamedTuple):
    """A layer whose names were joined."""

    version: int
    instances: int


def settle_layer(
    job: Job, layer: int, version: int, joins: Joins, joined_alive: NDArray[np.uint64]
) -> Settled:
    """CHECK: put the joined names into a layer's ids."""
    roster = job.scratch.read_layer(layer, version)
    ids = settle(roster.ids, layer, job.layers, joins, joined_alive)
    return Settled(job.scratch.write_layer(layer, roster.of(ids)), int(ids.size))


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """What turns the names of instances into final labels."""

    joins: Joins
    before: NDArray[np.int64]
    """(layers + 1,) instances in the layers before each."""
    versions: NDArray[np.uint32]
    """(layers,) of the ids of each layer."""

    def ranking(self, job: Job) -> Ranking:
        """What gives the final labels; keeps the ids of the layers that it was asked for."""

        @cache
        def load(layer: int) -> NDArray[np.uint64]:
            return job.scratch.read_layer(layer, int(self.versions[layer])).ids

        return Ranking(job.layers, self.before, load)


def finish(job: Job, pending: PendingLabels, numbering: Numbering, box: Box, views: Views) -> int:
    """FINISH: final labels of one shard of the volume. Returns its number of labelled voxels."""
    labels = _final_labels(job, numbering, views, pending.dtype, box)
    pending.write(0, box, labels, timepoint=job.timepoint)
    return int(np.count_nonzero(labels))


def finish_halved(
    job: Job, pending: PendingLabels, numbering: Numbering, box: Box, views: Views
) -> int:
    """FINISH: one shard of level 1, from what tiles say. To read level 0 back takes far longer.

    `views` are those of the tiles that ``pending.source(1, box)`` touches.
    """
    finer = partial(_final_labels, job, numbering, views, pending.dtype)
    pending.downsample(1, box, timepoint=job.timepoint, finer=finer)
    return box.size


def _final_labels(
    job: Job, numbering: Numbering, views: Views, dtype: np.dtype[Any], box: Box
) -> NDArray[Any]:
    """Final labels of a box of the volume; 0 outside of the part that they are wanted of."""
    if job.region is None or job.region.contains(box):
        return _labels_within(job, numbering, views, dtype, box)
    labels, wanted = np.zeros(box.shape, dtype=dtype), box.intersect(job.region)
    if wanted.size:
        labels[wanted.slices_in(box)] = _labels_within(job, numbering, views, dtype, wanted)
    return labels


def _labels_within(
    job: Job, numbering: Numbering, views: Views, dtype: np.dtype[Any], box: Box
) -> NDArray[Any]:
    """Final labels of a box of the volume; `views` are at least those of the tiles it touches."""
    grid = job.clustering()
    ranking = numbering.ranking(job)
    covering = job.on_grid(box)
    labels = np.zeros(covering.shape, dtype=dtype)
    tiles = list(grid.touching(covering))
    for index, view in zip(tiles, job.scratch.read_views(views[i] for i in tiles), strict=True):
        core = grid.tile(index).core
        local, names = view.core(core.shape)
        common = core.intersect(covering)
        piece = local[common.slices_in(core)]
        used = occurring(piece, names.size)
        used[0] = False
        final = np.zeros(names.size, dtype=dtype)
        final[used] = ranking.labels(numbering.joins.apply(names[used]))
        rename(piece, final, labels[common.slices_in(covering)])
    return job.resampling.labels(labels, box)


def downsample(job: Job, pending: PendingLabels, level: int, box: Box) -> int:
    """FINISH: one shard of a coarser level. Returns its number of voxels."""
    pending.downsample(level, box, timepoint=job.timepoint)
    return box.size
