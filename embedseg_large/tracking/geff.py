"""Tracks as GEFF, the exchange format of tracking programs, beside their labels.

::

    STORE/labels/nuclei/         the labels
    STORE/tracks/nuclei.geff/    group "nodes": one per instance and timepoint, with t, (z,) y, x in
                                 µm, label, track_id; group "edges": an instance and its successor

The graph names its labels as a related object, so that viewers find each node's voxels.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.extras import install
from embedseg_large.storage.consolidated import refresh_on_disk
from embedseg_large.storage.disk import LocalFolder, check_writable, output_errors, replaced
from embedseg_large.storage.group import ZarrGroup
from embedseg_large.tracking.linking import Links

logger = logging.getLogger(__name__)

_GROUP = "tracks"


def place_of_geff(store: Path, labels: str) -> Path:
    """Return the folder of the tracks of labels."""
    return store / _GROUP / f"{labels}.geff"


def check_geff(store: Path, labels: str, *, overwrite: bool) -> bool:
    """Whether tracks can be written as GEFF into a store on a disk.

    Raises
    ------
    UsageError
        If there are tracks that may not be overwritten.
    OutputError
        If the store is not writable.
    """
    place = place_of_geff(store, labels)
    if place.exists() and not overwrite:
        raise UsageError(f"{place} exists; replace it with --overwrite")
    if find_spec("geff") is None:
        logger.warning(
            "tracks go into the table only; %s (pip 26 or newer) writes them as GEFF, too",
            install("track"),
        )
        return False
    check_writable(store)
    return True


def remove_geff(store: Path, labels: str) -> None:
    """Remove older tracks, which the table that is about to be written does not match.

    Raises
    ------
    OutputError
        If they cannot be removed.
    """
    place = place_of_geff(store, labels)
    if place.exists():
        LocalFolder(str(place)).remove_all()
        refresh_on_disk(place.parent)


def write_geff(
    store: Path,
    labels: str,
    *,
    zarr_format: int,
    unit: str | None,
    columns: Mapping[str, NDArray[Any]],
    links: Links,
) -> str:
    """Write the graph of some tracks; an older one is replaced once the new one is complete.

    Parameters
    ----------
    store
        Folder of the image.
    labels
        Name of the labels.
    zarr_format
        Zarr format of the store, 2 or 3.
    unit
        NGFF name of the unit of positions; None if unknown.
    columns
        ``t``, (``z``,) ``y``, ``x``, ``label`` and ``track_id`` of each instance.
    links
        See `embedseg_large.tracking.linking.link`.

    Returns
    -------
    str
        Path of the group.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    final = place_of_geff(store, labels)
    hidden = final.with_name(f".{final.name}-{secrets.token_hex(4)}")
    group = ZarrGroup.at(final.parent)
    if group.zarr_format() is None:
        group.write(zarr_format, {})
    nodes = np.arange(len(columns["t"]), dtype=np.uint64)
    try:
        with output_errors(final):
            import_module("geff.core_io").write_arrays(
                hidden,
                node_ids=nodes,
                node_props={k: {"values": v, "missing": None} for k, v in columns.items()},
                edge_ids=links.astype(np.uint64),
                edge_props=None,
                metadata=_metadata(labels, list(columns), unit),
                zarr_format=zarr_format,
            )
        older = hidden.with_name(f"{hidden.name}.old")
        with replaced(hidden, final, older):
            pass
        shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    refresh_on_disk(final.parent)
    return str(final)


def _metadata(labels: str, columns: list[str], unit: str | None) -> Any:
    spec = import_module("geff_spec")
    space = [
        spec.Axis(name=name, type="space", unit=unit) for name in ("z", "y", "x") if name in columns
    ]
    return spec.GeffMetadata(
        directed=True,
        axes=[spec.Axis(name="t", type="time", unit="frame"), *space],
        node_props_metadata={},
        edge_props_metadata={},
        track_node_props={"tracklet": "track_id"},
        related_objects=[
            spec.RelatedObject(type="labels", path=f"../../labels/{labels}", node_prop="label")
        ],
    )
