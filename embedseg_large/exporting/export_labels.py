"""Write a label volume for other programs: TIFF, ImageJ ROIs, OBJ or STL, by the suffix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError, VolumeNotFoundError
from embedseg_large.exporting.boxes import boxes_of
from embedseg_large.exporting.label_tiff import (
    LabelTiff,
    dtype_for,
    largest_label,
    slabs,
    timepoints_of,
)
from embedseg_large.exporting.meshes import (
    check_boxes,
    check_meshes,
    meshes_of,
    write_obj,
    write_stl,
)
from embedseg_large.exporting.options import Drawing, ExportOptions
from embedseg_large.exporting.rois import check_rois, write_rois
from embedseg_large.geometry import Box
from embedseg_large.labels.published import other_labels, place_of_labels
from embedseg_large.options import takes
from embedseg_large.storage.connection import joined, shown
from embedseg_large.storage.disk import check_file, refuse_url
from embedseg_large.volumes.label_images import check_label_type
from embedseg_large.volumes.pieces import check_count
from embedseg_large.volumes.volume import Volume, open_volume

_PIECE = 4096
"""Edge of a piece of a plane, of which there is a limited number."""

Format = Literal["tiff", "rois", "obj", "stl"]
ENDINGS: dict[str, Format] = {
    ".tif": "tiff",
    ".tiff": "tiff",
    ".zip": "rois",
    ".obj": "obj",
    ".stl": "stl",
}
"""Kind of file, by suffix."""
_FIELDS: dict[Format, tuple[str, ...]] = {
    "tiff": ("t",),
    "rois": ("t",),
    "obj": ("t", "label"),
    "stl": ("t", "label"),
}
"""Fields in a file name: one file per timepoint, or per instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedLabels:
    """Written files."""

    format: Format
    files: tuple[str, ...]
    """Paths, in the order of timepoints and labels."""
    count: int | None
    """Number of ROIs or meshes; None for TIFFs."""
    unit: str
    """Unit of lengths in the files: ``µm``, or ``voxels`` if the voxel size is unknown."""

    def as_dict(self) -> dict[str, Any]:
        """The same as values that JSON can hold."""
        return asdict(self) | {"files": list(self.files)}


@takes(ExportOptions)
def export_labels(labels: Any, out: str | os.PathLike[str], **options: Any) -> ExportedLabels:
    """Write labels for other programs, with a few planes, or the box of one instance, in memory.

    Meshes also take about 20 bytes of memory per instance. Negative labels, which mark unannotated
    voxels, count as background.

    Parameters
    ----------
    labels
        Label group (``STORE/labels/NAME``), TIFF, array; or an image with one label group inside.
    out
        File to write; its suffix selects the format: ``.tif`` labels, ``.zip`` ImageJ ROIs for
        each plane, ``.obj`` or ``.stl`` meshes. With ``{t}`` in the name, one file per timepoint;
        for meshes with ``{label}``, one file per instance, such as ``"cells/{label:05d}.obj"``.
    **options

    Returns
    -------
    ExportedLabels

    Raises
    ------
    UsageError
        Before anything is written: if the suffix, a field of the name or an option cannot be used,
        an instance does not exist, a package is missing, or a file exists and `overwrite` is false.
        With ``{t}`` and ``{label}``, files of later timepoints are found when their turn comes.
    VolumeError
        If the labels cannot be read, or are not labels.
    OutputError
        If a file cannot be written.
    """
    asked, name = ExportOptions.of(options, "export_labels"), os.fspath(out)
    refuse_url(name)
    kind = _format(name)
    volume = _open(labels, asked)
    times = timepoints_of(volume, asked.timepoint)
    fields = _fields(name, kind, times)
    _check_options(kind, asked, volume, Path(name))
    planes = (*(1 for _ in volume.spatial_shape[:-2]), *(_PIECE,) * 2)
    check_count(len(times) * Box.whole(volume.spatial_shape).count(planes), volume.name)
    keep = None if asked.instances is None else _found(volume, times, asked.instances)
    files = _OutputFiles(name, fields, asked.overwrite)
    job = _Export(volume=volume, keep=keep, draw=asked.draw, smooth=asked.smooth, files=files)
    groups = [(t,) for t in times] if "t" in fields else [times]
    for group in groups:
        files.check_place(group[0])
    write = {"tiff": job.tiff, "rois": job.rois}.get(kind, job.meshes)
    counts = [write(group) for group in groups]
    return ExportedLabels(
        format=kind,
        files=tuple(files.written),
        count=None if kind == "tiff" else sum(counts),
        unit=_unit(volume),
    )


# Checks -----------------------------------------------------------------------------------------


def _format(name: str) -> Format:
    kind = ENDINGS.get(Path(name).suffix.lower())
    if kind is None:
        raise UsageError(
            f"{name}: labels are written as {', '.join(ENDINGS)}; use one of these suffixes"
        )
    return kind


def _open(labels: Any, asked: ExportOptions) -> Volume:
    place = labels
    if isinstance(labels, str | os.PathLike):
        source = os.fspath(labels)
        one_of_them = f"pass one of them, such as {shown(joined(source, 'labels/NAME'))}"
        place = place_of_labels(source, None, one_of_them)
    try:
        found = open_volume(
            place, channel=None, level=asked.level, axes=asked.axes, voxel_size=asked.voxel_size
        )
    except VolumeNotFoundError as error:
        raise VolumeNotFoundError(f"{error}{other_labels(str(place))}") from error
    check_label_type(found)
    return found


def _fields(name: str, kind: Format, times: Sequence[int | None]) -> tuple[str, ...]:
    """The fields of a name."""
    try:
        found = tuple(f for _, f, _, _ in Formatter().parse(name) if f is not None)
        name.format(t=0, label=0)
    except (ValueError, LookupError, AttributeError):
        found = ("",)
    wrong = sorted(set(found) - set(_FIELDS[kind]))
    if wrong:
        allowed = " or ".join(f"{{{field}}}" for field in _FIELDS[kind])
        raise UsageError(f"{name}: a name of this kind may have {allowed}, such as {{t:03d}}")
    if kind in ("obj", "stl") and len(times) > 1 and "t" not in found:
        raise UsageError(
            f"{name}: there are {len(times)} timepoints; put {{t}} into the name to write one "
            "file each, or choose one with --timepoint"
        )
    return found


def _check_options(kind: Format, asked: ExportOptions, volume: Volume, path: Path) -> None:
    draw, smooth = asked.draw, asked.smooth
    if draw not in get_args(Drawing):
        raise UsageError(f"draw is {draw!r}; use {', '.join(get_args(Drawing))}")
    if draw != "labels" and kind != "tiff":
        raise UsageError(f"{path}: --draw applies only to TIFFs; leave it out")
    if not 0 <= smooth <= 10:
        raise UsageError(f"smooth is {smooth} voxels; use 0 to 10")
    if smooth and kind not in ("obj", "stl"):
        raise UsageError(f"{path}: --smooth applies only to meshes; leave it out")
    if kind == "rois":
        check_rois(path)
    elif kind in ("obj", "stl"):
        check_meshes(path, volume)


def _found(
    volume: Volume, times: Sequence[int | None], instances: Sequence[int]
) -> NDArray[np.uint64]:
    """The requested instances, ascending; all of them must exist."""
    if not len(instances) or min(instances) < 1:
        raise UsageError("instances are chosen by their labels, which are 1 or more")
    missing = set(map(int, instances))
    for timepoint in times:
        for slab in slabs(volume, timepoint, 1):
            missing -= set(np.unique(slab.labels).tolist())
            if not missing:
                return np.array(sorted(set(instances)), np.uint64)
    some = ", ".join(map(str, sorted(missing)[:5]))
    raise UsageError(f"{volume.name}: no instance {some}; choose others with --instances")


# Work -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _OutputFiles:
    """Names of files, and which of them were written."""

    name: str
    fields: tuple[str, ...]
    overwrite: bool
    written: list[str] = field(default_factory=list)

    def path(self, timepoint: int | None, label: int = 0) -> Path:
        """The path of a file."""
        return Path(self.name.format(t=timepoint or 0, label=label) if self.fields else self.name)

    def check_place(self, timepoint: int | None) -> None:
        """Refuse a name before anything is read; those of instances are not known yet."""
        if "label" not in self.fields:
            self.check(timepoint)
        elif self.path(timepoint).parent == self.path(timepoint, 1).parent:
            check_file(self.path(timepoint))

    def check(self, timepoint: int | None, label: int = 0) -> Path:
        """The path of a file that may be written."""
        path = self.path(timepoint, label)
        check_file(path)
        self.check_free(path)
        return path

    def check_free(self, path: Path) -> None:
        """Refuse a file that is there and may not be replaced."""
        if path.exists() and not self.overwrite:
            raise UsageError(f"{path} exists; choose another name, or replace it with --overwrite")

    def begun(self, timepoint: int | None, label: int = 0) -> Path:
        """The path of a file that is about to be written."""
        path = self.check(timepoint, label)
        self.written.append(str(path))
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Export:
    """What is written."""

    volume: Volume
    keep: NDArray[np.uint64] | None
    draw: Drawing
    smooth: float
    files: _OutputFiles

    def tiff(self, times: Sequence[int | None]) -> int:
        """Write a TIFF of some timepoints."""
        path = self.files.begun(times[0])
        dtype: np.dtype[Any]
        if self.draw != "labels":
            dtype = np.dtype(np.uint8)
        elif self.keep is not None:
            dtype = dtype_for(int(self.keep[-1]), self.volume.name)
        elif self.volume.dtype.itemsize <= 2 and self.volume.dtype.kind == "u":
            dtype = np.dtype(np.uint16)
        else:
            dtype = dtype_for(largest_label(self.volume, times), self.volume.name)
        LabelTiff(
            labels=self.volume,
            timepoints=tuple(times),
            dtype=dtype,
            draw=self.draw,
            keep=self.keep,
        ).write(path)
        return 1

    def rois(self, times: Sequence[int | None]) -> int:
        """Write the ROIs of some timepoints."""
        return write_rois(self.volume, times, self.files.begun(times[0]), self.keep)

    def meshes(self, times: Sequence[int | None]) -> int:
        """Write the meshes of a timepoint."""
        (timepoint,) = times
        boxes = boxes_of(self.volume, timepoint, self.keep)
        check_boxes(self.volume, boxes)
        found = meshes_of(self.volume, timepoint, boxes, self.smooth)
        path = self.files.path(timepoint)
        write = write_obj if path.suffix.lower() == ".obj" else write_stl
        if "label" not in self.files.fields:
            return write(found, self.files.begun(timepoint), _ascii_unit(self.volume))
        for label in map(int, boxes.labels):
            self.files.check_free(self.files.path(timepoint, label))
        count = 0
        for mesh in found:
            place = self.files.begun(timepoint, mesh.label)
            count += write(iter([mesh]), place, _ascii_unit(self.volume))
        return count


def _unit(volume: Volume) -> str:
    return "voxels" if volume.voxel_size is None else "µm"


def _ascii_unit(volume: Volume) -> str:
    return "voxels" if volume.voxel_size is None else "micrometers"
