"""Images of any size and format, opened lazily: `open_volume` and `Volume`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import isfinite, prod
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import (
    MetadataError,
    UsageError,
    VolumeError,
)
from embedseg_large.geometry import Box
from embedseg_large.options import takes
from embedseg_large.storage.connection import is_remote, shown
from embedseg_large.volumes.axes import (
    CANONICAL,
    OTHER,
    SPATIAL,
    check_axes,
    default_axes,
    parse_axes,
    voxel_size_um,
)
from embedseg_large.volumes.header import Header, Level
from embedseg_large.volumes.nodata import AUTO, NoData, without_data
from embedseg_large.volumes.opening import Opening
from embedseg_large.volumes.readers import read_header
from embedseg_large.volumes.stored_array import Index, StoredArray

if TYPE_CHECKING:
    import dask.array as da

T = TypeVar("T")

logger = logging.getLogger(__name__)

_MOST_CHANNELS = 6
"""Maximum number of channels of a plane; more may be the planes of a stack."""
_MOST_VOXELS = 1 << 62
"""Maximum voxels of a timepoint and channel: voxel indices have 64 bits."""
_MOST_ALONG = {"t": 1_000_000, "c": 10_000}
"""Maximum number of timepoints or channels, which are listed one by one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """One level, channel and timepoint of an image, or several of them; voxels stay on disk.

    Created by `open_volume`. Pickled as a description: another process reopens the files.
    """

    storage: StoredArray
    """The level's array, all of its axes."""
    stored_axes: str
    """One letter for each stored axis: t, c, z, y, x, or ``_`` for another one of length 1."""
    units: tuple[str | None, ...]
    """Unit of each stored axis, as stored."""
    voxel_size: tuple[float, ...] | None
    """Distance between voxels in µm, in the order (z,) y, x; None if unknown."""
    path: str | None = field(repr=False)
    """Absolute path or URL of the image; None for an array in memory. A URL may be signed: display
    `name` instead."""
    level: int
    """Index into `levels`."""
    channel: int | None
    """The selected channel; None if `data` has a channel axis."""
    timepoint: int | None
    """The selected timepoint; None if `data` has a time axis."""
    levels: tuple[Level, ...]
    """Every resolution that the metadata list, finest first."""
    ngff_version: str | None
    """Version of the OME-Zarr metadata; None for other formats."""
    is_labels: bool
    """Whether the metadata declare the voxels to be labels."""
    channel_names: tuple[str, ...] = ()
    """Names of the stored channels; empty if the file has none."""
    images: tuple[str, ...] = ()
    """Axes, shape and type of each image in the file, if it can hold several."""
    image: int = 0
    """Index of this image among them."""
    nodata: NoData = AUTO
    """Which voxels hold no data."""
    identity: str = field(default_factory=lambda: token_hex(8), repr=False)
    """Identity of this opening: the next time, the file may be a different one."""
    opening: Opening = field(default_factory=Opening)
    """Options with which it was opened."""
    is_flat: bool = False
    """Whether a z axis of length 1 is ignored, see `flattened`."""

    def __str__(self) -> str:
        """Name, axes and shape, type and voxel size, in one line."""
        size = self.voxel_size
        spacing = "" if size is None else f", {' x '.join(f'{s:.4g}' for s in size)} µm"
        shape = " x ".join(str(n) for n in self.shape)
        return f"{self.name}: {self.axes} {shape}, {self.dtype}{spacing}"

    @property
    def name(self) -> str:
        """Its name in messages: path or URL without credentials, or "the array"."""
        return "the array" if self.path is None else shown(self.path)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Voxels along each stored axis of this level."""
        return self.storage.shape

    @property
    def axes(self) -> str:
        """Letters of the axes of `data`: z, y, x or y, x, after t and c if these are kept."""
        kept = {"t"} if self.timepoint is None else set()
        kept |= {"c"} if self.channel is None else set()
        return "".join(
            a for a in CANONICAL if a in self.spatial_axes or (a in self.stored_axes and a in kept)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `data`."""
        return self._along(self.axes, self.stored_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel, in native byte order."""
        return self.storage.dtype

    @property
    def spatial_axes(self) -> str:
        """``"zyx"`` or ``"yx"``."""
        return "".join(a for a in SPATIAL[self.is_flat :] if a in self.stored_axes)

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.spatial_axes)

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Voxels along (z,) y, x."""
        return self._along(self.spatial_axes, self.stored_shape)

    @property
    def n_channels(self) -> int:
        """Number of stored channels."""
        return self._length("c")

    @property
    def n_timepoints(self) -> int:
        """Number of stored timepoints."""
        return self._length("t")

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Spatial shape of a storage chunk (the inner one of a shard); None in memory."""
        chunks = self.storage.chunks
        return None if chunks is None else self._along(self.spatial_axes, chunks)

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Spatial shape of a shard; None if the array is not sharded."""
        shards = self.storage.shards
        return None if shards is None else self._along(self.spatial_axes, shards)

    @property
    def fill_value(self) -> Any:
        """Value of voxels that were never written; None if the format has no such concept."""
        return self.storage.fill_value

    @property
    def zarr_format(self) -> int | None:
        """2 or 3; None if the voxels are not in zarr."""
        return self.storage.zarr_format

    @cached_property
    def data(self) -> da.Array:
        """The voxels as a lazy dask array, with axes as in `axes` and one dask chunk per file."""
        import dask.array as da

        files = tuple(map(min, self.storage.files, self.stored_shape))
        stored = da.from_array(self.storage, chunks=files, asarray=False, fancy=False)
        chosen = stored[self._index(Box.whole(self.spatial_shape), self.timepoint)]
        data: da.Array = chosen.transpose(self._order(self.timepoint))
        return data

    @property
    def known_planes(self) -> dict[tuple[int | None, int], NDArray[np.bool_]]:
        """Whether planes (timepoint, z) are blank, as far as this process has looked.

        Tasks on the same volume share this, so that a process reads a blank plane only once.
        """
        return _known_planes(self.identity, self.level, self.channel, self.timepoint)

    def read(self, box: Box, timepoint: int | None = None) -> NDArray[Any]:
        """Read a region now.

        Parameters
        ----------
        box
            Region in voxels, in the order (z,) y, x; lies inside the volume.
        timepoint
            Needed if the volume has a time axis, and only then.

        Returns
        -------
        ndarray
            Shape ``box.shape``, or ``(channels, *box.shape)`` if no channel was chosen; type
            `dtype`.

        Raises
        ------
        CorruptChunkError
            If stored voxels cannot be decoded; the message names the chunk's file.
        UsageError
            If the box leaves the volume, or the timepoint is missing or wrong.
        """
        if box.ndim != self.ndim or not Box.whole(self.spatial_shape).contains(box):
            raise UsageError(f"box {box} is not inside the volume {self.spatial_shape}")
        at = self._timepoint(timepoint)
        return self.storage[self._index(box, at)].transpose(self._order(at))

    def flattened(self) -> Volume:
        """Treat a single plane as a 2D image; any other volume is returned unchanged.

        Axes and sizes then omit z; the stored array keeps its axes.
        """
        if self.is_flat or "z" not in self.stored_axes or self._length("z") > 1:
            return self
        size = None if self.voxel_size is None else self.voxel_size[1:]
        return replace(self, is_flat=True, voxel_size=size)

    def with_time(self) -> Volume:
        """The same volume with its time axis, if one of several timepoints was selected."""
        if self.timepoint is None or self.n_timepoints == 1:
            return self
        return replace(self, timepoint=None)

    def by_channel(self) -> tuple[Volume, ...]:
        """Each channel of `data` as a volume without a channel axis."""
        if self.channel is not None:
            return (self,)
        return tuple(replace(self, channel=channel) for channel in range(self.n_channels))

    @property
    def timepoints(self) -> tuple[int | None, ...]:
        """All timepoints of `data`, in order; just None if it has no time axis."""
        return tuple(range(self.n_timepoints)) if "t" in self.axes else (None,)

    @property
    def origin(self) -> tuple[float, ...]:
        """Position of the centre of the first voxel along the spatial axes.

        In µm, or in voxels if the voxel size is unknown; zeros if not stored. Voxel i lies at
        ``origin + i * voxel_size``, as in NGFF.
        """
        found = self.levels[self.level]
        if found.translation is None or found.scale is None:
            return (0.0,) * self.ndim
        known = zip(self.stored_axes, found.translation, found.scale, strict=True)
        voxels = {axis: shift / abs(step) for axis, shift, step in known if step}
        size = self.voxel_size or (1.0,) * self.ndim
        return tuple(voxels.get(a, 0.0) * s for a, s in zip(self.spatial_axes, size, strict=True))

    def at_level(self, level: int) -> Volume:
        """Open another level of the same image, channel and timepoint."""
        opening = replace(
            self.opening,
            channel=self.channel,
            timepoint=self.timepoint,
            level=level,
            voxel_size=None,  # that of the opened level
            nodata=self.nodata,
        )
        found = open_volume(self.path, **vars(opening))
        return found.flattened() if self.is_flat else found

    def time_or_depth(self) -> str | None:
        """Return a hint that timepoints or channels may be the planes of a stack.

        None if that is unlikely, as with a time between timepoints, or names of channels.
        """
        named = self.ngff_version is not None or self.opening.axes is not None
        if named or self._length("z") > 1:
            return None
        if self.n_timepoints > 1 and not _interval(self):
            axis, found = "t", f"{self.n_timepoints} timepoints of a single plane"
        elif self.n_channels > _MOST_CHANNELS and not self.channel_names:
            axis, found = "c", f"{self.n_channels} channels of a single plane"
        else:
            return None
        swapped = str.maketrans({axis: "z", "z": axis})
        letters = self.stored_axes.translate(swapped).replace(OTHER, "")
        return f"{self.name}: {found}; if these are the planes of a stack, say --axes {letters}"

    def without_data(
        self, box: Box, voxels: NDArray[Any], timepoint: int | None = None
    ) -> NDArray[np.bool_]:
        """Find the voxels of a region that hold no data (see `embedseg_large.volumes.nodata`).

        Parameters
        ----------
        box, timepoint
            As in `read`.
        voxels
            The result of `read` for them.

        Returns
        -------
        bool, of the shape of `voxels`.
        """
        return without_data(self, box, voxels, timepoint)

    def stamp(self, box: Box) -> int:
        """Return a number that changes when voxels of a region are rewritten.

        For volumes without a time axis; see `StoredArray.stamp`.
        """
        return self.storage.stamp(self._index(box, self._timepoint(None)))

    def describe(self) -> dict[str, Any]:
        """Collect everything known without reading voxels, as values that JSON can hold."""
        fill = self.fill_value
        return {
            "path": None if self.path is None else self.name,
            "ngff_version": self.ngff_version,
            "zarr_format": self.zarr_format,
            "is_labels": self.is_labels,
            "axes": self.axes,
            "shape": list(self.shape),
            "dtype": str(self.dtype),
            "voxel_size_um": None if self.voxel_size is None else list(self.voxel_size),
            "bytes": prod(self.shape) * self.dtype.itemsize,
            "stored_axes": self.stored_axes,
            "stored_shape": list(self.stored_shape),
            "channels": self.n_channels,
            "timepoints": self.n_timepoints,
            "channel_names": list(self.channel_names),
            "images": _numbered(self.images) if len(self.images) > 1 else [],
            "image": self.image if len(self.images) > 1 else None,
            "frame_interval": _interval(self),
            "translation": _translation(self),
            "channel": self.channel,
            "timepoint": self.timepoint,
            "chunks": None if self.chunks is None else list(self.chunks),
            "shards": None if self.shards is None else list(self.shards),
            "fill_value": None if fill is None else _json_number(fill),
            "level": self.level,
            "levels": [_describe_level(level) for level in self.levels],
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "data"}

    def _length(self, axis: str) -> int:
        return self.stored_shape[self.stored_axes.index(axis)] if axis in self.stored_axes else 1

    def _along(self, axes: str, values: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(values[self.stored_axes.index(a)]) for a in axes)

    def _timepoint(self, asked: int | None) -> int | None:
        if self.timepoint is None:
            if asked is None:
                raise UsageError(f"the volume has {self.n_timepoints} timepoints; choose one")
            return _checked("timepoint", asked, self.n_timepoints, self.path)
        if asked not in (None, self.timepoint):
            raise UsageError(f"the volume is timepoint {self.timepoint}, not {asked}")
        return self.timepoint

    def _index(self, box: Box, timepoint: int | None) -> Index:
        """Index the stored array with a box; a selected axis gets an integer."""
        at: dict[str, int | slice] = dict(zip(self.spatial_axes, box.slices, strict=True))
        at["c"] = slice(None) if self.channel is None else self.channel
        at["t"] = slice(None) if timepoint is None else timepoint
        return tuple(at.get(a, 0) for a in self.stored_axes)

    def _order(self, timepoint: int | None) -> tuple[int, ...]:
        """Find the transposition of what `_index` selects into the order t, c, z, y, x."""
        index = self._index(Box.whole(self.spatial_shape), timepoint)
        kept = [a for a, at in zip(self.stored_axes, index, strict=True) if isinstance(at, slice)]
        return tuple(kept.index(a) for a in CANONICAL if a in kept)


@takes(Opening)
def open_volume(source: Any, **options: Any) -> Volume:
    """Open an image or a label volume without reading its voxels.

    Parameters
    ----------
    source
        Path or URL of an OME-Zarr image (NGFF 0.1 to 0.6), of one of its label groups
        (``image.ome.zarr/labels/NAME``) or of a plain zarr array; path of a TIFF, of a PNG, or of a
        file that `bioio` reads; or a zarr, dask or numpy array. Of several multiscales or scenes,
        the first is used.
    **options

    Returns
    -------
    Volume
        Axes of length 1 other than z, y, x are dropped.

    Raises
    ------
    VolumeNotFoundError
        If nothing exists at that path, or there is no such level.
    MetadataError
        If it is not an image (a plate, a list of labels, ...), or the metadata are not usable.
    VolumeError
        If it is neither a zarr store nor a TIFF, or the voxels are not numbers.
    UsageError
        If an argument does not suit the image.
    """
    opening, path = Opening.of(options, "open_volume"), _path(source)
    header, storage = read_header(source if path is None else path, path, opening)
    return make_volume(header, storage, path, opening)


def make_volume(header: Header, storage: StoredArray, path: str | None, opening: Opening) -> Volume:
    """Assemble the results of a reader, and check that it is an image.

    Parameters
    ----------
    header, storage
        Metadata, and the array of the level.
    path
        Absolute path or URL; None for an array in memory.
    opening
        As in `open_volume`.

    Raises
    ------
    MetadataError, VolumeError, UsageError
        As for `open_volume`.
    """
    where, nodata = "the array" if path is None else shown(path), opening.nodata
    try:
        stored_axes = check_axes(_axes(opening.axes, header, storage, where), storage.shape, where)
    except MetadataError as error:
        raise MetadataError(f"{error}{_others(header)}") from None
    _check_dtype(storage.dtype, where)
    if prod(storage.shape) > _MOST_VOXELS:
        raise MetadataError(
            f"{where}: a shape of {storage.shape} has more than 2^62 voxels; restore the metadata"
        )
    sizes = dict(zip(stored_axes, storage.shape, strict=True))
    for axis, most in _MOST_ALONG.items():
        if sizes.get(axis, 1) > most:
            raise MetadataError(
                f"{where}: {sizes[axis]:,} elements along axis {axis}, more than {most:,}; restore "
                "the metadata, or pass the axes (--axes)"
            )
    return Volume(
        storage=storage,
        stored_axes=stored_axes,
        units=header.units if len(header.units) == len(stored_axes) else (None,) * len(stored_axes),
        voxel_size=_voxel_size(opening, header, stored_axes, where),
        path=path,
        level=opening.level,
        channel=_chosen(
            "channel", _channel(opening.channel, header.channels, where), sizes.get("c", 1), path
        ),
        timepoint=_chosen("timepoint", opening.timepoint, sizes.get("t", 1), path),
        levels=header.levels,
        ngff_version=header.ngff_version,
        is_labels=header.is_labels,
        channel_names=header.channels if len(header.channels) == sizes.get("c", 1) else (),
        images=header.images,
        image=header.image,
        nodata=nodata if isinstance(nodata, NoData) else NoData.parse(nodata),
        opening=opening,
    )


@lru_cache(maxsize=64)
def _known_planes(*_: object) -> dict[tuple[int | None, int], NDArray[np.bool_]]:
    """Return what a process knows about blank planes; the arguments identify the volume."""
    return {}


def _path(source: Any) -> str | None:
    """Return the absolute path or URL of a source; None if it is an array."""
    if not isinstance(source, str | os.PathLike):
        return None
    text = os.fspath(source)
    if is_remote(text):
        return text
    return str(Path(unquote(urlsplit(text).path) if "://" in text else text).absolute())


def _axes(asked: str | None, header: Header, storage: StoredArray, where: str) -> str:
    if asked is not None:
        return parse_axes(asked, storage.shape)
    return header.axes or default_axes(storage.ndim, where)


def _check_dtype(dtype: np.dtype[Any], where: str) -> None:
    if dtype.kind not in "buif":
        raise VolumeError(f"{where}: voxels of type {dtype} are not integers or floats")


def _voxel_size(
    opening: Opening, header: Header, axes: str, where: str
) -> tuple[float, ...] | None:
    """Take the voxel size in µm from the user, or else from the metadata."""
    given = opening.voxel_size
    ndim = sum(a in SPATIAL for a in axes)
    if given is None:
        size = voxel_size_um(axes, header.levels[opening.level].scale, header.units)
    else:
        size = tuple(float(step) for step in given)
        if len(size) != ndim:
            raise UsageError(
                f"{where}: {len(size)} voxel sizes given; it needs {ndim}, for {SPATIAL[-ndim:]}"
            )
    if size is not None and not all(isfinite(step) and step > 0 for step in size):
        if given is not None:
            raise UsageError(f"{where}: voxel size {size} µm is not positive; pass --voxel-size")
        logger.warning(
            "%s: ignoring the stored voxel size of %s µm; pass --voxel-size", where, size
        )
        return None
    return size


def _others(header: Header) -> str:
    """List the other images in the file."""
    if len(header.images) < 2:
        return ""
    images = "; ".join(_numbered(header.images))
    return (
        f". This is image {header.image} of {len(header.images)} in the file ({images}); "
        "choose with --series"
    )


def _channel(asked: int | str | None, names: Sequence[str], where: str) -> int | None:
    """Find the number of a channel requested by name."""
    if asked is None or not isinstance(asked, str):
        return asked
    if asked.isdigit():
        return int(asked)
    same = [i for i, name in enumerate(names) if name.casefold() == asked.casefold()]
    if len(same) != 1:
        known = f"names are {', '.join(names)}" if names else "its channels have no names"
        raise UsageError(f"{where}: {len(same) or 'no'} channel {asked!r}; {known}")
    return same[0]


def _chosen(what: str, asked: int | None, count: int, path: str | None) -> int | None:
    """Return the index along the channel or time axis; None if more than one is kept."""
    if asked is None:
        return None if count > 1 else 0
    return _checked(what, asked, count, path)


def _checked(what: str, asked: int, count: int, path: str | None) -> int:
    if not 0 <= asked < count:
        where = "the array" if path is None else shown(path)
        raise UsageError(f"{where}: no {what} {asked}, there are {count}, counted from 0")
    return int(asked)


def _json_number(value: Any) -> int | float | str:
    number = np.asarray(value).item()
    return number if isinstance(number, int) or isfinite(number) else str(number)


def _numbered(images: Sequence[str]) -> list[str]:
    return [f"{number}: {image}" for number, image in enumerate(images)]


def _interval(volume: Volume) -> str | None:
    """Time between timepoints and its unit, if both are stored."""
    scale = volume.levels[volume.level].scale
    if scale is None or "t" not in volume.stored_axes:
        return None
    at = volume.stored_axes.index("t")
    unit = volume.units[at]
    return None if unit is None else f"{scale[at]:g} {unit}"


def _translation(volume: Volume) -> list[float] | None:
    """Position of the first voxel along each spatial axis, in the units of the axes."""
    shift = volume.levels[volume.level].translation
    if shift is None:
        return None
    return [shift[volume.stored_axes.index(a)] for a in volume.spatial_axes]


def _describe_level(level: Level) -> dict[str, Any]:
    return {
        "path": level.path,
        "shape": None if level.shape is None else list(level.shape),
        "scale": None if level.scale is None else list(level.scale),
    }
