"""The settings of a run, complete and checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from embedseg_large.clustering.clean import CleanSettings
from embedseg_large.clustering.settings import ClusterSettings
from embedseg_large.errors import UsageError
from embedseg_large.segmentation.segmenters.loading import choose_dtype
from embedseg_large.segmentation.segmenters.protocol import CLUSTER_TILE, Network
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.stitching.seam import SEAM_DEPTH
from embedseg_large.tiling.axis import STRIDE, balance, round_up

MAX_HALO_FACTOR = 4
MAX_HALO_FACTOR_OF_SEGMENTERS = 2
"""Default of the largest halo, in halos, of segmenters that are not ours. Where twice as much is
not enough, a segmenter is mostly not local, and would see ever more for nothing."""

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
    """Whether to enlarge the halo of tiles that are merely uncertain, too."""
    min_object_size: int
    """Instances have more voxels than this."""
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
        self.clustering()

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.tile)

    def clustering(self) -> ClusterSettings:
        """The part that the clustering knows."""
        return ClusterSettings(
            min_object_size=self.min_object_size,
            foreground=self.foreground,
            seed=self.seed,
            margin=self.margin,
            reach=self.reach,
        )

    def cleaning(self) -> CleanSettings:
        """What is cleaned of the instances that were found."""
        return CleanSettings(keep_largest_piece=self.keep_largest_piece, fill_holes=self.fill_holes)

    def halos(self, *, halfway: bool = False) -> tuple[tuple[int, ...], ...]:
        """The halo at every level: doubled until the largest.

        Parameters
        ----------
        halfway
            With a step between any two of the doubled: 1, 2, 3, 4, 6, 8 times the first.
        """
        times, levels = 1, [self.halo]
        while levels[-1] != self.max_halo:
            for more in (3 * times // 2, 2 * times) if halfway and times > 1 else (2 * times,):
                seen = zip(self.halo, self.max_halo, strict=True)
                levels.append(tuple(min(more * first, most) for first, most in seen))
            times *= 2
        return tuple(dict.fromkeys(levels))  # where an end comes early, steps are the same

    def as_dict(self) -> dict[str, Any]:
        """The settings as values that JSON can hold."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def resolve_settings(
    network: Network,
    shape: Sequence[int],
    *,
    tta: bool | int | str = True,
    device: str = "cpu",
    dtype: str | None = None,
    tile: Sizes = None,
    context: Sizes = None,
    cluster_tile: Sizes = None,
    halo: Sizes = None,
    max_halo: Sizes = None,
    strict: bool = False,
    min_object_size: int | None = None,
    foreground: float = 0.5,
    seed: float | None = None,
    margin: float | None = None,
    keep_largest_piece: bool | None = None,
    fill_holes: bool | None = None,
) -> SegmentSettings:
    """Fill in what the user left open, from the network and the volume's shape.

    Raises
    ------
    UsageError
        When a value cannot be used; it names the setting.
    """
    ndim = network.ndim
    mode = network.tta_mode(tta)
    own_seed, own_margin = network.thresholds_of(mode)
    own_pieces, own_holes = network.cleaning
    step = _sizes("tile", tile, network.tile)
    first_halo = _sizes("halo", halo, tuple(max(h, SEAM_DEPTH) for h in network.halo))
    most = tuple(MAX_HALO_FACTOR * h for h in first_halo)
    if all(v > 0 and v % STRIDE == 0 for v in step):
        step = tuple(balance(n, s) for n, s in zip(shape, step, strict=True))
    return SegmentSettings(
        tta=mode,
        device=device,
        dtype=choose_dtype(network, device, dtype),
        tile=step,
        context=_sizes("context", context, network.context),
        cluster_tile=_sizes("cluster_tile", cluster_tile, (CLUSTER_TILE[ndim],) * ndim),
        halo=first_halo,
        max_halo=_sizes("max_halo", max_halo, most),
        strict=strict,
        min_object_size=network.min_object_size if min_object_size is None else min_object_size,
        foreground=foreground,
        seed=own_seed if seed is None else seed,
        margin=own_margin if margin is None else margin,
        reach=tuple(network.reach),
        keep_largest_piece=own_pieces if keep_largest_piece is None else keep_largest_piece,
        fill_holes=own_holes if fill_holes is None else fill_holes,
    )


def _sizes(name: str, value: Sizes, default: Sequence[int]) -> tuple[int, ...]:
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


_NETWORKS_ONLY = {
    "tta": True,
    "dtype": None,
    "tile": None,
    "context": None,
    "foreground": 0.5,
    "seed": None,
    "margin": None,
    "strict": False,
}
"""Options that are of networks which predict embeddings, and their defaults."""


def segmenter_settings(
    segmenter: TileSegmenter, *, device: str, cluster_tile: Sizes = None, **given: Any
) -> SegmentSettings:
    """Fill in the settings of a run with a segmenter that is not ours.

    Raises
    ------
    UsageError
        When an option was given that is of networks only, or a value cannot be used.
    """
    useless = [n for n, default in _NETWORKS_ONLY.items() if given.pop(n, default) != default]
    if useless:
        advice = "; the core of its tiles is cluster_tile" if "tile" in useless else ""
        raise UsageError(
            f"{', '.join(useless)}: not supported by the external segmenter {segmenter.name}; "
            f"leave it out{advice}"
        )
    core = segmenter.tile if cluster_tile is None else tuple(cluster_tile)
    predicted = tuple(round_up(int(n), STRIDE) for n in core)  # nothing is; any that is valid
    if given.get("max_halo") is None:
        given["max_halo"] = tuple(
            MAX_HALO_FACTOR_OF_SEGMENTERS * n for n in given.get("halo") or segmenter.halo
        )
    return resolve_settings(
        segmenter,
        predicted,
        device=device,
        tile=predicted,
        cluster_tile=core,
        **given,
    )
