"""The instance of another label volume that contains each instance, such as the cell of a nucleus.

The *parent* of an instance is the one with which it shares the most voxels (the smaller label in
case of a tie), and its *overlap* the fraction of its voxels inside the parent. Counts of
shared voxels add up over boxes, so that the result does not depend on them.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.geometry import Box
from embedseg_large.labels.published import label_names, level_of_shape, split_place
from embedseg_large.runs.blockwise import sum_over
from embedseg_large.runs.boxes import box_shape
from embedseg_large.runs.tasks import Call, Runner
from embedseg_large.storage.connection import is_same_place, joined
from embedseg_large.volumes.label_images import check_label_type, read_labels
from embedseg_large.volumes.pieces import pieces
from embedseg_large.volumes.volume import Volume, open_volume


def open_parents(within: Any, place: Any, labels: Volume, axes: str | None = None) -> Volume:
    """Open the label volume of the parents, at the level that has the shape of the labels.

    Parameters
    ----------
    within
        Array, path or URL; or the name of labels in the same store, as ``cells`` or
        ``labels/cells``.
    place
        Location of the measured labels.
    labels
        The measured labels.
    axes
        Letters of the axes of a file that does not name them.

    Raises
    ------
    VolumeError
        If they cannot be read, are not labels, or have another shape.
    UsageError
        If they are the measured labels.
    """
    source = _in_same_store(within, place)
    if _is_same(source, place):
        raise UsageError(
            f"{labels.name}: labels cannot be measured within themselves; pass other labels"
        )
    whole = open_volume(source, channel=None, axes=axes)
    check_label_type(whole)
    todo = "pass labels of the same image"
    if whole.n_timepoints != labels.n_timepoints:
        raise VolumeError(
            f"{labels.name} has {labels.n_timepoints} timepoints, {whole.name} "
            f"{whole.n_timepoints}; {todo}"
        )
    if labels.ndim == 2:  # a single plane, whose z axis was left out
        whole = whole.flattened()
    level = level_of_shape(whole, labels, whole.spatial_axes, todo)
    if not level:
        return whole
    found = open_volume(source, channel=None, axes=axes, level=level)
    return found.flattened() if labels.ndim == 2 else found


def parents_of(
    ids: NDArray[np.uint64],
    labels: Volume,
    parents: Volume,
    timepoint: int,
    workers: Runner | None = None,
) -> dict[str, NDArray[Any]]:
    """Find the parent of every instance of a timepoint.

    Parameters
    ----------
    ids
        The instances, ascending.
    labels, parents
        Label volumes of one shape.
    timepoint
        The timepoint.
    workers
        Process the boxes; None: this process does.

    Returns
    -------
    parent
        uint64, 0 if an instance has no parent.
    parent_overlap
        float64, from 0 to 1.
    """
    shared = _shared(labels, parents, timepoint, workers)
    order = np.lexsort((shared.truth_ids, -shared.counts, shared.prediction_ids))
    inside = order[(shared.truth_ids[order] > 0) & (shared.prediction_ids[order] > 0)]
    of, first = np.unique(shared.prediction_ids[inside], return_index=True)
    rows = np.searchsorted(ids, of)
    parent, held = np.zeros(ids.size, np.uint64), np.zeros(ids.size, np.int64)
    parent[rows], held[rows] = shared.truth_ids[inside[first]], shared.counts[inside[first]]
    owners, where = np.unique(shared.prediction_ids, return_inverse=True)
    sizes = np.bincount(where, weights=shared.counts)[np.isin(owners, ids)]
    return {"parent": parent, "parent_overlap": held / np.maximum(sizes, 1)}


def _shared(labels: Volume, parents: Volume, timepoint: int, workers: Runner | None) -> Contingency:
    """Count the voxels that instances of the two volumes share."""
    whole = Box.whole(labels.spatial_shape)
    boxes = pieces(whole, box_shape(whole.shape, [labels.chunks, parents.chunks]), labels.name)
    call = partial(_call, labels, parents, timepoint)
    return sum_over(boxes, call, Contingency.empty(), stage="relate", workers=workers)


def _call(labels: Volume, parents: Volume, timepoint: int, box: Box) -> Call:
    where = f"{labels.name} {box}"
    return Call(_shared_in_box, (labels, parents, timepoint, box), where=where, voxels=box.size)


def _shared_in_box(labels: Volume, parents: Volume, timepoint: int, box: Box) -> Contingency:
    return Contingency.of(*(read_labels(v, timepoint, box) for v in (labels, parents)))


def _in_same_store(within: Any, place: Any) -> Any:
    """Return the location of labels given by name in the store."""
    if not isinstance(within, str) or not isinstance(place, str | os.PathLike):
        return within
    around = split_place(os.fspath(place))
    name = within.removeprefix("labels/").rstrip("/")
    if around is not None and "/" not in name and name in label_names(around[0]):
        return joined(around[0], f"labels/{name}")
    return within


def _is_same(source: Any, place: Any) -> bool:
    if isinstance(source, str | os.PathLike) and isinstance(place, str | os.PathLike):
        return is_same_place(os.fspath(source), os.fspath(place))
    return source is place
