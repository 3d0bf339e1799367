"""What the engine needs of a network."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box


class Predictor(Protocol):
    """The part of a network that PREDICT needs."""

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str
    ) -> NDArray[np.float16]:
        """Stored predictions of a normalised region, (2·ndim + 1, *spatial) float16."""


class Network(Predictor, Protocol):
    """A model, or something that can stand in its place (see `embedseg_large.testing`)."""

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
        """Longest believable offset, in voxels."""

    @property
    def min_object_size(self) -> int:
        """Instances have more voxels than this."""

    @property
    def seed(self) -> float:
        """Minimum seediness for a voxel to seed an instance, after one pass."""

    @property
    def margin(self) -> float:
        """Gaussian value above which a voxel belongs to an instance, after one pass."""

    @property
    def object_diameter(self) -> float | None:
        """Mean extent of the training objects along y and x, in voxels; None where not known."""

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Voxel size of the training images in µm; None where not known."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides what the network computes."""

    @property
    def bytes_per_voxel(self) -> float:
        """Peak memory of a prediction, per voxel of its input."""

    @property
    def cleaning(self) -> tuple[bool, bool]:
        """Whether to keep the largest piece of each instance only, and to fill holes."""

    def thresholds_of(self, tta: str) -> tuple[float, float]:
        """The seed and the margin that suit a test-time augmentation."""

    def tta_mode(self, tta: bool | int | str) -> str:
        """The test-time augmentation that is meant; a UsageError if the network cannot use it."""


CLUSTER_TILE = {2: 1024, 3: 128}
"""Edge of a clustering core, by ndim: about a million voxels."""
