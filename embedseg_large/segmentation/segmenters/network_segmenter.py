"""Networks that predict embeddings, as a segmenter: predicted, kept, clustered and certified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import Clustering, OpenFaces, cluster_stored
from embedseg_large.errors import UsageError
from embedseg_large.runs.resources import ResourceSpec
from embedseg_large.segmentation.segmenters.loading import (
    choose_device,
    choose_dtype,
    network_spec,
    place,
)
from embedseg_large.segmentation.segmenters.protocol import (
    CLUSTER_TILE,
    Decide,
    Intensity,
    Network,
    Traits,
)
from embedseg_large.segmentation.settings import SegmentSettings, sizes_of
from embedseg_large.stitching.tile_result import SEAM_DEPTH
from embedseg_large.storage.folder import Folder
from embedseg_large.tiling.axis import STRIDE, balance
from embedseg_large.tiling.economy import economical_tile

if TYPE_CHECKING:
    from embedseg_large.segmentation.options import SegmentOptions

MAX_HALO_FACTOR = 4
"""Default of the maximum halo, as a multiple of the halo."""
_BELOW_FOREGROUND = 0.4
"""Fraction of the foreground threshold up to which a network's own bound is used."""
T = TypeVar("T")


def decode_embedding(
    stored: NDArray[np.float16], settings: SegmentSettings, open_faces: OpenFaces
) -> Clustering:
    """Cluster stored embeddings, see `embedseg_large.clustering.cluster.cluster_stored`."""
    return cluster_stored(stored, settings.clustering(), open_faces)


EMBEDDING = Traits(
    name=None,
    decode=decode_embedding,
    decide=Decide.PROOF,
    columns=("seediness", "certified"),
)
"""Traits of every network that predicts embeddings."""


@dataclass(frozen=True)
class NetworkSegmenter:
    """One of our networks."""

    network: Network
    traits: Traits = EMBEDDING
    intensity: Intensity | tuple[float, float] = "percentiles"

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.network.ndim

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return self.network.channels

    @property
    def object_diameter(self) -> float | None:
        """Mean extent of the training objects along y and x, in voxels; None if unknown."""
        return self.network.object_diameter

    @property
    def object_depth(self) -> float | None:
        """Mean extent of the training objects along z, in voxels; None if unknown."""
        return self.network.object_depth

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Voxel size of the training images in µm; None if unknown."""
        return self.network.voxel_size

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the network's output."""
        return self.network.fingerprint

    @property
    def bytes_per_voxel(self) -> float:
        """Peak memory of a prediction, per voxel of its input."""
        return self.network.bytes_per_voxel

    def settings(
        self, shape: Sequence[int], device: str, options: SegmentOptions
    ) -> SegmentSettings:
        """Fill in what the user left open from the network and the grid's shape."""
        network = self.network
        mode = network.tta_mode(options.tta)
        own_seed, own_margin = network.thresholds_of(mode)
        own_pieces, own_holes = network.cleaning
        tile, context = self._tile_and_context(shape, options)
        halo = sizes_of("halo", options.halo, tuple(max(h, SEAM_DEPTH) for h in network.halo))
        most = tuple(MAX_HALO_FACTOR * h for h in halo)
        core = (CLUSTER_TILE[self.ndim],) * self.ndim
        return SegmentSettings(
            tta=mode,
            device=device,
            dtype=choose_dtype(network, device, options.dtype),
            tile=tile,
            context=context,
            cluster_tile=sizes_of("cluster_tile", options.cluster_tile, core),
            halo=halo,
            max_halo=sizes_of("max_halo", options.max_halo, most),
            strict=options.strict,
            min_object_size=_or(options.min_object_size, network.min_object_size),
            foreground=options.foreground,
            seed=_or(options.seed, own_seed),
            margin=_or(options.margin, own_margin),
            reach=tuple(network.reach),
            keep_largest_piece=_or(options.keep_largest_piece, own_pieces),
            fill_holes=_or(options.fill_holes, own_holes),
            augment_above=_augment_above(network, mode, options),
        )

    def _tile_and_context(
        self, shape: Sequence[int], options: SegmentOptions
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prediction tiles of equal size, as stated; or in the shape that suits the volume."""
        tile = sizes_of("tile", options.tile, self.network.tile)
        context = sizes_of("context", options.context, self.network.context)
        if not all(v > 0 and v % STRIDE == 0 for v in tile) or min(context) < 0:
            return tile, context  # refused by the settings
        if options.tile is None and getattr(self.network, "tile_adapts", False):
            return economical_tile(shape, tile, context), context
        return tuple(balance(n, s) for n, s in zip(shape, tile, strict=True)), context

    def chosen_device(self, asked: str | None) -> str:
        """The requested device, or the best one here for a model."""
        return choose_device(self.network, asked)

    def placed(self, device: str, dtype: str) -> Network:
        """The network on a device."""
        return place(self.network, device=device, dtype=dtype)

    def spec(self, device: str, dtype: str, folder: Folder) -> ResourceSpec:
        """How workers obtain it: as a model file in `folder`."""
        return network_spec(self.network, device, dtype, folder)

    def network_to_scale(self) -> Network:
        """The network."""
        return self.network


def _augment_above(network: Network, mode: str, options: SegmentOptions) -> float:
    """The requested bound, or the network's own if it is far enough below the foreground.

    Raises
    ------
    UsageError
        If the network cannot stop after one pass.
    """
    own: float | None = getattr(network, "augment_above", None)
    if options.augment_above and not own:
        raise UsageError(
            f"augment_above is {options.augment_above}; this network always makes all passes"
        )
    if mode == "none" or not own:
        return 0.0
    if options.augment_above is not None:
        return options.augment_above
    return own if own <= _BELOW_FOREGROUND * options.foreground else 0.0


def _or(asked: T | None, default: T) -> T:
    """Return the requested value, or else the default."""
    return default if asked is None else asked
