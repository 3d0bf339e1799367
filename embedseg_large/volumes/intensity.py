"""Percentiles of a whole volume, exact and out of core, and normalisation with them.

1. The volume is cut into tiles that follow its storage chunks. Voxels that hold no data do not
   count (`embedseg_large.volumes.nodata`), nor do those outside of a mask.
2. Each tile becomes a small `Histogram`; histograms add up in any order to the same sum.
3. Integers of 8 and 16 bits have one bin for each value: one pass is exact.
4. Other types are taken as float32, which is what the network sees, and numbered by 32-bit keys
   in the order of their values. Pass 1 counts the upper 16 bits; pass 2 counts the lower 16 bits
   below the few upper halves that hold the wanted order statistics. Two passes are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import product
from math import isfinite
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import BlankError, IntensityError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.volumes.histogram import (
    Histogram,
    count_below,
    count_values,
    interpolate,
    is_small,
    otsu_threshold,
    values_of,
)
from embedseg_large.volumes.pieces import pieces
from embedseg_large.volumes.volume import Volume

TILE_BYTES = 2**27
"""Maximum bytes of a tile, unless a single chunk is larger."""

_GOLDEN = (5**0.5 - 1) / 2

PERCENTILES = (1.0, 99.8)
"""Percentiles of all voxels; those of the original."""
RARE = 99.98
"""Percentile used to warn of an unsuitable upper end."""
_FAR = 3.0
"""Normalised intensity of `RARE` from which `high` is considered background: the rare voxels of a
usual image are less than twice as bright as `high`."""
_OUTLIER = 30.0
"""Widths of the range, from its nearer end to a voxel that misleads the network around it: at 70
widths the bundled model draws objects around a single hot voxel, from 1000 on it finds nothing
right in the whole tile."""

Item = tuple[int | None, Box]
"""A timepoint (None if the volume has no time axis) and a tile of it."""


@dataclass(frozen=True, slots=True)
class IntensityRange:
    """The intensities that normalisation maps to 0 and 1."""

    low: float
    high: float
    percentiles: tuple[float, float] | None = None
    """Percentiles of `low` and `high`; None if they were given."""
    voxels: int = 0
    """Number of counted voxels."""
    excluded_voxels: int = 0
    """Number of voxels without data or outside the mask, which are ignored."""
    sampled: float | None = None
    """Fraction of the tiles that were read; None: all."""
    rare: float | None = None
    """Percentile `RARE`, which is far above `high` if all bright intensities are in few voxels."""
    brightest: float | None = None
    """The brightest voxel; equals `high` in case of saturation or dust."""
    darkest: float | None = None
    """The darkest voxel."""
    saturated_voxels: int = 0
    """Voxels of that value which were left out of the upper percentile, see `intensity_range`."""

    def __post_init__(self) -> None:
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise UsageError(f"intensity range {self.low}, {self.high}: needs low < high, finite")
        with np.errstate(over="ignore"):
            width, low = np.float32(self.high - self.low), np.float32(self.low)
        if not (np.finfo(np.float32).tiny <= width < np.inf and np.isfinite(low)):
            raise UsageError(
                f"intensity range {self.low}, {self.high}: too narrow or too wide for float32, in "
                "which images are normalised"
            )


Inside = Callable[[Box, int | None], NDArray[np.bool_]]
"""Returns which voxels of a box and timepoint count (None if there is no time axis); picklable."""

MapLike = Callable[[Callable[[Item], Histogram], Iterable[Item]], Iterable[Histogram]]
"""Like the builtin `map`, in any order."""


def intensity_range(
    volume: Volume,
    *,
    percentiles: tuple[float, float] = PERCENTILES,
    timepoint: int | None = None,
    sample: float | None = None,
    inside: Inside | None = None,
    map: MapLike = map,
) -> IntensityRange:
    """Compute two percentiles of a single-channel volume.

    Equal to ``np.percentile(voxels, percentiles)`` with linear interpolation over all voxels that
    hold data (for types other than 8- and 16-bit integers: over the voxels as float32). If these
    are all equal, blank voxels count too.

    A little saturated dust takes the upper percentile of an image whose objects are far darker. So
    where that percentile is the brightest value there is, the same percentile of the darker voxels
    takes its place if it is less than half as far above the lower one, and stands out of the
    background: it is above the median by three times as much as the lower percentile is below it.

    Parameters
    ----------
    volume
        The volume; with a time axis, one timepoint or all of them together.
    percentiles
        The lower and the upper one, in percent.
    timepoint
        The timepoint to use if the volume has a time axis; None: all together.
    sample
        Read only about this fraction of the tiles, evenly spread; None reads everything.
    inside
        Which voxels count, of those that hold data; None: all of them.
    map
        Applies a picklable function to picklable items, here or on workers, in any order.

    Raises
    ------
    BlankError
        If no voxel holds data.
    IntensityError
        If a voxel is NaN or infinite (the message has its coordinates), or the two percentiles are
        equal.
    UsageError
        If the volume has a channel axis, or `percentiles` or `sample` are out of range.
    """
    if volume.channel is None:
        raise UsageError("the volume has a channel axis; use intensity_ranges")
    _check_arguments(percentiles, sample)

    def count(bins: Sequence[int] | None) -> Histogram:
        items = _items(volume, timepoint, sample)
        return reduce(add, map(partial(_summarise_item, volume, bins, inside), items))

    coarse = count(None)
    if not coarse.voxels:
        raise BlankError(
            f"{volume.name}: no voxel holds data (all are blank, or outside the mask); check the "
            "channel, the timepoint and the level"
        )
    low, high, rare, brightest, darkest = _percentiles(
        volume.dtype, coarse, (*percentiles, max(RARE, percentiles[1]), 100.0, 0.0), count
    )
    if low == high and coarse.excluded and volume.nodata.blank:
        return intensity_range(
            replace(volume, nodata=replace(volume.nodata, blank=False)),
            percentiles=percentiles,
            timepoint=timepoint,
            sample=sample,
            inside=inside,
            map=map,
        )
    if low == high:
        raise IntensityError(
            f"{volume.name}: the image is constant, percentiles {percentiles} are "
            f"both {low}; check the channel, or pass an --intensity-range"
        )
    found = IntensityRange(
        low,
        high,
        percentiles,
        coarse.voxels,
        coarse.excluded,
        sample,
        rare,
        brightest,
        darkest=darkest,
    )
    darker = None
    if high >= brightest:
        darker = _without_saturation(volume.dtype, coarse, percentiles, count)
    if darker is None:
        return found
    return replace(found, high=darker[0], saturated_voxels=darker[1])


def quantiles(
    volume: Volume, percentiles: Sequence[float], *, map: MapLike = map
) -> tuple[float, ...]:
    """Compute any number of percentiles of a single-channel volume, which `intensity_range` has.

    Parameters
    ----------
    volume
        The volume, of one timepoint.
    percentiles
        0 to 100, in any order.
    map
        As for `intensity_range`.
    """

    def count(bins: Sequence[int] | None) -> Histogram:
        items = _items(volume, None, None)
        return reduce(add, map(partial(_summarise_item, volume, bins, None), items))

    coarse = count(None)
    if not coarse.voxels and volume.nodata.blank:
        return quantiles(
            replace(volume, nodata=replace(volume.nodata, blank=False)), percentiles, map=map
        )
    return tuple(_percentiles(volume.dtype, coarse, percentiles, count))


def range_warning(intensity: IntensityRange) -> str | None:
    """Return why the upper end of a computed range may not be the intensity of objects.

    None if there is no doubt, or the range was given.
    """
    if intensity.percentiles is None or intensity.brightest is None or intensity.rare is None:
        return None
    percentile, high = intensity.percentiles[1], intensity.high
    if intensity.saturated_voxels:
        return (
            f"{intensity.saturated_voxels:,} voxels are saturated at {intensity.brightest:g}: dust "
            f"perhaps. Percentile {percentile:g} of the others, {high:g}, becomes 1; look whether "
            "that is the intensity of your objects, or give --intensity-range LO,HI"
        )
    outlier = _outlier(intensity)
    if outlier is not None:
        return (
            f"the intensities that become 0 and 1 are {intensity.low:g} and {high:g}, but a voxel "
            f"is {outlier:.9g}: such voxels mislead the network around them. If that value stands "
            f"for no data, pass --nodata={outlier:.9g}; or else replace such voxels"
        )
    advice = "check the range of your objects, and pass it: --intensity-range LO,HI"
    if high >= intensity.brightest and intensity.voxels * (100 - percentile) / 100 > 1:
        return (
            f"percentile {percentile:g} of the intensities is the brightest value of the volume, "
            f"{high:g}: saturation, or dust. Objects may be far darker than that; {advice}"
        )
    if intensity.rare > intensity.low + _FAR * (high - intensity.low):
        return (
            f"percentile {percentile:g} of the intensities is {high:g}, but percentile {RARE:g} is "
            f"{intensity.rare:g}: everything bright seems to be in fewer than "
            f"{100 - percentile:.1f} % of the voxels; {advice}"
        )
    return None


def _outlier(intensity: IntensityRange) -> float | None:
    """Return the darkest or brightest voxel if it is very far outside of the range."""
    far = _OUTLIER * (intensity.high - intensity.low)
    if intensity.darkest is not None and intensity.darkest < intensity.low - far:
        return intensity.darkest
    if intensity.brightest is not None and intensity.brightest > intensity.high + far:
        return intensity.brightest
    return None


def intensity_ranges(volume: Volume, **options: Any) -> tuple[IntensityRange, ...]:
    """Compute two percentiles of each channel of a volume.

    Parameters and errors are those of `intensity_range`; a volume without a channel axis gives
    one range.
    """
    return tuple(intensity_range(one, **options) for one in volume.by_channel())


def otsu_ranges(volume: Volume, **options: Any) -> tuple[IntensityRange, ...]:
    """Find the darkest intensity of each channel, and Otsu's threshold.

    The threshold lies in the middle between two neighbouring intensities. It is exact for integers
    of 8 and 16 bits, and to 1 part in 128 for other types. Parameters and errors are those of
    `intensity_range`, without percentiles.
    """
    return tuple(_otsu_range(one, **options) for one in volume.by_channel())


def darkest_ranges(volume: Volume, *, high: float, **options: Any) -> tuple[IntensityRange, ...]:
    """The darkest intensity of each channel, and a given one above it.

    If none is below `high`, `low` is less by `high` itself; an image may be constant. Other
    parameters and errors are those of `otsu_ranges`.
    """
    return tuple(_darkest_range(one, high, **options) for one in volume.by_channel())


def _otsu_range(volume: Volume, **options: Any) -> IntensityRange:
    """Find the darkest intensity of one channel, and Otsu's threshold."""
    found = _counted(volume, **options)
    if len(found.keys) < 2 and found.excluded and volume.nodata.blank:
        every = replace(volume, nodata=replace(volume.nodata, blank=False))
        return _otsu_range(every, **options)
    if len(found.keys) < 2:
        raise IntensityError(
            f"{volume.name}: the image is constant, nothing can be distinguished from background; "
            "check the channel, the timepoint and the level"
        )
    values = _middles(found, volume)
    high = otsu_threshold(values, found.counts)
    sample = options.get("sample")
    return IntensityRange(float(values[0]), high, None, found.voxels, found.excluded, sample)


def _darkest_range(volume: Volume, high: float, **options: Any) -> IntensityRange:
    """Find the darkest intensity of one channel, or one that is below `high`."""
    found = _counted(volume, **options)
    darkest = float(_middles(found, volume)[0])
    low = darkest if darkest < high else high - (abs(high) or 1.0)
    return IntensityRange(low, high, None, found.voxels, found.excluded, options.get("sample"))


def _counted(
    volume: Volume,
    *,
    timepoint: int | None = None,
    sample: float | None = None,
    inside: Inside | None = None,
    map: MapLike = map,
) -> Histogram:
    """Count the intensities of one channel, in bins if there are many."""
    _check_arguments(PERCENTILES, sample)
    items = _items(volume, timepoint, sample)
    found = reduce(add, map(partial(_summarise_item, volume, None, inside), items))
    if not found.voxels:
        raise BlankError(f"{volume.name}: no voxel holds data; check channel, timepoint and level")
    return found


def _middles(found: Histogram, volume: Volume) -> NDArray[np.float64]:
    """Return the intensities of a histogram; of bins, their middles."""
    is_exact = is_small(volume.dtype)
    keys = found.keys if is_exact else (found.keys << np.uint32(16)) + np.uint32(2**15)
    return values_of(keys, volume.dtype)


def normalise(image: NDArray[Any], intensity: IntensityRange | None = None) -> NDArray[np.float32]:
    """Map the low intensity to 0 and the high one to 1, without clipping.

    Parameters
    ----------
    image
        One channel, any shape and real type.
    intensity
        The range of that channel in the whole volume. None: percentiles 1 and 99.8 of `image`,
        which should then *be* the whole volume: parts that are normalised separately differ.

    Returns
    -------
    ndarray
        ``(image - low) / (high - low)``, float32, a new array of the same shape.

    Raises
    ------
    UsageError
        The two percentiles are equal, or not finite.
    """
    if intensity is None:
        low, high = np.percentile(image, PERCENTILES)
        intensity = IntensityRange(float(low), float(high), PERCENTILES, image.size)
    values = image.astype(np.float32)
    values -= np.float32(intensity.low)
    values /= np.float32(intensity.high - intensity.low)
    return values


def normalise_channels(
    image: NDArray[Any], ranges: Sequence[IntensityRange]
) -> NDArray[np.float32]:
    """Normalise each channel of ``(channels, *spatial)`` by its range (see `normalise`)."""
    return np.stack([normalise(c, r) for c, r in zip(image, ranges, strict=True)])


def tiles(volume: Volume) -> Iterator[Box]:
    """Cut a volume into boxes of at most 128 MiB of one channel that follow the storage chunks.

    Boxes extend along x first, then y, then z, so that they are read in the order on disk. A
    single chunk may be larger than 128 MiB.
    """
    shape = volume.spatial_shape
    voxels = TILE_BYTES // volume.dtype.itemsize
    unit = [min(n, size) for n, size in zip(_unit(volume, voxels), shape, strict=True)]
    for axis in reversed(range(len(shape))):
        room = voxels // int(np.prod(unit))
        unit[axis] = min(unit[axis] * max(1, room), shape[axis])
    return pieces(Box.whole(shape), unit, volume.name)


def summarise(
    volume: Volume,
    box: Box,
    timepoint: int | None = None,
    bins: Sequence[int] | None = None,
    inside: Inside | None = None,
) -> Histogram:
    """Count the intensities in a tile.

    Parameters
    ----------
    volume
        A volume without a channel axis.
    box
        The tile, aligned with the storage chunks.
    timepoint
        The timepoint, if the volume has a time axis.
    bins
        None counts values (8- and 16-bit integers) or the upper halves of keys (other types).
        A list of upper halves counts the full keys below these.
    inside
        Which voxels count, of those that hold data; None: all of them.

    Raises
    ------
    IntensityError
        If a voxel that counts is NaN or infinite as float32.
    """
    values = volume.read(box, timepoint)
    left_out = volume.without_data(box, values, timepoint)
    if inside is not None:
        left_out |= ~inside(box, timepoint)
    counted = values[~left_out] if left_out.any() else values.ravel()
    if volume.dtype.kind == "f" and not _is_finite(counted):
        raise _not_finite(volume, box, values, left_out, timepoint)
    keys, counts = count_values(counted) if bins is None else count_below(counted, bins)
    return Histogram(keys, counts, box.size - counted.size)


def _percentiles(
    dtype: np.dtype[Any],
    coarse: Histogram,
    percentiles: Sequence[float],
    count: Callable[[Sequence[int] | None], Histogram],
) -> list[float]:
    """Interpolate between the order statistics around each percentile; steps 3 and 4 above."""
    positions = np.asarray(percentiles) / 100 * (coarse.voxels - 1)
    ranks = np.floor(positions).astype(np.int64)
    ranks = np.minimum(np.stack([ranks, ranks + 1]), coarse.voxels - 1)
    keys = coarse.at(ranks)
    if not is_small(dtype):
        fine = count(tuple(int(b) for b in np.unique(keys)))
        keys = fine.at(ranks - coarse.below(keys) + fine.below(keys << np.uint32(16)))
    below, above = values_of(keys, dtype)
    return [float(v) for v in interpolate(below, above, positions - ranks[0])]


def _without_saturation(
    dtype: np.dtype[Any],
    coarse: Histogram,
    percentiles: tuple[float, float],
    count: Callable[[Sequence[int] | None], Histogram],
) -> tuple[float, int] | None:
    """Upper percentile of the voxels below the brightest, and how many are left out.

    None where the brightest may be the objects themselves; see `intensity_range`.
    """
    fine = coarse if is_small(dtype) else count((int(coarse.keys[-1]),))
    saturated = int(fine.counts[-1])
    darker = coarse.voxels - saturated
    if darker < 2:
        return None
    share = (darker - 1) / (coarse.voxels - 1)  # ranks of the darker voxels are those of all
    low, median, high, brightest = _percentiles(
        dtype, coarse, (percentiles[0], 50.0, percentiles[1] * share, 100.0), count
    )
    stands_out = high - median > 3 * (median - low)
    if not low < high or not stands_out or 2 * (high - low) >= brightest - low:
        return None
    return high, saturated


def _summarise_item(
    volume: Volume, bins: Sequence[int] | None, inside: Inside | None, item: Item
) -> Histogram:
    timepoint, box = item
    return summarise(volume, box, timepoint, bins, inside)


def _check_arguments(percentiles: tuple[float, float], sample: float | None) -> None:
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise UsageError(f"percentiles {percentiles} are not two ascending numbers in 0 to 100")
    if sample is not None and not 0 < sample <= 1:
        raise UsageError(f"sample {sample} is not a fraction between 0 and 1")


def _items(volume: Volume, timepoint: int | None, sample: float | None) -> Iterator[Item]:
    every: Iterable[int | None] = [timepoint]
    if volume.timepoint is None and timepoint is None:
        every = range(volume.n_timepoints)
    for number, item in enumerate(product(every, tiles(volume))):
        # Multiples of the golden ratio spread evenly modulo 1, and never in step with the grid.
        if sample is None or number * _GOLDEN % 1 < sample:
            yield item


def _unit(volume: Volume, voxels: int) -> tuple[int, ...]:
    """Shape of what should not be cut: a shard if it fits into a tile, or else a chunk."""
    if volume.shards is not None and np.prod(volume.shards) <= voxels:
        return volume.shards
    return volume.chunks or (1,) * volume.ndim


def is_blank(volume: Volume) -> bool:
    """Whether no voxel of a volume without a time axis holds data; stops at the first with data."""
    return all(volume.without_data(box, volume.read(box)).all() for box in tiles(volume))


def _is_finite(values: NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(np.float32)).all())


def _not_finite(
    volume: Volume,
    box: Box,
    values: NDArray[Any],
    left_out: NDArray[np.bool_],
    timepoint: int | None,
) -> IntensityError:
    with np.errstate(over="ignore"):
        bad = np.argwhere(~np.isfinite(values.astype(np.float32)) & ~left_out)[0]
    voxel = tuple(int(a + i) for a, i in zip(box.start, bad, strict=True))
    when = "" if timepoint is None else f" of timepoint {timepoint}"
    value = values[tuple(bad)]
    advice = "if NaN stands for no data, pass --nodata nan; or "
    return IntensityError(
        f"{volume.name}: voxel {voxel}{when} is {value}, which is not a finite float32; "
        f"{advice if np.isnan(value) else ''}replace such voxels by a number first"
    )
