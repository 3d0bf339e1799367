"""What the engine needs of a network."""

from __future__ import annotations

from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedseg_large.embedding import quantise
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box

TASKS_PER_GPU = 4
"""Tasks of the network under way on a GPU. One computes; those that were before it write, and the
next have read, so that the GPU never waits for a disk. A power of two: shares of one GPU are exact.
"""
THREADS_BESIDE_GPU = 2 * TASKS_PER_GPU
"""Tasks of all kinds under way in a process with a GPU, which predicts several tiles in the time in
which a core clusters one. They cluster on the CPU while the network is at work."""


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


class OneAtATime:
    """A network that several threads may ask, and that is entered by one of them at a time.

    A tile fills a GPU, and its memory; what is done before and after it needs neither. So a model
    is left before its answer is turned into what is stored, which takes as long as reading a tile.
    """

    def __init__(self, network: Predictor) -> None:
        self._network = network
        self._entered = Lock()

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str
    ) -> NDArray[np.float16]:
        """Predict a tile when no other one is being predicted."""
        from embedseg_large.network.model import Model

        with self._entered:
            if not isinstance(self._network, Model):
                return self._network.predict_tile(image, region, tta)
            raw = self._network.predict_raw(image, tta)
        return quantise(raw, self._network.pitch)


def is_gpu(device: str) -> bool:
    """Whether a device is a GPU: ``cuda``, ``cuda:1``."""
    return device.startswith("cuda")


def place(network: Network, *, device: str, dtype: str, lanes: int | None = None) -> Network:
    """Put a model on a device, or load a segmenter there. A test's stand-in stays as it is."""
    from embedseg_large.network.model import Model
    from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter

    if isinstance(network, Model):
        return network.to(device=device, dtype=dtype, lanes=lanes)
    return network.loaded(device) if isinstance(network, TileSegmenter) else network


def choose_device(network: Network, asked: str | None) -> str:
    """The device that was asked for, or the best one here for a model."""
    from embedseg_large.network.device import default_device
    from embedseg_large.network.model import Model

    if asked is not None:
        return asked
    return default_device() if isinstance(network, Model) else "cpu"


def choose_dtype(network: Network, device: str, asked: str | None) -> str:
    """The number format that was asked for, or the fastest that leaves a model's labels alone.

    Raises
    ------
    UsageError
        When there is no such format, or no such device.
    """
    from embedseg_large.network.device import default_dtype
    from embedseg_large.network.model import DTYPES, Model

    if asked is not None and asked not in DTYPES:
        raise UsageError(f"dtype is {asked!r}; use one of {', '.join(DTYPES)}")
    if asked is not None:
        return asked
    return default_dtype(device) if isinstance(network, Model) else "float32"
