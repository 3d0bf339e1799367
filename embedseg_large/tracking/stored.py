"""The table that `measure` wrote into a store, as the input of tracking: checked, and kept.

It may be damaged, or written by hand: what linking needs of it is checked before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import MetadataError
from embedseg_large.labels.tables import StoredTable, read_label_table
from embedseg_large.volumes.volume import Volume

logger = logging.getLogger(__name__)

Columns = Mapping[str, NDArray[Any]]

ADDED = ("track_id", "parent_track_id")
"""Columns that tracking adds."""


def stored_table(store: str, labels: str, volume: Volume) -> StoredTable | None:
    """Read the table of labels, if it can be used.

    Parameters
    ----------
    store, labels
        Path or URL of the store, and name of the labels.
    volume
        The labels.

    Returns
    -------
    StoredTable or None
        None if there is none that can be read here; also, with a warning, if it is damaged.
    """
    try:
        found = read_label_table(store, labels)
    except MetadataError as error:
        why: str | None = str(error)
    else:
        why = None if found is None else _fault(found.columns, volume)
        if why is None:
            return found
    logger.warning("%s: measured anew, without the stored table: %s", volume.name, why)
    return None


def _fault(columns: Columns, volume: Volume) -> str | None:
    """Describe what makes a table useless for linking; None if nothing does."""
    end = "_um" if "x_um" in columns else ""
    places = [f"{axis}{end}" for axis in "zyx"[-volume.ndim :]]
    if missing := [name for name in ("timepoint", "label", *places) if name not in columns]:
        return f"it has no column {missing[0]}"
    for name in ("timepoint", "label"):
        if columns[name].dtype.kind not in "iu":
            return f"its column {name} does not hold whole numbers"
    for name in places:
        if columns[name].dtype.kind not in "iuf" or not np.isfinite(columns[name]).all():
            return f"its column {name} does not hold finite numbers"
    times, labels = columns["timepoint"], columns["label"]
    if times.size and not 0 <= times.min() <= times.max() < volume.n_timepoints:
        return f"its timepoints are not all from 0 to {volume.n_timepoints - 1}"
    if labels.size and labels.min() < 1:
        return "it has labels below 1"
    order = np.lexsort((labels, times))
    if (~np.diff(times[order]).astype(bool) & ~np.diff(labels[order]).astype(bool)).any():
        return "it has two rows for one instance"
    return None


def untracked(columns: Columns) -> dict[str, NDArray[Any]]:
    """Drop the columns of older tracks, and order rows by timepoint and label."""
    order = np.lexsort((columns["label"], columns["timepoint"]))
    return {name: values[order] for name, values in columns.items() if name not in ADDED}


def describes(columns: Columns, measured: Columns) -> bool:
    """Whether a table, which may know more, is of the instances that were measured."""
    same = ("timepoint", "label", "voxels", "pixels", "z", "y", "x")
    return all(
        name not in measured or np.array_equal(columns.get(name, ()), measured[name])
        for name in same
    )


def merged(measured: Columns, stored: Columns) -> dict[str, NDArray[Any]]:
    """Add to measured columns those that only a stored table has.

    Instances that the stored table lacks get NaN, 0, False or an empty text.
    """
    both = measured, stored
    labels = np.concatenate([columns["label"].astype(np.uint64) for columns in both])
    times = np.concatenate([columns["timepoint"].astype(np.int64) for columns in both])
    ids = np.unique(labels, return_inverse=True)[1]
    keys, count = times * (ids.size + 1) + ids, len(measured["label"])
    _, rows, of = np.intersect1d(keys[:count], keys[count:], return_indices=True)
    kept = {}
    for name in stored.keys() - measured.keys():
        kept[name] = _blank(stored[name].dtype, count)
        kept[name][rows] = stored[name][of]
    order = [*stored, *(name for name in measured if name not in stored)]
    return {name: measured[name] if name in measured else kept[name] for name in order}


def _blank(dtype: np.dtype[Any], size: int) -> NDArray[Any]:
    return np.full(size, np.nan, dtype) if dtype.kind == "f" else np.zeros(size, dtype)
