"""Background, interior, boundary: the U-Net baseline of the field.

Interiors of touching objects are separated by the boundary, the outermost voxels of each object. An
instance is a connected interior together with the boundary around it, which is flooded from there.

*Assumes* that objects are more than two voxels thick along every axis, and in one piece.
*Fails* where the boundary between two objects has a gap of even one voxel, which merges them, and
where an object has a thin neck, which splits it.

The method is that of Caicedo et al. (2019) and others, with a flood in layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import Clustering, OpenFaces
from embedseg_large.fields import UNANNOTATED, Field
from embedseg_large.methods.flood import flooded
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

BACKGROUND, INTERIOR, BOUNDARY = range(3)

BOUNDARY_WEIGHT = 4.0
"""Weight of the boundary in the loss: it is thin, and a gap in it merges two objects."""

INTERIOR_KNOB = Knob(
    name="interior",
    meaning="Minimum probability for a voxel to be part of an interior",
    default=0.5,
    values=(0.3, 0.4, 0.5, 0.6, 0.7),
)
COVER_KNOB = replace(
    FOREGROUND_KNOB,
    meaning="Minimum probability for a voxel to be part of any object",
    values=(0.3, 0.4, 0.5, 0.6, 0.7),
)
"""Of interior and boundary together; fewer values are tried, in product with those above."""


@dataclass(frozen=True, slots=True)
class ThreeClass:
    """Connected interiors and the boundaries around them."""

    scale: ObjectScale
    name: str = "three-class"
    promise: Promise = Promise.EXACT
    terms: tuple[str, ...] = ("classes",)
    fields: tuple[Field, ...] = (Field(name="classes", kind="scalar", count=3),)
    """Background, interior, boundary."""
    knobs: tuple[Knob, ...] = (INTERIOR_KNOB, COVER_KNOB)

    @property
    def layers(self) -> int:
        """Number of voxels by which an interior grows: a quarter of an object, at least 3."""
        return max(3, max(self.scale.extent) // 4)

    @property
    def halo(self) -> tuple[int, ...]:
        """The largest extent of an object plus the number of layers."""
        return tuple(e + self.layers for e in self.scale.extent)

    def targets(self, labels: NDArray[np.integer]) -> Targets:
        """Compute the class of each voxel: int8 ``classes``, -1 ignored."""
        classes = np.where(labels > 0, INTERIOR, labels).astype(np.int8)
        classes[boundary(labels)] = BOUNDARY
        lost = np.setdiff1d(np.unique(labels[labels > 0]), labels[classes == INTERIOR])
        for number in lost:  # too thin: the voxels nearest to the middle become the interior
            classes[most_central(labels == number)] = INTERIOR
        return {"classes": classes}

    def foreground(self, raw: Tensor) -> Tensor:
        """Voxels that are interior or boundary."""
        return raw.argmax(dim=1) != BACKGROUND

    def loss(self, raw: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the cross-entropy, with a larger weight for the boundary."""
        from embedseg_large.methods import losses

        return {"classes": losses.of_classes(raw, targets["classes"], (1, 1, BOUNDARY_WEIGHT))}

    def ideal(self, targets: Targets) -> NDArray[np.float32]:
        """Return logits of ±5; background where nothing is annotated."""
        classes = np.where(targets["classes"] == UNANNOTATED, BACKGROUND, targets["classes"])
        every = np.arange(3).reshape(-1, *(1,) * classes.ndim)
        return np.where(classes == every, 5, -5).astype(np.float32)

    def stored(self, raw: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return the logits of interior versus the rest, and of foreground versus background.

        The loss has multiplied the odds of the boundary by its weight. For foreground this is
        undone; interiors stay cautious, so that they do not touch.
        """
        background, interior, edge = np.asarray(raw, np.float32)
        inner = interior - np.logaddexp(background, edge)
        fair = edge - np.float32(np.log(BOUNDARY_WEIGHT))
        return as_float16(np.stack([inner, np.logaddexp(interior, fair) - background]))

    def decode(
        self, stored: NDArray[np.float16], open_faces: OpenFaces, knobs: Knobs
    ) -> Clustering:
        """Flood the foreground from each connected interior."""
        interior, foreground = stored.astype(np.float32)
        inside = foreground > logit(value_of(COVER_KNOB, knobs))
        return flooded(
            inside & (interior > logit(value_of(INTERIOR_KNOB, knobs))),
            inside,
            probability(foreground),
            layers=self.layers,
            least=self.scale.min_object_size,
            open_faces=open_faces,
        )


def boundary(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Find voxels of objects that share a face with another object or background."""
    found = np.zeros(labels.shape, np.bool_)
    for axis in range(labels.ndim):
        low, high = (
            tuple(slice(None) if d != axis else part for d in range(labels.ndim))
            for part in (slice(None, -1), slice(1, None))
        )
        a, b = labels[low], labels[high]
        differ = (a != b) & (a != UNANNOTATED) & (b != UNANNOTATED)
        found[low] |= differ & (a > 0)
        found[high] |= differ & (b > 0)
    return found
