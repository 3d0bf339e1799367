"""Foreground and background: each connected piece of foreground is an instance.

*Assumes* that objects do not touch. *Fails* where they do: touching objects become one instance.

Pieces may be larger than any tile. Parts of a piece in several tiles are joined by the voxels that
the tiles share, which are foreground in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import Clustering, OpenFaces
from embedseg_large.fields import Field
from embedseg_large.methods.flood import flooded
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

PIECE_KNOB = replace(FOREGROUND_KNOB, values=(0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
"""Higher values are tried than by other methods: nothing else separates touching objects."""


@dataclass(frozen=True, slots=True)
class TwoClass:
    """Connected pieces of foreground."""

    scale: ObjectScale
    name: str = "two-class"
    promise: Promise = Promise.JOINED
    terms: tuple[str, ...] = ("foreground",)
    fields: tuple[Field, ...] = (Field(name="foreground", kind="scalar"),)
    knobs: tuple[Knob, ...] = (PIECE_KNOB,)

    @property
    def halo(self) -> tuple[int, ...]:
        """The largest extent of an object."""
        return self.scale.extent

    def targets(self, labels: NDArray[np.integer]) -> Targets:
        """Compute whether each voxel is foreground: int8 ``foreground``, -1 ignored."""
        return {"foreground": np.sign(labels).astype(np.int8)}

    def foreground(self, raw: Tensor) -> Tensor:
        """Voxels whose logit of foreground is positive."""
        return raw[:, -1] > 0

    def loss(self, raw: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the cross-entropy."""
        from embedseg_large.methods import losses

        return {"foreground": losses.of_probability(raw[:, 0], targets["foreground"])}

    def ideal(self, targets: Targets) -> NDArray[np.float32]:
        """Return logits of ±5; background where nothing is annotated."""
        return np.where(targets["foreground"] > 0, 5, -5).astype(np.float32)[np.newaxis]

    def stored(self, raw: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return the logit as it is."""
        return as_float16(raw)

    def decode(
        self, stored: NDArray[np.float16], open_faces: OpenFaces, knobs: Knobs
    ) -> Clustering:
        """Number connected pieces."""
        foreground = stored[0].astype(np.float32)
        inside = foreground > logit(value_of(PIECE_KNOB, knobs))
        return flooded(
            inside,
            inside,
            probability(foreground),
            layers=0,
            least=self.scale.min_object_size,
            open_faces=open_faces,
        )
