"""The protocol of a method: labels to fields in training, fields to instances in segmentation.

::

    labels ── targets ──┐                      fields of core and halo
                        ├── loss                │
    image ─── network ──┴── raw channels ── stored ── decode ── instances, each named by a voxel

Nothing here depends on images, tiles, files or workers, and no method on another method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import Clustering, OpenFaces
from embedseg_large.fields import Field

if TYPE_CHECKING:
    from torch import Tensor

Targets = Mapping[str, NDArray[Any]]
"""What a network should predict: arrays by name, each ``(*spatial)`` or ``(channels,
*spatial)``."""

Knobs = Mapping[str, float]
"""Values of a method's knobs, by name."""


class Promise(Enum):
    """What the seam report may claim about the labels of a method."""

    EXACT = "exact"
    """Each instance can be certified: nothing outside its tile could have changed it."""
    LOCAL = "local"
    """Apart from rare ties and chains of decisions, instances do not depend on anything beyond the
    halo: agreement of the tiles at every seam is evidence, not proof."""
    JOINED = "joined"
    """Instances may be larger than any halo; the parts that several tiles see are joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """A threshold that decides which instances are found, chosen by validation."""

    name: str
    """Its name in model files."""

    meaning: str
    """A one-line description."""

    default: float
    """Its value before validation."""

    values: tuple[float, ...]
    """Values to try, ascending; the default is one of them."""


FOREGROUND_KNOB = Knob(
    name="foreground",
    meaning="Minimum probability for a voxel to be part of an object",
    default=0.5,
    values=(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectScale:
    """What a method must know about the objects; tuples are z, y, x."""

    ndim: int
    """Number of spatial axes, 2 or 3."""

    extent: tuple[int, ...]
    """Largest extent of an object, in voxels."""

    width: float | None = None
    """Width (y, x) of a typical object, in voxels; None: the longest edge of the largest."""

    voxel_size: tuple[float, ...] | None = None
    """Voxel size in µm; None if unknown: then the voxels are assumed to be isotropic."""

    min_object_size: int = 0
    """Only instances with more voxels than this are kept."""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel along each axis, 1 along the finest."""
        if self.voxel_size is None:
            return (1.0,) * self.ndim
        return tuple(size / min(self.voxel_size) for size in self.voxel_size)

    @property
    def largest(self) -> float:
        """Longest edge of the largest object, in voxels of the finest axis."""
        return max(e * s for e, s in zip(self.extent, self.spacing, strict=True))

    @property
    def typical(self) -> float:
        """Width of a typical object, in voxels of the finest axis: the unit of lengths."""
        return self.largest if self.width is None else self.width * self.spacing[-1]


class Method(Protocol):
    """A way to get from an image to instances."""

    @property
    def scale(self) -> ObjectScale:
        """What it knows about the objects."""

    @property
    def name(self) -> str:
        """Its name on the command line and in model files."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """What the network predicts, in the order of its channels."""

    @property
    def promise(self) -> Promise:
        """What may be claimed about its labels."""

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """At most two; the first is swept while training, the second at its end."""

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels of fields that decoding should see on each side of a core (z, y, x)."""

    def stored(self, raw: NDArray[np.floating]) -> NDArray[np.float16]:
        """Convert raw channels into the form that is stored and decoded.

        Parameters
        ----------
        raw
            ``(channels, *spatial)``: the network's output, not activated.

        Returns
        -------
        ``(stored channels, *spatial)``, finite. The last channel is the logit of foreground; where
        it has its minimum, all other channels are irrelevant.
        """

    def decode(
        self, stored: NDArray[np.float16], open_faces: OpenFaces, knobs: Knobs
    ) -> Clustering:
        """Find the instances of a region.

        Parameters
        ----------
        stored
            What `stored` returned for the region.
        open_faces
            For each axis: whether the volume continues below the low and above the high face.
        knobs
            Values by name; missing knobs have their default.

        Returns
        -------
        Clustering
            Labels, and for each instance the voxel that names it. Both depend only on differences
            of coordinates, so that two tiles that see the same predictions find the same names.
        """


class FieldMethod(Method, Protocol):
    """A method that learns its fields voxel by voxel."""

    def targets(self, labels: NDArray[np.integer]) -> Targets:
        """Compute what a network should predict for a crop.

        Parameters
        ----------
        labels
            ``(*spatial)``: 0 background, above 0 instances, -1 ignored.

        Returns
        -------
        Arrays by name, with the crop's spatial shape: float32 for what is regressed, int8 for
        classes. A class or probability of -1 is ignored.
        """

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss."""

    def foreground(self, raw: Tensor) -> Tensor:
        """Return which voxels are more likely foreground than not, bool ``(samples, *spatial)``."""

    def loss(self, raw: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compare predictions with targets.

        Parameters
        ----------
        raw
            float32 ``(samples, channels, *spatial)``.
        targets
            Targets of the samples, stacked.

        Returns
        -------
        Terms by name, scalars; their sum is what training minimises.
        """

    def ideal(self, targets: Targets) -> NDArray[np.float32]:
        """Return the raw channels that a perfect network would predict, which minimise `loss`.

        Parameters
        ----------
        targets
            Targets of one crop.

        Returns
        -------
        float32 ``(channels, *spatial)``, not activated, in the order of `fields`.
        """


def value_of(knob: Knob, knobs: Knobs) -> float:
    """Return the value of a knob, or its default."""
    return float(knobs.get(knob.name, knob.default))


def logit(probability: float) -> np.float32:
    """Return the logit of a probability between 0 and 1, exclusive."""
    return np.float32(np.log(probability / (1 - probability)))
