"""Affinities: whether voxels near and far apart belong together, cut by a mutex watershed.

Near neighbours are merged in the order of their affinity, unless a pair farther apart forbids
it. Neither thresholds nor seeds are needed.

*Assumes* little: objects may have any shape but must be in one piece. *Fails*
for crowded objects that are thinner than the far offsets, because few pairs vote for them.

The method is that of Wolf et al. (2018, 2019), implemented by the library bioimage-cpp. In a
sequence of merges, a decision may depend on another one far away. So instances cannot be certified:
agreement of the tiles at all seams is evidence, not proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import Clustering, OpenFaces
from embedseg_large.extras import extra
from embedseg_large.fields import UNANNOTATED, Field, Offset, shifted_slices
from embedseg_large.methods.naming import unproven
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
from embedseg_large.methods.storing import as_float16

if TYPE_CHECKING:
    from torch import Tensor

FAR = (0.25, 0.5)
"""Lengths of the far offsets, as multiples of a typical width: between small objects that touch
there must be pairs that keep them apart."""

APART_KNOB = Knob(
    name="apart",
    meaning="Advantage, as a logit, of pairs that do not belong together",
    default=0.0,
    values=(-2.0, -1.0, 0.0, 1.0, 2.0),
)


@dataclass(frozen=True, slots=True)
class Affinities:
    """Affinities between voxels, partitioned by a mutex watershed."""

    scale: ObjectScale
    name: str = "affinities"
    promise: Promise = Promise.LOCAL
    terms: tuple[str, ...] = ("affinities", "foreground")
    knobs: tuple[Knob, ...] = (FOREGROUND_KNOB, APART_KNOB)

    @property
    def offsets(self) -> tuple[Offset, ...]:
        """Offsets to the next voxel along each axis, then to distant ones; in 2D also on diagonals.

        Axes with equal voxel size have offsets of equal length, so they can be exchanged.
        """
        ndim, spacing = self.scale.ndim, self.scale.spacing
        axes = [tuple(int(d == axis) for d in range(ndim)) for axis in range(ndim)]
        found = dict.fromkeys(axes)
        for share in FAR:
            steps = [max(2, round(share * self.scale.typical / s)) for s in spacing]
            ways = list(axes)
            if ndim == 2:
                ways += [(1, 1), (1, -1)]
            found.update(
                dict.fromkeys(tuple(n * s for n, s in zip(w, steps, strict=True)) for w in ways)
            )
        return tuple(found)

    @property
    def fields(self) -> tuple[Field, ...]:
        """Logits of the affinities and of foreground."""
        return (
            Field(name="affinities", kind="edges", directions=self.offsets),
            Field(name="foreground", kind="scalar", head=1),
        )

    @property
    def halo(self) -> tuple[int, ...]:
        """The largest extent of an object."""
        return self.scale.extent

    def targets(self, labels: NDArray[np.integer]) -> Targets:
        """Compute int8 ``affinities`` ``(offsets, *spatial)`` and ``foreground``; -1 is ignored.

        An affinity is 1 within an object, 0 between two objects or an object and background.
        Ignored are pairs of background voxels and pairs with a voxel that is ignored or outside the
        array.
        """
        pairs = np.stack([_together(labels, offset) for offset in self.offsets])
        return {"affinities": pairs, "foreground": np.sign(labels).astype(np.int8)}

    def foreground(self, raw: Tensor) -> Tensor:
        """Voxels whose logit of foreground is positive."""
        return raw[:, -1] > 0

    def loss(self, raw: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the cross-entropies."""
        from embedseg_large.methods import losses

        return {
            "affinities": losses.of_probability(raw[:, :-1], targets["affinities"]),
            "foreground": losses.of_probability(raw[:, -1], targets["foreground"]),
        }

    def ideal(self, targets: Targets) -> NDArray[np.float32]:
        """Return logits of ±5, 0 where a pair is ignored."""
        wanted = targets["affinities"]
        pairs = np.where(wanted == UNANNOTATED, 0, np.where(wanted > 0, 5, -5))
        foreground = np.where(targets["foreground"] > 0, 5, -5)
        return np.concatenate([pairs, foreground[np.newaxis]]).astype(np.float32)

    def stored(self, raw: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return the logits as they are."""
        return as_float16(raw)

    def decode(
        self, stored: NDArray[np.float16], open_faces: OpenFaces, knobs: Knobs
    ) -> Clustering:
        """Merge pairs or forbid merging them, in descending order of confidence."""
        cut = mutex_watershed()
        logits = stored.astype(np.float32)
        inside = logits[-1] > logit(value_of(FOREGROUND_KNOB, knobs))
        ndim = self.scale.ndim
        weights = np.ascontiguousarray(logits[:-1])
        weights[ndim:] = np.float32(value_of(APART_KNOB, knobs)) - weights[ndim:]
        found = cut(weights, list(map(list, self.offsets)), ndim, mask=inside)
        return unproven(found, logits[-1], self.scale.min_object_size, open_faces)


def _together(labels: NDArray[np.integer], offset: Offset) -> NDArray[np.int8]:
    """Whether each voxel and the one at an offset belong to the same object."""
    pairs = np.full(labels.shape, UNANNOTATED, np.int8)
    near, far = shifted_slices(offset, labels.shape)
    a, b = labels[near], labels[far]
    known = (a != UNANNOTATED) & (b != UNANNOTATED) & ((a > 0) | (b > 0))
    pairs[near] = np.where(known, a == b, UNANNOTATED)
    return pairs


def mutex_watershed() -> Callable[..., NDArray[Any]]:
    """Return the function of bioimage-cpp.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    with extra("affinities", "the method affinities"):
        from bioimage_cpp.segmentation import mutex_watershed as cut
    function: Callable[..., NDArray[Any]] = cut
    return function
