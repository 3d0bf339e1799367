"""Opens the parts of a review: the labels of a timepoint, its log, and the current voxels."""

from __future__ import annotations

from embedseg_large.errors import UsageError, VolumeNotFoundError
from embedseg_large.geometry import Box
from embedseg_large.labels.published import other_labels
from embedseg_large.review.log import Log
from embedseg_large.review.place import ReviewPlace
from embedseg_large.review.voxels import ReviewedVoxels
from embedseg_large.storage.connection import joined
from embedseg_large.volumes.label_images import check_label_type, check_label_voxels
from embedseg_large.volumes.volume import Volume, open_volume


def open_labels(place: ReviewPlace, timepoint: int | None) -> Volume:
    """Open the labels of a review at one timepoint.

    Raises
    ------
    UsageError
        If there are several timepoints and none was chosen.
    VolumeError
        If they cannot be read, or are not a label image.
    """
    try:
        found = open_volume(place.source, channel=None, timepoint=timepoint)
    except VolumeNotFoundError as error:
        raise VolumeNotFoundError(f"{error}{other_labels(place.source)}") from error
    check_label_type(found)
    if found.timepoint is None:
        raise UsageError(f"{found.name}: {found.n_timepoints} timepoints; choose one (--timepoint)")
    found = found.flattened()
    if not found.is_labels:  # written by another program, or an image by mistake
        check_label_voxels(found, strict=False)
    return found


def voxels_at(place: ReviewPlace, source: Volume) -> ReviewedVoxels:
    """Return the voxels of a review as if no chunk had changed."""
    zarr_format = source.zarr_format or 3
    return ReviewedVoxels(
        source=source,
        place=joined(place.path, "voxels"),
        zarr_format=2 if zarr_format == 2 else 3,
        timepoints=source.n_timepoints if source.n_timepoints > 1 else None,
    )


def load_log(place: ReviewPlace, source: Volume) -> Log:
    """Read the log of a timepoint."""
    folder = place.folder.below(f"log{_moment(source)}")
    return Log(folder, Box.whole(source.spatial_shape)).load()


def reviewed_timepoints(place: ReviewPlace) -> list[int | None]:
    """Return the timepoints with a log, ascending; None stands for the only one."""
    logs = {name.partition("/")[0] for name in place.folder.names() if name.startswith("log-")}
    times = sorted(int(name.removeprefix("log-")) for name in logs if name[4:].isdigit())
    return [*times] or [None]


def _moment(source: Volume) -> str:
    """Return the suffix of a timepoint's names; empty if there is only one timepoint."""
    return f"-{source.timepoint:06d}" if source.n_timepoints > 1 else ""


def table_name(source: Volume) -> str:
    """Return the name of the table of a timepoint."""
    return f"instances{_moment(source)}.npz"
