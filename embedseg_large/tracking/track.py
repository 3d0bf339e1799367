"""Track the instances of a time series of labels by their positions."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError, VolumeNotFoundError
from embedseg_large.labels.published import other_labels, place_of_labels, split_place
from embedseg_large.labels.tables import (
    StoredTable,
    check_store,
    unread_columns,
    write_label_table,
)
from embedseg_large.measurement.measure import measure
from embedseg_large.options import takes
from embedseg_large.storage.connection import is_remote, joined, shown
from embedseg_large.storage.tables import Table
from embedseg_large.tracking import linking, with_laptrack
from embedseg_large.tracking.ctc import check_ctc, write_ctc
from embedseg_large.tracking.geff import check_geff, remove_geff, write_geff
from embedseg_large.tracking.lineage import lineage_of
from embedseg_large.tracking.linking import Links, LinkSettings, neighbour_distance
from embedseg_large.tracking.options import LinkOptions, TrackOptions
from embedseg_large.tracking.stored import ADDED, describes, merged, stored_table, untracked
from embedseg_large.volumes.label_images import check_label_type
from embedseg_large.volumes.volume import Volume, open_volume

logger = logging.getLogger(__name__)

_TRACKERS = {"lap": linking.link, "laptrack": with_laptrack.link}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracks:
    """Tracks of the instances of a time series."""

    table: Table
    """One row per instance and timepoint, with ``track_id`` (from 1) and ``parent_track_id`` (0 if
    there is none)."""
    links: Links
    """Rows of the table, (n, 2): an instance, and its successor or daughter."""
    n_tracks: int
    """Number of tracks."""
    n_divisions: int
    """Number of tracks that divide in two."""
    n_gaps: int
    """Number of links across timepoints without the instance."""
    max_distance: float
    """Maximum distance that an instance may move between two timepoints."""
    unit: str
    """Unit of distances: ``µm``, or ``voxels`` if the voxel size is unknown."""
    written: tuple[str, ...] = ()
    """Paths or URLs of written files: table, GEFF, files of the Cell Tracking Challenge."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything except table and links, as values that JSON can hold."""
        names = ("n_tracks", "n_divisions", "n_gaps", "max_distance", "unit")
        found = {name: getattr(self, name) for name in names}
        return {"n_instances": len(self.table), **found, "written": list(self.written)}


@dataclass(frozen=True, slots=True)
class _Place:
    """Labels, and the store that they are in."""

    labels: Any
    store: str | None
    name: str

    @property
    def folder(self) -> Path | None:
        """The store on a disk."""
        return None if self.store is None or is_remote(self.store) else Path(self.store)


@takes(TrackOptions)
def track(source: Any, labels: str | None = None, **options: Any) -> Tracks:
    """Link the instances of a time series of labels into tracks, with divisions.

    Only positions are used: those in the table that `measure` wrote into the store, if it belongs
    to these labels; otherwise the labels are measured first.

    Parameters
    ----------
    source
        Path or URL of an OME-Zarr image with labels inside; or the labels themselves: a label group
        (``STORE/labels/NAME``), a TIFF, or an array of integers (t, (z,) y, x).
    labels
        Name of the labels in the image; None: the only ones, or `source` is the labels themselves.
    **options

    Returns
    -------
    Tracks
        For labels in a store, the columns are also added to the table in the store, and on a disk
        the graph is written to ``STORE/tracks/NAME.geff``. Takes about 200 bytes of memory per
        instance, in addition to the table.

    Raises
    ------
    VolumeError
        If the labels cannot be read, or are not labels.
    UsageError
        If there is only one timepoint, no distance is given and none can be found, tracks exist, or
        an option does not apply.
    OutputError
        If something cannot be written.
    """
    asked = TrackOptions.of(options, "track")
    place = _placed(source, labels)
    volume = _opened(place, asked)
    _check(place, volume, asked)
    writes_geff = place.folder is not None and check_geff(
        place.folder, place.name, overwrite=asked.overwrite
    )
    stored = None if place.store is None else stored_table(place.store, place.name, volume)
    if not asked.overwrite:
        _refuse_tracked(place, stored)
    table = _table(place, volume, asked, stored)
    positions = _positions(table.columns, volume.ndim)
    points = np.split(positions, np.searchsorted(table["timepoint"], _rest(volume)))
    settings = _settings(points, asked)
    links = _TRACKERS[asked.tracker](points, settings)
    time = table["timepoint"].astype(np.int64)
    lineage = lineage_of(time, links)
    found = {**table.columns, "track_id": lineage.track, "parent_track_id": lineage.parent}
    written = []
    if place.folder is not None and not writes_geff:
        remove_geff(place.folder, place.name)
    if place.store is not None:
        written.append(write_label_table(place.store, place.name, found, ()))
    if writes_geff and place.folder is not None:
        written.append(_write_geff(place.folder, place.name, volume, found, positions, links))
    if asked.ctc is not None:
        _write_ctc(Path(asked.ctc), volume, table, time, links)
        written.append(str(asked.ctc))
    return Tracks(
        table=Table(found, region=table.region),
        links=links,
        n_tracks=lineage.n_tracks,
        n_divisions=lineage.n_divisions,
        n_gaps=int(np.count_nonzero(np.diff(time[links], axis=1) > 1)),
        max_distance=settings.reach,
        unit=_unit(table.columns),
        written=tuple(written),
    )


def _placed(source: Any, name: str | None) -> _Place:
    """Find the labels, and their store if they are in one."""
    if not isinstance(source, str | os.PathLike):
        if name is not None:
            raise UsageError("an array has no labels inside; leave out labels=")
        return _Place(source, None, "labels")
    found = place_of_labels(os.fspath(source), name)
    store, own = split_place(found) or (None, found.rstrip("/"))
    return _Place(found, store, own)


def _opened(place: _Place, asked: TrackOptions) -> Volume:
    try:
        found = open_volume(
            place.labels, channel=None, axes=asked.axes, voxel_size=asked.voxel_size
        )
    except VolumeNotFoundError as error:
        raise VolumeNotFoundError(f"{error}{other_labels(str(place.labels))}") from error
    check_label_type(found)
    if found.n_timepoints < 2:
        advice = f"; {told}" if (told := found.time_or_depth()) else ""
        raise UsageError(
            f"{found.name} has one timepoint (axes {found.axes}): there is nothing to track{advice}"
        )
    return found.flattened()


def _check(place: _Place, volume: Volume, asked: TrackOptions) -> None:
    """Find every reason to refuse, before the labels are read."""
    if asked.tracker not in _TRACKERS:
        raise UsageError(f"tracker {asked.tracker!r} is not one of {', '.join(_TRACKERS)}")
    if asked.tracker == "laptrack":
        with_laptrack.check_laptrack()
    if asked.max_distance is not None and not 0 < asked.max_distance < np.inf:
        raise UsageError(f"max_distance is {asked.max_distance}; pass a length in µm, above 0")
    if asked.division_distance is not None and not 0 <= asked.division_distance < np.inf:
        raise UsageError(
            f"division_distance is {asked.division_distance}; pass a length in µm, or 0 for no "
            "divisions"
        )
    if not 0 <= asked.max_gap < volume.n_timepoints:
        raise UsageError(
            f"max_gap is {asked.max_gap}; use 0 to {volume.n_timepoints - 1} timepoints"
        )
    if place.store is not None:
        check_store(place.store, place.name)
    if asked.ctc is not None:
        check_ctc(Path(asked.ctc), overwrite=asked.overwrite)


def _rest(volume: Volume) -> NDArray[np.int64]:
    """Return all timepoints except the first."""
    return np.arange(1, volume.n_timepoints)


def _refuse_tracked(place: _Place, stored: StoredTable | None) -> None:
    """Refuse to replace older tracks, which without GEFF are only in the table."""
    if place.store is None:
        return
    names = list(stored.columns) if stored else unread_columns(place.store, place.name)
    if ADDED[0] in names:
        table = joined(shown(place.store), f"tables/{place.name}")
        raise UsageError(f"{table} has tracks; replace them with --overwrite")


def _table(place: _Place, volume: Volume, asked: TrackOptions, stored: StoredTable | None) -> Table:
    """Take the stored table if it belongs to these labels, else measure sizes and positions."""
    known = None if stored is None else untracked(stored.columns)
    is_certain = stored is not None and stored.is_certain
    if known is not None and is_certain and asked.voxel_size is None:
        _warn_of_missing(known, volume)
        return Table(known, region=place.name)
    found = measure(place.labels, **{name: getattr(asked, name) for name in _MEASURED})
    if known is None or not (is_certain or describes(known, found.columns)):
        return found
    return Table(merged(found.columns, known), region=place.name)


def _warn_of_missing(columns: Mapping[str, NDArray[Any]], volume: Volume) -> None:
    seen = len(np.unique(columns["timepoint"]))
    if seen < volume.n_timepoints:
        logger.warning(
            "%s: the stored table has %d of %d timepoints; if the others have instances, measure "
            "again with --into-store",
            volume.name,
            seen,
            volume.n_timepoints,
        )


_MEASURED = ("axes", "voxel_size", "client", "workers", "scheduler", "cluster_config")


def _unit(columns: Mapping[str, Any]) -> str:
    return "µm" if "x_um" in columns else "voxels"


def _positions(columns: Mapping[str, NDArray[Any]], ndim: int) -> NDArray[np.float64]:
    """Centroids (n, ndim), in µm if the voxel size is known."""
    end = "_um" if "x_um" in columns else ""
    named = [columns[f"{axis}{end}"] for axis in "zyx"[-ndim:]]
    return np.stack(named, axis=1).astype(np.float64)


def _settings(points: Sequence[NDArray[np.float64]], asked: LinkOptions) -> LinkSettings:
    reach = asked.max_distance or neighbour_distance(points)
    if not reach:  # 0: most instances have another one in the same place
        raise UsageError(
            "no timepoint has two instances in different places, whose distance would limit that "
            "of a link; pass max_distance= (--max-distance)"
        )
    division = reach if asked.division_distance is None else asked.division_distance
    return LinkSettings(reach=reach, division_reach=division or None, gap=asked.max_gap)


def _write_geff(
    folder: Path,
    name: str,
    volume: Volume,
    found: Mapping[str, NDArray[Any]],
    positions: NDArray[np.float64],
    links: Links,
) -> str:
    axes = dict(zip("zyx"[-volume.ndim :], positions.T, strict=True))
    return write_geff(
        folder,
        name,
        zarr_format=volume.zarr_format or 3,
        unit="micrometer" if "x_um" in found else None,
        columns={
            "t": found["timepoint"].astype(np.int64),
            **axes,
            "label": found["label"].astype(np.uint64),
            "track_id": found["track_id"],
        },
        links=links,
    )


def _write_ctc(
    folder: Path, volume: Volume, table: Table, time: NDArray[np.int64], links: Links
) -> None:
    lineage = lineage_of(time, links, across_gaps=False)
    write_ctc(folder, volume, time, table["label"].astype(np.uint64), lineage)


def summary(tracks: Tracks) -> dict[str, str]:
    """What a command line shows."""
    lengths = np.bincount(tracks.table["track_id"].astype(np.int64))[1:]
    return {
        "instances": f"{len(tracks.table):,}",
        "tracks": f"{tracks.n_tracks:,}",
        "median length": f"{np.median(lengths):g} timepoints" if len(lengths) else "none",
        "divisions": f"{tracks.n_divisions:,}",
        "gaps": f"{tracks.n_gaps:,}",
        "maximum distance": f"{tracks.max_distance:.3g} {tracks.unit}",
        "written": ", ".join(map(shown, tracks.written)) or "nothing",
    }
