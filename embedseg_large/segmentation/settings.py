"""The settings of a run, completed and checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from embedseg_large.clustering.clean import CleanSettings
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.errors import UsageError
from embedseg_large.stitching.tile_result import SEAM_DEPTH
from embedseg_large.tiling.axis import STRIDE

Sizes = Sequence[int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSettings:
    """Everything that determines what a run computes, apart from the image and the network."""

    tta: str
    """Test-time augmentation: none, 4, 8, 16 or 48."""
    device: str
    """cpu, cuda or cuda:N."""
    dtype: str
    """Number format of the network: float32, bfloat16 or float16."""
    tile: tuple[int, ...]
    """Core of a prediction tile, in voxels; multiples of 8."""
    context: tuple[int, ...]
    """Input around a prediction core, in voxels; multiples of 8."""
    cluster_tile: tuple[int, ...]
    """Core of a clustering tile, in voxels."""
    halo: tuple[int, ...]
    """Initial halo around a clustering core, in voxels."""
    max_halo: tuple[int, ...]
    """Maximum halo of tiles that disagree, in voxels."""
    strict: bool
    """Whether to enlarge also the halo of tiles that are merely uncertain."""
    min_object_size: int
    """Only instances with more voxels than this are kept."""
    foreground: float
    """Seediness above which a voxel is foreground."""
    seed: float
    """Minimum seediness for a voxel to seed an instance."""
    margin: float
    """A voxel belongs to an instance when the seed's Gaussian is above this at its embedding."""
    reach: tuple[float, ...]
    """Longest accepted offset, in voxels."""
    keep_largest_piece: bool = False
    """Whether only the largest connected piece of each instance is kept."""
    fill_holes: bool = False
    """Whether background enclosed by one instance becomes part of it."""
    augment_above: float = 0.0
    """Tiles in whose core the first pass finds no higher seediness get no further passes; 0: all
    tiles get all."""

    def __post_init__(self) -> None:
        for name in ("tile", "context"):
            value = getattr(self, name)
            if any(v % STRIDE for v in value):
                raise UsageError(f"{name} is {_text(value)}; it must be multiples of {STRIDE}")
        _at_least("tile", self.tile, (STRIDE,) * self.ndim)
        _at_least("context", self.context, (0,) * self.ndim)
        _at_least("cluster_tile", self.cluster_tile, (2 * SEAM_DEPTH,) * self.ndim)
        _at_least("halo", self.halo, (SEAM_DEPTH,) * self.ndim)
        _at_least("max_halo", self.max_halo, self.halo)
        if not 0 <= self.augment_above <= self.foreground:
            raise UsageError(
                f"augment_above is {self.augment_above}; pass a number from 0 to the seediness of "
                f"foreground, {self.foreground}"
            )
        self.clustering()

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.tile)

    def clustering(self) -> ClusteringSettings:
        """The settings of the clustering."""
        return ClusteringSettings(
            min_object_size=self.min_object_size,
            foreground=self.foreground,
            seed=self.seed,
            margin=self.margin,
            reach=self.reach,
        )

    def cleaning(self) -> CleanSettings:
        """How the instances are cleaned."""
        return CleanSettings(keep_largest_piece=self.keep_largest_piece, fill_holes=self.fill_holes)

    def halos(self, *, halfway: bool = False) -> tuple[tuple[int, ...], ...]:
        """Return the halo at every level: doubled until the maximum.

        Parameters
        ----------
        halfway
            Whether to add a step between doublings: 1, 2, 3, 4, 6, 8 times the first.
        """
        times, levels = 1, [self.halo]
        while levels[-1] != self.max_halo:
            for more in (3 * times // 2, 2 * times) if halfway and times > 1 else (2 * times,):
                seen = zip(self.halo, self.max_halo, strict=True)
                levels.append(tuple(min(more * first, most) for first, most in seen))
            times *= 2
        return tuple(dict.fromkeys(levels))  # at the maximum, steps may coincide

    def as_dict(self) -> dict[str, Any]:
        """The settings as values that JSON can hold."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def sizes_of(name: str, value: Sizes, default: Sequence[int]) -> tuple[int, ...]:
    """One number per axis, from the user or else the default."""
    if value is None:
        return tuple(default)
    if len(value) != len(default):
        raise UsageError(f"{name} is {_text(value)}; it needs {len(default)} numbers, one per axis")
    return tuple(int(v) for v in value)


def _at_least(name: str, value: Sequence[int], least: Sequence[int]) -> None:
    if any(v < low for v, low in zip(value, least, strict=True)):
        raise UsageError(f"{name} is {_text(value)}; it must be at least {_text(least)}")


def _text(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))
