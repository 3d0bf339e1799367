"""Settings of synthetic volumes, as ranges to draw from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from math import isfinite, prod
from typing import Any

from embedseg_large.errors import UsageError

Range = tuple[float, float]
"""Range from which a number is drawn for each volume, both ends included."""

SHAPES = {2: (256, 256), 3: (48, 112, 112)}
"""Default shape of a volume, by its number of axes."""

ANISOTROPY: Range = (1.0, 4.0)
"""Default of `SynthesisSettings.anisotropy` in 3D."""

LEAST_DEPTH = 2.5
"""Minimum depth of the smallest nucleus in planes: with fewer there is no volume to segment."""

LEAST_EDGE = 8
"""Minimum number of voxels along each axis of a volume."""

MOST_VOXELS = 2**27
"""Maximum number of voxels of a volume."""

LAYOUTS = ("dense", "sparse", "cluster", "shell", "sheet")
"""How nuclei may be arranged; also the names of the settings that weight them."""


_OTHERS = ("ndim", "shape", "anisotropy")  # checked separately

_LIMITS: dict[str, Range] = {
    "diameter": (4.0, 1e6),
    "size_spread": (0.0, 1.0),
    "elongation": (1.0, 4.0),
    "roughness": (0.0, 0.5),
    "brightness_spread": (0.0, 2.0),
    "texture": (0.0, 1.0),
    "background": (0.0, 2.0),
    "blur": (0.0, 10.0),
    "axial_blur": (0.0, 10.0),
    "photons": (1.0, 1e9),
    "read_noise": (0.0, 1.0),
    "offset": (0.0, 10.0),
    "gamma": (0.1, 10.0),
}
"""Limits of a range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisSettings:
    """Settings of a generator; every volume draws its own values from them.

    The defaults are wide, for models that should work on images from other labs. For one kind of
    image, set at least `diameter` and `anisotropy`.

    Lengths along an axis are in voxels; intensities are relative to that of an average nucleus.

    Raises
    ------
    UsageError
        If a value is not possible; the message names it.
    """

    ndim: int = 3
    """Number of spatial axes, 2 or 3."""
    shape: tuple[int, ...] | None = None
    """Voxels along (z,) y, x; None: 48 x 112 x 112, or 256 x 256."""

    # Nuclei

    diameter: Range = (9.0, 30.0)
    """Mean diameter of a volume's nuclei along y and x, drawn uniformly in its logarithm."""
    anisotropy: Range | None = None
    """Distance between planes in pixels, at least 1, drawn uniformly in its logarithm; if the range
    begins at 1, a third of the volumes are isotropic. None: 1 to 4; not used in 2D.
    """
    size_spread: Range = (0.05, 0.3)
    """Standard deviation of the logarithm of the diameter within a volume."""
    elongation: Range = (1.0, 1.9)
    """Factor by which one axis of a nucleus is longer than the others; in one of five, shorter."""
    roughness: Range = (0.0, 0.3)
    """Displacement of the surface by smooth noise, as a fraction of the radius."""
    aligned: float = 0.35
    """Share of the volumes in which most nuclei have the same orientation."""
    metaphases: float = 0.03
    """Share of the nuclei that are metaphase plates."""
    anaphases: float = 0.02
    """Share of the nuclei that are anaphases: two objects side by side."""
    gaps: float = 0.3
    """Share of the volumes in which touching nuclei are separated by a gap of a voxel."""

    # Arrangement: relative frequencies

    dense: float = 0.3
    """Frequency of tissue: a perturbed grid, more or less filled."""
    sparse: float = 0.2
    """Frequency of a few nuclei far apart."""
    cluster: float = 0.2
    """Frequency of a ball of nuclei."""
    shell: float = 0.15
    """Frequency of a hollow ball, such as a blastocyst."""
    sheet: float = 0.15
    """Frequency of a bent layer, such as an epithelium."""

    # Appearance

    brightness_spread: Range = (0.08, 0.5)
    """Standard deviation of the logarithm of the brightness of nuclei within a volume."""
    texture: Range = (0.0, 0.5)
    """Strength of the chromatin's texture."""
    rims: float = 0.15
    """Share of the volumes in which nuclei are brightest at their surface."""
    cores: float = 0.25
    """Share of the volumes in which nuclei are brightest in their middle."""
    nucleoli: float = 0.25
    """Share of the volumes with dark spots in nuclei."""
    chromocentres: float = 0.15
    """Share of the volumes with bright spots in nuclei."""
    background: Range = (0.0, 0.3)
    """Brightness of smooth structures outside of nuclei."""
    haze: float = 0.4
    """Share of the volumes with light from the cytoplasm around nuclei."""
    debris: float = 0.25
    """Share of the volumes with bright specks that are not nuclei."""

    # The microscope

    blur: Range = (0.35, 1.4)
    """Standard deviation of the point spread function along y and x, in voxels; for nuclei below 14
    voxels it is proportionally smaller."""
    axial_blur: Range = (1.0, 4.0)
    """Factor by which it is longer along z, in pixels."""
    out_of_focus: float = 0.5
    """Share of the volumes with a halo of light from far planes."""
    attenuation: float = 0.6
    """Share of the volumes that become darker with depth."""
    shading: float = 0.3
    """Share of the volumes with uneven illumination."""

    # The camera

    photons: Range = (12.0, 1500.0)
    """Photons of the brightest voxels, drawn uniformly in its logarithm; from 1e6 on there is no
    shot noise."""
    read_noise: Range = (0.0, 0.05)
    """Standard deviation of the noise that does not depend on the intensity."""
    offset: Range = (0.0, 0.6)
    """Black level, of three in five volumes."""
    stripes: float = 0.15
    """Share of the volumes with rows or planes of uneven gain."""
    smoothing: float = 0.35
    """Share of the volumes that were denoised: noise is correlated."""
    interpolation: float = 0.2
    """Share of the volumes whose planes were interpolated from a half or a third of them."""
    gamma: Range = (0.6, 1.6)
    """Exponent of the display curve, in three of ten volumes."""
    saturation: float = 0.12
    """Share of the volumes whose brightest voxels are clipped."""
    black: float = 0.2
    """Share of the volumes whose darkest voxels are clipped, as after background subtraction: large
    parts of them have a single value."""

    def __post_init__(self) -> None:
        if self.ndim not in SHAPES:
            raise UsageError(f"ndim is {self.ndim}; synthetic volumes have 2 or 3 axes")
        for each in fields(self):
            self._check(each.name, getattr(self, each.name))
        self._check_anisotropy()
        self._check_shape()
        if not any(getattr(self, name) for name in LAYOUTS):
            raise UsageError(f"{', '.join(LAYOUTS)} are all 0; set the frequency of at least one")

    @property
    def volume_shape(self) -> tuple[int, ...]:
        """Voxels along (z,) y, x, the default filled in."""
        return SHAPES[self.ndim] if self.shape is None else self.shape

    @property
    def anisotropies(self) -> Range:
        """The range of anisotropies, the default filled in; 1 in 2D."""
        if self.ndim == 2:
            return (1.0, 1.0)
        return self.anisotropy or ANISOTROPY

    def as_dict(self) -> dict[str, Any]:
        """The settings as values that JSON can hold."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def _check(self, name: str, value: Any) -> None:
        """Refuse an invalid range, frequency or share."""
        if name in _LIMITS:
            _check_range(name, value, *_LIMITS[name])
        elif name in LAYOUTS:
            if not (_is_number(value) and isfinite(value) and value >= 0):
                raise UsageError(f"{name} is {value!r}; it is a frequency, from 0 on")
        elif name not in _OTHERS and not (_is_number(value) and 0 <= value <= 1):
            raise UsageError(f"{name} is {value!r}; it is a share, from 0 to 1")

    def _check_anisotropy(self) -> None:
        if self.anisotropy is None:
            return
        if self.ndim == 2:
            raise UsageError("anisotropy has no meaning in 2D; leave it out")
        _check_range("anisotropy", self.anisotropy, 1.0, 100.0)
        deepest = self.diameter[1] / self.anisotropy[0]
        if deepest < LEAST_DEPTH:
            raise UsageError(
                f"nuclei {_shown(self.diameter)} pixels wide are at most {deepest:.1f} planes deep "
                f"at anisotropy {_shown(self.anisotropy)}; pass an anisotropy up to "
                f"{self.diameter[1] / LEAST_DEPTH:.1f}, or larger nuclei"
            )

    def _check_shape(self) -> None:
        shape = self.volume_shape
        if len(shape) != self.ndim or any(n < LEAST_EDGE for n in shape):
            raise UsageError(
                f"shape is {shape}; pass {self.ndim} sizes from {LEAST_EDGE} on for {self.ndim}D "
                "volumes"
            )
        if prod(shape) > MOST_VOXELS:
            raise UsageError(
                f"shape is {shape}, {prod(shape):,} voxels; a volume is drawn in memory, pass at "
                f"most {MOST_VOXELS:,}"
            )
        if self.diameter[1] > min(shape[-2:]):
            raise UsageError(
                f"nuclei up to {self.diameter[1]:g} voxels wide do not fit into "
                f"{' x '.join(map(str, shape))}; pass a larger shape"
            )


def names() -> Iterator[str]:
    """Yield the names of all settings."""
    return (each.name for each in fields(SynthesisSettings))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_range(name: str, value: object, least: float, most: float) -> None:
    pair: tuple[Any, ...] = tuple(value) if isinstance(value, tuple | list) else ()
    if len(pair) != 2 or not all(map(_is_number, pair)):
        raise UsageError(f"{name} is {value!r}; pass two numbers, such as (12, 30)")
    low, high = pair
    if low > high:
        raise UsageError(f"{name} is {_shown((low, high))}, which descends; pass {high:g}:{low:g}")
    if not least <= low <= high <= most:
        raise UsageError(
            f"{name} is {_shown((low, high))}; it must lie between {least:g} and {most:g}"
        )


def _shown(value: Range) -> str:
    low, high = value
    return f"{low:g}" if low == high else f"{low:g}:{high:g}"
