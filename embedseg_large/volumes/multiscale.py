"""Multiscale OME-Zarr groups on disk, filled one region at a time; images and labels share this.

1. `MultiscaleStore.create` writes the metadata of every array, before any voxel.
2. Tasks, in any process and any order, each fill whole `regions` of level 0: no two of them touch
the same file, because two writers of one shard corrupt it. 3. When a level is complete, tasks
compute the regions of the next one from it. 4. `ngff_attributes` describes the levels; the owner of
the group writes it last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import PlaceError, RunError, UsageError
from embedseg_large.files import is_url
from embedseg_large.geometry import Box
from embedseg_large.storage.arrays import create_array, open_array
from embedseg_large.storage.connection import is_remote, joined, shown
from embedseg_large.storage.disk import output_errors
from embedseg_large.storage.group import ZarrGroup
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.axes import SPATIAL
from embedseg_large.volumes.coordinate_systems import VERSION as WITH_SYSTEMS
from embedseg_large.volumes.coordinate_systems import CoordinateFrame, with_systems
from embedseg_large.volumes.pyramid import (
    axis_factor,
    cell_source,
    is_central,
    mean_pool,
    mode_pool,
    nearest_source,
    pick,
)

ZARR_FORMATS: Mapping[str, Literal[2, 3]] = {"0.4": 2, "0.5": 3, "0.6": 3}
"""The zarr format of each NGFF version that is written."""

Reader = Callable[[Box], NDArray[Any]]
"""Returns the voxels of a spatial region of a level."""

_CHUNK = {(2, 2): 1024, (2, 3): 128, (3, 2): 512, (3, 3): 64}  # by zarr format and ndim
_REGION = {2: 2048, 3: 256}  # by ndim
_AXIS_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_PIECE = {2: 2048, 3: 256}  # edge of the region of the finer level that a reduction reads at once


@dataclass(frozen=True, slots=True)
class LevelSpec:
    """One level of a multiscale group, over all axes of the group."""

    shape: tuple[int, ...]
    """Voxels along each axis."""
    scale: tuple[float, ...]
    """Size of a voxel along each axis, in the units of the axes."""
    translation: tuple[float, ...] | None = None
    """Position of the first voxel along each axis, in the units of the axes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Division of one level into files, over its spatial axes."""

    chunks: tuple[int, ...]
    """Smallest unit that can be decoded separately."""
    region: tuple[int, ...]
    """Unit written by one task: a shard of zarr 3, or a group of whole chunks of zarr 2."""


def layout(shape: Sequence[int], zarr_format: int, chunks: Sequence[int] | None = None) -> Layout:
    """Chunks and regions of a level.

    Parameters
    ----------
    shape
        Voxels along the spatial axes, two or three.
    zarr_format
        2 or 3.
    chunks
        Chunk shape; default 64³ or 512² voxels in shards (zarr 3), 128³ or 1024² without
        (zarr 2). Never larger than the level.

    Returns
    -------
    Layout
        Regions of about 256³ or 2048² voxels, and no larger than the level needs.
    """
    ndim = len(shape)
    edges = (_CHUNK[zarr_format, ndim],) * ndim if chunks is None else tuple(chunks)
    cells = tuple(min(c, n) for c, n in zip(edges, shape, strict=True))
    repeats = (
        min(max(1, _REGION[ndim] // c), -(-n // c)) for c, n in zip(cells, shape, strict=True)
    )
    return Layout(cells, tuple(c * r for c, r in zip(cells, repeats, strict=True)))


@dataclass(frozen=True, kw_only=True)
class MultiscaleStore:
    """A multiscale group on a disk or in a bucket, reopened in every process; picklable."""

    path: str = field(repr=False)
    """Folder or URL of the group."""
    ngff_version: str
    """``"0.4"`` (zarr 2), ``"0.5"`` or ``"0.6"`` (zarr 3, sharded)."""
    axes: str
    """Letters of the axes, t and c before (z,) y, x."""
    units: tuple[str | None, ...]
    """Unit of each axis."""
    dtype: str
    """Name of the dtype of all levels."""
    levels: tuple[LevelSpec, ...]
    """Finest first; level k is stored in the array ``str(k)`` plus `suffix`."""
    chunks: tuple[int, ...] | None = None
    """Spatial chunk shape; None for the default of `layout`."""
    suffix: str = ""
    """Suffix of the array names, for groups with the arrays of two runs."""
    content: Literal["image", "labels"] = "image"
    """Determines the compression of chunks."""

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return sum(axis in SPATIAL for axis in self.axes)

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """2 or 3."""
        return ZARR_FORMATS[self.ngff_version]

    def spatial_shape(self, level: int) -> tuple[int, ...]:
        """Voxels of a level along (z,) y, x."""
        return self.levels[level].shape[-self.ndim :]

    def layout(self, level: int) -> Layout:
        """How a level is cut into files."""
        return layout(self.spatial_shape(level), self.zarr_format, self.chunks)

    def regions(self, level: int, about: Box | None = None) -> Iterator[Box]:
        """Cut a level into regions, in raster order; each may be written by one task.

        Parameters
        ----------
        level
            Which level.
        about
            Part of level 0: only regions that overlap with it. None: all.
        """
        whole, region = Box.whole(self.spatial_shape(level)), self.layout(level).region
        if about is None:
            return whole.split(region)
        return self._shown(about, level).rounded_out(region).intersect(whole).split(region)

    def _shown(self, box: Box, level: int) -> Box:
        """The region of another level that shows a box of level 0, plus at most one voxel."""
        if level == 0:
            return box
        shapes = (self.spatial_shape(0), self.spatial_shape(level))
        factors = [n / m for n, m in zip(*shapes, strict=True)]
        start = (int(a / f) for a, f in zip(box.start, factors, strict=True))
        stop = (-int(-b // f) for b, f in zip(box.stop, factors, strict=True))
        return Box(tuple(start), tuple(stop)).grow((1,) * self.ndim).clip(shapes[1])

    def leads(self) -> Iterator[tuple[int, ...]]:
        """List the positions along the axes before (z,) y, x: timepoints and channels."""
        return product(*(range(n) for n in self.levels[0].shape[: -self.ndim]))

    def create(self) -> None:
        """Create the group and all of its arrays; existing ones are kept.

        In a bucket, where nothing can be renamed, only the arrays are created: the document of the
        group is written last, by its owner, so that an incomplete group is never mistaken for a
        complete one.

        Raises
        ------
        OutputError
            If they cannot be written.
        RunError
            If an array exists with another shape or dtype, or other files.
        """
        if not is_remote(self.path):
            ZarrGroup.at(self.path).write(self.zarr_format, {})
        for level in range(len(self.levels)):
            with output_errors(self.path):
                self._create_array(level)

    def read(self, level: int, box: Box, lead: tuple[int, ...] = ()) -> NDArray[Any]:
        """Read a region of a level.

        Parameters
        ----------
        level
            Which level.
        box
            Spatial region.
        lead
            Position along each axis before (z,) y, x.

        Returns
        -------
        ndarray
            Shape ``box.shape``.
        """
        return np.asarray(self._open(level, "r")[(*lead, *box.slices)])

    def write(self, level: int, box: Box, values: NDArray[Any], lead: tuple[int, ...] = ()) -> None:
        """Write voxels that fill whole regions.

        Parameters
        ----------
        level
            Which level.
        box
            One region of `regions`, or a box of several.
        values
            Shape ``box.shape``.
        lead
            Position along each axis before (z,) y, x.

        Raises
        ------
        OutputError
            If they cannot be written: read-only, disk full.
        RunError
            If the box shares a file with voxels outside of it, or an integer does not fit.
        """
        self._check_region(level, box)
        if values.shape != box.shape:
            raise RunError(f"{self.path}: voxels of shape {values.shape} do not fill {box}")
        values = checked_cast(values, np.dtype(self.dtype))
        with output_errors(self.path):
            self._open(level, "r+")[(*lead, *box.slices)] = values

    def sample(
        self, level: int, box: Box, lead: tuple[int, ...] = (), finer: Reader | None = None
    ) -> None:
        """Compute labels of a region of a level from those of the finer one, and write them.

        They lie where the metadata place the level's voxels. Along an axis on which these are the
        centres of cells, the most frequent label of a cell (`pyramid.mode_pool`); along others, the
        voxel of `pyramid.source_indices`. The factors come from the scales if these explain the
        shapes. Reads at most 256³ (2048²) voxels of the finer level at once.

        Parameters
        ----------
        level, box, lead
            As for `write`.
        finer
            Function that returns voxels of the finer level, if faster than reading them.
        """
        factors, cells = self.factors(level), self._cells(level)
        look = finer or partial(self.read, level - 1, lead=lead)

        def sampled(piece: Box) -> NDArray[Any]:
            source, indices = self._sampled(level, piece)
            return mode_pool(pick(look(source), indices), cells, piece.start)

        self.write(level, box, self._reduced(box, factors, sampled), lead)

    def source(self, level: int, box: Box) -> Box:
        """Find the region of the finer level that `sample` reads for a box of a level."""
        return self._sampled(level, box)[0]

    def _sampled(self, level: int, box: Box) -> tuple[Box, tuple[NDArray[np.intp], ...]]:
        """The region that `sample` reads, and the voxels of it that it uses along each axis."""
        cells, fine = self._cells(level), self.spatial_shape(level - 1)
        axes = zip(cells, fine, self.spatial_shape(level), strict=True)
        needed = cell_source(box, cells, [a if n > 1 else b for n, a, b in axes])
        steps = [f / n for f, n in zip(self.factors(level), cells, strict=True)]
        return nearest_source(needed, steps, fine)

    def _cells(self, level: int) -> tuple[int, ...]:
        """Voxels of the finer level in a cell; 1 along axes on which a level is sampled."""
        fine, coarse = (self.levels[k] for k in (level - 1, level))
        zeros = (0.0,) * len(self.axes)
        starts = zip(fine.translation or zeros, coarse.translation or zeros, strict=True)
        axes = zip(starts, fine.scale, strict=True)
        offsets = [(b - a) / step if step else 0.0 for (a, b), step in axes][-self.ndim :]
        pairs = zip(self.factors(level), offsets, strict=True)
        return tuple(round(f) if is_central(f, offset) else 1 for f, offset in pairs)

    def average(self, level: int, box: Box, lead: tuple[int, ...] = ()) -> None:
        """Compute a region of a level as means of the finer one (whole factors), and write it."""
        factors = tuple(round(f) for f in self.factors(level))
        shape = self.spatial_shape(level - 1)

        def mean(piece: Box) -> NDArray[Any]:
            source = cell_source(piece, factors, shape)
            return mean_pool(self.read(level - 1, source, lead), factors)

        self.write(level, box, self._reduced(box, factors, mean), lead)

    def factors(self, level: int) -> tuple[float, ...]:
        """Voxels of the finer level per voxel of this level, for each axis."""
        fine, coarse = (self.levels[k] for k in (level - 1, level))
        ratios = (b / a if a > 0 else None for a, b in zip(fine.scale, coarse.scale, strict=True))
        axes = zip(fine.shape, coarse.shape, ratios, strict=True)
        return tuple(axis_factor(*axis) for axis in axes)[-self.ndim :]

    def _reduced(
        self, box: Box, factors: Sequence[float], reduce: Callable[[Box], NDArray[Any]]
    ) -> NDArray[Any]:
        """Fill a box piece by piece, so that memory does not grow with the factor."""
        values = np.empty(box.shape, self.dtype)
        for piece in box.split(tuple(max(1, int(_PIECE[self.ndim] / f)) for f in factors)):
            values[piece.slices_in(box)] = reduce(piece)
        return values

    def _check_region(self, level: int, box: Box) -> None:
        region, shape = self.layout(level).region, self.spatial_shape(level)
        axes = zip(box.start, box.stop, region, shape, strict=True)
        if not all(a % n == 0 and (b % n == 0 or b == size) for a, b, n, size in axes):
            raise RunError(f"{self.path}/{level}: {box} is not made of whole regions {region}")

    def array(self, level: int) -> str:
        """Name of the array of a level."""
        return f"{level}{self.suffix}"

    def _open(self, level: int, mode: Literal["r", "r+"]) -> Any:
        place = joined(self.path, self.array(level))
        return open_array(place, mode, self.zarr_format, durable=mode == "r+")

    def _create_array(self, level: int) -> None:
        place = joined(self.path, self.array(level))
        if folder_at(place).exists("zarr.json" if self.zarr_format == 3 else ".zarray"):
            self._check_array(level)
            return
        cut = self.layout(level)
        ones = (1,) * (len(self.axes) - self.ndim)
        create_array(
            place,
            shape=self.levels[level].shape,
            dtype=self.dtype,
            chunks=ones + cut.chunks,
            fill_value=0,
            **self._encoding(ones + cut.region),
        )

    def _check_array(self, level: int) -> None:
        array, spec, cut = self._open(level, "r"), self.levels[level], self.layout(level)
        if array.shape != spec.shape or array.dtype != self.dtype:
            raise RunError(
                f"{self.path}/{level}: has shape {array.shape} and dtype {array.dtype}, this run "
                f"writes {spec.shape} and {self.dtype}; remove the group"
            )
        files, wanted = (array.shards or array.chunks)[-self.ndim :], cut.region
        if self.zarr_format == 2:
            wanted = cut.chunks
        if files != wanted:  # two tasks would write the same file
            raise RunError(
                f"{self.path}/{level}: has files of {files} voxels, this run writes files of "
                f"{wanted}; remove the group"
            )

    def _encoding(self, shards: tuple[int, ...]) -> dict[str, Any]:
        if self.zarr_format == 3:
            return {
                "zarr_format": 3,
                "shards": shards,
                "compressors": self._codec_3(),
                "dimension_names": list(self.axes),
            }
        return {
            "zarr_format": 2,
            "compressors": self._codec_2(),
            "chunk_key_encoding": {"name": "v2", "separator": "/"},
        }

    def _codec_3(self) -> Any:
        """Labels: plain zstd, 2 to 4 times as fast and a tenth smaller than with shuffled bits."""
        from zarr.codecs import BloscCodec, ZstdCodec

        if self.content == "labels":
            return ZstdCodec(level=1)
        return BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")

    def _codec_2(self) -> Any:
        from numcodecs import Blosc, Zstd

        if self.content == "labels":
            return Zstd(level=1)
        return Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE)


def checked_cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert the dtype, and refuse integers that would overflow.

    Raises
    ------
    RunError
        If an integer does not fit, or a fraction would be cut off.
    """
    if values.dtype == dtype or np.can_cast(values.dtype, dtype) or values.size == 0:
        return values.astype(dtype, copy=False)
    if not (np.issubdtype(values.dtype, np.integer) and np.issubdtype(dtype, np.integer)):
        raise RunError(f"values of dtype {values.dtype} do not fit the dtype {dtype}")
    limits = np.iinfo(dtype)
    low, high = int(values.min()), int(values.max())
    if low < limits.min or high > limits.max:
        raise RunError(f"values from {low} to {high} do not fit the dtype {dtype}")
    return values.astype(dtype)


def check_version(ngff_version: str) -> str:
    """Check that an NGFF version can be written.

    Raises
    ------
    UsageError
        If it is not.
    """
    if ngff_version not in ZARR_FORMATS:
        raise UsageError(f"NGFF version {ngff_version!r} is not written; choose 0.6, 0.5 or 0.4")
    return ngff_version


_LONGEST = 200
"""Bytes of a name: most disks take 255, and those of files beside a store are longer."""
_FILES = (
    *(".tif", ".tiff", ".btf", ".png", ".jpg", ".jpeg", ".gif", ".zip", ".tar", ".gz", ".ozx"),
    *(".h5", ".hdf5", ".ims", ".nd2", ".czi", ".lif", ".lsm", ".nrrd", ".mrc", ".nii", ".npy"),
    *(".csv", ".parquet", ".json", ".n5"),
)
"""Suffixes that a zarr folder must not have: other programs would mistake it for a file."""


def check_store_name(place: str) -> None:
    """Refuse a file name for a store, which is a folder, and a name that no disk takes.

    Raises
    ------
    UsageError
        If it has the suffix of another format.
    PlaceError
        If the name is too long, or holds a null byte.
    """
    name = place.rstrip("/").rpartition("/")[2]
    if len(os.fsencode(name)) > _LONGEST or "\0" in place:
        raise PlaceError(
            f"{name[:80]!r} cannot name a store; use at most {_LONGEST} bytes, without null bytes"
        )
    ending = next((end for end in _FILES if name.lower().endswith(end)), None)
    if ending is not None:
        stem = name[: -len(ending)].removesuffix(".zarr").removesuffix(".ome")
        raise UsageError(
            f"{shown(place)}: an OME-Zarr store is a folder, not a {ending} file; name it "
            f"{stem}.ome.zarr (labels become TIFFs with export-labels)"
        )


def check_local(place: str) -> Path:
    """Return the absolute path of an output.

    Raises
    ------
    UsageError
        If it is named like a file.
    PlaceError
        If it is a URL.
    """
    check_store_name(place)
    if is_url(place):
        raise PlaceError(
            f"{place}: images cannot be written to object stores or other URLs; use a local "
            "folder, and copy it there"
        )
    return Path(place).absolute()


def ngff_attributes(
    store: MultiscaleStore,
    *,
    name: str,
    method: str,
    more: Mapping[str, Any] | None = None,
    frame: CoordinateFrame | None = None,
) -> dict[str, Any]:
    """Build the NGFF attributes of a multiscale group, checked by the models of its version.

    Parameters
    ----------
    store
        The group.
    name
        Name of the image or labels.
    method
        How coarse levels were computed, such as ``"mean"``.
    more
        Further NGFF metadata: ``"image-label"`` or ``"omero"``.
    frame
        Coordinate systems of 0.6; None: the one of the arrays alone. Older versions have none.

    Returns
    -------
    dict
        JSON values, at the place required by the version.
    """
    multiscale, more = _multiscale(store, name, method), dict(more or {})
    if store.ngff_version == "0.4":
        return _checked("0.4", {"multiscales": [multiscale], **more})
    plain = _checked("0.5", {"multiscales": [multiscale], "version": "0.5", **more})
    if store.ngff_version == WITH_SYSTEMS:  # the models of 0.6 need a newer Python than this
        systems = [with_systems(m, frame or CoordinateFrame()) for m in plain["multiscales"]]
        plain |= {"multiscales": systems, "version": WITH_SYSTEMS}
    return {"ome": plain}


def _checked(ngff_version: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Pass NGFF metadata through the models of a version."""
    kind = (
        ("image_label", "ImageLabelAttrs") if "image-label" in content else ("image", "ImageAttrs")
    )
    model = _model(ngff_version, *kind).model_validate(content)
    plain: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return plain


def _model(ngff_version: str, module: str, name: str) -> Any:
    """Import a pydantic model of one NGFF version, only when metadata are written."""
    return getattr(
        import_module(f"ome_zarr_models.v{ngff_version.replace('.', '')}.{module}"), name
    )


def _multiscale(store: MultiscaleStore, name: str, method: str) -> dict[str, Any]:
    axes = [
        {"name": axis, "type": _AXIS_TYPES[axis], **({"unit": unit} if unit else {})}
        for axis, unit in zip(store.axes, store.units, strict=True)
    ]
    datasets = [
        {"path": store.array(k), "coordinateTransformations": _transformations(level)}
        for k, level in enumerate(store.levels)
    ]
    version = {"version": "0.4"} if store.ngff_version == "0.4" else {}
    return {"name": name, "type": method, "axes": axes, "datasets": datasets, **version}


def _transformations(level: LevelSpec) -> list[dict[str, Any]]:
    scale = {"type": "scale", "scale": list(level.scale)}
    if level.translation is None:
        return [scale]
    return [scale, {"type": "translation", "translation": list(level.translation)}]
