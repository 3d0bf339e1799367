"""Networks of methods other than EmbedSeg, as a segmenter: other fields, another decode.

Tiles, journal, CHECK and repair are those of `NetworkSegmenter`. What the seam report may
promise depends on the method: if nothing can be certified, agreement of tiles is evidence, and
instances on which they disagree with the largest halo are joined by overlap and listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import Clustering, OpenFaces
from embedseg_large.errors import UsageError
from embedseg_large.fields import channel_count
from embedseg_large.geometry import Box
from embedseg_large.methods.of_model import method_of
from embedseg_large.methods.protocol import FieldMethod, Promise
from embedseg_large.methods.registry import check_usable, field_method
from embedseg_large.runs.devices import is_gpu
from embedseg_large.segmentation.segmenters.loading import (
    NetworkSpec,
    OneAtATime,
    network_spec,
    place,
)
from embedseg_large.segmentation.segmenters.network_segmenter import NetworkSegmenter
from embedseg_large.segmentation.segmenters.protocol import Decide, Network, Predictor, Traits
from embedseg_large.segmentation.settings import SegmentSettings
from embedseg_large.storage.folder import Folder

if TYPE_CHECKING:
    from embedseg_large.segmentation.options import SegmentOptions

_EMBEDDING_ONLY = ("foreground", "seed", "margin")
"""Options of EmbedSeg's clustering; other methods have knobs, set by validation."""


@dataclass(frozen=True, slots=True)
class MethodDecode:
    """The decode of a method; travels with every task."""

    method: FieldMethod
    knobs: tuple[tuple[str, float], ...]
    """Values found by validation; the method's defaults for all others."""

    def __call__(
        self, stored: NDArray[np.float16], settings: SegmentSettings, open_faces: OpenFaces
    ) -> Clustering:
        """Find the instances of ``(channels, *region)``."""
        scale = replace(self.method.scale, min_object_size=settings.min_object_size)
        return field_method(self.method.name, scale).decode(stored, open_faces, dict(self.knobs))


@dataclass(frozen=True, slots=True)
class MethodPredictor:
    """A model on its device, and the conversion of its raw channels."""

    model: Any
    """A `embedseg_large.network.model.Model`."""
    method: FieldMethod

    @property
    def lanes(self) -> int:
        """Number of concurrent passes."""
        lanes: int = self.model.lanes
        return lanes

    def sharing(self, lanes: Any) -> MethodPredictor:
        """Return the same predictor, with passes on shared lanes."""
        return replace(self, model=self.model.sharing(lanes))

    def predict_tile(
        self,
        image: NDArray[np.float32],
        region: Box,  # noqa: ARG002  (an oracle answers by it)
        tta: bool | int | str,
    ) -> NDArray[np.float16]:
        """Stored predictions of a normalised region, ``(channels, *spatial)``."""
        return self.method.stored(self.model.predict_raw(image, tta))


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """How a worker obtains the network of a method."""

    network: NetworkSpec
    method: FieldMethod

    @property
    def device(self) -> str:
        """Device of the network."""
        return self.network.device

    def load(self) -> Predictor:
        """The network on its device; on a GPU, tasks enter it one at a time."""
        predictor = MethodPredictor(self.network.placed(), self.method)
        return OneAtATime(predictor) if is_gpu(self.network.device) else predictor


@dataclass(frozen=True)
class MethodSegmenter(NetworkSegmenter):
    """One of our networks with another method."""

    method: FieldMethod | None = None

    def settings(
        self, shape: Sequence[int], device: str, options: SegmentOptions
    ) -> SegmentSettings:
        """Fill in what the user left open; seeds and margins are not used."""
        assert self.method is not None
        unset = type(options)()
        useless = [n for n in _EMBEDDING_ONLY if getattr(options, n) != getattr(unset, n)]
        if useless:
            raise UsageError(
                f"{', '.join(useless)}: not supported by models of the method {self.method.name}; "
                "their thresholds are set in training"
            )
        if options.strict and not self.traits.proves:
            raise UsageError(f"strict: the method {self.method.name} allows no proof; leave it out")
        # the method itself limits the distance of an instance from the voxel that names it
        return replace(super().settings(shape, device, options), reach=tuple(map(float, shape)))

    def placed(self, device: str, dtype: str) -> Any:
        """Return the network on a device, with the conversion of its channels."""
        assert self.method is not None
        return MethodPredictor(place(self.network, device=device, dtype=dtype), self.method)

    def spec(self, device: str, dtype: str, folder: Folder) -> MethodSpec:
        """How workers obtain it: as a model file in `folder`."""
        assert self.method is not None
        return MethodSpec(network_spec(self.network, device, dtype, folder), self.method)

    def network_to_scale(self) -> Network:
        """Raise a UsageError: there is none."""
        assert self.method is not None
        raise UsageError(
            f"object diameter auto needs a network that predicts embeddings, but the model "
            f"uses the method {self.method.name}; pass the diameter of the objects"
        )


def segmenter_of(network: Network) -> NetworkSegmenter:
    """Return a network as a segmenter, by the method that its model file names.

    Raises
    ------
    ModelError
        If the model lists fields that its method does not have.
    UsageError
        If the method needs a library that is not installed.
    """
    settings = getattr(network, "settings", None)
    method = None if settings is None else method_of(settings)
    if settings is None or method is None:
        return NetworkSegmenter(network)
    check_usable(method.name)
    is_exact = method.promise is Promise.EXACT
    nothing = np.zeros((channel_count(method.fields), *(1,) * method.scale.ndim), np.float32)
    traits = Traits(
        name=None,
        decode=MethodDecode(method, settings.knobs),
        decide=Decide.PROOF if is_exact else Decide.OVERLAP,
        columns=("seediness", "certified"),
        channels=len(method.stored(nothing)),
        promise=method.promise.value,
        method=method.name,
    )
    return MethodSegmenter(network, traits, method=method)
