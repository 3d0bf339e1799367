"""The network's predictions for every voxel, in voxels and z, y, x order.

This module alone knows the order of the network's channels and its pitch. With ``ndim = 3``::

    raw      float32  offset x, y, z · sigma x, y, z · seed       the network's order, not activated
    stored   float16  offset z, y, x · log sigma z, y, x · logit  voxels; what PREDICT writes
    Embedding         offsets (z, y, x), sigmas (z, y, x), seeds  voxels; what clustering reads

The original measures space in units in which a voxel spans `pitch`. Its activations, from Lalit et
al. (2021), and the change of units, made once and here::

    offset = tanh(raw) / pitch
    sigma  = sqrt(1 / (2 exp(10 raw))) / pitch          so log sigma = -5 raw - log(2)/2 - log pitch
    seed   = 1 / (1 + exp(-raw))

so that the Gaussian ``exp(-sum_d (difference_d pitch_d)² exp(10 raw_d))`` of the paper is
``exp(-sum_d difference_d² / (2 sigma_d²))`` with differences in voxels.

Stored are the *logarithm* of sigma and the *logit* of the seed. A sigmoid stored as float16 would
saturate at 1, and the greedy clustering would meet long raster chains of equal seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.fields import Field

_LARGEST = np.finfo(np.float16).max  # clipping to it keeps stored values finite
_LOG_SIGMA_RANGE = (-87.0, 88.0)  # whose exponentials are normal float32 numbers


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Where every voxel points, how wide, and how good a seed it is.

    Parameters
    ----------
    offsets
        float32 ``(ndim, *spatial)``: from a voxel to its object's centre, in voxels; z, y, x.
    sigmas
        float32 ``(ndim, *spatial)``: bandwidth of the clustering along each axis, in voxels.
    seeds
        float32 ``(*spatial)``: seediness between 0 and 1.

    Raises
    ------
    UsageError
        If a dtype is not float32, or the shapes do not match.
    """

    offsets: NDArray[np.float32]
    sigmas: NDArray[np.float32]
    seeds: NDArray[np.float32]

    def __post_init__(self) -> None:
        field = (self.seeds.ndim, *self.seeds.shape)
        wanted = {"offsets": field, "sigmas": field, "seeds": self.seeds.shape}
        for name, shape in wanted.items():
            array: NDArray[np.float32] = getattr(self, name)
            if array.dtype != np.float32 or array.shape != shape:
                raise UsageError(
                    f"{name} of an Embedding are {array.dtype} {array.shape}; "
                    f"with seeds of shape {self.seeds.shape} pass float32 {shape}"
                )

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.seeds.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each spatial axis."""
        return self.seeds.shape

    @classmethod
    def from_raw(cls, raw: NDArray[np.floating], pitch: Sequence[float]) -> Embedding:
        """Convert the network's channels, in float32 and without the rounding of `quantise`.

        Parameters
        ----------
        raw
            ``(2·ndim + 1, *spatial)`` in the network's order: offset x, y, z, sigma x, y, z, seed.
        pitch
            Size of a voxel along each axis (z, y, x) in the network's units.

        Raises
        ------
        UsageError
            If the number of channels or the pitch does not match the number of axes.
        """
        offsets, log_sigmas, logits = _in_voxels(raw, pitch)
        sigmas = np.exp(np.clip(log_sigmas, *_LOG_SIGMA_RANGE))
        one = np.float32(1)
        # exp(-logit) overflows below -88, where the seed is 0 to any reader
        return cls(offsets, sigmas, one / (one + np.exp(-np.maximum(logits, np.float32(-87)))))


def channel_count(ndim: int) -> int:
    """Return the number of channels of a network with that many spatial axes."""
    return 2 * ndim + 1


def raw_layout(ndim: int) -> tuple[tuple[int, int, int], list[int]]:
    """Return the layout of the raw channels, for code that splits them itself.

    Returns
    -------
    sizes, axes
        How many channels, in their order, are offsets, sigmas and seeds; and the array axis that
        each offset, and likewise each sigma, belongs to.
    """
    return (ndim, ndim, 1), list(reversed(range(ndim)))


def raw_fields(ndim: int) -> tuple[Field, ...]:
    """Return the meaning of the raw channels, in order."""
    axes = tuple(reversed(range(ndim)))  # raw components run x, y, z
    return (
        Field(name="offsets", kind="vector", axes=axes),
        Field(name="sigmas", kind="magnitude", axes=axes),
        Field(name="seed", kind="scalar", head=1),
    )


class Quiet(NamedTuple):
    """Where a single pass is enough: if it finds nothing that could become foreground."""

    core: tuple[slice, ...]
    """The part of the image whose predictions are kept."""
    seediness: float
    """Between 0 and 1: the first pass must not exceed it anywhere in the core."""

    def holds(self, raw: Any) -> bool:
        """Whether raw channels ``(channels, *spatial)``, seed last, stay below in the core."""
        logit = log(self.seediness / (1 - self.seediness))
        return bool(raw[(-1, *self.core)].max() <= logit)


def quantise(raw: NDArray[np.floating], pitch: Sequence[float]) -> NDArray[np.float16]:
    """Convert the network's channels to what is stored and clustered.

    Parameters
    ----------
    raw, pitch
        As for `Embedding.from_raw`.

    Returns
    -------
    float16 ``(2·ndim + 1, *spatial)``: offsets z, y, x in voxels, natural logarithms of the sigmas
    z, y, x in voxels, seed logit; clipped to finite values.
    """
    stored = np.empty(raw.shape, np.float16)
    offsets, log_sigmas, logits = _in_voxels(raw, pitch)
    for part, out in zip((offsets, log_sigmas, logits), split(stored), strict=True):
        out[...] = np.clip(part, -_LARGEST, _LARGEST)
    return stored


def dequantise(stored: NDArray[np.float16]) -> Embedding:
    """Convert the result of `quantise` back.

    Every voxel is converted through tables of all 65,536 float16 values, so equal stored voxels
    give equal bits, wherever they lie in an array and however the array is cut.
    """
    offsets, log_sigmas, logits = split(stored)
    return Embedding(offsets.astype(np.float32), sigmas_of(log_sigmas), seeds_of(logits))


def split(
    stored: NDArray[np.float16],
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float16]]:
    """Return views of stored offsets, log sigmas (each ``(ndim, *spatial)``) and logits."""
    ndim = _ndim_of(stored)
    return stored[:ndim], stored[ndim : 2 * ndim], stored[2 * ndim]


def sigmas_of(log_sigmas: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the sigmas (voxels, float32, same shape) of stored logarithms."""
    return _sigma_table()[log_sigmas.view(np.uint16)]


def seeds_of(logits: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the seeds (0 to 1, float32, same shape) of stored logits."""
    return _seed_table()[logits.view(np.uint16)]


def nan_voxel(channels: NDArray[np.floating]) -> tuple[int, ...] | None:
    """Find the first voxel at which any channel, (c, *spatial), is not a number; None: nowhere.

    Such a voxel belongs to no object and to no background. A network that computes it is broken;
    this function is the only place that decides so.
    """
    if channels.dtype == np.float16:  # with integers, which is four times as fast
        wrong = (channels.view(np.uint16) & np.uint16(0x7FFF)) > np.uint16(0x7C00)
    else:
        wrong = np.isnan(channels)
    if not wrong.any():
        return None
    voxels = wrong.any(axis=0)
    return tuple(int(i) for i in np.unravel_index(int(voxels.argmax()), voxels.shape))


def background(shape: Sequence[int], channels: int | None = None) -> NDArray[np.float16]:
    """Return the stored form of voxels that were never predicted.

    Parameters
    ----------
    shape
        Number of voxels along each spatial axis.
    channels
        Number of channels of another method, whose last channel is also a logit.

    Returns
    -------
    float16 ``(channels, *shape)``: offset 0, sigma 1, and the lowest logit, whose seed is exactly
    0 and so above no threshold.
    """
    stored = np.zeros((channels or channel_count(len(shape)), *shape), np.float16)
    stored[-1] = -_LARGEST
    return stored


def keep_above(
    stored: NDArray[np.float16], seed: float, inside: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float16], int]:
    """Make background of all voxels of stored predictions but those with a higher seed.

    Parameters
    ----------
    stored
        ``(2·ndim + 1, *spatial)``.
    seed
        From 0 to 1.
    inside
        ``(*spatial)``: voxels that may be kept; None: all.

    Returns
    -------
    A copy that is mostly one value, and so compresses well; and how many voxels were kept.
    """
    faint = seeds_of(stored[-1]) <= seed
    if inside is not None:
        faint |= ~inside
    kept = np.where(faint, np.float16(0), stored)
    kept[-1][faint] = -_LARGEST
    return kept, int(faint.size - np.count_nonzero(faint))


def _ndim_of(channels: NDArray[np.floating]) -> int:
    """Return the number of spatial axes of an array of channels, checked against their number."""
    ndim = channels.ndim - 1
    if len(channels) != channel_count(ndim):
        raise UsageError(
            f"{len(channels)} channels over {ndim} axes (shape {channels.shape}); "
            f"pass {channel_count(ndim)}: an offset and a sigma for each axis, and a seed"
        )
    return ndim


def _in_voxels(
    raw: NDArray[np.floating], pitch: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return offsets and log sigmas (z, y, x, voxels) and the seed logits, all float32."""
    ndim = _ndim_of(raw)
    if len(pitch) != ndim or min(pitch) <= 0:
        raise UsageError(f"pitch {tuple(pitch)} over {ndim} axes; pass {ndim} positive numbers")
    # one memory layout, so that vectorised tanh and exp take one path
    values = np.ascontiguousarray(raw, dtype=np.float32)
    column = (-1, *(1,) * ndim)
    spans = np.array(pitch, np.float32).reshape(column)
    shift = np.array([log(2) / 2 + log(p) for p in pitch], np.float32).reshape(column)
    offsets = np.divide(np.tanh(values[ndim - 1 :: -1]), spans, dtype=np.float32)
    log_sigmas: NDArray[np.float32] = -5 * values[2 * ndim - 1 : ndim - 1 : -1] - shift
    return offsets, log_sigmas, values[2 * ndim]


@cache
def _sigma_table() -> NDArray[np.float32]:
    """Return exp of every float16, by bit pattern, kept positive and finite."""
    return _table(lambda log_sigmas: np.exp(np.clip(log_sigmas, *_LOG_SIGMA_RANGE)))


@cache
def _seed_table() -> NDArray[np.float32]:
    """Return the sigmoid of every float16, by bit pattern."""
    return _table(lambda logits: 1 / (1 + np.exp(-logits)))


def _table(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float32]:
    """Return the function of every float16, computed in float64, read-only as it is shared."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    with np.errstate(all="ignore"):  # some of the 65,536 values are infinite or NaN
        table = function(every.astype(np.float64)).astype(np.float32)
    table.flags.writeable = False
    return table
