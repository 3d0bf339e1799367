"""Flows: each voxel predicts a step towards the middle of its object, where their paths meet.

1. *Targets*: heat enters each object at its middle voxel and spreads within it. The direction in
   which the logarithm of the temperature rises, of length 1, leads around every corner.
2. *Decode*: each foreground voxel follows the flow in steps of one voxel. Voxels where many paths
   end are sinks; connected sinks are one instance, named by the voxel where most paths end.

*Assumes* that objects are in one piece and that their middles are at least three voxels apart.
*Fails* for long thin objects, along which the flow converges on several sinks.

The method is that of Stringer et al. (2021). A voxel's path is the sum of its steps, stored
separately from the voxel's position, so that paths are bit-identical wherever a tile begins. A
voxel that is carried farther than the largest extent is not foreground: paths from outside the
region reach no farther into it, and sinks beyond that distance are certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.clustering.cluster import AXES, Clustering, OpenFaces, three_axes
from embedseg_large.fields import Field
from embedseg_large.methods.flood import near_open_faces, settled
from embedseg_large.methods.naming import most_central
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

FLOW_WEIGHT = 5.0
"""Weight of the flow's squared error relative to the cross-entropy of the foreground."""

CROWD_KNOB = Knob(
    name="crowd",
    meaning="Voxels that must end at one voxel to make it a sink",
    default=2.0,
    values=(1.0, 2.0, 4.0, 8.0),
)


@dataclass(frozen=True, slots=True)
class Flows:
    """Voxels that flow to the same sink are one instance."""

    scale: ObjectScale
    name: str = "flows"
    promise: Promise = Promise.EXACT
    terms: tuple[str, ...] = ("flow", "foreground")
    knobs: tuple[Knob, ...] = (FOREGROUND_KNOB, CROWD_KNOB)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The flow (z, y, x), and foreground."""
        axes = tuple(range(self.scale.ndim))
        return (
            Field(name="flow", kind="vector", axes=axes),
            Field(name="foreground", kind="scalar", head=1),
        )

    @property
    def reach(self) -> tuple[int, ...]:
        """Maximum distance that a voxel may be carried along each axis, in voxels."""
        return self.scale.extent

    @property
    def steps(self) -> int:
        """Number of steps that a voxel is carried: enough for a corner of the largest object."""
        return 2 * max(self.scale.extent)

    @property
    def halo(self) -> tuple[int, ...]:
        """The largest extent of an object plus the distance that unseen voxels may be carried."""
        return tuple(e + ceil(e / 2) for e in self.scale.extent)

    def targets(self, labels: NDArray[np.integer]) -> Targets:
        """Compute float32 ``flow`` ``(ndim, *spatial)`` and int8 ``foreground``, -1 ignored."""
        return {
            "flow": flow_of(labels),
            "foreground": np.sign(labels).astype(np.int8),
        }

    def foreground(self, raw: Tensor) -> Tensor:
        """Voxels whose logit of foreground is positive."""
        return raw[:, -1] > 0

    def loss(self, raw: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the squared error of the flow, and the cross-entropy of the foreground."""
        from embedseg_large.methods import losses

        known = targets["foreground"] >= 0
        flow = losses.of_values(raw[:, :-1], targets["flow"], known[:, None], squared=True)
        return {
            "flow": FLOW_WEIGHT * flow,
            "foreground": losses.of_probability(raw[:, -1], targets["foreground"]),
        }

    def ideal(self, targets: Targets) -> NDArray[np.float32]:
        """Return the flow, and logits of ±5; background where nothing is annotated."""
        foreground = np.where(targets["foreground"] > 0, 5, -5)
        return np.concatenate([targets["flow"], foreground[np.newaxis]]).astype(np.float32)

    def stored(self, raw: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return the channels as they are."""
        return as_float16(raw)

    def decode(
        self, stored: NDArray[np.float16], open_faces: OpenFaces, knobs: Knobs
    ) -> Clustering:
        """Follow the flow, and group voxels by the sink where they end."""
        foreground = stored[-1].astype(np.float32)
        inside = foreground > logit(value_of(FOREGROUND_KNOB, knobs))
        shape = three_axes(inside.shape)
        flow = np.zeros((AXES, *shape), np.float32)
        flow[AXES - self.scale.ndim :] = (stored[:-1] * inside).reshape(-1, *shape)
        reach = np.array((0,) * (AXES - self.scale.ndim) + self.reach, np.float64)
        ends, left = _follow(flow, inside.reshape(shape), self.steps, reach, _sides(open_faces))
        hits = np.bincount(ends[ends >= 0], minlength=inside.size).astype(np.int32)
        sinks = (hits >= value_of(CROWD_KNOB, knobs)).reshape(inside.shape)
        basins = ndimage.label(sinks, np.ones((3,) * inside.ndim))[0]
        labels, seeds = _named(basins, hits, ends)
        doubt = self._doubt(basins, ends, left.reshape(inside.shape), open_faces)
        return settled(
            labels.reshape(inside.shape),
            seeds,
            doubt & inside,
            probability(foreground),
            self.scale.min_object_size,
            open_faces,
        )

    def _doubt(
        self,
        basins: NDArray[np.integer],
        ends: NDArray[np.int64],
        left: NDArray[np.bool_],
        open_faces: OpenFaces,
    ) -> NDArray[np.bool_]:
        """Find voxels whose instance could change through voxels beyond open faces.

        These are voxels whose path crosses such a face, and voxels that end where one of these or
        an unseen voxel could end, or in a basin that an unseen voxel could enlarge.
        """
        size = [2 * far + 1 for far in self.reach]
        near = ndimage.maximum_filter(left, size) if left.any() else left.copy()
        near |= near_open_faces(basins.shape, self.reach, open_faces)
        unsure = np.isin(basins, np.unique(basins[near & (basins > 0)])) & (basins > 0)
        unsure |= near
        at = np.append(unsure.reshape(-1), False)
        doubtful: NDArray[np.bool_] = at[ends].reshape(basins.shape) | left
        return doubtful


def _named(
    basins: NDArray[np.integer], hits: NDArray[np.int32], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Label voxels by basin, and name each basin by the (first) voxel where most paths end.

    Returns
    -------
    int32 ``(voxels,)`` labels in the order of their names; ``(n,)`` positions.
    """
    flat = basins.reshape(-1)
    at = np.flatnonzero(flat)
    order = at[np.lexsort((at, -hits[at], flat[at]))]
    _, first = np.unique(flat[order], return_index=True)
    seeds = order[first]
    numbers = np.zeros(seeds.size + 1, np.int32)
    numbers[1 + np.argsort(seeds)] = np.arange(1, seeds.size + 1)
    basin = np.append(flat, 0)[ends]  # -1 for paths that end nowhere
    return numbers[basin], np.sort(seeds)


def _sides(open_faces: OpenFaces) -> NDArray[np.bool_]:
    """``(3, 2)``: whether the volume continues beyond each face."""
    return np.array(((False, False),) * (AXES - len(open_faces)) + tuple(open_faces), np.bool_)


@numba.njit(cache=True, nogil=True)
def _follow(
    flow: NDArray[np.float32],
    inside: NDArray[np.bool_],
    steps: int,
    reach: NDArray[np.float64],
    is_open: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:  # pragma: no cover - compiled
    """Carry each voxel along the flow.

    Returns
    -------
    The position in the raveled region where each voxel ends, -1 for nowhere; and whether its path
    touched an open face, so that the true path may differ.
    """
    shape = inside.shape
    ends = np.full(inside.size, -1, np.int64)
    left = np.zeros(inside.size, np.bool_)
    at, moved, low = np.empty(3, np.int64), np.empty(3), np.empty(3, np.int64)
    part, step = np.empty(3), np.empty(3)
    for i in range(inside.size):
        at[0] = i // (shape[1] * shape[2])
        at[1] = i // shape[2] % shape[1]
        at[2] = i % shape[2]
        if not inside[at[0], at[1], at[2]]:
            continue
        moved[:] = 0
        for _ in range(steps):
            for d in range(3):
                whole = np.floor(moved[d])
                low[d] = at[d] + int(whole)
                part[d] = moved[d] - whole
                if (low[d] < 0 and is_open[d, 0]) or (low[d] + 1 >= shape[d] and is_open[d, 1]):
                    left[i] = True
            step[:] = 0
            for corner in range(8):
                weight = 1.0
                z, y, x = low[0], low[1], low[2]
                if corner & 4:
                    z, weight = z + 1, weight * part[0]
                else:
                    weight *= 1 - part[0]
                if corner & 2:
                    y, weight = y + 1, weight * part[1]
                else:
                    weight *= 1 - part[1]
                if corner & 1:
                    x, weight = x + 1, weight * part[2]
                else:
                    weight *= 1 - part[2]
                if weight > 0 and 0 <= z < shape[0] and 0 <= y < shape[1] and 0 <= x < shape[2]:
                    for d in range(3):
                        step[d] += weight * flow[d, z, y, x]
            far = False
            for d in range(3):
                moved[d] += step[d]
                far |= abs(moved[d]) > reach[d]
            if far:
                break
        end, known = 0, True
        for d in range(3):
            place = at[d] + int(np.floor(moved[d] + 0.5))
            known &= abs(moved[d]) <= reach[d] and 0 <= place < shape[d]
            end = end * shape[d] + place
        if known:
            ends[i] = end
    return ends, left


def flow_of(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the flow of each object, ``(ndim, *spatial)`` of length 1; 0 outside, and at sinks."""
    flow = np.zeros((labels.ndim, *labels.shape), np.float32)
    for number, box in enumerate(ndimage.find_objects(np.maximum(labels, 0)), 1):
        if box is not None:
            own = labels[box] == number
            flow[(slice(None), *box)] += np.where(own, _flow_in(own), 0)
    return flow


def _flow_in(own: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the direction in which heat from the middle rises within a mask."""
    shape = three_axes(own.shape)
    middle = np.pad(most_central(own).reshape(shape), 1)
    heat = _heat(np.pad(own.reshape(shape), 1), middle, 2 * sum(own.shape))
    slopes = np.stack(_slopes(np.log1p(heat)))[AXES - own.ndim :]
    # far from the middle of a long object heat is so small that squares of it would be 0
    largest = np.abs(slopes).max(axis=0)
    slopes /= np.where(largest > 0, largest, 1)
    length = np.sqrt((slopes**2).sum(axis=0))
    unit: NDArray[Any] = slopes / np.maximum(length, 1)
    unit[:, middle] = 0
    inner = unit[:, 1:-1, 1:-1, 1:-1]
    return inner.reshape(own.ndim, *own.shape).astype(np.float32)


def _slopes(heat: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return [np.roll(heat, -1, axis) - np.roll(heat, 1, axis) for axis in range(AXES)]


@numba.njit(cache=True, nogil=True)
def _heat(
    own: NDArray[np.bool_], middle: NDArray[np.bool_], steps: int
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Heat a mask, padded by one voxel, at its middle for `steps` steps; outside it is cold."""
    heat = np.zeros(own.shape)
    before = np.zeros(own.shape)
    for _ in range(steps):
        heat += middle
        before[:] = heat
        for z in range(1, own.shape[0] - 1):
            for y in range(1, own.shape[1] - 1):
                for x in range(1, own.shape[2] - 1):
                    if own[z, y, x]:
                        around = before[z - 1, y, x] + before[z + 1, y, x]
                        around += before[z, y - 1, x] + before[z, y + 1, x]
                        around += before[z, y, x - 1] + before[z, y, x + 1]
                        heat[z, y, x] = (around + before[z, y, x]) / 7
    return heat
