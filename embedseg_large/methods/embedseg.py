"""EmbedSeg: offsets, bandwidths and seediness, clustered greedily and certified.

*Assumes* objects in one piece, each with a centre that distinguishes it from all others. *Fails*
for objects that are much larger than the training objects, because longer offsets are rejected.

The method is that of Lalit et al. (2021). Its targets, loss and tuning are in
`embedseg_large.training`, its units in `embedseg_large.embedding`, its clustering rule in
`embedseg_large.clustering`. This module adapts them to the `Method` protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import Clustering, OpenFaces, cluster_stored
from embedseg_large.clustering.settings import DEFAULT_MARGIN, ClusteringSettings
from embedseg_large.embedding import quantise, raw_fields
from embedseg_large.fields import Field
from embedseg_large.methods.protocol import Knob, Knobs, ObjectScale, Promise, value_of

SEED_KNOB = Knob(
    name="seed",
    meaning="Minimum seediness for a voxel to seed an instance",
    default=0.9,
    values=(0.5, 0.6, 0.7, 0.8, 0.9),
)
MARGIN_KNOB = Knob(
    name="margin",
    meaning="A voxel belongs to an instance when the seed's Gaussian is above this",
    default=DEFAULT_MARGIN,
    values=(0.3, 0.4, 0.5, 0.6, 0.7),
)


@dataclass(frozen=True, slots=True)
class EmbedSeg:
    """Spatial embeddings."""

    scale: ObjectScale
    pitch: Sequence[float]
    """Size of a voxel along each axis (z, y, x) in the network's units."""
    reach: tuple[float, ...] | None = None
    """Longest accepted offset along each axis, in voxels; None: no limit."""
    name: str = "embedseg"
    promise: Promise = Promise.EXACT
    knobs: tuple[Knob, ...] = (SEED_KNOB, MARGIN_KNOB)

    @property
    def fields(self) -> tuple[Field, ...]:
        """Offsets, sigmas and seed, in the original's order."""
        return raw_fields(self.scale.ndim)

    @property
    def halo(self) -> tuple[int, ...]:
        """The largest extent of an object."""
        return self.scale.extent

    def stored(self, raw: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return the embedding in voxels; see `embedseg_large.embedding.quantise`."""
        return quantise(raw, self.pitch)

    def decode(
        self, stored: NDArray[np.float16], open_faces: OpenFaces, knobs: Knobs
    ) -> Clustering:
        """Cluster greedily; see `embedseg_large.clustering.greedy`."""
        rule = ClusteringSettings(
            min_object_size=self.scale.min_object_size,
            seed=value_of(SEED_KNOB, knobs),
            margin=value_of(MARGIN_KNOB, knobs),
            reach=self.reach,
        )
        return cluster_stored(stored, rule, open_faces)
