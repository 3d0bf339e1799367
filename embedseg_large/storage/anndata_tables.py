"""Tables of instances as AnnData (.h5ad), which scanpy, squidpy and SpatialData read.

::

    X                   (instances, features) float32: sizes, shapes, intensities
    var_names           their names
    obs                 label, timepoint, parent, tracks, flags, texts; instance_id and region
    obsm["spatial"]     (instances, 2 or 3) float64: x, y(, z) of the centroid, in µm where known
    uns["spatialdata_attrs"]   the labels that the rows describe: in a SpatialData object, the table
                               annotates the element of that name without changes
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.extras import extra

REGION, INSTANCE = "region", "instance_id"
"""Columns of obs that SpatialData requires: name of the labels, and label within them."""

_IDENTITY = ("label", "timepoint", "parent", "track_id", "parent_track_id")
"""Integers that identify something rather than measure it."""


def check_anndata(path: str | os.PathLike[str]) -> None:
    """Refuse an .h5ad path if anndata is not installed.

    Raises
    ------
    UsageError
        If anndata is missing.
    """
    _anndata(path)


def anndata_of(columns: Mapping[str, NDArray[Any]], region: str) -> Any:
    """Create an AnnData from columns, one row per instance.

    Parameters
    ----------
    columns
        Columns of equal length; ``label`` identifies the instances.
    region
        Name of the labels.

    Raises
    ------
    UsageError
        If anndata is missing, or a label exceeds 63 bits.
    """
    anndata, pandas = _anndata("the table"), import_module("pandas")
    features = [n for n, values in columns.items() if _is_feature(n, values)]
    rows = next((values.size for values in columns.values()), 0)
    x = np.empty((rows, len(features)), np.float32)
    for number, name in enumerate(features):
        x[:, number] = columns[name]
    about = {n: values for n, values in columns.items() if n not in features}
    obs = pandas.DataFrame(about, index=_names(columns, rows))
    obs[REGION] = pandas.Categorical([region] * rows, categories=[region])
    obs[INSTANCE] = _instances(columns, rows)
    table = anndata.AnnData(X=x, obs=obs, var=pandas.DataFrame(index=features))
    if (spatial := _positions(columns)) is not None:
        table.obsm["spatial"] = spatial
    table.uns["spatialdata_attrs"] = {
        "region": region,
        "region_key": REGION,
        "instance_key": INSTANCE,
    }
    return table


def write_h5ad(path: Path, columns: Mapping[str, NDArray[Any]], region: str) -> None:
    """Write columns as an .h5ad; see `anndata_of`."""
    anndata_of(columns, region).write_h5ad(path, compression="gzip")


def _is_feature(name: str, values: NDArray[Any]) -> bool:
    """Whether a column is a measurement, rather than an identifier or position."""
    if name in _IDENTITY or values.dtype.kind not in "iuf":
        return False
    axis, _, rest = name.partition("_")
    return axis not in ("z", "y", "x") or rest not in ("", "um", *_ENDS)


_ENDS = ("start", "stop", "start_um", "stop_um")


def _instances(columns: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.int64]:
    """Labels within their volume, as SpatialData matches them."""
    labels = columns.get("label", np.arange(1, rows + 1))
    largest = int(labels.max(initial=0))
    if largest > np.iinfo(np.int64).max:
        raise UsageError(
            f"the label {largest} is larger than {np.iinfo(np.int64).max}, the largest that an "
            "AnnData can hold; write .csv or .parquet"
        )
    return labels.astype(np.int64)


def _names(columns: Mapping[str, NDArray[Any]], rows: int) -> list[str]:
    """Unique names of the rows: the label, preceded by the timepoint if there are several."""
    labels = columns.get("label", np.arange(1, rows + 1))
    times = columns.get("timepoint", np.zeros(rows, int))
    if np.unique(labels).size == rows:
        return [str(label) for label in labels]
    return [f"{t}-{label}-{n}" for n, (t, label) in enumerate(zip(times, labels, strict=True))]


def _positions(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64] | None:
    """Centroids in the order x, y(, z); None if the table has none."""
    for unit in ("_um", ""):
        axes = [f"{axis}{unit}" for axis in "xyz" if f"{axis}{unit}" in columns]
        if len(axes) >= 2:
            return np.stack([columns[axis].astype(np.float64) for axis in axes], axis=1)
    return None


def _anndata(path: object) -> Any:
    with extra("anndata", f"{path}: AnnData", instead="write .csv"):
        return import_module("anndata")
