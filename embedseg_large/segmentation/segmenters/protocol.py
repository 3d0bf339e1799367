"""The interface of segmenters: what the stages require of anything that finds instances.

::

    Segmenter ─┬─ NetworkSegmenter   fields are predicted tile by tile, kept, and decoded
               └─ TileSegmenter      any function from the image of a tile to its labels

A new method of the first kind is a network, and `Traits` with another `decode`. Stages do not
distinguish the two: they read the traits, which travel with every task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import Clustering, OpenFaces
from embedseg_large.geometry import Box
from embedseg_large.runs.resources import ResourceSpec
from embedseg_large.segmentation.settings import SegmentSettings
from embedseg_large.storage.folder import Folder

if TYPE_CHECKING:
    from embedseg_large.segmentation.options import SegmentOptions

Intensity = Literal["percentiles", "otsu", "raw"]
"""Intensities that become 0 and 1: percentiles of the volume, its minimum and Otsu's threshold, or
none."""


class Decide(Enum):
    """Which tile is right if they still disagree about an instance with the largest halo."""

    PROOF = "proof"
    """Tiles that are certain of every voxel of their core; what no tile can prove is joined."""
    OWNER = "owner"
    """Nothing can be proven: the tile that holds the centre of the instance."""
    OVERLAP = "overlap"
    """Nothing can be proven: overlapping names are joined."""


class Decode(Protocol):
    """Decodes the stored fields of a region; a module-level function, because it is pickled."""

    def __call__(
        self, stored: NDArray[np.float16], settings: SegmentSettings, open_faces: OpenFaces
    ) -> Clustering:
        """Find the instances of ``(channels, *region)``; `open_faces` as for `cluster_points`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the stages must know about a segmenter; it travels with every task."""

    name: str | None
    """Its name in summaries and warnings; None: a network of this program."""
    decode: Decode | None
    """How predictions become instances; None: nothing is predicted, the segmenter gets the
    image."""
    decide: Decide
    columns: tuple[str, ...]
    """Columns of the table of instances that are known."""
    channels: int | None = None
    """Number of stored channels per voxel; None: that of an embedding."""
    promise: str = "exact"
    """What the seam report promises for the labels, see
    `embedseg_large.methods.protocol.Promise`."""
    method: str | None = None
    """Method of one of our networks; None: EmbedSeg, or no network of ours."""

    @property
    def predicts(self) -> bool:
        """Whether fields are predicted and kept before instances are found."""
        return self.decode is not None

    @property
    def proves(self) -> bool:
        """Whether tiles can be certain of their instances."""
        return self.decide is Decide.PROOF


class KnownSizes(Protocol):
    """What a model or segmenter knows about the images that it expects."""

    @property
    def object_diameter(self) -> float | None:
        """Mean extent of the objects along y and x, in voxels; None if unknown."""

    @property
    def object_depth(self) -> float | None:
        """Mean extent of the objects along z, in voxels; None if unknown."""

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Size of a voxel in µm; None if unknown."""


class Segmenter(KnownSizes, Protocol):
    """One of our networks, or any function of the user's."""

    @property
    def traits(self) -> Traits:
        """What the stages must know about it."""

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""

    @property
    def channels(self) -> int:
        """Number of image channels."""

    @property
    def intensity(self) -> Intensity | tuple[float | None, float]:
        """The intensities that become 0 and 1, unless the user sets them."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines its result."""

    @property
    def bytes_per_voxel(self) -> float:
        """Peak memory per voxel of its input."""

    def settings(
        self, shape: Sequence[int], device: str, options: SegmentOptions
    ) -> SegmentSettings:
        """Fill in what the user left open.

        Parameters
        ----------
        shape
            Shape of the grid that is predicted and clustered.
        device
            Device that it will be placed on.
        options
            The user's options; `min_object_size` in voxels of that grid.

        Raises
        ------
        UsageError
            If it does not support an option, or a value cannot be used.
        """

    def chosen_device(self, asked: str | None) -> str:
        """The requested device, or the best one here."""

    def placed(self, device: str, dtype: str) -> Any:
        """Return the resource for tasks, on a device: a `Predictor` or a `TileLabeller`."""

    def spec(self, device: str, dtype: str, folder: Folder) -> ResourceSpec:
        """How workers obtain it; large parts are written into `folder`, which they can access."""

    def network_to_scale(self) -> Network:
        """Return the network with which several scales of an image can be compared.

        Raises
        ------
        UsageError
            If there is none.
        """


class TileLabeller(Protocol):
    """Finds instances in the image of a tile; passed to CLUSTER if nothing is predicted."""

    def label_tile(self, image: NDArray[np.float32], region: Box) -> NDArray[Any]:
        """Labels of a normalised region, ``(channels, *spatial)``: integers, 0 for background."""


class Predictor(Protocol):
    """The part of a network that PREDICT needs."""

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str
    ) -> NDArray[np.float16]:
        """Stored predictions of a normalised region, (channels, *spatial) float16.

        A network with an `augment_above` also takes ``quiet``, an
        `embedseg_large.embedding.Quiet`.
        """


class Network(Predictor, KnownSizes, Protocol):
    """A model, or a stand-in for one (see `embedseg_large.testing`)."""

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""

    @property
    def channels(self) -> int:
        """Number of image channels."""

    @property
    def tile(self) -> tuple[int, ...]:
        """Core of a prediction tile, in voxels."""

    @property
    def context(self) -> tuple[int, ...]:
        """Input voxels the network should see around a core."""

    @property
    def halo(self) -> tuple[int, ...]:
        """Predictions the clustering should see around a core, in voxels."""

    @property
    def reach(self) -> tuple[float, ...]:
        """Longest accepted offset, in voxels."""

    @property
    def min_object_size(self) -> int:
        """Only instances with more voxels than this are kept."""

    @property
    def seed(self) -> float:
        """Minimum seediness for a voxel to seed an instance, after one pass."""

    @property
    def margin(self) -> float:
        """Gaussian value above which a voxel belongs to an instance, after one pass."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the network's output."""

    @property
    def bytes_per_voxel(self) -> float:
        """Peak memory of a prediction, per voxel of its input."""

    @property
    def cleaning(self) -> tuple[bool, bool]:
        """Whether to keep the largest piece of each instance only, and to fill holes."""

    def thresholds_of(self, tta: str) -> tuple[float, float]:
        """Return seed and margin for a test-time augmentation."""

    def tta_mode(self, tta: bool | int | str) -> str:
        """The name of a test-time augmentation; a UsageError if the network cannot use it."""


CLUSTER_TILE = {2: 1024, 3: 128}
"""Edge of a clustering core, by ndim: about a million voxels."""
