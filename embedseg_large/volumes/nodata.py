"""Where an image holds no data: one definition for all file formats and any tiling.

A voxel holds no data if one of these is true:

==================  ==============================================================================
value               it has the value that stands for "no data" (``--nodata``: NaN, 65535, ...)
blank plane         it lies in a plane of y and x that is exactly 0 throughout; a blank timepoint
                    is nothing but such planes
blank region        it lies in a cube of exact zeros, `EDGE` voxels wide (a square in 2D)
chunk               it lies in a storage chunk that is entirely the fill value, which includes
                    chunks that were never written
==================  ==============================================================================

All of these are properties of voxels and storage chunks. None depends on the requested box, so
tiles agree. A missing chunk of 0 that is at least as wide as a blank region also is a blank region,
so the same voxels in a TIFF, or in a store that writes every chunk, mean the same.

Images for a network get level 0 (the darkest) where there is no data, and such voxels are never
foreground. Percentiles ignore them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.options import in_digits

Mask = NDArray[np.bool_]

EDGE = {2: 127, 3: 31}
"""Width of a blank region, by the number of spatial axes; odd, so that it has a middle voxel.

The middle must be in the volume, the rest need not: a region that is blank up to the border may be
thinner.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoData:
    """What counts as no data in a volume."""

    value: float | None = None
    """Voxels of this value hold no data; may be NaN."""
    blank: bool = True
    """Whether blank planes, regions and chunks hold no data."""
    stored: bool = True
    """Whether storage chunks count; not for a copy, whose chunks are unrelated to the image."""

    @classmethod
    def parse(cls, said: str | float | None) -> NoData:
        """Parse the value of a user: ``auto``, ``none``, or a number, which may be ``nan``.

        Raises
        ------
        UsageError
            If it is none of these.
        """
        if said in (None, "auto", "none"):
            return cls(blank=said != "none")
        try:
            return cls(value=float(said))
        except (TypeError, ValueError):
            raise UsageError(
                f"nodata is {said!r}; use auto, none, or the value of voxels without data, "
                "such as nan or 65535"
            ) from None

    def __str__(self) -> str:
        """Accepted by `parse`."""
        if self.value is None:
            return "auto" if self.blank else "none"
        return in_digits(self.value)


_PIECE = 2**26
"""Number of voxels of planes that are checked together."""

AUTO = NoData()
"""The default."""


class Voxels(Protocol):
    """The part of a `Volume` that is needed here."""

    @property
    def nodata(self) -> NoData:
        """Which voxels hold no data."""

    @property
    def known_planes(self) -> dict[tuple[int | None, int], Mask]:
        """Whether planes are blank, as far as known."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""

    @property
    def path(self) -> str | None:
        """None if the voxels are in memory."""

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Voxels along (z,) y, x."""

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Spatial shape of a storage chunk."""

    @property
    def fill_value(self) -> Any:
        """Value of voxels that were never written."""

    @property
    def zarr_format(self) -> int | None:
        """None if the voxels are not in zarr."""

    def read(self, box: Box, timepoint: int | None = None) -> NDArray[Any]:
        """Read a region."""


def without_data(volume: Voxels, box: Box, voxels: NDArray[Any], timepoint: int | None) -> Mask:
    """Find the voxels of a box that hold no data.

    Parameters
    ----------
    volume
        The image; its `nodata` says what counts.
    box
        Region in voxels, in the order (z,) y, x.
    voxels
        The result of ``volume.read(box, timepoint)``.
    timepoint
        As for ``volume.read``.

    Returns
    -------
    bool, of the shape of `voxels`.
    """
    found = _of_value(volume, voxels)
    rule = volume.nodata
    if rule.blank and volume.dtype.kind != "b":  # in a boolean image, 0 is one of two values
        if voxels.all() and not volume.fill_value:  # mostly: nothing blank, nothing of the fill
            return found
        look = _Look(volume, box, timepoint)
        found |= look.blank_regions(voxels)
        if rule.stored and volume.path is not None and volume.zarr_format is not None:
            found |= look.fill_chunks(voxels, found)
        if volume.ndim == 3:
            found |= look.blank_planes(voxels, found)
    return found


def _of_value(volume: Voxels, voxels: NDArray[Any]) -> Mask:
    """Find voxels with the value for no data, including NaN as the fill value."""
    value, fill = volume.nodata.value, volume.fill_value
    found = np.zeros(voxels.shape, np.bool_)
    if value is not None and not isnan(value):
        found |= voxels == value
    if voxels.dtype.kind == "f" and ((value is not None and isnan(value)) or fill != fill):
        found |= np.isnan(voxels)
    return found


@dataclass(frozen=True, slots=True)
class _Look:
    """A box of a volume, and its surroundings."""

    volume: Voxels
    box: Box
    timepoint: int | None

    def _read(self, box: Box) -> NDArray[Any]:
        return self.volume.read(box, self.timepoint)

    def blank_regions(self, voxels: NDArray[Any]) -> Mask:
        """Find voxels that lie in a cube of exact zeros."""
        edge = EDGE[self.volume.ndim]
        margin = (edge - 1,) * self.box.ndim
        wide = self.box.grow(margin).clip(self.volume.spatial_shape)
        around = wide.widths_around(self.box)
        # first as if everything beyond the box were 0: usually there is no such cube even then
        maybe = _opened(_padded(voxels == 0, around), edge, wide.ndim)
        maybe = _part(maybe, self.box, wide)
        if wide == self.box or not maybe.any():
            return maybe
        near = _extent(maybe, self.box)
        seen = near.grow(margin).clip(self.volume.spatial_shape)
        found = np.zeros(voxels.shape, np.bool_)
        opened = _opened(self._read(seen) == 0, edge, seen.ndim)
        _part(found, near, self.box)[...] = _part(opened, near, seen)
        return found

    def fill_chunks(self, voxels: NDArray[Any], known: Mask) -> Mask:
        """Find voxels of chunks that are entirely the fill value."""
        fill, chunks = self.volume.fill_value, self.volume.chunks
        fill = 0 if fill is None else fill  # what zarr reads there
        found = np.zeros(voxels.shape, np.bool_)
        assert chunks is not None
        for part in self.box.split(chunks):
            if _part(known, part, self.box).all():
                continue
            filled = _each(_is(_part(voxels, part, self.box), fill), self.box.ndim)
            if not filled.any():
                continue
            chunk = part.rounded_out(chunks).clip(self.volume.spatial_shape)
            if chunk != part:
                filled = filled & _each(_is(self._read(chunk), fill), chunk.ndim)
            whole = filled.reshape(*filled.shape, *(1,) * self.box.ndim)
            _part(found, part, self.box)[...] = whole
        return found

    def blank_planes(self, voxels: NDArray[Any], known: Mask) -> Mask:
        """Find voxels of planes of y and x that are exactly 0 throughout."""
        blank: Mask = np.asarray(~(voxels.any(axis=(-2, -1)) | known.all(axis=(-2, -1))))
        if self.box.shape[1:] != self.volume.spatial_shape[1:]:
            anywhere = np.asarray(blank.reshape(-1, blank.shape[-1]).any(axis=0))
            for start, stop in _runs(anywhere):
                blank[..., start:stop] &= self._blank_throughout(
                    self.box.start[0] + start, self.box.start[0] + stop
                )
        return np.broadcast_to(blank[..., np.newaxis, np.newaxis], voxels.shape)

    def _blank_throughout(self, start: int, stop: int) -> Mask:
        """Whether planes are also 0 beyond the box, ``((channels,) planes)``; checked only once."""
        known = self.volume.known_planes
        for first, last in _runs(
            np.array([(self.timepoint, z) not in known for z in range(start, stop)])
        ):
            found = self._look_at_planes(start + first, start + last)
            known.update(
                {(self.timepoint, start + first + i): found[..., i] for i in range(last - first)}
            )
        return np.stack([known[self.timepoint, z] for z in range(start, stop)], axis=-1)

    def _look_at_planes(self, start: int, stop: int) -> Mask:
        blank = np.asarray(True)
        for piece in self._pieces(start, stop):
            blank = blank & ~self._read(piece).any(axis=(-2, -1))
            if not blank.any():
                break
        return blank

    def _pieces(self, start: int, stop: int) -> Iterator[Box]:
        """Cut some planes into boxes that follow the chunks; first a small one in the middle."""
        shape = self.volume.spatial_shape
        chunk = (self.volume.chunks or shape)[1:]
        planes = Box((start, 0, 0), (stop, *shape[1:]))
        middle = tuple(n // 2 // c * c for n, c in zip(shape[1:], chunk, strict=True))
        ends = tuple(a + min(c, 512) for a, c in zip(middle, chunk, strict=True))
        yield Box((start, *middle), (stop, *ends)).intersect(planes)
        wide = _multiple(_PIECE // ((stop - start) * chunk[0]), chunk[1], shape[2])
        high = _multiple(_PIECE // ((stop - start) * wide), chunk[0], shape[1])
        yield from planes.split((stop, high, wide))


def _multiple(room: int, chunk: int, length: int) -> int:
    """Return the largest multiple of a chunk that fits, at least one."""
    return min(max(room // chunk, 1) * chunk, length)


def _part(array: NDArray[Any], box: Box, outer: Box) -> NDArray[Any]:
    """View the part of an array of `outer` that lies in `box`, in all channels."""
    index: Any = (..., *box.slices_in(outer))
    part: NDArray[Any] = array[index]
    return part


def _opened(zero: Mask, edge: int, ndim: int) -> Mask:
    """Keep what lies in a cube of `zero` whose middle is in the array; all beyond is zero."""
    from scipy.ndimage import maximum_filter, minimum_filter

    size = (1,) * (zero.ndim - ndim) + (edge,) * ndim
    middles = minimum_filter(zero.view(np.uint8), size, mode="constant", cval=1)
    opened: NDArray[np.uint8] = maximum_filter(middles, size, mode="constant", cval=0)
    return opened.view(np.bool_)


def _padded(zero: Mask, widths: list[tuple[int, int]]) -> Mask:
    lead = [(0, 0)] * (zero.ndim - len(widths))
    return np.pad(zero, lead + widths, constant_values=True)


def _extent(mask: Mask, box: Box) -> Box:
    """Return the smallest box around all true values."""
    axes = range(mask.ndim - box.ndim, mask.ndim)
    lines = [
        np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != b))) for b in axes
    ]
    return Box(
        tuple(int(line[0]) + a for line, a in zip(lines, box.start, strict=True)),
        tuple(int(line[-1]) + 1 + a for line, a in zip(lines, box.start, strict=True)),
    )


def _is(voxels: NDArray[Any], fill: Any) -> Mask:
    same: Mask = np.isnan(voxels) if fill != fill else voxels == fill
    return same


def _each(mask: Mask, ndim: int) -> Mask:
    """Return for each channel, if there is such an axis, whether all values are true."""
    return np.asarray(mask.all(axis=tuple(range(-ndim, 0))))


def _runs(mask: Mask) -> Iterator[tuple[int, int]]:
    """List the half-open ranges in which a line is true."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return iter([(int(a), int(b)) for a, b in edges.reshape(-1, 2)])
