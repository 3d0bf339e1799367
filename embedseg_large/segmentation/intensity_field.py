"""A smooth intensity field: local brightness of objects relative to the whole volume.

Light-sheet and confocal volumes become dimmer with depth, so a single pair of percentiles loses the
far side. The field compensates for this, identically for every tile:

1. The volume is cut into a few blocks: slabs along z (``depth``), or a coarse grid (``smooth``).
2. In each, the background level and the contrast of bright structures are measured, on a coarse
   pyramid level if there is one, else on boxes spread over the block.
3. A block without signal is ignored, so that neither noise nor faint haze becomes an object.
4. Logarithms of contrasts are smoothed, weighted by the amount of signal; where there is little,
   they are drawn towards the rest of the volume. Between blocks the field is interpolated linearly,
   using indices in the whole volume, so that it does not depend on tiles.

A voxel v becomes ``reference + (v - background) * gain``, and is then normalised by the range of
the whole volume. Without measurements, the background is the reference and the gain 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, prod
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.histogram import otsu_threshold
from embedseg_large.volumes.volume import Volume

FieldMode = Literal["none", "depth", "smooth"]
MODES: tuple[str, ...] = get_args(FieldMode)

MOST_GAIN = 8.0
"""Maximum factor by which anything is brightened or darkened. A block whose contrast is below the
reference by a larger factor is considered empty."""
SLABS, BLOCKS = 32, 8
"""Maximum number of blocks along z for ``depth``, and along each axis for ``smooth``."""
WIDTHS = {"depth": 0.5, "smooth": 2.0}
"""Minimum width of a block, in object diameters."""
SAMPLED = 2**25
"""Approximate number of voxels that are sampled."""
LEAST_WIDTH = 4.0
"""Minimum width of an object in voxels on the pyramid level that is sampled."""
TIMEPOINTS = 4
"""Number of timepoints of a series that are sampled, evenly spread."""
_SMOOTHING = 0.5  # deviation of the Gaussian that smooths, in blocks
_PRIOR = 0.02  # weight of the rest of the volume in a block
_NOISE = 8.0  # contrast of a signal, in standard deviations of the noise; noise alone has 4.5
_BACKGROUND, _BRIGHT = 5.0, 99.8  # percentiles within a block
_REFERENCE = 0.75  # quantile of contrasts, weighted by signal, that keeps its brightness
_USUAL = 1.2  # contrasts of even volumes differ by this factor: smaller differences are ignored
_BINS = 256  # of the histogram of a block
_STEP_TO_DEVIATION = 0.6745 * 2**0.5  # median |difference of neighbours| of Gaussian noise

Floats = NDArray[np.float64]
Inside = Callable[[Box, Sequence[int], int | None], NDArray[np.bool_] | None]
"""Returns which voxels of a box count, on a grid of a given shape over the same space, at a
timepoint; None: all of them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntensityField:
    """Background and gain of one channel, at the centres of equal blocks of a volume."""

    shape: tuple[int, ...]
    """Voxels of the level that is segmented, (z,) y, x."""
    background: NDArray[np.float32]
    """``(*blocks)`` level of the background."""
    gain: NDArray[np.float32]
    """``(*blocks)`` factor that equalises contrasts."""
    reference: float
    """Intensity to which the background is mapped."""

    def apply(self, voxels: NDArray[Any], box: Box) -> NDArray[np.float32]:
        """Correct a box of the volume.

        Parameters
        ----------
        voxels
            ``box.shape``, as stored.
        box
            Position of the voxels.

        Returns
        -------
        float32, a new array. To the last bit, a voxel's value depends only on its index in
        the volume, not on the box.
        """
        grid = Resampling(self.gain.shape, self.shape)
        needed = grid.needed(box).slices
        even = voxels.astype(np.float32)
        even -= grid.image(self.background[needed][np.newaxis], box)[0]
        even *= grid.image(self.gain[needed][np.newaxis], box)[0]
        even += np.float32(self.reference)
        return even

    def as_dict(self) -> dict[str, Any]:
        """The field as values that JSON can hold."""
        return {
            "shape": list(self.shape),
            "background": self.background.tolist(),
            "gain": self.gain.tolist(),
            "reference": self.reference,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> IntensityField:
        """Restore a field from `as_dict`, bit for bit."""
        return cls(
            shape=tuple(values["shape"]),
            background=np.array(values["background"], np.float32),
            gain=np.array(values["gain"], np.float32),
            reference=float(values["reference"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Brightness:
    """Measurements of a block."""

    background: float = 0.0
    contrast: float = 0.0
    signal: float = 0.0
    """Number of bright voxels; 0 if there is nothing but noise."""


def check_mode(mode: str, ndim: int) -> None:
    """Refuse an unknown kind of field, or one unsuitable for the number of spatial axes.

    Raises
    ------
    UsageError
        The message lists the available kinds.
    """
    if mode not in MODES:
        raise UsageError(f"intensity field is {mode!r}; use one of {', '.join(MODES)}")
    if mode == "depth" and ndim < 3:
        raise UsageError("intensity field is depth, and the image has no z axis; use smooth")


def intensity_fields(
    volume: Volume,
    mode: str,
    diameter: Sequence[float],
    timepoints: Sequence[int | None] = (None,),
    inside: Inside = lambda *_: None,
) -> tuple[IntensityField, ...]:
    """Measure the field of each channel of a volume.

    Parameters
    ----------
    volume
        The level that is segmented.
    mode
        ``depth`` or ``smooth``.
    diameter
        Approximate diameter of objects along (z,) y, x, in voxels of that level.
    timepoints
        Timepoints to combine; ``[None]`` if the volume has no time axis.
    inside
        Which voxels count.

    Raises
    ------
    UsageError
        If there is no such field.
    """
    check_mode(mode, volume.ndim)
    seen = _coarse(volume, diameter)
    blocks = blocks_of(volume.spatial_shape, mode, diameter)
    spread = np.unique(np.linspace(0, len(timepoints) - 1, TIMEPOINTS).astype(int))
    chosen = [timepoints[i] for i in spread]
    width = [
        d * s / n
        for d, s, n in zip(diameter, seen.spatial_shape, volume.spatial_shape, strict=True)
    ]
    return tuple(
        _field(
            _measured(one, blocks, width, chosen, inside),
            blocks,
            volume.spatial_shape,
        )
        for one in seen.by_channel()
    )


def blocks_of(shape: Sequence[int], mode: str, diameter: Sequence[float]) -> tuple[int, ...]:
    """Return the number of blocks along each axis of a volume."""
    most = SLABS if mode == "depth" else BLOCKS
    counts = [
        int(min(most, max(1, n // (WIDTHS[mode] * max(d, 1.0)))))
        for n, d in zip(shape, diameter, strict=True)
    ]
    return (counts[0], *(1 for _ in counts[1:])) if mode == "depth" else tuple(counts)


def brightness(values: NDArray[Any], noise: float) -> Brightness:
    """Measure background and contrast of some voxels.

    Parameters
    ----------
    values
        The voxels, flat.
    noise
        Standard deviation of their noise.
    """
    if not values.size:
        return Brightness()
    low, high = np.percentile(values, (_BACKGROUND, _BRIGHT))
    if high - low <= max(_NOISE * noise, 0.0):
        return Brightness()
    bright = values[values > _threshold(values, low, high)]
    contrast = float(np.median(bright) - low)
    return Brightness(background=float(low), contrast=contrast, signal=float(bright.size))


def described(light: Mapping[str, Any]) -> str:
    """Describe briefly the correction of the light that provenance records."""
    gains = np.array([one["gain"] for one in _each(light["channels"])])
    blocks = " x ".join(map(str, gains.shape[1:]))
    return f"{light['mode']}, gains {gains.min():.2f} to {gains.max():.2f} on {blocks} blocks"


def _each(channels: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the field of each channel and timepoint."""
    for one in channels:
        yield from [one] if isinstance(one, Mapping) else one


def _threshold(values: NDArray[Any], low: float, high: float) -> float:
    """Compute Otsu's threshold without the very brightest voxels, which are debris."""
    counts, edges = np.histogram(values, _BINS, (low, high))
    middles = (edges[1:] + edges[:-1]) / 2
    held = counts > 0
    return otsu_threshold(middles[held], counts[held])


def _field(found: list[Brightness], blocks: Sequence[int], shape: Sequence[int]) -> IntensityField:
    """Smooth the measurements of the blocks."""
    background = np.array([b.background for b in found]).reshape(blocks)
    contrast = np.array([b.contrast for b in found]).reshape(blocks)
    signal = np.array([b.signal for b in found]).reshape(blocks)
    reference = _quantile(contrast, signal, _REFERENCE)
    signal[contrast * MOST_GAIN < reference] = 0
    if not signal.any():
        flat = np.ones(blocks, np.float32)
        return IntensityField(shape=tuple(shape), background=0 * flat, gain=flat, reference=0.0)
    level = _quantile(background, signal, 0.5)
    logs = np.zeros_like(contrast)
    np.log(reference / np.where(signal > 0, contrast, reference), out=logs)
    logs = np.sign(logs) * np.maximum(np.abs(logs) - np.log(_USUAL), 0)
    weight = np.minimum(1.0, signal)
    gain = np.exp(_smoothed(logs, weight)).clip(1 / MOST_GAIN, MOST_GAIN)
    smooth = level + _smoothed(background - level, weight)
    return IntensityField(
        shape=tuple(shape),
        background=smooth.astype(np.float32),
        gain=gain.astype(np.float32),
        reference=level,
    )


def _smoothed(values: Floats, weight: Floats) -> Floats:
    """Compute weighted Gaussian means, drawn to 0 where weights are small."""
    sigma = [_SMOOTHING if n > 1 else 0.0 for n in values.shape]

    def blurred(field: Floats) -> Floats:
        done: Floats = ndimage.gaussian_filter(field, sigma, mode="constant")
        return done

    return blurred(values * weight) / (blurred(weight) + _PRIOR)


def _quantile(values: Floats, weights: Floats, quantile: float) -> float:
    """Return the weighted quantile of values; 0 if there are no weights."""
    order = np.argsort(values, axis=None, kind="stable")
    total = np.cumsum(weights.ravel()[order])
    if not total[-1]:
        return 0.0
    place = int(np.searchsorted(total, quantile * total[-1]))
    return float(values.ravel()[order][min(place, total.size - 1)])


def _measured(
    volume: Volume,
    blocks: Sequence[int],
    diameter: Sequence[float],
    timepoints: Sequence[int | None],
    inside: Inside,
) -> list[Brightness]:
    """Measure each block; `signal` counts objects, so that one or more suffices."""
    whole = Box.whole(volume.spatial_shape)
    pieces = 4 if list(blocks[1:]) == [1] * (len(blocks) - 1) and blocks[0] > 1 else 2
    some = prod(blocks) * len(timepoints) * pieces ** (volume.ndim - 1)
    object_size = max(1.0, prod(d / 2 for d in diameter))  # about half of an ellipsoid's box
    found = []
    for block in split(whole, blocks):
        one = brightness(*_voxels(volume, block, pieces, SAMPLED // some, timepoints, inside))
        found.append(replace(one, signal=one.signal / object_size))
    return found


def split(box: Box, counts: Sequence[int]) -> Iterator[Box]:
    """Cut a box into equal parts, up to a voxel, in raster order."""
    axes = [
        [(a + (b - a) * i // n, a + (b - a) * (i + 1) // n) for i in range(n)]
        for a, b, n in zip(box.start, box.stop, counts, strict=True)
    ]
    for spans in product(*axes):
        yield Box(*zip(*spans, strict=True))


def _voxels(
    volume: Volume,
    block: Box,
    pieces: int,
    most: int,
    timepoints: Sequence[int | None],
    inside: Inside,
) -> tuple[NDArray[Any], float]:
    """Return the voxels of a block that hold data and count, and the deviation of their noise."""
    counts = [min(n, pieces) for n in block.shape]
    if volume.ndim == 3:
        counts[0] = 1
    values, steps = [], []
    for timepoint in timepoints:
        for part in split(block, counts):
            box = _middle(part, most)
            read = volume.read(box, timepoint)
            held = np.isfinite(read) & ~volume.without_data(box, read, timepoint)
            counted = inside(box, volume.spatial_shape, timepoint)
            held &= True if counted is None else counted
            pairs = held[..., 1:] & held[..., :-1]
            floats = np.where(held, read, 0).astype(np.float32)
            values.append(floats[held])
            steps.append(np.abs(np.diff(floats, axis=-1))[pairs])
    step = np.concatenate(steps)
    noise = float(np.median(step)) / _STEP_TO_DEVIATION if step.size else 0.0
    return np.concatenate(values), noise


def _middle(box: Box, most: int) -> Box:
    """Return the centre of a box, of the same proportions, with about `most` voxels at most."""
    share = min(1.0, (most / box.size) ** (1 / box.ndim))
    lengths = [min(n, max(1, ceil(n * share))) for n in box.shape]
    start = [a + (n - m) // 2 for a, n, m in zip(box.start, box.shape, lengths, strict=True)]
    return Box(tuple(start), tuple(a + m for a, m in zip(start, lengths, strict=True)))


def _coarse(volume: Volume, diameter: Sequence[float]) -> Volume:
    """Return the finest level with few voxels on which objects are still distinct from noise."""
    if volume.path is None or prod(volume.spatial_shape) <= SAMPLED:
        return volume
    chosen = volume
    for number in range(volume.level + 1, len(volume.levels)):
        if volume.levels[number].shape is None:
            break
        found = volume.at_level(number)
        ratios = [n / m for n, m in zip(found.spatial_shape, volume.spatial_shape, strict=True)]
        if min(d * r for d, r in zip(diameter, ratios, strict=True)) < LEAST_WIDTH:
            break
        chosen = found
        if prod(found.spatial_shape) <= SAMPLED:
            break
    return chosen
