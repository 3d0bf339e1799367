"""Any image that `open_volume` reads becomes an OME-Zarr image with a pyramid, out of core.

1. Level 0 is copied region by region; regions are widened along x and y, since a page of a TIFF
   is decoded as a whole, however little of it is wanted.
2. Each further level averages the one before it.
3. The group has a hidden name until it is complete.

Memory is bounded by the region (about 0.5 GB), not by the image.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.io.group import (
    check_writable,
    group_format,
    output_errors,
    replaced,
    write_group,
)
from embedseg_large.io.pyramid import coarser_shape, halvings
from embedseg_large.io.volume import Volume, open_volume
from embedseg_large.io.writer import (
    LevelSpec,
    MultiscaleStore,
    check_local,
    check_version,
    ngff_attributes,
)

Place = tuple[tuple[int, ...], Box]
"""What one task writes: the position along t and c, and a spatial region."""

Mapper = Callable[[Callable[[Place], None], Iterable[Place]], Iterable[None]]
"""Applies a function to items, like the builtin `map`."""

_COPY_BYTES = 2**28
_COLORS = ("FF00FF", "00FF00", "00FFFF", "FFFF00", "FF0000", "0000FF")


def convert(
    source: Any,
    out: str | os.PathLike[str],
    *,
    axes: str | None = None,
    voxel_size: Sequence[float] | None = None,
    ngff_version: str = "0.5",
    chunks: Sequence[int] | None = None,
    overwrite: bool = False,
    channel_names: Sequence[str] | None = None,
    map: Mapper = map,
) -> None:
    """Write an image as OME-Zarr, with every channel and timepoint.

    Levels average cells of 2 voxels along y and x, and along z once its voxels are less than
    twice as long as those of y and x, until no axis is longer than 256 voxels. The dtype is kept.

    Parameters
    ----------
    source
        A TIFF, OME-TIFF or ImageJ TIFF, or whatever else `open_volume` reads.
    out
        Folder to create.
    axes, voxel_size
        As in `open_volume`: override what the source says.
    ngff_version
        ``"0.5"`` (zarr 3, sharded) or ``"0.4"`` (zarr 2).
    chunks
        Chunk shape along (z,) y, x; default 64³ or 512² in shards, 128³ or 1024² for 0.4.
    overwrite
        Whether a zarr group that is there may be replaced; it is kept until the new one is whole.
    channel_names
        One name a channel; viewers show them.
    map
        Applies a picklable function to items, like the builtin; replace it to use more processes.
        The items of one call may run in any order.

    Raises
    ------
    UsageError
        If `out` exists, or an argument does not fit the image.
    VolumeError
        If the source cannot be read.
    OutputError
        If `out` cannot be written.
    """
    check_version(ngff_version)
    volume = open_volume(source, channel=None, timepoint=None, axes=axes, voxel_size=voxel_size)
    names = _checked_names(channel_names, volume)
    final = _free_place(os.fspath(out), overwrite)
    hidden = final.with_name(f".{final.name}-{secrets.token_hex(4)}")
    store = _store(volume, hidden, ngff_version, chunks)
    try:
        _fill(store, volume, map)
        attributes = ngff_attributes(
            store, name=final.name.split(".")[0], method="mean", more=_omero(store, names)
        )
        write_group(hidden, store.zarr_format, attributes)
        aside = hidden.with_name(f"{hidden.name}.old")
        with replaced(hidden, final, aside):
            pass
    except BaseException:  # an interrupt too
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    with output_errors(aside):
        if aside.exists():
            shutil.rmtree(aside)


def write_image(
    out: str | os.PathLike[str],
    array: Any,
    axes: str | None = None,
    voxel_size: Sequence[float] | None = None,
    ngff_version: str = "0.5",
    **more: Any,
) -> None:
    """Write an array as an OME-Zarr image with a pyramid.

    Parameters
    ----------
    out
        Folder to create.
    array
        A numpy, dask or zarr array.
    axes
        Letters of its axes; default ``"yx"`` or ``"zyx"``.
    voxel_size
        Distance between voxels in µm along (z,) y, x; None if unknown.
    ngff_version
        ``"0.5"`` or ``"0.4"``.
    **more
        Further arguments of `convert`.

    Raises
    ------
    UsageError, VolumeError, OutputError
        As `convert`.
    """
    convert(array, out, axes=axes, voxel_size=voxel_size, ngff_version=ngff_version, **more)


def _checked_names(names: Sequence[str] | None, volume: Volume) -> tuple[str, ...]:
    if names is not None and len(names) != volume.n_channels:
        raise UsageError(
            f"{len(names)} channel names for {volume.n_channels} channels; give one for each"
        )
    return tuple(names or ())


def _free_place(out: str, overwrite: bool) -> Path:
    """Check that the folder can be made, or replaced without losing anything but a zarr group."""
    final = check_local(out)
    if final.exists() and not overwrite:
        raise UsageError(f"{final} exists; choose another place, or pass overwrite to replace it")
    if final.exists() and group_format(final) is None:
        raise UsageError(f"{final} is no zarr group and is not replaced; choose another place")
    check_writable(final.parent)
    return final


def _store(
    volume: Volume, folder: Path, ngff_version: str, chunks: Sequence[int] | None
) -> MultiscaleStore:
    """Plan the group: the axes of the volume, in micrometres where the voxel size is known."""
    stored = dict(zip(volume.stored_axes, volume.units, strict=True))
    known = dict.fromkeys(volume.spatial_axes, "micrometer" if volume.voxel_size else None)
    if chunks is not None and (len(chunks) != volume.ndim or min(chunks) < 1):
        raise UsageError(f"chunks {tuple(chunks)} do not fit {volume.ndim} spatial axes")
    return MultiscaleStore(
        path=str(folder),
        ngff_version=ngff_version,
        axes=volume.axes,
        units=tuple((stored | known)[a] for a in volume.axes),
        dtype=volume.dtype.name,
        levels=tuple(_levels(volume)),
        chunks=None if chunks is None else tuple(chunks),
    )


def _levels(volume: Volume) -> Iterator[LevelSpec]:
    steps = volume.levels[volume.level].scale or (1.0,) * len(volume.stored_axes)
    scales = dict(zip(volume.stored_axes, steps, strict=True))
    scales |= dict(zip(volume.spatial_axes, volume.voxel_size or (1.0,) * volume.ndim, strict=True))
    level = LevelSpec(volume.shape, tuple(scales[a] for a in volume.axes))
    yield level
    ones = (1,) * (len(volume.axes) - volume.ndim)
    for factors in halvings(volume.spatial_shape, volume.voxel_size):
        shape = coarser_shape(level.shape, ones + factors)
        scale = tuple(s * f for s, f in zip(level.scale, ones + factors, strict=True))
        level = LevelSpec(shape, scale)
        yield level


def _fill(
    store: MultiscaleStore,
    volume: Volume,
    map: Mapper,
) -> None:
    store.create()
    for level in range(len(store.levels)):
        task = _Copy(store, volume) if level == 0 else _Average(store, level)
        shape = _copy_shape(store) if level == 0 else store.layout(level).region
        boxes = list(Box.whole(store.spatial_shape(level)).split(shape))
        for _ in map(task, ((lead, box) for lead in store.leads() for box in boxes)):
            pass


def _copy_shape(store: MultiscaleStore) -> tuple[int, ...]:
    """Choose how much of level 0 a task copies: whole regions, widened along x, then y."""
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
        self.store.write(0, box, one.read(box, at.get("t")), lead)


@dataclass(frozen=True)
class _Average:
    """Computes a box of a level from the finer one."""

    store: MultiscaleStore
    level: int

    def __call__(self, place: Place) -> None:
        lead, box = place
        self.store.average(self.level, box, lead)


def _omero(store: MultiscaleStore, names: Sequence[str]) -> dict[str, Any]:
    """Name the channels; NGFF wants a display range as well, taken from the coarsest level."""
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
    last = len(store.levels) - 1
    box = Box.whole(store.spatial_shape(last))
    leads = [at for at in store.leads() if "c" not in store.axes or at[-1] == channel]
    values = [store.read(last, box, lead) for lead in leads]
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    dtype = np.dtype(store.dtype)
    limits = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else None
    bounds = (low, high) if limits is None else (float(limits.min), float(limits.max))
    return {"min": bounds[0], "max": bounds[1], "start": low, "end": high}
