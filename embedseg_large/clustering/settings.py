"""Settings that decide which voxels form an instance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from embedseg_large.errors import UsageError

DEFAULT_MARGIN = 0.5
"""The margin of the paper."""
_OUTWARDS = 1.0 + 2.0**-40
"""Factor on a bound: more than the few float64 roundings behind it could ever remove."""

_MOST_VOXELS = 2**63
"""The compiled rule counts in 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteringSettings:
    """Thresholds of the greedy clustering.

    Raises
    ------
    UsageError
        If a value is out of range.
    """

    min_object_size: int = 1
    """A proposal must have *more* voxels than this."""

    foreground: float = 0.5
    """A voxel is foreground when its seediness is above this (0 to 1)."""

    seed: float = 0.9
    """Instances grow from voxels of at least this seediness (0 to 1)."""

    margin: float = DEFAULT_MARGIN
    """A voxel belongs to an instance when the seed's Gaussian is above this at its embedding
    (between 0 and 1, exclusive). Lower makes objects larger."""

    reach: tuple[float, ...] | None = None
    """Longest accepted offset along each axis, in voxels; None: no limit.

    A voxel with a longer offset is not foreground. The reach is one and a half times the largest
    object; as a bandwidth spans a radius where an offset spans a diameter, a Gaussian is capped to
    fall to the margin within half the reach.
    """

    def __post_init__(self) -> None:
        if not 0 <= self.min_object_size < _MOST_VOXELS:
            raise UsageError(
                f"min_object_size is {self.min_object_size}; it must be 0 or more, and less than "
                "2**63"
            )
        for name, value in (("foreground", self.foreground), ("seed", self.seed)):
            if not 0.0 <= value <= 1.0:
                raise UsageError(f"{name} is {value}; a seediness lies between 0 and 1")
        if not 0.0 < self.margin < 1.0:
            raise UsageError(f"margin is {self.margin}; it must be above 0 and below 1")
        if self.reach is not None and not all(r > 0 for r in self.reach):
            raise UsageError(f"reach is {self.reach}; it must be positive on every axis")

    @property
    def exponent(self) -> float:
        """A Gaussian is above the margin where minus its exponent is below this."""
        return -math.log(self.margin)

    @property
    def radius(self) -> float:
        """Distance, in sigmas, at which a Gaussian falls to the margin: sqrt(-2 ln margin)."""
        return math.sqrt(2.0 * self.exponent)

    @property
    def bandwidth(self) -> tuple[float, ...] | None:
        """Largest distance along each axis, in voxels, at which a seed may claim a voxel."""
        return None if self.reach is None else tuple(r / 2.0 for r in self.reach)

    @property
    def largest_sigma(self) -> tuple[np.float32, ...] | None:
        """Cap of a sigma along each axis, in voxels: the bandwidth's, rounded to a float32.

        This is part of the rule: it may lie above or below the unrounded value.
        """
        if self.bandwidth is None:
            return None
        least = float(np.finfo(np.float32).tiny)  # its square is not zero
        with np.errstate(over="ignore"):
            return tuple(np.float32(max(b / self.radius, least)) for b in self.bandwidth)

    @property
    def farthest(self) -> tuple[float, ...] | None:
        """Farthest along each axis, in voxels, from a voxel to an embedding that it may claim.

        The reach, and the distance at which the largest sigma *as it is used* falls to the margin,
        rounded outwards. It decides what is certain, so nothing may lie beyond it.
        """
        if self.reach is None or self.largest_sigma is None:
            return None
        pairs = zip(self.reach, self.largest_sigma, strict=True)
        return tuple((r + self.radius * float(s)) * _OUTWARDS for r, s in pairs)
