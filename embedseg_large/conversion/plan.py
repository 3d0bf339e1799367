"""Any image that can be opened becomes an OME-Zarr image with a pyramid, out of core.

1. Level 0 is copied region by region; regions are widened along x and y, because a page of a TIFF
is always decoded as a whole. 2. Each further level averages the previous one, and its translation
is that of the centres of the cells. 3. The group has a hidden name until it is complete.

Memory is bounded by the region (about 0.5 GB), not by the image. `write_image` does all of it at
once; `embedseg_large.conversion.convert` does it on workers, over as many attempts as it takes.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.conversion.options import WriteOptions
from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.storage.disk import check_writable, output_errors, replaced
from embedseg_large.storage.group import ZarrGroup
from embedseg_large.volumes.label_images import check_label_type
from embedseg_large.volumes.look import looks_like_labels
from embedseg_large.volumes.multiscale import (
    LevelSpec,
    MultiscaleStore,
    check_local,
    check_version,
    ngff_attributes,
)
from embedseg_large.volumes.pieces import check_count, pieces
from embedseg_large.volumes.pyramid import coarser_shape, halvings
from embedseg_large.volumes.volume import Volume, open_volume

Place = tuple[tuple[int, ...], Box]
"""The unit of one task: the position along t and c, and a spatial region."""

Mapper = Callable[[Callable[[Place], None], Iterable[Place]], Iterable[None]]
"""Applies a function to items, like the builtin `map`."""

_COPY_BYTES = 2**28
_COLORS = ("FF00FF", "00FF00", "00FFFF", "FFFF00", "FF0000", "0000FF")


def write_image(
    out: str | os.PathLike[str],
    source: Any,
    axes: str | None = None,
    voxel_size: Sequence[float] | None = None,
    ngff_version: str = "0.5",
    *,
    map: Mapper = map,
    **options: Any,
) -> None:
    """Write an array, or anything that `open_volume` reads, as an OME-Zarr image with a pyramid.

    Parameters
    ----------
    out
        Folder to create.
    source
        A numpy, dask or zarr array, or a path.
    axes
        Letters of its axes; default ``"yx"`` or ``"zyx"``.
    voxel_size
        Distance between voxels in µm along (z,) y, x; None if unknown.
    ngff_version
        ``"0.5"`` or ``"0.6"`` (zarr 3, sharded), or ``"0.4"`` (zarr 2).
    map
        Applies a picklable function to items, like the builtin; replace it to use more processes.
        The items of one call may run in any order.
    **options
        `chunks`, `channel_names`, `labels` and `overwrite`, as for `convert`.

    Raises
    ------
    UsageError, VolumeError, OutputError
        As `plan_conversion`, or if `out` cannot be written. Everything written is then removed.
    """
    asked = WriteOptions.of(options | {"ngff_version": ngff_version}, "write_image")
    volume = open_volume(source, channel=None, axes=axes, voxel_size=voxel_size)
    plan = plan_conversion(volume, out, asked)
    hidden = plan.final.with_name(f".{plan.final.name}-{secrets.token_hex(4)}")
    store = plan.store(hidden)
    try:
        store.create()
        for step in plan.steps(store):
            for _ in map(step.task, step.places()):
                pass
        plan.publish(store)
    except BaseException:  # an interrupt too
        shutil.rmtree(hidden, ignore_errors=True)
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Tasks that can run concurrently, in any order; the next step needs all of them."""

    name: str
    """``"copy"`` or ``"average"``."""
    level: int
    """The places they write."""
    task: Callable[[Place], None]
    """Picklable; repeating a place writes the same bytes."""
    store: MultiscaleStore

    def places(self) -> Iterator[Place]:
        """All places, always in the same order."""
        return ((lead, box) for lead in self.store.leads() for box in self._boxes())

    def count(self) -> int:
        """Number of places."""
        leads = prod(self.store.levels[0].shape[: -self.store.ndim])
        return leads * self._whole().count(self.cut)

    @property
    def cut(self) -> tuple[int, ...]:
        """Shape of the regions; those at the ends are smaller."""
        copies = self.level == 0
        return _copy_shape(self.store) if copies else self.store.layout(self.level).region

    def _boxes(self) -> Iterator[Box]:
        return pieces(self._whole(), self.cut, self.store.path)

    def _whole(self) -> Box:
        return Box.whole(self.store.spatial_shape(self.level))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What to write of an image, and where; created by `plan_conversion`."""

    volume: Volume
    """The source."""
    final: Path
    """Final path of the image."""
    ngff_version: str
    chunks: tuple[int, ...] | None
    channel_names: tuple[str, ...]
    """One per channel, or empty."""
    overwrite: bool
    """Whether an existing image may be replaced."""
    labels: bool = False
    """Whether it is written as labels."""
    sampled: bool = False
    """Whether coarse levels are sampled, not averaged: for labels, and volumes that look like
    labels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel: that of the source, but integers for labels stored as float."""
        own = self.volume.dtype
        whole = self.labels and own.kind == "f"
        return np.dtype(np.int32 if own.itemsize <= 4 else np.int64) if whole else own

    def store(self, folder: Path) -> MultiscaleStore:
        """The group in a hidden folder; in micrometres if the voxel size is known."""
        volume = self.volume
        stored = dict(zip(volume.stored_axes, volume.units, strict=True))
        known = dict.fromkeys(volume.spatial_axes, "micrometer" if volume.voxel_size else None)
        return MultiscaleStore(
            path=str(folder),
            ngff_version=self.ngff_version,
            axes=volume.axes,
            units=tuple((stored | known)[a] for a in volume.axes),
            dtype=self.dtype.name,
            levels=tuple(_levels(volume, self.sampled)),
            chunks=self.chunks,
            content="labels" if self.labels else "image",
        )

    def steps(self, store: MultiscaleStore) -> Iterator[Step]:
        """The steps that fill a group with existing arrays."""
        for level in range(len(store.levels)):
            coarse = _Coarser(store, level, self.sampled)
            task = _Copy(store, self.volume) if level == 0 else coarse
            yield Step(name="average" if level else "copy", level=level, task=task, store=store)

    def publish(self, store: MultiscaleStore) -> None:
        """Describe a filled group, and rename it to its final name; an existing one is removed.

        Raises
        ------
        OutputError
            If that fails; the older image then remains.
        """
        hidden = Path(store.path)
        more = {"image-label": {}} if self.labels else _omero(store, self.channel_names)
        name = self.final.name.split(".")[0]
        attributes = ngff_attributes(
            store, name=name, method="nearest" if self.sampled else "mean", more=more
        )
        ZarrGroup.at(hidden).describe(store.zarr_format, attributes)
        aside = hidden.with_name(f"{hidden.name}.old")
        with replaced(hidden, self.final, aside):
            pass
        with output_errors(aside):
            if aside.exists():
                shutil.rmtree(aside)


def plan_conversion(
    volume: Volume,
    out: str | os.PathLike[str],
    asked: WriteOptions,
    *,
    is_ours: bool = False,
) -> Conversion:
    """Check everything that can be checked before a voxel is read.

    Levels average cells of 2 voxels along y and x, and along z once its voxels are less than
    twice as long as those of y and x, until no axis is longer than 256 voxels. The dtype is kept.

    Parameters
    ----------
    volume
        The source, with all of its channels and timepoints.
    out
        Folder to create.
    asked
        How to store it.
    is_ours
        Whether the existing image was published by this conversion before it was killed.

    Raises
    ------
    UsageError
        If `out` exists, or an argument does not fit the image.
    VolumeError
        If it is to be written as labels, but cannot be labels.
    OutputError
        If `out` cannot be written.
    """
    check_version(asked.ngff_version)
    if asked.labels:
        check_label_type(volume, may_be_float=True)
    chunks, labels = asked.chunks, asked.labels
    if chunks is not None and (len(chunks) != volume.ndim or min(chunks) < 1):
        raise UsageError(f"chunks {tuple(chunks)} do not match {volume.ndim} spatial axes")
    names = _checked_names(asked.channel_names, volume)
    planned = Conversion(
        volume=volume,
        final=_free_place(os.fspath(out), overwrite=asked.overwrite, is_ours=is_ours),
        ngff_version=asked.ngff_version,
        chunks=None if chunks is None else tuple(chunks),
        channel_names=names,
        overwrite=asked.overwrite,
        labels=volume.is_labels if labels is None else labels,
        sampled=_looks_like_labels(volume) if labels is None else labels,
    )
    for step in planned.steps(planned.store(planned.final)):
        check_count(step.count(), volume.name)
    return planned


def _looks_like_labels(volume: Volume) -> bool:
    one = volume if volume.channel is not None else replace(volume, channel=0)
    return looks_like_labels(one)


def _checked_names(names: Sequence[str] | None, volume: Volume) -> tuple[str, ...]:
    if names is not None and len(names) != volume.n_channels:
        raise UsageError(
            f"{len(names)} channel names for {volume.n_channels} channels; pass one for each"
        )
    return tuple(names or volume.channel_names)


@contextmanager
def new_store(
    out: str | os.PathLike[str], *, overwrite: bool, also: Collection[str] = ()
) -> Iterator[Path]:
    """Fill a folder under a hidden name; it gets its own name, and replaces an older one, at last.

    Parameters
    ----------
    out
        Local path of the image.
    overwrite
        Whether an existing image may be replaced.
    also
        Names of members beside its levels that may be lost with it, such as ``"labels"``.

    Yields
    ------
    Path to write to, where nothing exists.

    Raises
    ------
    UsageError
        Before anything is written, if `out` exists and is not to be replaced.
    OutputError
        If it cannot be written; the older image then remains.
    """
    final = _free_place(os.fspath(out), overwrite=overwrite, also=also)
    hidden = final.with_name(f".{final.name}-{secrets.token_hex(4)}")
    try:
        with output_errors(hidden):
            hidden.mkdir(parents=True)
        yield hidden / final.name
        aside = hidden.with_name(f"{hidden.name}.old")  # not in `hidden`: it is kept if all fails
        with replaced(hidden / final.name, final, aside):
            pass
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _free_place(
    out: str, *, overwrite: bool, is_ours: bool = False, also: Collection[str] = ()
) -> Path:
    """Check that the folder can be created, or replaced losing nothing but an image."""
    final = check_local(out)
    if final.exists() and not (overwrite or is_ours):
        raise UsageError(f"{final} exists; choose another path, or replace it with --overwrite")
    if final.exists() and ZarrGroup.at(final).zarr_format() is None:
        raise UsageError(f"{final} is not a zarr group and is not replaced; choose another path")
    members = [name for name in _members_beside_levels(final) if name not in also]
    if members and not is_ours:
        raise UsageError(
            f"{final} holds more than an image ({', '.join(members[:5])}) and is not replaced; "
            "choose another path, or move that elsewhere"
        )
    check_writable(final.parent)
    return final


def _members_beside_levels(group: Path) -> list[str]:
    """Names of the groups and folders in a group, such as labels; arrays are levels."""
    if not group.is_dir():
        return []
    folders = (p for p in sorted(group.iterdir()) if p.is_dir() and not p.name.startswith("."))
    return [p.name for p in folders if not ZarrGroup.at(p).is_array()]


def _levels(volume: Volume, sampled: bool) -> Iterator[LevelSpec]:
    steps = volume.levels[volume.level].scale or (1.0,) * len(volume.stored_axes)
    scales = dict(zip(volume.stored_axes, steps, strict=True))
    if volume.voxel_size is not None:  # otherwise numbers without a unit, unchanged
        scales |= dict(zip(volume.spatial_axes, volume.voxel_size, strict=True))
    shift = _translation(volume, scales, steps)
    level = LevelSpec(volume.shape, tuple(scales[a] for a in volume.axes), shift)
    yield level
    ones = (1,) * (len(volume.axes) - volume.ndim)
    for factors in halvings(volume.spatial_shape, volume.voxel_size):
        level = _coarser_level(level, ones + factors, sampled)
        yield level


def _coarser_level(level: LevelSpec, factors: Sequence[int], sampled: bool) -> LevelSpec:
    """Describe the next level; the mean of a cell lies at its centre, a sample at its start."""
    shift = level.translation
    if not sampled:
        axes = zip(shift or (0.0,) * len(factors), factors, level.scale, strict=True)
        shift = tuple(start + (f - 1) / 2 * step for start, f, step in axes)
    shape = coarser_shape(level.shape, factors)
    scale = tuple(s * f for s, f in zip(level.scale, factors, strict=True))
    return LevelSpec(shape, scale, shift)


def _translation(
    volume: Volume, scales: dict[str, float], steps: Sequence[float]
) -> tuple[float, ...] | None:
    """Return the position of the first voxel, in the written units.

    It stays where it is if the stored step is negative, as in `Volume.origin`.
    """
    shift = volume.levels[volume.level].translation
    if shift is None:
        return None
    stored = dict(zip(volume.stored_axes, zip(shift, steps, strict=True), strict=True))
    return tuple(stored[a][0] * abs(scales[a] / stored[a][1]) for a in volume.axes)


def _copy_shape(store: MultiscaleStore) -> tuple[int, ...]:
    """Choose the part of level 0 that a task copies: whole regions, widened along x, then y."""
    region, shape = store.layout(0).region, store.spatial_shape(0)
    wide = list(region)
    for axis in (-1, -2):
        room = _COPY_BYTES // (prod(wide) * np.dtype(store.dtype).itemsize)
        wide[axis] *= min(max(1, room), -(-shape[axis] // region[axis]))
    return tuple(wide)


@dataclass(frozen=True)
class _Copy:
    """Copies a box of the source to level 0."""

    store: MultiscaleStore
    volume: Volume

    def __call__(self, place: Place) -> None:
        lead, box = place
        at = dict(zip(self.store.axes, lead, strict=False))
        one = replace(self.volume, channel=at["c"]) if "c" in at else self.volume
        voxels = one.read(box, at.get("t"))
        if voxels.dtype.kind == "f" and np.dtype(self.store.dtype).kind == "i":
            voxels = _whole_numbers(voxels, np.dtype(self.store.dtype), self.volume.name, box)
        self.store.write(0, box, voxels, lead)


def _whole_numbers(
    voxels: NDArray[Any], dtype: np.dtype[Any], where: str, box: Box
) -> NDArray[Any]:
    """Convert labels stored as float to integers.

    Raises
    ------
    VolumeError
        If one is not a whole number, or too large; the message names the voxel.
    """
    limits = np.iinfo(dtype)
    wrong = ~((voxels == np.rint(voxels)) & (voxels >= limits.min) & (voxels < limits.max))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        voxel = tuple(a + i for a, i in zip(box.start, at, strict=True))
        raise VolumeError(
            f"{where}: voxel {voxel} is {voxels[at]:g}, which is not a label: labels are whole "
            "numbers; pass the label image, or leave out --labels"
        )
    return voxels.astype(dtype)


@dataclass(frozen=True)
class _Coarser:
    """Computes a box of a level from the finer one: labels are sampled, others averaged."""

    store: MultiscaleStore
    level: int
    sampled: bool

    def __call__(self, place: Place) -> None:
        lead, box = place
        make = self.store.sample if self.sampled else self.store.average
        make(self.level, box, lead)


def _omero(store: MultiscaleStore, names: Sequence[str]) -> dict[str, Any]:
    """Name the channels; NGFF also requires a display range, taken from the coarsest level."""
    channels = [
        {
            "label": name,
            "color": "FFFFFF" if len(names) == 1 else _COLORS[channel % len(_COLORS)],
            "active": True,
            "window": _display_range(store, channel),
        }
        for channel, name in enumerate(names)
    ]
    return {"omero": {"channels": channels}} if channels else {}


def _display_range(store: MultiscaleStore, channel: int) -> dict[str, float]:
    low, high = _extremes(store, channel)
    dtype = np.dtype(store.dtype)
    limits = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else None
    bounds = (low, high) if limits is None else (float(limits.min), float(limits.max))
    return {"min": bounds[0], "max": bounds[1], "start": low, "end": high}


def _extremes(store: MultiscaleStore, channel: int) -> tuple[float, float]:
    """Darkest and brightest finite voxel of the coarsest level; 0 and 1 if there is none.

    JSON has no NaN and no infinity.
    """
    last = len(store.levels) - 1
    box = Box.whole(store.spatial_shape(last))
    low, high = inf, -inf
    for lead in store.leads():
        if "c" in store.axes and lead[-1] != channel:
            continue
        voxels = store.read(last, box, lead)
        finite = voxels[np.isfinite(voxels)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 1.0)
