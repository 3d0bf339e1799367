"""What a method is: from labels to fields in training, from fields to instances in use.

::

    labels ── targets ──┐                      fields of core and halo
                        ├── loss                │
    image ─── network ──┴── raw channels ── stored ── decode ── instances, each named by a voxel

Nothing here knows of images, tiles, files or workers, and no method knows another one.
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

IGNORED = -1
"""Label of voxels that are not annotated: they take no part in any loss."""

Targets = Mapping[str, NDArray[Any]]
"""What a network should have predicted: arrays by name, each ``(*spatial)`` or with channels before
the spatial axes."""

Knobs = Mapping[str, float]
"""Values of a method's knobs by name."""


class Promise(Enum):
    """What the seam report may say about the labels of a method."""

    EXACT = "exact"
    """Each instance can be certified: nothing that its tile did not see could have changed it."""
    LOCAL = "local"
    """Instances do not depend on what is farther away than the halo, but for rare ties and chains:
    tiles that agree at every seam are evidence, not proof."""
    JOINED = "joined"
    """Instances may be larger than any halo; the names of one that several tiles see are joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """A number that decides which instances are found, and that validation chooses."""

    name: str
    """What it is called in model files."""

    meaning: str
    """One line for people."""

    default: float
    """Its value before validation."""

    values: tuple[float, ...]
    """What is tried, ascending; the default is one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectScale:
    """What a method must know of the objects it is for; tuples are z, y, x."""

    ndim: int
    """Number of spatial axes, 2 or 3."""

    extent: tuple[int, ...]
    """Largest extent of an object, in voxels."""

    voxel_size: tuple[float, ...] | None = None
    """In µm; None where not known: then all axes count alike."""

    min_object_size: int = 0
    """Only instances with more voxels than this are kept."""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel along each axis, 1 along the finest."""
        if self.voxel_size is None:
            return (1.0,) * self.ndim
        return tuple(size / min(self.voxel_size) for size in self.voxel_size)


class Method(Protocol):
    """A way from an image to instances."""

    @property
    def scale(self) -> ObjectScale:
        """What it knows of the objects."""

    @property
    def name(self) -> str:
        """What it is called on the command line and in model files."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """What the network predicts, in the order of its channels."""

    @property
    def promise(self) -> Promise:
        """What its labels may be said to be."""

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """At most two; the first is swept while training, the second at its end."""

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels of fields that decoding should see on each side of a core (z, y, x)."""

    def stored(self, raw: NDArray[np.floating]) -> NDArray[np.float16]:
        """Turn raw channels into what is kept and decoded.

        Parameters
        ----------
        raw
            ``(channels, *spatial)``: the network's, not activated.

        Returns
        -------
        ``(stored channels, *spatial)``, finite; the last one is the logit of foreground, and where
        it is lowest nothing else matters.
        """

    def decode(
        self, stored: NDArray[np.float16], open_faces: OpenFaces, knobs: Knobs
    ) -> Clustering:
        """Find the instances of a region.

        Parameters
        ----------
        stored
            What `stored` returned, of the region.
        open_faces
            Of each axis: does the volume go on below the low face, above the high face?
        knobs
            Values by name; those that are missing have their default.

        Returns
        -------
        Clustering
            Labels, and for each instance the voxel that names it. Both depend on no more than
            differences of coordinates, so that two tiles that see the same find the same names.
        """


class FieldMethod(Method, Protocol):
    """A method that learns its fields voxel by voxel."""

    def targets(self, labels: NDArray[np.integer]) -> Targets:
        """Say what a network should predict of a crop.

        Parameters
        ----------
        labels
            ``(*spatial)``: 0 background, above 0 instances, -1 ignored.
        """

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss."""

    def foreground(self, raw: Tensor) -> Tensor:
        """Say which voxels are more likely in an object than not, bool ``(samples, *spatial)``."""

    def loss(self, raw: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compare predictions with targets.

        Parameters
        ----------
        raw
            float32 ``(samples, channels, *spatial)``.
        targets
            Those of the samples, stacked.

        Returns
        -------
        Terms by name, scalars; their sum is what training minimises.
        """

    def ideal(self, targets: Targets) -> NDArray[np.float32]:
        """Return raw channels that a perfect network would predict: the inverse of `loss`.

        Parameters
        ----------
        targets
            Of one crop.
        """


def value_of(knob: Knob, knobs: Knobs) -> float:
    """Return the value of a knob, or its default."""
    return float(knobs.get(knob.name, knob.default))


def logit(probability: float) -> np.float32:
    """Return the logit of a probability between 0 and 1, exclusive."""
    return np.float32(np.log(probability / (1 - probability)))
