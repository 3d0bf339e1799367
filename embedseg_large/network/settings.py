"""What a model knows besides its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from embedseg_large.errors import UsageError
from embedseg_large.network.erfnet import STRIDE

DEFAULT_TILE = {2: (512, 512), 3: (64, 128, 128)}
DEFAULT_CONTEXT = 24
DEFAULT_REACH = 1.5  # times the largest extent: an offset to a centre spans about half of it


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Plain values, one an axis (z, y, x) where they are tuples.

    Raises
    ------
    UsageError
        A value cannot be used; the message names it.
    """

    ndim: int
    """Number of spatial axes: 2 or 3."""

    channels: int
    """Number of image channels."""

    pitch: tuple[float, ...]
    """Size of a voxel in the units of the network's raw offsets."""

    extent: tuple[int, ...]
    """Largest extent of an object of the training data that is in one piece, in voxels."""

    tile: tuple[int, ...]
    """Core of a prediction tile, in voxels; multiples of 8. It belongs to the model, not to the
    machine, for labels depend on it."""

    context: tuple[int, ...]
    """Voxels the network should see on each side of a core; multiples of 8."""

    halo: tuple[int, ...]
    """Voxels of predictions that clustering should see on each side of a core."""

    reach: tuple[float, ...]
    """Longest believable offset, in voxels; a voxel that points farther is not foreground."""

    min_object_size: int
    """Instances have more voxels than this."""

    object_diameter: float | None
    """Mean extent of the training objects along y and x, in voxels; None where not known."""

    voxel_size: tuple[float, ...] | None
    """Voxel size of the training images in micrometres; None where not known."""

    seed: float = 0.9
    """Seediness from which a voxel may found an instance: 0.9 in the paper, or what validation
    found to be best."""

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3):
            raise UsageError(f"ndim is {self.ndim}; a model has 2 or 3 spatial axes")
        if self.channels < 1 or self.min_object_size < 0:
            raise UsageError(
                f"channels is {self.channels} and min_object_size {self.min_object_size}; "
                "they must be at least 1 and 0"
            )
        if not 0 < self.seed <= 1:
            raise UsageError(f"seed is {self.seed}; it must be above 0 and at most 1")
        for name in ("pitch", "extent", "tile", "reach"):
            self._check(name, above_zero=True)
        for name in ("context", "halo"):
            self._check(name, above_zero=False)
        for name in ("tile", "context"):
            if any(v % STRIDE for v in getattr(self, name)):
                raise UsageError(f"{name} is {getattr(self, name)}; use multiples of {STRIDE}")
        if self.voxel_size is not None:
            self._check("voxel_size", above_zero=True)

    def _check(self, name: str, *, above_zero: bool) -> None:
        """Refuse a tuple of the wrong length or sign."""
        values = getattr(self, name)
        good = all(isfinite(v) and (v > 0 if above_zero else v >= 0) for v in values)
        if len(values) != self.ndim or not good:
            sign = "positive" if above_zero else "non-negative"
            raise UsageError(f"{name} is {values}; pass {self.ndim} {sign} numbers, one an axis")

    @classmethod
    def from_objects(
        cls,
        *,
        pitch: Sequence[float],
        extent: Sequence[int],
        min_object_size: int,
        channels: int = 1,
        object_diameter: float | None = None,
        voxel_size: Sequence[float] | None = None,
        tile: Sequence[int] | None = None,
        context: Sequence[int] | None = None,
        halo: Sequence[int] | None = None,
        reach: Sequence[float] | None = None,
    ) -> ModelSettings:
        """Fill in what follows from the objects of the training data.

        The halo defaults to their largest extent, the reach to 1.5 times as much, tile and context
        to constants of `embedseg_large.network.settings`.
        """
        ndim = len(pitch)
        return cls(
            ndim=ndim,
            channels=channels,
            pitch=tuple(pitch),
            extent=tuple(extent),
            tile=tuple(tile or DEFAULT_TILE.get(ndim, ())),
            context=tuple((DEFAULT_CONTEXT,) * ndim if context is None else context),
            halo=tuple(extent if halo is None else halo),
            reach=tuple(reach or (DEFAULT_REACH * e for e in extent)),
            min_object_size=min_object_size,
            object_diameter=object_diameter,
            voxel_size=None if voxel_size is None else tuple(voxel_size),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as values that JSON can hold."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSettings:
        """Return what `as_dict` wrote; a TypeError names a field that is missing or unknown."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**fields)
