"""Everything a model knows apart from its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any, NamedTuple, get_type_hints

from embedseg_large.embedding import raw_fields
from embedseg_large.errors import UsageError
from embedseg_large.fields import Field, check_fields, direction_obstacle, heads
from embedseg_large.symmetry import MODES, obstacle

EMBEDSEG = "embedseg"
"""The method of the paper, the default for model files that name none."""
ERFNET = "erfnet"
"""Its backbone, also the default."""
REVISED = {"three-class": 2}
"""Methods whose stored predictions changed their meaning: its version, 1 in all others."""
STRIDE = 8
"""Sizes and origins of network inputs are multiples of this many voxels."""
BACKBONES = (ERFNET, "unet")
"""All networks, see `embedseg_large.network.backbones`."""
WITHOUT_NETWORK = "forest"
"""Used in place of a network; see `embedseg_large.network.forest`."""

DEFAULT_TILE = {2: (512, 512), 3: (192, 192, 192)}
"""Core of a prediction tile by ndim. With the default context a network sees 1.2 and 1.6 voxels
per predicted voxel, and a worker needs less than 4 GB."""
DEFAULT_CONTEXT = {2: 24, 3: 16}
"""Default context by ndim. On the panel, tiles of 32 and 64 voxels with this context, which have
far more seams, score the same as images predicted whole; so do 24, and in 3D 8 voxels."""
DEFAULT_REACH = 1.5  # times the largest extent: an offset to a centre spans about half of it


class Thresholds(NamedTuple):
    """Which voxels seed instances, and which belong to them."""

    seed: float
    """Minimum seediness for a voxel to seed an instance."""
    margin: float
    """A voxel belongs to an instance when the seed's Gaussian is above this at its embedding."""


class ModeThresholds(NamedTuple):
    """Thresholds of one test-time augmentation."""

    mode: str
    """4, 8, 16 or 48."""
    seed: float
    """See `Thresholds`."""
    margin: float
    """See `Thresholds`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Plain values; tuples have one value per axis (z, y, x).

    Raises
    ------
    UsageError
        If a value cannot be used; the message names it.
    """

    ndim: int
    """Number of spatial axes: 2 or 3."""

    channels: int
    """Number of image channels."""

    pitch: tuple[float, ...]
    """Size of a voxel in the units of the network's raw offsets."""

    extent: tuple[int, ...]
    """Largest extent of any connected object in the training data, in voxels."""

    tile: tuple[int, ...]
    """Core of a prediction tile, in voxels; multiples of 8. It belongs to the model, not to the
    machine, because labels depend on it."""

    context: tuple[int, ...]
    """Voxels the network should see on each side of a core; multiples of 8."""

    halo: tuple[int, ...]
    """Voxels of predictions that clustering should see on each side of a core."""

    reach: tuple[float, ...]
    """Longest accepted offset, in voxels; a voxel that points farther is not foreground."""

    min_object_size: int
    """Only instances with more voxels than this are kept."""

    object_diameter: float | None
    """Mean extent of the training objects along y and x, in voxels; None if unknown."""

    voxel_size: tuple[float, ...] | None
    """Voxel size of the training images in micrometres; None if unknown."""

    seed: float = 0.9
    """Minimum seediness for a voxel to seed an instance: 0.9 in the paper, or what validation found
    to be best for one pass of the network."""

    margin: float = 0.5
    """A voxel belongs to an instance when the seed's Gaussian is above this at its embedding: 0.5
    in the paper, or what validation found to be best for one pass of the network."""

    thresholds: tuple[ModeThresholds, ...] = ()
    """Seed and margin for test-time augmentations that need different ones: the mean of many passes
    is less certain than a single pass. All others use those of one pass. Ordered by number of
    passes."""

    keep_largest_piece: bool = False
    """Whether only the largest connected piece of each instance is kept."""

    fill_holes: bool = False
    """Whether background enclosed by one instance becomes part of it."""

    method: str = EMBEDSEG
    """What the network predicts, and how instances are decoded; see `embedseg_large.methods`."""

    backbone: str = ERFNET
    """The network between the image and the fields; see `embedseg_large.network.backbones`."""

    fields: tuple[Field, ...] = ()
    """Meaning of the network's channels, in order; empty: those of EmbedSeg."""

    object_depth: float | None = None
    """Mean extent of the training objects along z, in voxels; None if unknown, and in 2D."""

    width: float | None = None
    """For methods other than EmbedSeg: width of a typical object of the first training, in voxels.
    Their lengths are in this unit, so fine-tuning keeps it. None: the unit is the longest edge of
    the largest object."""

    knobs: tuple[tuple[str, float], ...] = ()
    """For methods other than EmbedSeg: the best thresholds found by validation, by name; missing
    ones have the method's defaults."""

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3):
            raise UsageError(f"ndim is {self.ndim}; a model has 2 or 3 spatial axes")
        if self.channels < 1 or self.min_object_size < 0:
            raise UsageError(
                f"channels is {self.channels} and min_object_size {self.min_object_size}; "
                "they must be at least 1 and 0"
            )
        self._check_thresholds()
        if (self.method == EMBEDSEG) == bool(self.fields):
            raise UsageError(
                f"method is {self.method} with {len(self.fields)} fields; all methods but "
                f"{EMBEDSEG} list theirs"
            )
        check_fields(self.fields, self.ndim)
        if self.backbone not in (*BACKBONES, WITHOUT_NETWORK):
            raise UsageError(f"backbone is {self.backbone!r}; use {' or '.join(BACKBONES)}")
        for name in ("pitch", "extent", "tile", "reach"):
            self._check(name, above_zero=True)
        for name in ("context", "halo"):
            self._check(name, above_zero=False)
        for name in ("tile", "context"):
            if any(v % STRIDE for v in getattr(self, name)):
                raise UsageError(f"{name} is {getattr(self, name)}; use multiples of {STRIDE}")
        if self.voxel_size is not None:
            self._check("voxel_size", above_zero=True)
        largest = max(self.extent)
        if self.width is not None and not 1 <= self.width <= largest:
            raise UsageError(f"width is {self.width}; it must be from 1 to {largest}, the extent")

    def _check_thresholds(self) -> None:
        """Refuse unusable thresholds, and modes that do not exist or occur twice."""
        modes = [own.mode for own in self.thresholds]
        if modes != sorted({m for m in modes if m in MODES[1:]}, key=MODES.index):
            raise UsageError(
                f"thresholds are for test-time augmentations {modes}; give each of "
                f"{', '.join(MODES[1:])} at most once, in this order"
            )
        for seed, margin in [(self.seed, self.margin), *(own[1:] for own in self.thresholds)]:
            if not 0 < seed <= 1:
                raise UsageError(f"seed is {seed}; it must be above 0 and at most 1")
            if not 0 < margin < 1:
                raise UsageError(f"margin is {margin}; it must be above 0 and below 1")

    @property
    def channel_fields(self) -> tuple[Field, ...]:
        """Meaning of the network's channels, in order."""
        return self.fields or raw_fields(self.ndim)

    @property
    def heads(self) -> tuple[int, ...]:
        """Channels of each decoder of the network."""
        return heads(self.channel_fields)

    def obstacle(self, mode: str | int) -> str | None:
        """Return why the model cannot use a test-time augmentation; None if it can.

        Raises
        ------
        ValueError
            If there is no such mode, or not for that many axes.
        """
        reason = obstacle(mode, self.pitch, self.voxel_size)
        return reason or direction_obstacle(mode, self.channel_fields, self.ndim)

    def thresholds_of(self, mode: str) -> Thresholds:
        """Return the thresholds of a test-time augmentation: none, 4, 8, 16 or 48."""
        own = {each.mode: Thresholds(each.seed, each.margin) for each in self.thresholds}
        return own.get(mode, Thresholds(self.seed, self.margin))

    def with_thresholds(self, found: Mapping[str, Thresholds]) -> ModelSettings:
        """Return settings with other thresholds for some test-time augmentations.

        Parameters
        ----------
        found
            Thresholds by mode: none, 4, 8, 16, 48. Other modes keep theirs.
        """
        known = {mode: self.thresholds_of(mode) for mode in MODES} | dict(found)
        stated = {own.mode for own in self.thresholds} | found.keys()
        return replace(
            self,
            seed=known["none"].seed,
            margin=known["none"].margin,
            thresholds=tuple(ModeThresholds(m, *known[m]) for m in MODES[1:] if m in stated),
        )

    def _check(self, name: str, *, above_zero: bool) -> None:
        """Refuse a tuple of the wrong length or sign."""
        values = getattr(self, name)
        good = all(isfinite(v) and (v > 0 if above_zero else v >= 0) for v in values)
        if len(values) != self.ndim or not good:
            sign = "positive" if above_zero else "non-negative"
            raise UsageError(f"{name} is {values}; pass {self.ndim} {sign} numbers, one per axis")

    @classmethod
    def from_objects(
        cls,
        *,
        pitch: Sequence[float],
        extent: Sequence[int],
        min_object_size: int,
        channels: int = 1,
        object_diameter: float | None = None,
        object_depth: float | None = None,
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
            context=tuple((DEFAULT_CONTEXT.get(ndim, 0),) * ndim if context is None else context),
            halo=tuple(extent if halo is None else halo),
            reach=tuple(reach or (DEFAULT_REACH * e for e in extent)),
            min_object_size=min_object_size,
            object_diameter=object_diameter,
            object_depth=object_depth,
            voxel_size=None if voxel_size is None else tuple(voxel_size),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as values that JSON can hold."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        values["thresholds"] = {
            own.mode: {"seed": own.seed, "margin": own.margin} for own in self.thresholds
        }
        values["fields"] = [field.as_dict() for field in self.fields]
        values["knobs"] = [list(knob) for knob in self.knobs]
        return values

    def deciding(self) -> dict[str, Any]:
        """Return what determines the predictions, for the fingerprint of a model.

        Later additions that only affect the use of predictions are left out: a run records them
        separately, and models keep their fingerprints.
        """
        later = {"margin", "thresholds", "keep_largest_piece", "fill_holes", "object_depth"}
        if self.method == EMBEDSEG:
            later |= {"method", "fields", "knobs"}
        if self.width is None:
            later |= {"width"}
        if self.backbone == ERFNET:
            later |= {"backbone"}
        values = {k: v for k, v in self.as_dict().items() if k not in later}
        if self.method in REVISED:
            values["revision"] = REVISED[self.method]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSettings:
        """Restore settings from `as_dict`.

        Raises
        ------
        TypeError, ValueError
            If a field is missing, unknown, or of another type; the message names it.
        """
        known = get_type_hints(cls)
        fields: dict[str, Any] = {
            name: _typed(name, known[name], value) if name in known else value
            for name, value in values.items()
            if name != "thresholds"
        }
        own = [ModeThresholds(mode, **each) for mode, each in values.get("thresholds", {}).items()]
        return cls(**fields, thresholds=tuple(own))


def _typed(name: str, kind: Any, value: Any) -> Any:
    """Convert a JSON value to a field's type.

    Raises
    ------
    ValueError
        If it has another type.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{name}: {error.errors()[0]['msg']}") from error
