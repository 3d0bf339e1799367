"""Classify every object as found, split, merged, missed or false positive, with its position.

The rule uses masks only. With ``|p & t|`` the number of voxels that prediction p shares with truth
t::

    p is a FRAGMENT of t   more than half of p lies in t, and makes up at least `share` of t
    t is a PART of p       more than half of t lies in p, and makes up at least `share` of p
    p MATCHES t            their intersection over union is at least `match`

An object is a fragment or part of at most one object; where objects overlap, of its match, or else
of the one with the largest IoU. Its kind is the first one that applies::

    true object                                     predicted object
    split          has two fragments or more        merge           has two parts or more
    merged         is a part of a merge             fragment        is a fragment of a split
    true_positive  matches a prediction             (true_positive  matches; listed with the truth)
    miss           none of these                    false_positive  none of these

Every object therefore counts once: true objects = true_positive + split + merged + miss, and
predicted ones = true_positive + merge + fragment + false_positive. `true_positive` can be less than
`Score.tp`, which also counts the split object of which one fragment is good enough to match.

Sums of coordinates add up over regions, exactly, as contingency tables do: no volume is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.matching import Overlaps, matches

Ids = NDArray[np.uint64]
Integers = NDArray[np.int64]
Places = NDArray[np.intp]
Values = NDArray[np.float64]
Names = NDArray[np.str_]

KINDS = ("true_positive", "split", "merge", "miss", "false_positive", "merged", "fragment")
"""Kinds of objects; `split`, `merged` and `miss` are true objects, the others predicted."""

_KIND = f"<U{max(map(len, KINDS))}"
_AXES = ("z", "y", "x")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRule:
    """Thresholds for a match, and for a piece of another object."""

    match: float = 0.5
    """Minimum intersection over union of a true positive; at least 0.5, so that partners are
    unique unless objects overlap."""
    share: float = 0.1
    """Minimum share of an object that a fragment or part makes up; above 0, at most 0.5."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.match <= 1:
            raise UsageError(f"match {self.match} is not in [0.5, 1]")
        if not 0 < self.share <= 0.5:
            raise UsageError(f"share {self.share} is not in (0, 0.5]")


DEFAULT_RULE = ErrorRule()


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """Sizes of objects and sums of their coordinates; those of disjoint regions add up.

    Parameters
    ----------
    ids
        The objects, uint64, ascending, without the background.
    sizes
        Number of voxels of each, int64.
    sums
        ``(objects, ndim)``: sums of the indices of the voxels along (z,) y, x, int64.
    """

    ids: Ids
    sizes: Integers
    sums: Integers

    @classmethod
    def empty(cls, ndim: int) -> Positions:
        """Return the table of no objects: the zero of ``+``."""
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros((0, ndim), np.int64))

    @classmethod
    def of(cls, labels: NDArray[Any], origin: Sequence[int]) -> Positions:
        """Add up the voxels of a label array whose first voxel is the volume's voxel `origin`."""
        if labels.size == 0:
            return cls.empty(labels.ndim)
        # By runs of equal labels along x: there are far fewer than voxels.
        rows = labels.reshape(-1, labels.shape[-1])
        begins = np.ones(rows.shape, np.bool_)
        np.not_equal(rows[:, 1:], rows[:, :-1], out=begins[:, 1:])
        starts = np.flatnonzero(begins)
        lengths = np.diff(starts, append=labels.size)
        ids = rows.reshape(-1)[starts]
        kept = ids > 0
        starts, lengths, ids = starts[kept], lengths[kept], ids[kept]
        first = np.stack(np.unravel_index(starts, labels.shape), axis=1) + np.asarray(origin)
        sums = first * lengths[:, np.newaxis]
        sums[:, -1] += lengths * (lengths - 1) // 2
        return _summed(ids, lengths, sums)

    def __add__(self, other: Positions) -> Positions:
        """Return the table of both regions together."""
        return _summed(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.sizes, other.sizes]),
            np.concatenate([self.sums, other.sums]),
        )

    @property
    def centroids(self) -> Values:
        """Mean index of each object's voxels along (z,) y, x; ``(objects, ndim)``."""
        return self.sums / self.sizes[:, np.newaxis]


def _summed(ids: NDArray[Any], sizes: Integers, sums: Integers) -> Positions:
    """Sort by id and add up the entries of equal ones."""
    if ids.size == 0:
        return Positions.empty(sums.shape[1])
    order = np.argsort(ids, kind="stable")  # radix sort where ids are of 16 bits
    ids = ids[order]
    first = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    return Positions(
        ids[first].astype(np.uint64),
        np.add.reduceat(sizes[order], first),
        np.add.reduceat(sums[order], first, axis=0),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Everything needed to classify all objects; those of disjoint regions add up."""

    overlap: Contingency
    prediction: Positions
    truth: Positions

    @classmethod
    def empty(cls, ndim: int) -> Found:
        """Return the zero of ``+``."""
        return cls(Contingency.empty(), Positions.empty(ndim), Positions.empty(ndim))

    def __add__(self, other: Found) -> Found:
        """Return both regions together."""
        return Found(
            self.overlap + other.overlap,
            self.prediction + other.prediction,
            self.truth + other.truth,
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Errors:
    """One row per object: true ones by id, then the predicted ones that are not true positives.

    All fields are arrays of one length; `position` has a second axis, (z,) y, x.
    """

    kind: Names
    """One of `KINDS`."""
    ids: Ids
    """Id of the object, which is a true or a predicted one, depending on the kind."""
    partner: Ids
    """The object of the other side with the largest IoU; 0 if none overlaps."""
    best_iou: Values
    """Intersection over union with `partner`."""
    size: Integers
    """Voxels."""
    position: Values
    """Centroid in voxels, 0 being the centre of the volume's first voxel."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of objects of each kind, in the order of `KINDS`."""
        return {kind: int(np.count_nonzero(self.kind == kind)) for kind in KINDS}

    def columns(
        self,
        image: str,
        voxel_size: Sequence[float] | None,
        origin: Sequence[float] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Return the columns of a table by name.

        Parameters
        ----------
        image
            Value of the first column.
        voxel_size
            In µm along (z,) y, x. Without it ``z_um``, ``y_um`` and ``x_um`` are NaN, and so is
            ``z`` in 2D.
        origin
            Position of the centre of the first voxel, in µm; None: 0.
        """
        unknown = np.full((self.ids.size, len(_AXES)), np.nan)
        voxels, um = unknown.copy(), unknown
        voxels[:, -self.position.shape[1] :] = self.position
        if voxel_size is not None:
            um[:, -self.position.shape[1] :] = self.position * np.asarray(voxel_size)
            if origin is not None:
                um[:, -self.position.shape[1] :] += np.asarray(origin)
        predicted = np.isin(self.kind, ("merge", "fragment", "false_positive"))
        return {
            "image": np.full(self.ids.size, image),
            "kind": self.kind,
            "side": np.where(predicted, "prediction", "truth"),
            "id": self.ids,
            "partner": self.partner,
            "best_iou": self.best_iou,
            "size": self.size,
            **dict(zip(_AXES, voxels.T, strict=True)),
            **{f"{axis}_um": column for axis, column in zip(_AXES, um.T, strict=True)},
        }


def find_errors(found: Found, rule: ErrorRule = DEFAULT_RULE) -> Errors:
    """Classify every object by the rule of this module.

    Parameters
    ----------
    found
        Overlaps and positions of all objects.
    rule
        Thresholds.
    """
    p_side, t_side = found.prediction, found.truth
    overlap = found.overlap
    pair = (overlap.prediction_ids > 0) & (overlap.truth_ids > 0)
    p = np.searchsorted(p_side.ids, overlap.prediction_ids[pair])
    t = np.searchsorted(t_side.ids, overlap.truth_ids[pair])
    shared = overlap.counts[pair]
    of_p, of_t = shared / p_side.sizes[p], shared / t_side.sizes[t]
    iou = shared / (p_side.sizes[p] + t_side.sizes[t] - shared)
    match = np.zeros(iou.size, np.bool_)
    match[matches(Overlaps.of(overlap), rule.match)] = True
    value: Values = np.where(match, 1.0, 0.0) + iou
    fragment = _closest(match | (of_p > 0.5) & (of_t >= rule.share), p, value)
    part = _closest(match | (of_t > 0.5) & (of_p >= rule.share), t, value)
    p_kind, t_kind = _kinds(p, t, fragment, part, match, (p_side.ids.size, t_side.ids.size))
    p_rows = _rows(p_side, p_kind, p, t_side.ids[t], iou)
    t_rows = _rows(t_side, t_kind, t, p_side.ids[p], iou)
    told = p_kind != "true_positive"
    return Errors(**{k: np.concatenate([t_rows[k], p_rows[k][told]]) for k in t_rows})


def _closest(pairs: NDArray[np.bool_], place: Places, value: Values) -> NDArray[np.bool_]:
    """Keep one pair per object, that of the largest value; only overlapping objects have more."""
    chosen = np.flatnonzero(pairs)
    order = chosen[np.lexsort((-value[chosen], place[chosen]))]
    kept = np.zeros_like(pairs)
    kept[order[np.diff(place[order], prepend=-1) != 0]] = True
    return kept


def _kinds(
    p: Places,
    t: Places,
    fragment: NDArray[np.bool_],
    part: NDArray[np.bool_],
    match: NDArray[np.bool_],
    counts: tuple[int, int],
) -> tuple[Names, Names]:
    """Return the kinds of the predicted and of the true objects; the last assignment counts.

    A match makes up more than half of either object, or is one of its two equal halves: it is also
    a fragment and a part, so no object keeps a partner of another kind.
    """
    n_prediction, n_truth = counts
    split = np.bincount(t[fragment], minlength=n_truth) > 1
    merge = np.bincount(p[part], minlength=n_prediction) > 1
    p_kind = np.full(n_prediction, "false_positive", _KIND)
    t_kind = np.full(n_truth, "miss", _KIND)
    p_kind[p[match]] = "true_positive"
    t_kind[t[match]] = "true_positive"
    p_kind[p[fragment & split[t]]] = "fragment"
    t_kind[t[part & merge[p]]] = "merged"
    p_kind[merge] = "merge"
    t_kind[split] = "split"
    return p_kind, t_kind


def _rows(
    side: Positions, kind: Names, place: Places, others: Ids, iou: Values
) -> dict[str, NDArray[Any]]:
    """Collect the fields of `Errors` for the objects of one side."""
    partner, best = np.zeros(side.ids.size, np.uint64), np.zeros(side.ids.size)
    order = np.lexsort((~others, iou))  # the last one written is the best; of equals, the first
    partner[place[order]] = others[order]
    best[place[order]] = iou[order]
    return {
        "kind": kind,
        "ids": side.ids,
        "partner": partner,
        "best_iou": best,
        "size": side.sizes,
        "position": side.centroids,
    }
