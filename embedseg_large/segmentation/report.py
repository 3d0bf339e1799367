"""The report of a run: the seam report, the sizes of objects, and the summary around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from embedseg_large.labels.instances import KEY
from embedseg_large.segmentation.request.scale import is_mismatch
from embedseg_large.segmentation.seams import SeamState
from embedseg_large.segmentation.stages.finish import Numbering
from embedseg_large.segmentation.stages.job import Job

if TYPE_CHECKING:
    import dask.array as da

LEAST_OBJECTS = 5
"""Minimum number of objects for a statement about their sizes."""
LISTED_MOST = 10_000
"""Maximum number of instances that a seam report lists of each kind, because every viewer of the
labels reads the list. `embedseg_large.labels.instances` tells all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedObject:
    """An instance on a seam on which tiles disagreed at first."""

    label: int
    """Its final label."""
    seed: tuple[int, ...]
    """Its seed voxel (z, y, x), in the volume."""
    timepoint: int | None = None
    """Timepoint of a series."""

    def as_dict(self) -> dict[str, Any]:
        """The object as values that JSON can hold."""
        when = {} if self.timepoint is None else {"timepoint": self.timepoint}
        return {"label": self.label, "seed": list(self.seed)} | when


@dataclass(frozen=True, slots=True, kw_only=True)
class StrictAim:
    """What `strict` requires, and how much of it was reached."""

    aim: int
    """Number of tiles to prove: all."""
    reached: int
    """Number of proven tiles."""

    @property
    def is_reached(self) -> bool:
        """Whether all tiles are proven."""
        return self.reached == self.aim


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamReport:
    """Whether the tiles left a trace. A normal run has nothing joined."""

    faces: int
    """Faces between tile cores."""
    voxels: int
    """Voxels compared on both sides of all faces."""
    rounds: int
    """Rounds in which tiles that disagreed were clustered again with a larger halo."""
    tiles_raised: int
    """Tiles that were clustered again with a larger halo."""
    tiles: int
    """Total number of clustering tiles."""
    tiles_exact: int
    """Tiles proven to hold, voxel for voxel, what the whole volume would give."""
    edge_unproven: int
    """In a preview of a region: number of tiles at its edge that are not proven. There is no
    neighbour to compare them with, and labels may differ from those of the whole run."""
    certified: int
    """Instances that nothing unseen could have changed in any tile that holds one of their
    voxels."""
    agreed: int
    """Instances described identically by all tiles that see them."""
    repaired: int
    """Instances that tiles described differently at first, and identically with larger halos."""
    joined: int
    """Instances that tiles describe differently at any halo: larger than the largest halo and
    joined by overlap, or, with an external segmenter, matched by overlap or taken from the tile
    that owns them. The promise that labels do not depend on tiles holds for runs without any."""
    repaired_objects: tuple[TracedObject, ...]
    """The first `LISTED_MOST` of the repaired instances, ascending by label."""
    joined_objects: tuple[TracedObject, ...]
    """The first `LISTED_MOST` of the joined instances, ascending by label."""
    strict: StrictAim | None = None
    """None if `strict` was not requested."""
    matched: int = 0
    """How many of the joined ones, of an external segmenter, are put together from what each tile
    sees in its core, under one name: where tiles share a region, their objects overlap by more than
    half of their union. All others are taken from the tile that owns them."""
    promise: str = "exact"
    """What may be claimed about the labels: ``exact``: instances can be certified; ``local``:
    agreement of tiles is evidence; ``joined``: instances may be larger than any halo, and
    overlapping names are joined."""

    def as_dict(self) -> dict[str, Any]:
        """The report as values that JSON can hold."""
        lists = ("repaired_objects", "joined_objects")
        plain = {k: getattr(self, k) for k in self.__slots__ if k not in (*lists, "strict")}
        objects = {k: [o.as_dict() for o in getattr(self, k)] for k in lists}
        strict = None if self.strict is None else asdict(self.strict)
        return plain | objects | {"strict": strict}

    def warnings(self, segmenter: str | None = None) -> list[str]:
        """Warn about what was requested or promised but cannot be guaranteed.

        Parameters
        ----------
        segmenter
            Name of a segmenter that is not ours, about which nothing can be proven.
        """
        found = []
        if self.strict is not None and not self.strict.is_reached:
            found.append(
                f"strict: {self.strict.reached:,} of {self.strict.aim:,} tiles are proven exact, "
                "and the others have reached the largest halo: raise max_halo (--max-halo)"
            )
        if self.edge_unproven and segmenter is None:
            found.append(
                f"region: {self.edge_unproven:,} tiles at the edge of the region are not proven "
                "exact, and labels there may differ from those of the whole run: raise max_halo "
                "(--max-halo), or choose a larger region"
            )
        elif self.edge_unproven:
            found.append(
                f"region: objects at the edge of the region are those of the whole run only if "
                f"{segmenter} needs to see no more than the halo: this is not checked"
            )
        return found


def published_result(path: str, made: Mapping[str, Any]) -> SegmentResult:
    """Read the result of a run that was killed just after its labels were published.

    Parameters
    ----------
    path
        Where the labels are.
    made
        The recorded provenance of the labels.
    """
    seams = dict(made["seams"])
    for kind in ("repaired_objects", "joined_objects"):
        seams[kind] = tuple(TracedObject(**o | {"seed": tuple(o["seed"])}) for o in seams[kind])
    if seams["strict"] is not None:
        seams["strict"] = StrictAim(**seams["strict"])
    return SegmentResult(
        path=path,
        n_instances=made["n_instances"],
        seams=SeamReport(**seams),
        summary={key: value for key, value in made.items() if key != KEY},
    )


def merged(reports: Sequence[SeamReport]) -> SeamReport:
    """The report of a series: sums, and the objects of all timepoints."""
    totals: dict[str, Any] = {}
    for name in SeamReport.__slots__:
        first, *rest = (getattr(report, name) for report in reports)
        if name not in ("strict", "promise"):
            total = sum(rest, first)
            totals[name] = total[:LISTED_MOST] if isinstance(total, tuple) else total
    strict = None if reports[0].strict is None else _aim(totals)
    return SeamReport(**totals, strict=strict, promise=reports[0].promise)


def _aim(seams: dict[str, Any]) -> StrictAim:
    return StrictAim(aim=seams["tiles"], reached=seams["tiles_exact"])


def seam_report(job: Job, state: SeamState, numbering: Numbering) -> SeamReport:
    """Describe the result of CHECK, in final labels."""
    repaired, joined = len(state.repaired), len(state.joined)
    total = int(numbering.before[-1])
    exact = int(np.count_nonzero(state.proven))
    aim = StrictAim(aim=state.tiles, reached=exact)
    strict = aim if job.settings.strict else None
    return SeamReport(
        faces=state.faces,
        voxels=state.voxels,
        rounds=state.rounds,
        tiles_raised=state.results.raised,
        tiles=state.tiles,
        tiles_exact=exact,
        edge_unproven=state.unproven_edge,
        certified=state.certified,
        agreed=total - state.certified - repaired - joined,
        repaired=repaired,
        joined=joined,
        matched=state.matched,
        repaired_objects=_traced(job, numbering, state.repaired[:LISTED_MOST]),
        joined_objects=_traced(job, numbering, state.joined[:LISTED_MOST]),
        strict=strict,
        promise=job.traits.promise,
    )


def _traced(job: Job, numbering: Numbering, ids: Sequence[int]) -> tuple[TracedObject, ...]:
    names = np.array(ids, dtype=np.uint64)
    labels = numbering.ranking(job).labels(names)
    seeds = np.stack(np.unravel_index((names - np.uint64(1)).astype(np.int64), job.shape), axis=1)
    return tuple(
        TracedObject(label=label, seed=job.in_volume(seed), timepoint=job.timepoint)
        for label, seed in zip(labels.tolist(), seeds.tolist(), strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeScale:
    """Sizes of objects; those in voxels are along y and x of the segmented level."""

    level: int
    is_automatic: bool
    """Whether the level was chosen by voxel sizes."""
    model_diameter: float | None
    """Mean extent of the model's training objects; None if the model does not state it."""
    found_diameter: float | None
    """Median extent of objects of this run; None if too few were found."""
    stated: str | None
    """The size of objects that the user stated; None: none."""

    @property
    def ratio(self) -> float | None:
        """How many times larger the objects found are than those of the training."""
        if self.model_diameter is None or self.found_diameter is None:
            return None
        return self.found_diameter / self.model_diameter

    @property
    def warning(self) -> str | None:
        """The warning about sizes; None if there is none."""
        if self.ratio is None or not is_mismatch(self.ratio):
            return None
        assert self.found_diameter is not None
        return (
            f"the objects found are {self.found_diameter:.0f} voxels wide (median), those in the "
            f"training data {self.model_diameter:.0f}: check whether they are pieces or clumps; "
            "--object-diameter auto compares scales on a sample"
        )

    def as_dict(self) -> dict[str, Any]:
        """The scale as values that JSON can hold."""
        values = {"model_diameter": self.model_diameter, "found_diameter": self.found_diameter}
        rounded = {k: None if v is None else round(v, 2) for k, v in values.items()}
        stated = {} if self.stated is None else {"stated": self.stated}
        return {"level": self.level, "automatic_level": self.is_automatic} | rounded | stated


def scale_of(
    level: int,
    zoom: float,
    known: float | None,
    extents: Sequence[float],
    *,
    is_automatic: bool,
    stated: str | None = None,
) -> SizeScale:
    """Compare the sizes of found objects with those that a model knows.

    Parameters
    ----------
    level
        The segmented level.
    zoom
        Voxels of the grid along x per voxel of that level.
    known
        Diameter of the model's objects, in voxels of the grid.
    extents
        Extents of some objects along y and x, in voxels of the grid; see `extents_of`.
    is_automatic
        Whether the level was chosen by voxel sizes.
    stated
        The size of objects that the user stated.
    """
    enough = len(extents) >= LEAST_OBJECTS
    return SizeScale(
        level=level,
        is_automatic=is_automatic,
        model_diameter=None if known is None else known / zoom,
        found_diameter=float(np.median(extents)) / zoom if enough else None,
        stated=stated,
    )


@dataclass(frozen=True, kw_only=True)
class SegmentResult:
    """The outcome of a run."""

    path: str
    """Path or URL of the labels."""
    n_instances: int
    """Number of instances; labels are 1..n_instances."""
    seams: SeamReport
    summary: dict[str, Any]
    """All of the above, and stages, settings, statistics and versions, as values that JSON can
    hold."""

    @cached_property
    def labels(self) -> da.Array:
        """The labels, lazy, with the axes of the image without c."""
        import dask.array as da

        from embedseg_large.volumes.volume import open_volume

        stored = open_volume(self.path, channel=None).storage
        chunks = tuple(map(min, stored.files, stored.shape))
        labels: da.Array = da.from_array(stored, chunks=chunks, asarray=False, fancy=False)
        return labels
