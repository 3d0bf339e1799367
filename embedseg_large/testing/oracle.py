"""A network that knows the truth: its predictions are perfect, or wrong in a chosen way.

The voxels of its "image" are label ids, and a table holds each object's centre. So the
prediction of a voxel needs no other voxel: any tile shape gives exactly the same predictions, and
whatever differs between two runs is the fault of the machinery around the network. Run the engine
with intensity range (0, 1), which passes ids unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.testing.objects import Flaws, Objects

_REACH = 1.5  # longest accepted offset, in extents; as for real models


@dataclass(frozen=True, kw_only=True, eq=False)
class OracleNetwork:
    """Stands in for a model in the engine; picklable.

    Parameters
    ----------
    objects
        Where the centre of each id is.
    flaws
        How predictions differ from perfect ones.
    tile
        Core of a prediction tile, in voxels.
    min_object_size
        Only instances with more voxels than this are kept.
    """

    objects: Objects
    flaws: Flaws = field(default_factory=Flaws)
    tile: tuple[int, ...]
    min_object_size: int = 0
    channels: int = 1
    bytes_per_voxel: float = 100.0
    tta_modes: tuple[str, ...] = ("none",)

    @classmethod
    def of(
        cls,
        labels: NDArray[Any],
        *,
        flaws: Flaws | None = None,
        tile: Sequence[int] | None = None,
        min_object_size: int = 0,
    ) -> OracleNetwork:
        """Create the network that knows a label array.

        Parameters
        ----------
        labels
            Integers below 2²⁴, 2D or 3D, 0 for background.
        flaws
            How predictions differ from perfect ones; default `Flaws`.
        tile
            Core of a prediction tile, in voxels; default 64 along every axis.
        min_object_size
            Only instances with more voxels than this are kept.
        """
        return cls(
            objects=Objects.of(labels),
            flaws=flaws or Flaws(),
            tile=(64,) * labels.ndim if tile is None else tuple(tile),
            min_object_size=min_object_size,
        )

    @classmethod
    def like(cls, other: OracleNetwork, **more: Any) -> Self:
        """Make a network of this class that knows what another knows.

        Parameters
        ----------
        other
            The other one.
        **more
            Fields that this class has besides.
        """
        return cls(**{field.name: getattr(other, field.name) for field in fields(other)}, **more)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.objects.ndim

    @property
    def pitch(self) -> tuple[float, ...]:
        """Size of a voxel in the units of a real network; of no consequence here."""
        return (1 / 64,) * self.ndim

    @property
    def context(self) -> tuple[int, ...]:
        """No input beyond the core is needed."""
        return (0,) * self.ndim

    @property
    def extent(self) -> tuple[int, ...]:
        """Largest object along each axis, in voxels."""
        return self.objects.extent

    @property
    def halo(self) -> tuple[int, ...]:
        """Predictions that the clustering should see around a core, in voxels."""
        return self.extent

    @property
    def reach(self) -> tuple[float, ...]:
        """Longest accepted offset along each axis, in voxels."""
        return tuple(_REACH * n for n in self.extent)

    @property
    def object_diameter(self) -> float:
        """Largest extent of an object, in voxels."""
        return float(max(self.extent))

    @property
    def object_depth(self) -> float | None:
        """Unknown."""
        return None

    @property
    def seed(self) -> float:
        """The paper's threshold of seediness."""
        return 0.9

    @property
    def margin(self) -> float:
        """The paper's margin."""
        return 0.5

    @property
    def cleaning(self) -> tuple[bool, bool]:
        """Nothing is cleaned by default."""
        return False, False

    def thresholds_of(self, tta: str) -> tuple[float, float]:  # noqa: ARG002
        """Return the paper's threshold of seediness, and its margin."""
        return self.seed, self.margin

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Unknown."""
        return None

    @property
    def card(self) -> dict[str, Any]:
        """What a person would want to know."""
        return {"name": "oracle", "flaws": asdict(self.flaws)}

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the predictions."""
        digest = sha256(repr((self.flaws, self.objects.extent)).encode())
        digest.update(self.objects.centres.tobytes())
        digest.update(self.objects.sigmas.tobytes())
        return digest.hexdigest()

    def tta_mode(self, tta: bool | int | str) -> str:
        """Return "none", whatever the default asks for.

        Raises
        ------
        UsageError
            If a number of passes is requested.
        """
        if isinstance(tta, bool) or str(tta) in self.tta_modes:
            return "none"
        raise UsageError(f"tta {tta!r}: an oracle sees one view only; use none")

    def predict_tile(
        self, image: NDArray[np.float32], region: Box, tta: bool | int | str = "none"
    ) -> NDArray[np.float16]:
        """Predict a region from its label ids.

        Parameters
        ----------
        image
            ``(*spatial)`` or ``(1, *spatial)`` float32: label ids.
        region
            Where in the volume they lie.
        tta
            See `tta_mode`.

        Returns
        -------
        float16 ``(2·ndim + 1, *spatial)``, the stored form of `embedseg_large.embedding`.

        Raises
        ------
        UsageError
            If shape and region differ, or a voxel is not an id of the table.
        """
        self.tta_mode(tta)
        if image.shape not in (region.shape, (1, *region.shape)):
            raise UsageError(f"image has shape {image.shape}, its region {region} {region.shape}")
        ids = image.reshape(region.shape).astype(np.int64)
        if (
            (ids.reshape(image.shape) != image).any()
            or ids.min() < 0
            or ids.max() >= len(self.objects.centres)
        ):
            raise UsageError(
                f"values from {image.min()} to {image.max()} are not label ids below "
                f"{len(self.objects.centres)}; run with intensity range 0,1"
            )
        return self.objects.predict(ids, region, self.flaws)
