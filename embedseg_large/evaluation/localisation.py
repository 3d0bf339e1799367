"""How well two objects coincide: three measures, scored in the same way.

================  ================================================================================
``"iou"``         Voxels in both masks over voxels in either: intersection over union.
``"boundary"``    The same of the masks' shells alone: the voxels of an object at most `width`
                  from a voxel outside it (Cheng et al. 2021, *Boundary IoU*).
                  It distinguishes good from poor outlines of large objects.
``"reference"``   Voxels in both masks over voxels of the true one. It forgives predictions that are
                  too large, as when the truth marks only the cores of objects.
================  ================================================================================

Shells of different objects have no voxel in common, so a table of shells is a table of labels, and
boundary IoU is the IoU of labels that were hollowed out by `shell`. Shells depend only on voxels
within `width`: boxes with such a margin give the shells of the whole volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.matching import Overlaps, matches
from embedseg_large.evaluation.options import Localisation
from embedseg_large.evaluation.scores import Score, score_of_counts, scores

WIDEST = {2: 4096, 3: 128}
"""Maximum width of a shell in voxels, by ndim: a box with such margins has about 2**27 voxels."""


def check_localisation(localisation: str, width: int, ndim: int = 2) -> None:
    """Refuse an unknown measure, or a shell that has no voxels or whose margins fill the memory.

    Parameters
    ----------
    localisation, width
        As in `embedseg_large.evaluation.options.MatchingOptions`.
    ndim
        Number of axes of the image; 2, which has the larger limit, while it is not known.

    Raises
    ------
    UsageError
        In all three cases.
    """
    known = get_args(Localisation)
    if localisation not in known:
        raise UsageError(f"no localisation {localisation!r}; choose from {', '.join(known)}")
    if width < 1:
        raise UsageError(
            f"boundary width {width} is not positive; pass a number of voxels, such as 2"
        )
    if width > WIDEST[ndim]:
        raise UsageError(
            f"boundary width {width:,} is too large; pass at most {WIDEST[ndim]:,} voxels for a "
            f"{ndim}D image, or compare whole masks with --localisation iou"
        )


def shell(labels: NDArray[Any], width: int) -> NDArray[Any]:
    """Keep the voxels of every object that are at most `width` from its outside.

    Distance is the largest of the steps along the axes, as in the authors' program, which erodes
    `width` times with a square. Other objects count as outside, and so does everything beyond the
    volume: pad with background.

    Parameters
    ----------
    labels
        Integer labels, 0 for background, with a margin of `width` voxels on both sides of every
        axis.
    width
        Thickness of the shells in voxels, the same along all axes, at least 1.

    Returns
    -------
    The labels without the margin, 0 inside objects. The dtype is kept.
    """
    core: NDArray[Any] = labels[(slice(width, -width),) * labels.ndim]
    return np.where(_mixed(labels, width), core, 0).astype(labels.dtype, copy=False)


def localised_scores(
    contingency: Contingency, thresholds: Sequence[float], localisation: Localisation
) -> list[Score]:
    """Score a prediction at each threshold of a measure.

    Parameters
    ----------
    contingency
        Voxel counts of predicted and true objects; of their shells for ``"boundary"``.
    thresholds
        Minimum value of a match, each in (0, 1].
    localisation
        The measure. It also replaces the IoU in `Score.pq` and `Score.mean_matched_iou`.

    Raises
    ------
    UsageError
        If a threshold lies outside (0, 1].
    """
    usual = scores(contingency, thresholds)
    if localisation != "reference":
        return usual
    overlaps = _over_reference(contingency)
    return [_one_to_one(overlaps, score.threshold) for score in usual]


def _mixed(labels: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Whether the cube of ``2 * width + 1`` voxels around each voxel holds different labels.

    A square is uniform if all its rows are, and the column through its centre. The axes are
    therefore processed one after the other, with a few passes each, for any width.
    """
    mixed: NDArray[np.bool_] | None = None
    for axis in range(labels.ndim):
        changes = _cut(labels, axis, 1, None) != _cut(labels, axis, 0, -1)
        along = _any_of(changes, 2 * width, axis)
        mixed = along if mixed is None else _any_of(mixed, 2 * width + 1, axis) | along
        labels = _cut(labels, axis, width, -width)
    assert mixed is not None
    return mixed


def _any_of(values: NDArray[np.bool_], count: int, axis: int) -> NDArray[np.bool_]:
    """Whether any of `count` consecutive values is true, for every start, by doubling."""
    done = 1
    while done < count:
        step = min(done, count - done)
        values = _cut(values, axis, 0, -step) | _cut(values, axis, step, None)
        done += step
    return values


def _cut(array: NDArray[Any], axis: int, start: int, stop: int | None) -> NDArray[Any]:
    return array[(slice(None),) * axis + (slice(start, stop),)]


def _over_reference(contingency: Contingency) -> Overlaps:
    """Return the overlaps with the intersection over the true object in the place of the IoU."""
    pair = (contingency.prediction_ids > 0) & (contingency.truth_ids > 0)
    place = np.unique(contingency.truth_ids, return_inverse=True)[1]
    sizes = np.zeros(int(place.max(initial=-1)) + 1, np.int64)
    np.add.at(sizes, place, contingency.counts)
    covered = contingency.counts[pair] / sizes[place[pair]]
    return replace(Overlaps.of(contingency), iou=covered)


def _one_to_one(overlaps: Overlaps, threshold: float) -> Score:
    """Score the matching with the most pairs, each of at least the threshold."""
    matched = overlaps.iou[matches(overlaps, threshold)]
    tp = matched.size
    fp, fn = overlaps.n_prediction - tp, overlaps.n_truth - tp
    return score_of_counts(threshold, float(matched.sum()), tp, fp, fn)
