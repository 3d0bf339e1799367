"""What a run says about itself: the seam report, and the summary around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from embedseg_large.segmentation.seams import SeamState
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.predict import Numbering

if TYPE_CHECKING:
    import dask.array as da


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedObject:
    """An instance that a seam run through was not simply agreed on."""

    label: int
    """Its final label."""
    seed: tuple[int, ...]
    """Its seed voxel (z, y, x), in the volume."""
    timepoint: int | None = None
    """Of a series."""

    def as_dict(self) -> dict[str, Any]:
        """The object as values that JSON can hold."""
        when = {} if self.timepoint is None else {"timepoint": self.timepoint}
        return {"label": self.label, "seed": list(self.seed)} | when


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamReport:
    """Whether the tiles left a trace. A normal run has nothing joined."""

    faces: int
    """Faces between tile cores."""
    voxels: int
    """Voxels compared on both sides of all faces."""
    rounds: int
    """Rounds in which tiles that disagreed clustered again with a larger halo."""
    tiles_raised: int
    """Tiles that did."""
    tiles: int
    """Clustering tiles in all."""
    tiles_exact: int
    """Tiles proven to hold, voxel for voxel, what the whole volume would give."""
    certified: int
    """Instances that nothing a tile did not see could have changed."""
    agreed: int
    """Instances that all tiles which see them describe alike."""
    repaired: int
    """Instances that tiles described differently at first, and alike with larger halos."""
    joined: int
    """Instances that tiles describe differently whatever they see: larger than the largest halo,
    and put together by overlap; or of a segmenter that is not ours, and as the tile that owns them
    describes them. The promise that labels do not depend on the tiles is for runs without any."""
    repaired_objects: tuple[TracedObject, ...]
    joined_objects: tuple[TracedObject, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as values that JSON can hold."""
        lists = ("repaired_objects", "joined_objects")
        plain = {k: getattr(self, k) for k in self.__slots__ if k not in lists}
        objects = {k: [o.as_dict() for o in getattr(self, k)] for k in lists}
        return plain | objects


def merged(reports: Sequence[SeamReport]) -> SeamReport:
    """The report of a series: sums, and the objects of all timepoints."""
    totals: dict[str, Any] = {}
    for name in SeamReport.__slots__:
        first, *rest = (getattr(report, name) for report in reports)
        totals[name] = sum(rest, first)
    return SeamReport(**totals)


def seam_report(job: Job, state: SeamState, numbering: Numbering) -> SeamReport:
    """Describe where CHECK ended, in final labels."""
    repaired = _traced(job, numbering, state.repaired)
    joined = _traced(job, numbering, state.joined)
    total = int(numbering.before[-1])
    return SeamReport(
        faces=state.faces,
        voxels=state.voxels,
        rounds=state.rounds,
        tiles_raised=state.views.raised,
        tiles=state.tiles,
        tiles_exact=state.exact_tiles,
        certified=state.certified,
        agreed=total - state.certified - len(repaired) - len(joined),
        repaired=len(repaired),
        joined=len(joined),
        repaired_objects=repaired,
        joined_objects=joined,
    )


def _traced(job: Job, numbering: Numbering, ids: Sequence[int]) -> tuple[TracedObject, ...]:
    names = np.array(ids, dtype=np.uint64)
    labels = numbering.ranking(job).labels(names)
    seeds = np.stack(np.unravel_index((names - np.uint64(1)).astype(np.int64), job.shape), axis=1)
    return tuple(
        TracedObject(label=label, seed=job.in_volume(seed), timepoint=job.timepoint)
        for label, seed in zip(labels.tolist(), seeds.tolist(), strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class SegmentResult:
    """The outcome of a run."""

    path: str
    """Where the labels are."""
    n_instances: int
    """Number of instances; labels are 1..n_instances."""
    seams: SeamReport
    summary: dict[str, Any]
    """All of it, and stages, settings, statistics and versions, as values that JSON can hold."""

    @cached_property
    def labels(self) -> da.Array:
        """The labels, lazy, with the axes of the image without c."""
        import dask.array as da

        from embedseg_large.volumes.volume import open_volume

        stored = open_volume(self.path, channel=None).storage
        chunks = tuple(map(min, stored.files, stored.shape))
        labels: da.Array = da.from_array(stored, chunks=chunks, asarray=False, fancy=False)
        return labels
