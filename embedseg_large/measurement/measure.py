"""Measure every instance of a label volume of any size, box by box.

Each box yields a small table of sums, and the tables of all boxes add up exactly to that of the
volume, for any boxes: an instance shared by several boxes is measured as one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError, VolumeError, VolumeNotFoundError
from embedseg_large.geometry import Box
from embedseg_large.labels.instances import SEAMS, KnownInstances
from embedseg_large.labels.published import (
    image_options,
    labelled_part,
    level_of_shape,
    other_labels,
    place_of_image,
    place_of_labels,
    provenance_of,
)
from embedseg_large.labels.tables import check_store, write_label_table
from embedseg_large.measurement.options import MeasureOptions, SubjectOptions
from embedseg_large.measurement.regions import Regions, cells_of
from embedseg_large.measurement.shapes import columns_of
from embedseg_large.measurement.within import open_parents, parents_of
from embedseg_large.options import takes
from embedseg_large.runs.blockwise import sum_over
from embedseg_large.runs.boxes import box_shape
from embedseg_large.runs.dask.backend import readers_of
from embedseg_large.runs.tasks import Call, Runner
from embedseg_large.storage.connection import shown
from embedseg_large.storage.tables import Table, stacked
from embedseg_large.volumes.folders import stem
from embedseg_large.volumes.label_images import (
    check_label_type,
    check_label_voxels,
    read_labels,
)
from embedseg_large.volumes.pieces import pieces
from embedseg_large.volumes.timepoints import chosen_timepoints
from embedseg_large.volumes.volume import Volume, open_volume

logger = logging.getLogger(__name__)

_PROPERTIES = (
    *("voxels", "volume", "sphericity", "pixels", "area", "circularity", "axis_"),
    *("touches_border", "seam", "certified", "seediness", "intensity_mean"),
)
"""Prefixes of columns that are worth colouring by in a viewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Labels and their image; picklable."""

    labels: Volume
    """Without a channel axis; with a time axis if there are several timepoints."""
    channels: tuple[Volume, ...]
    """One channel each, of the same shape; none: shapes only."""
    voxel_size: tuple[float, ...] | None
    """Voxel size in µm."""
    origin: tuple[float, ...]
    """Centre of the first voxel, in the same unit."""


@dataclass(frozen=True, slots=True)
class RunFindings:
    """What the run that made the labels recorded about its instances."""

    traced: dict[str, NDArray[Any]] | None
    """Labels and timepoints, (2, n), listed in the seam report, by kind; the timepoint is -1 if
    there is only one. None: there is no seam report. For labels of earlier versions, whose table of
    instances does not say it."""
    known: KnownInstances | None
    """Seediness and more for each instance; None: not stored."""
    part: Box | None
    """The segmented part, if not the whole volume."""


@takes(MeasureOptions)
def measure(source: Any, labels: str | None = None, **options: Any) -> Table:
    """Measure every instance of a label volume: size, position, shape, intensities.

    Parameters
    ----------
    source
        Path or URL of an OME-Zarr image with labels inside; or the labels themselves: a label group
        (``STORE/labels/NAME``), a TIFF, or an array of integers, 0 for background. Negative voxels
        are unannotated, and treated as background.
    labels
        Name of the labels in the image; None: the only ones, or `source` is the labels themselves.
    **options

    Returns
    -------
    Table
        One row per instance and timepoint, ordered by timepoint and label; columns ``timepoint``,
        those of `embedseg_large.measurement.shapes.columns_of`, and for labels made by `segment`,
        ``seam``: "repaired" or "joined", as the seam report counts the instance; ``seediness``,
        float32 of its seed voxel (missing for other segmenters); ``certified``,
        whether it is proven to equal the untiled result. Labels that were
        added later have NaN and False. With `within`, ``parent``: the label of the other volume
        that the instance shares most voxels with, 0 if none; ``parent_overlap``: the fraction of
        its voxels in there. Takes about 1 KB of memory per instance.

    Raises
    ------
    VolumeError
        If something cannot be read, the labels are not a label image, or the shapes or voxel
        sizes of image and labels differ.
    UsageError
        If there are several labels and none is named, a required image is missing, or an option
        does not apply.
    OutputError
        If the table cannot be written into the store.
    """
    asked, place = MeasureOptions.of(options, "measure"), _place(source, labels)
    store, name = _check_store(source, place, asked.level) if asked.into_store else ("", "")
    subject = find_subject(source, labels, asked)
    timepoints, within = chosen_timepoints(subject.labels, asked.timepoint), asked.within
    parents = None if within is None else open_parents(within, place, subject.labels, asked.axes)
    told = _told(subject.labels)
    has_properties = subject.labels.n_timepoints == 1
    if asked.into_store:
        check_store(store, name, properties=has_properties)
    opened = (subject.labels, *subject.channels, *(() if parents is None else (parents,)))
    paths = [volume.path for volume in opened]
    tables = []
    with readers_of(paths, asked) as able:
        for t in timepoints:
            regions = sum_regions(subject, t, able)
            columns = _columns(subject, t, regions, told)
            if parents is not None:
                columns |= parents_of(regions.ids, subject.labels, parents, t, able)
            tables.append(columns)
    table = Table(stacked(tables), region=_region(place))
    if not asked.into_store:
        return table
    named = [column for column in table.columns if column.startswith(_PROPERTIES)]
    stored = write_label_table(store, name, table.columns, named if has_properties else [])
    return replace(table, stored=stored)


def _region(place: Any) -> str:
    """Name of the labels in tables."""
    return stem(place) if isinstance(place, str | os.PathLike) else "labels"


def _check_store(source: Any, place: Any, level: int) -> tuple[str, str]:
    """Return store and name of the labels; refuse a table without labels in a store."""
    if place is source:
        raise UsageError(
            "only tables of labels inside an image can be written into its store; name the labels"
        )
    if level != 0:
        raise UsageError(
            f"a table of level {level} would be mistaken for one of level 0; write a file"
        )
    return os.fspath(source), place.rpartition("/")[2]


def sum_regions(subject: Subject, timepoint: int, workers: Runner | None = None) -> Regions:
    """Add up the sums of the boxes of a timepoint.

    Parameters
    ----------
    subject, timepoint
        What is measured.
    workers
        Process the boxes; None: this process.
    """
    whole = Box.whole(subject.labels.spatial_shape)
    chunks = [volume.chunks for volume in (subject.labels, *subject.channels)]
    boxes = pieces(whole, box_shape(whole.shape, chunks), subject.labels.name)
    zero = Regions.empty([channel.dtype for channel in subject.channels])
    call = partial(_call, subject, timepoint)
    return sum_over(boxes, call, zero, stage="measure", workers=workers)


def _call(subject: Subject, timepoint: int, box: Box) -> Call:
    where = f"{subject.labels.name} {box}"
    return Call(_sum_box, (subject, timepoint, box), where=where, voxels=box.size)


def _sum_box(subject: Subject, timepoint: int, core: Box) -> Regions:
    labels = _read_cells(subject.labels, timepoint, core)
    if not labels.any():
        return Regions.empty([channel.dtype for channel in subject.channels])
    return Regions.of(labels, core, [_read(c, timepoint, core) for c in subject.channels])


def _read_cells(labels: Volume, timepoint: int, core: Box) -> NDArray[Any]:
    """Read the labels that a box needs; 0 outside of the volume."""
    wanted = cells_of(core)
    there = wanted.clip(labels.spatial_shape)
    return np.pad(read_labels(labels, timepoint, there), wanted.widths_around(there))


def _read(volume: Volume, timepoint: int, box: Box) -> NDArray[Any]:
    return volume.read(box, timepoint if "t" in volume.axes else None)


def _columns(
    subject: Subject, timepoint: int, regions: Regions, told: RunFindings
) -> dict[str, NDArray[Any]]:
    """All columns of a timepoint."""
    channels = [channel.channel or 0 for channel in subject.channels]
    shape = subject.labels.spatial_shape
    columns = columns_of(regions, shape, subject.voxel_size, channels, told.part, subject.origin)
    label = columns.pop("label")
    columns = {"label": label, "timepoint": np.full(label.size, timepoint)} | columns
    known = told.known.rows(label, timepoint) if told.known else {}
    seam = known.pop("seam", None)
    if seam is not None:
        columns["seam"] = np.array(SEAMS)[np.minimum(seam, len(SEAMS) - 1)]
    elif told.traced is not None:
        columns["seam"] = np.full(label.size, "", dtype="<U8")
        for kind, (labels, times) in told.traced.items():
            columns["seam"][np.isin(label, labels[(times == timepoint) | (times < 0)])] = kind
    return columns | known


def _told(labels: Volume) -> RunFindings:
    """Read what the run recorded; nothing if another program made the labels."""
    if not labels.path or not labels.is_labels:
        return RunFindings(None, None, None)
    made = provenance_of(labels.path)
    known = KnownInstances.of(labels.path, made)
    if known is not None:
        known.check(labels.n_timepoints)
    return RunFindings(_traced(made), known, labelled_part(labels))


def _traced(made: dict[str, Any]) -> dict[str, NDArray[Any]] | None:
    """Find the instances listed in a seam report (see `RunFindings`)."""
    if "seams" not in made:
        return None
    traced = {}
    for kind in ("repaired", "joined"):
        pairs = [(o["label"], o.get("timepoint", -1)) for o in made["seams"][f"{kind}_objects"]]
        traced[kind] = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return traced


def find_subject(source: Any, labels: str | None, asked: SubjectOptions) -> Subject:
    """Open labels and image, and find every reason to refuse them.

    Raises
    ------
    VolumeError, UsageError
        As for `measure`.
    """
    place, image = _place(source, labels), asked.image
    found = _open_labels(place, asked)
    if image is None and place is not source:
        image = _image_of(os.fspath(source), place, asked.image_axes)
    channels: tuple[Volume, ...] = ()
    if image is not None:
        options = image_options(place, image, asked.image_axes)
        channels = _open_channels(image, asked.channel, options, found)
    if not channels and asked.channel is not None:
        raise UsageError("there is no image to take a channel from; pass one with image= (--image)")
    size = _voxel_size(found, channels, asked.voxel_size)
    placed = found if found.voxel_size is not None or not channels else channels[0]
    return Subject(labels=found, channels=channels, voxel_size=size, origin=placed.origin)


def _place(source: Any, name: str | None) -> Any:
    """Return the location of the labels; the source itself if they are not inside it."""
    if isinstance(source, str | os.PathLike):
        place = place_of_labels(os.fspath(source), name)
        return source if place == os.fspath(source) else place
    if name is not None:
        raise UsageError("an array has no labels inside; leave out labels=")
    return source


def _open_labels(place: Any, asked: SubjectOptions) -> Volume:
    try:
        found = open_volume(
            place, channel=None, level=asked.level, axes=asked.axes, voxel_size=asked.voxel_size
        )
    except VolumeNotFoundError as error:
        raise VolumeNotFoundError(f"{error}{other_labels(str(place))}") from error
    check_label_type(found)
    check_label_voxels(found, strict=False)
    if told := found.time_or_depth():
        logger.warning(told)
    return found.flattened()


def _image_of(store: str, labels: str, axes: str | None) -> str:
    """Return the image of labels in a store.

    Raises
    ------
    UsageError
        If there is none.
    """
    made = provenance_of(labels)
    found = place_of_image(labels, made, axes)
    if found is None:
        recorded = made.get("volume", {}).get("path")
        but = f", and their image {shown(recorded)} cannot be opened" if recorded else ""
        raise UsageError(
            f"{shown(store)} holds labels but no readable image{but}; pass the image with image= "
            "(--image), or the path of the labels themselves, to measure only shapes"
        )
    return found


def _open_channels(
    source: Any,
    asked: int | str | Sequence[int | str] | None,
    options: Mapping[str, Any],
    labels: Volume,
) -> tuple[Volume, ...]:
    """Open the channels of an image at the level that has the shape of the labels."""
    whole = _opened(source, None, 0, options, labels)
    todo = "pass the image of the labels, or another level of the labels"
    level = level_of_shape(whole, labels, whole.spatial_axes, todo)
    if whole.n_timepoints != labels.n_timepoints:
        raise VolumeError(
            f"{labels.name}: {labels.n_timepoints} timepoints, and the image {whole.name} has "
            f"{whole.n_timepoints}; pass labels and image of the same timepoints"
        )
    chosen: Iterable[int | str] = range(whole.n_channels)
    if asked is not None:
        chosen = asked if isinstance(asked, Iterable) and not isinstance(asked, str) else (asked,)
    return tuple(_opened(source, c, level, options, labels) for c in chosen)


def _opened(
    source: Any, channel: int | str | None, level: int, options: Mapping[str, Any], labels: Volume
) -> Volume:
    """Open an image like its labels: a single plane as 2D."""
    if level:
        options = {name: value for name, value in options.items() if name != "voxel_size"}
    found = open_volume(source, channel=channel, level=level, **options)
    return found.flattened() if labels.ndim == 2 else found


def _voxel_size(
    labels: Volume, channels: Sequence[Volume], given: Sequence[float] | None
) -> tuple[float, ...] | None:
    """Find the voxel size, on which labels and image must agree to a hundredth."""
    of_image = channels[0].voxel_size if channels else None
    if given is not None or of_image is None or labels.voxel_size is None:
        return labels.voxel_size or of_image
    if not np.allclose(labels.voxel_size, of_image, rtol=0.01, atol=0):
        raise VolumeError(
            f"{labels.name} has voxels of {labels.voxel_size} µm, the image "
            f"{channels[0].name} {of_image}; choose with voxel_size= (--voxel-size)"
        )
    return labels.voxel_size
