"""Harmonic embeddings: waves of position, averaged over each object.

A wave along an axis has a phase at each voxel. Its mean over an object is the same number for all
voxels of the object, and differs for objects elsewhere; a few waves form an embedding in which
objects are points. A network has no access to absolute positions, so it predicts the mean *relative
to the voxel's own phase*, as a cosine and a sine. Under rotation these behave as a magnitude and a
vector.

*Assumes* objects with distinct middles; where they coincide, differences in shape help little.
*Fails* for thin rings around other objects, and for objects of very different sizes.

The method is that of Kulikov and Lempitsky (2020). Instances grow from the voxel with
the highest foreground probability, over neighbours with a similar embedding. They grow twice: the
second time, voxels are compared with the mean embedding of the first. An instance reaches no
farther from its seed than the model allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import AXES, Clustering, OpenFaces, three_axes
from embedseg_large.fields import Field
from embedseg_large.methods.protocol import (
    FOREGROUND_KNOB,
    Knob,
    Knobs,
    ObjectScale,
    Promise,
    Targets,
    logit,
    value_of,
)
from embedseg_large.methods.storing import as_float16, probability

if TYPE_CHECKING:
    from torch import Tensor

WAVES = (1.5, 3.0)
"""Wavelengths, as multiples of a typical width: neighbours must differ in phase."""

WAVE_WEIGHT = 5.0
"""Weight of the waves' squared error relative to the cross-entropy of the foreground."""

SPREAD_KNOB = Knob(
    name="spread",
    meaning="Distance in the embedding from which on voxels are of different instances",
    default=0.25,
    values=(0.1, 0.15, 0.2, 0.25, 0.3, 0.4),
)


@dataclass(frozen=True, slots=True)
class Harmonic:
    """Voxels with similar embeddings are one instance."""

    scale: ObjectScale
    name: str = "harmonic"
    promise: Promise = Promise.LOCAL
    terms: tuple[str, ...] = ("waves", "foreground")
    knobs: tuple[Knob, ...] = (FOREGROUND_KNOB, SPREAD_KNOB)

    @property
    def fields(self) -> tuple[Field, ...]:
        """For each wavelength a cosine and a sine along each axis; then the logit of foreground."""
        axes = tuple(range(self.scale.ndim))
        waves: list[Field] = []
        for number in range(len(WAVES)):
            waves.append(Field(name=f"cosine {number}", kind="magnitude", axes=axes))
            waves.append(Field(name=f"sine {number}", kind="vector", axes=axes))
        return (*waves, Field(name="foreground", kind="scalar", head=1))

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """``(waves, ndim)`` radians per voxel; equal along axes with equal voxel size."""
        spacing = np.array(self.scale.spacing)
        lengths = self.scale.typical * np.array(WAVES)[:, np.newaxis]
        return np.asarray(2 * np.pi * spacing / lengths)

    @property
    def halo(self) -> tuple[int, ...]:
        """The largest extent of an object."""
        return self.scale.extent

    def targets(self, labels: NDArray[np.integer]) -> Targets:
        """Compute float32 ``waves`` ``(2·ndim·waves, *spatial)``; ``foreground``, -1 ignored."""
        own = np.maximum(labels, 0)
        sizes = np.maximum(np.bincount(own.reshape(-1)), 1)
        at = np.indices(labels.shape)
        channels = []
        for row in self.frequencies:
            pairs = [_relative(own, sizes, at[d], w) for d, w in enumerate(row)]
            channels += [mean.real for mean in pairs] + [mean.imag for mean in pairs]
        waves = np.where(own > 0, np.stack(channels), 0).astype(np.float32)
        return {"waves": waves, "foreground": np.sign(labels).astype(np.int8)}

    def foreground(self, raw: Tensor) -> Tensor:
        """Voxels whose logit of foreground is positive."""
        return raw[:, -1] > 0

    def loss(self, raw: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the squared error of the waves within objects, and the cross-entropy."""
        from embedseg_large.methods import losses

        inside = (targets["foreground"] > 0)[:, None]
        waves = losses.of_values(raw[:, :-1], targets["waves"], inside, squared=True)
        return {
            "waves": WAVE_WEIGHT * waves,
            "foreground": losses.of_probability(raw[:, -1], targets["foreground"]),
        }

    def ideal(self, targets: Targets) -> NDArray[np.float32]:
        """Return the waves, and logits of ±5; background where nothing is annotated."""
        foreground = np.where(targets["foreground"] > 0, 5, -5)
        return np.concatenate([targets["waves"], foreground[np.newaxis]]).astype(np.float32)

    def stored(self, raw: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return the channels as they are."""
        return as_float16(raw)

    def decode(
        self,
        stored: NDArray[np.float16],
        open_faces: OpenFaces,  # noqa: ARG002  (nothing is certain, wherever the volume ends)
        knobs: Knobs,
    ) -> Clustering:
        """Grow instances in the order of their seeds' probability, ties in raster order."""
        logits = stored[-1].astype(np.float32)
        inside = logits > logit(value_of(FOREGROUND_KNOB, knobs))
        able = np.flatnonzero(inside)
        turns = able[np.argsort(-logits.reshape(-1)[able], kind="stable")]
        ndim, full = self.scale.ndim, three_axes(inside.shape)
        parts = stored[:-1].reshape(len(WAVES), 2, ndim, -1).astype(np.float32)
        reach = np.array((0,) * (AXES - ndim) + self.scale.extent)
        labels = inside.reshape(full).astype(np.int32) - 1  # -1 background, 0 free
        seeds = _grow(
            labels,
            np.ascontiguousarray(parts.transpose(3, 0, 2, 1)),
            self.frequencies,
            turns,
            reach,
            value_of(SPREAD_KNOB, knobs),
            self.scale.min_object_size,
        )
        return Clustering(
            labels=np.maximum(labels, 0).astype(np.uint32).reshape(inside.shape),
            seeds=seeds,
            seediness=probability(logits.reshape(-1)[seeds]),
            certain=np.zeros(seeds.size, np.bool_),
            doubtful=np.arange(inside.size),
        )


def _relative(
    own: NDArray[np.integer], sizes: NDArray[np.integer], at: NDArray[np.int64], frequency: float
) -> NDArray[np.complex128]:
    """Compute the mean phase of each voxel's object along an axis, relative to the voxel's own."""
    phase = np.exp(1j * frequency * at)
    flat = own.reshape(-1)
    parts = [np.bincount(flat, p.reshape(-1), sizes.size) for p in (phase.real, phase.imag)]
    mean = (parts[0] + 1j * parts[1]) / sizes
    relative: NDArray[np.complex128] = mean[own] * phase.conj()
    return relative


@numba.njit(cache=True, nogil=True)
def _grow(
    labels: NDArray[np.int32],
    waves: NDArray[np.float32],
    frequencies: NDArray[np.float64],
    turns: NDArray[np.int64],
    reach: NDArray[np.int64],
    spread: float,
    least: int,
) -> NDArray[np.int64]:  # pragma: no cover - compiled
    """Grow instances into free voxels (0); those that join no instance become -1.

    `waves` are ``(voxels, waves, ndim, 2)``: cosine and sine of each.
    """
    shape = labels.shape
    flat = labels.reshape(-1)
    step = (shape[1] * shape[2], shape[2], 1)
    seeds, count = np.empty(len(turns), np.int64), 0
    mean = np.empty((waves.shape[1], waves.shape[2], 2))
    found, mark = np.empty(flat.size, np.int64), np.zeros(flat.size, np.int32)
    pair, turn = np.empty(2), np.int32(0)
    ndim = waves.shape[2]
    for seed in turns:
        if flat[seed]:
            continue
        mean[:] = waves[seed]
        origin = (seed // step[0], seed // step[1] % shape[1], seed % shape[2])
        size = 0
        for _ in range(2):
            turn += np.int32(1)
            total = np.zeros(mean.shape)
            found[0], size, done = seed, 1, 0
            mark[seed] = turn
            while done < size:
                i = found[done]
                done += 1
                at = (i // step[0], i // step[1] % shape[1], i % shape[2])
                for k in range(mean.shape[0]):
                    for d in range(ndim):
                        axis = 3 - ndim + d
                        _seen_from(
                            waves[i, k, d], frequencies[k, d] * (at[axis] - origin[axis]), pair
                        )
                        total[k, d, 0] += pair[0]
                        total[k, d, 1] += pair[1]
                for axis in range(3):
                    for side in (-1, 1):
                        place = at[axis] + side
                        if not 0 <= place < shape[axis]:
                            continue
                        if abs(place - origin[axis]) > reach[axis]:
                            continue
                        j = i + side * step[axis]
                        if flat[j] or mark[j] == turn:
                            continue
                        mark[j] = turn
                        square = 0.0
                        for k in range(mean.shape[0]):
                            for d in range(ndim):
                                a = 3 - ndim + d
                                moved = at[a] - origin[a] + (side if a == axis else 0)
                                _seen_from(waves[j, k, d], frequencies[k, d] * moved, pair)
                                square += (pair[0] - mean[k, d, 0]) ** 2
                                square += (pair[1] - mean[k, d, 1]) ** 2
                        if square <= spread**2 * mean.shape[0] * ndim:
                            found[size] = j
                            size += 1
            mean[:] = total / size
        if size > least:
            seeds[count] = seed
            count += 1
        for i in found[:size]:
            flat[i] = count if size > least else -1
    return seeds[:count]


@numba.njit(cache=True, nogil=True)
def _seen_from(
    wave: NDArray[np.float32], phase: float, pair: NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    """Convert a mean phase relative to a voxel into one relative to the seed."""
    cosine, sine = np.cos(phase), np.sin(phase)
    pair[0] = wave[0] * cosine - wave[1] * sine
    pair[1] = wave[0] * sine + wave[1] * cosine
