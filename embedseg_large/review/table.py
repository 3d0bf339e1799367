"""Measurements of the instances of the source: computed once, then stored with the review."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import MetadataError, UsageError, foreign
from embedseg_large.geometry import Box
from embedseg_large.measurement.measure import measure
from embedseg_large.review.doubt import axes_of
from embedseg_large.storage.folder import Folder

Columns = dict[str, NDArray[Any]]

_SIZE = ("voxels", "pixels")
_ROUNDNESS = ("sphericity", "circularity")
_OPTIONAL = ("seediness", "certified")


def measured(
    labels: str, timepoint: int | None, workers: Mapping[str, Any] = MappingProxyType({})
) -> Columns:
    """Measure the instances of labels, box by box.

    Returns
    -------
    Columns for `embedseg_large.review.doubt.queue_of`, by ascending label.
    """
    table = measure(labels, timepoint=timepoint, **workers).columns
    axes = axes_of(table)
    names = [*axes, *(f"{a}_{end}" for a in axes for end in ("start", "stop"))]
    columns: Columns = {
        "label": table["label"].astype(np.int64),
        "voxels": next(table[name] for name in _SIZE if name in table),
        "roundness": next(table[name] for name in _ROUNDNESS if name in table),
        "touches_border": table["touches_border"],
        **{name: table[name] for name in names},
        **{name: table[name] for name in _OPTIONAL if name in table},
    }
    if "seam" in table:
        columns["joined"] = table["seam"] == "joined"
    if columns["label"].size and columns["label"].min() < 1:
        raise UsageError(f"{labels}: a label above 2**63 - 1; number the instances from 1")
    return columns


def write_columns(folder: Folder, name: str, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns as an object."""
    packed = BytesIO()
    named: dict[str, Any] = dict(columns)
    np.savez_compressed(packed, **named)
    folder.write(name, packed.getvalue(), durable=True)


def read_columns(folder: Folder, name: str, whole: Box) -> Columns | None:
    """Read columns back; None if there are none.

    Raises
    ------
    MetadataError
        If they are damaged.
    """
    try:
        data = folder.read(name)
    except FileNotFoundError:
        return None
    where = f"{folder.path}/{name}"
    with foreign(where, "no table of instances", todo="delete it", kind=MetadataError):
        with np.load(BytesIO(data), allow_pickle=False) as found:
            columns = dict(found)
        _check(columns, whole)
    return columns


def _check(columns: Columns, whole: Box) -> None:
    axes = axes_of(columns)
    lengths = {column.shape for column in columns.values()}
    if len(lengths) != 1 or len(axes) != whole.ndim:
        raise ValueError("columns of different lengths, or of other axes")
    if (np.diff(columns["label"]) < 1).any():
        raise ValueError("labels that do not ascend")
    for number, axis in enumerate(axes):
        low, high = columns[f"{axis}_start"], columns[f"{axis}_stop"]
        if (low < 0).any() or (low >= high).any() or (high > whole.stop[number]).any():
            raise ValueError("a box outside of the volume")


def box_in(columns: Columns, label: int) -> Box | None:
    """Return the bounding box of an instance of the source; None if there is no such label."""
    labels = columns["label"]
    row = int(np.searchsorted(labels, label))
    if row == labels.size or labels[row] != label:
        return None
    axes = axes_of(columns)
    start, stop = (
        tuple(int(columns[f"{axis}_{end}"][row]) for axis in axes) for end in ("start", "stop")
    )
    return Box(start, stop)
