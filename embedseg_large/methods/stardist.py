"""Star-convex shapes: each voxel describes its whole object, and the best descriptions are kept.

1. *Targets*: the distance to the object's border along each of a few directions; and the distance
   to background, relative to its maximum in the object: the probability of being a good describer.
2. *Decode*: voxels with locally maximal probability paint their shapes, best first. A shape that
   overlaps too much with earlier ones is dropped.

*Assumes* star-convex objects: the whole border is visible from some voxel. *Fails* for long, bent
or branched objects, which it splits into convex parts.

The method is that of Schmidt et al. (2018) and Weigert et al. (2020), with symmetric
directions, so that predictions can be transformed. The size of a shape is limited, so unseen voxels
can change only candidates near the border of the region, those that overlap with them, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.clustering.cluster import Clustering, OpenFaces
from embedseg_large.fields import UNANNOTATED, Field
from embedseg_large.methods.flood import near_open_faces
from embedseg_large.methods.protocol import (
    Knob,
    Knobs,
    ObjectScale,
    Promise,
    Targets,
    logit,
    value_of,
)
from embedseg_large.methods.rays import PaintedShapes, directions, distances, farthest, paint
from embedseg_large.methods.storing import as_float16, probability

if TYPE_CHECKING:
    from torch import Tensor

REACH = 0.75
"""Maximum distance along a ray, as a multiple of the largest extent."""

LEAST_LENGTH = 0.5
"""Minimum length of a ray: the voxel that describes a shape is part of it."""

RIM = -2.0
"""Minimum logit of foreground; the probability is about an eighth of the maximum depth."""

SCORE_KNOB = Knob(
    name="score",
    meaning="Minimum probability for a voxel to describe an instance",
    default=0.5,
    values=(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
)
OVERLAP_KNOB = Knob(
    name="overlap",
    meaning="Fraction of a shape that better ones may have taken",
    default=0.4,
    values=(0.2, 0.3, 0.4, 0.5, 0.6),
)


@dataclass(frozen=True, slots=True)
class StarDist:
    """Star-convex shapes, the most probable first."""

    scale: ObjectScale
    name: str = "stardist"
    promise: Promise = Promise.EXACT
    terms: tuple[str, ...] = ("distances", "probability")
    knobs: tuple[Knob, ...] = (SCORE_KNOB, OVERLAP_KNOB)

    @property
    def fields(self) -> tuple[Field, ...]:
        """Distances in units of a typical radius; then the logit of the probability."""
        return (
            Field(name="distances", kind="rays", directions=directions(self.scale.ndim)),
            Field(name="probability", kind="scalar", head=1),
        )

    @property
    def unit(self) -> float:
        """Unit of the distances: half a typical width, in voxels of the finest axis.

        Distances are then about 1, like the other numbers that a network learns.
        """
        return self.scale.typical / 2

    @property
    def longest(self) -> float:
        """Maximum distance along a ray, in voxels of the finest axis."""
        return REACH * self.scale.largest

    @property
    def reach(self) -> tuple[int, ...]:
        """Maximum distance of a shape from the voxel that describes it, along each axis."""
        return farthest(self.longest, self.scale.spacing)

    @property
    def halo(self) -> tuple[int, ...]:
        """One and a half times the largest extent: a shape and its competitors."""
        return tuple(2 * r for r in self.reach)

    def targets(self, labels: NDArray[np.integer]) -> Targets:
        """Compute float32 ``distances`` ``(directions, *spatial)``; ``probability``, -1 ignored."""
        return {
            "distances": distances(labels, self.scale.spacing),
            "probability": describers(labels, self.scale.spacing),
        }

    def foreground(self, raw: Tensor) -> Tensor:
        """Voxels probably deeper in an object than its rim, where the probability is low."""
        return raw[:, -1] > RIM

    def loss(self, raw: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the error of the distances, mostly at good describers, and the cross-entropy."""
        from embedseg_large.methods import losses

        wanted, chance = targets["distances"], targets["probability"]
        weights = chance.clamp(min=0)[:, None] * (wanted >= 0)
        return {
            "distances": losses.of_values(raw[:, :-1], wanted / self.unit, weights),
            "probability": losses.of_probability(raw[:, -1], chance),
        }

    def ideal(self, targets: Targets) -> NDArray[np.float32]:
        """Return distances, and the logit; background where nothing is annotated."""
        chance = np.clip(targets["probability"], 0.01, 0.99)
        logits = np.log(chance / (1 - chance))[np.newaxis]
        lengths = np.abs(targets["distances"]) / self.unit
        return np.concatenate([lengths, logits]).astype(np.float32)

    def stored(self, raw: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return the channels as they are."""
        return as_float16(raw)

    def decode(
        self, stored: NDArray[np.float16], open_faces: OpenFaces, knobs: Knobs
    ) -> Clustering:
        """Paint the shapes of the best describers."""
        logits = stored[-1].astype(np.float32)
        places = _candidates(logits, logit(value_of(SCORE_KNOB, knobs)))
        lengths = stored[:-1].reshape(len(stored) - 1, -1)[:, places].T.astype(np.float32)
        lengths = np.clip(lengths * np.float32(self.unit), LEAST_LENGTH, self.longest)
        # two shapes meet at most two reaches apart; a maximum depends on its neighbours
        rivals = near_open_faces(logits.shape, [2 * r + 1 for r in self.reach], open_faces)
        painted = paint(
            places,
            lengths.astype(np.float32),
            rivals.reshape(-1)[places],
            logits.shape,
            self.scale.spacing,
            overlap=value_of(OVERLAP_KNOB, knobs),
            least=self.scale.min_object_size,
        )
        near = near_open_faces(logits.shape, self.reach, open_faces)
        return _clustering(painted, places, near, probability(logits))


def _candidates(logits: NDArray[np.float32], least: np.float32) -> NDArray[np.int64]:
    """Find voxels that no neighbour exceeds: positions, best first, ties in raster order."""
    highest = ndimage.maximum_filter(logits, 3) == logits
    at = np.flatnonzero(highest & (logits > least))
    return at[np.argsort(-logits.reshape(-1)[at], kind="stable")]


def _clustering(
    painted: PaintedShapes,
    places: NDArray[np.int64],
    near: NDArray[np.bool_],
    seediness: NDArray[np.float32],
) -> Clustering:
    """Number accepted shapes in the order they were painted."""
    kept = painted.accepted
    numbers = np.zeros(kept.size + 1, np.uint32)
    numbers[1:][kept] = np.arange(1, np.count_nonzero(kept) + 1)
    at = places[kept]
    return Clustering(
        labels=numbers[painted.labels].reshape(near.shape),
        seeds=at,
        seediness=seediness.reshape(-1)[at],
        certain=~painted.unsure[kept],
        doubtful=np.flatnonzero(painted.doubt.reshape(near.shape) | near),
    )


def describers(labels: NDArray[np.integer], spacing: tuple[float, ...]) -> NDArray[np.float32]:
    """Compute the distance to the border, relative to the object's maximum; -1 if not annotated."""
    chance = np.where(labels == UNANNOTATED, -1, 0).astype(np.float32)
    for number, box in enumerate(ndimage.find_objects(np.maximum(labels, 0)), 1):
        if box is None:
            continue
        near = tuple(
            slice(max(0, s.start - 1), min(n, s.stop + 1))
            for s, n in zip(box, labels.shape, strict=True)
        )
        own = labels[near] == number
        if own.all():
            chance[near] = 1
            continue
        depth = ndimage.distance_transform_edt(own, sampling=spacing)
        chance[near][own] = (depth / depth.max())[own]
    return chance
