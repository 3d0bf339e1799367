"""Bring your own segmenter: any function from the image of a tile to its labels.

::

    halo halo halo halo      The function sees core and halo, as if they were the whole image, and
    halo ┌────────┐ halo     gives each of their objects a number. Objects are then named by the
    halo │  core  │ halo     voxel in their middle, and the engine does the rest: it compares what
    halo └────────┘ halo     neighbours say, shows more to those that disagree, and lets the tile
    halo halo halo halo      that owns an object's middle decide about all of its voxels.

Labels do not depend on the tiles if the segmenter is *local*: if its result for an object does not
depend on anything farther away than the halo. The seam report shows where this failed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.settings import DEFAULT_MARGIN
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.segmentation.segmenters.protocol import CLUSTER_TILE
from embedseg_large.stitching.seam import SEAM_DEPTH

Function = Callable[..., Any]
Intensity = Literal["percentiles", "otsu", "raw"]
"""What the image is like that a segmenter is given, see `TileSegmenter.intensity`."""


@dataclass(frozen=True)
class TileSegmenter:
    """An external segmenter, passed to `segment` instead of a model.

    Raises
    ------
    UsageError
        If an argument cannot be used.

    Examples
    --------
    >>> def watershed(image, sigma):  # float32 (z, y, x) -> integer labels (z, y, x)
    ...     ...
    >>> segmenter = TileSegmenter(
    ...     watershed, name="my-watershed", halo=(16, 32, 32), parameters={"sigma": 2.0}
    ... )
    """

    function: Function | None = None
    """Called as ``function(image, **parameters)`` with float32 ``(z, y, x)``, or ``(c, z, y, x)``
    of several channels (2D without z). Returns integers of the spatial shape, 0 for background, one
    number per object. With workers it must be importable there, or picklable."""
    _: KW_ONLY
    name: str
    """Its name in summaries and errors."""
    halo: tuple[int, ...]
    """Voxels around a core that it sees on each side: at least the extent of the largest object."""
    tile: tuple[int, ...] = ()
    """Core of a tile, in voxels; default 128 along each axis in 3D, 1024 in 2D."""
    ndim: int = 3
    """Number of spatial axes: 2 or 3."""
    channels: int = 1
    """Channels of the images it takes."""
    version: str = ""
    """Version of the function or its weights. Labels of different versions are never mixed in a
    run."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the function (or of `load`): values that JSON can hold."""
    load: Callable[..., Function] | None = None
    """Instead of a function: called once per worker, as ``load(device, **parameters)``, and returns
    the function, which is called with only the image. For networks, which take long to load."""
    intensity: Intensity | tuple[float, float] = "percentiles"
    """Intensities of the image: ``raw``; or mapped linearly, by the same map in every
    tile, so that percentiles 1 and 99.8 of the volume become 0 and 1 (``percentiles``), or the
    darkest voxel of it and Otsu's threshold (``otsu``), or two intensities that are given here."""
    min_object_size: int = 0
    """Objects have more voxels than this."""
    object_diameter: float | None = None
    """Diameter of objects along y and x, in voxels, as the function expects them; None:
    irrelevant."""
    voxel_size: tuple[float, ...] | None = None
    """Voxel size of images as the function expects them, µm along (z,) y, x; None: irrelevant."""
    bytes_per_voxel: float = 100.0
    """Peak memory of the function for each voxel of core and halo; an estimate, for --dry-run."""

    def __post_init__(self) -> None:
        _check(self)
        sizes = (int(n) for n in self.tile or (CLUSTER_TILE[self.ndim],) * self.ndim)
        object.__setattr__(self, "tile", tuple(sizes))
        object.__setattr__(self, "halo", tuple(max(SEAM_DEPTH, int(n)) for n in self.halo))

    # -- what the engine asks of a network -------------------------------------------------------

    @property
    def context(self) -> tuple[int, ...]:
        """Nothing is predicted that would need any."""
        return (0,) * self.ndim

    @property
    def reach(self) -> tuple[float, ...]:
        """Farthest that an object is believed to extend from its middle, in voxels."""
        return tuple(float(n) for n in self.halo)

    @property
    def seed(self) -> float:
        """Of no consequence."""
        return 0.0

    @property
    def margin(self) -> float:
        """Of no consequence."""
        return DEFAULT_MARGIN

    @property
    def cleaning(self) -> tuple[bool, bool]:
        """Objects are left as the function gives them, if nobody asks for more."""
        return False, False

    def thresholds_of(self, tta: str) -> tuple[float, float]:  # noqa: ARG002
        """Of no consequence."""
        return self.seed, self.margin

    @property
    def intensity_range(self) -> tuple[float, float] | None:
        """Intensities that become 0 and 1; None: they follow from the volume."""
        if not isinstance(self.intensity, str):
            return self.intensity
        return (0.0, 1.0) if self.intensity == "raw" else None

    @property
    def fingerprint(self) -> str:
        """Hash of name, version, parameters, and the function's full name."""
        about = {
            "name": self.name,
            "version": self.version,
            "parameters": dict(self.parameters),
            "function": _identity(self.function or self.load),
            "ndim": self.ndim,
            "channels": self.channels,
            "intensity": self.intensity,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def tta_mode(self, tta: bool | int | str) -> str:  # noqa: ARG002
        """There is no test-time augmentation of other people's segmenters."""
        return "none"

    def loaded(self, device: str) -> TileSegmenter:
        """The segmenter with its function, on a device."""
        if self.load is None:
            return self
        return replace(
            self, function=self.load(device, **self.parameters), load=None, parameters={}
        )

    def predict_tile(
        self,
        image: NDArray[np.float32],
        region: Box,
        tta: bool | int | str = "none",  # noqa: ARG002
    ) -> NDArray[Any]:
        """Labels of a region, where a network has embeddings.

        Parameters
        ----------
        image
            ``(channels, *region)`` float32.
        region
            Where it lies, for errors.

        Raises
        ------
        UsageError
            What the function returned are no labels of that region.
        """
        assert self.function is not None
        found = self.function(image[0] if self.channels == 1 else image, **self.parameters)
        labels = np.asarray(found)
        wrong = _what_is_wrong(labels, region)
        if wrong:
            raise UsageError(
                f"{self.name} returned {wrong} for the image of tile {region}; it must return an "
                f"integer for each of {region.shape} voxels, 0 for background"
            )
        return labels


def _check(segmenter: TileSegmenter) -> None:
    name, ndim = segmenter.name, segmenter.ndim
    given = [f for f in (segmenter.function, segmenter.load) if f is not None]
    if len(given) != 1 or not callable(given[0]):
        raise UsageError(f"segmenter {name!r}: pass a function, or load, which returns one")
    if ndim not in (2, 3):
        raise UsageError(f"segmenter {name!r}: ndim is {ndim}; it is 2 or 3")
    for what, value in (("tile", segmenter.tile), ("halo", segmenter.halo)):
        if (value or what == "halo") and len(value) != ndim:
            raise UsageError(f"segmenter {name!r}: {what} is {value}; it needs {ndim} numbers")
    if isinstance(segmenter.intensity, str) and segmenter.intensity not in get_args(Intensity):
        known = ", ".join(get_args(Intensity))
        raise UsageError(
            f"segmenter {name!r}: intensity is {segmenter.intensity!r}; use one of {known}"
        )
    try:
        json.dumps(dict(segmenter.parameters))
    except TypeError as error:
        raise UsageError(
            f"segmenter {name!r}: parameters must be numbers, texts and lists of them ({error}); "
            "make the rest in load"
        ) from None


def _identity(function: Any) -> Any:
    """What tells a function from others: its full name, and what is bound to it."""
    if isinstance(function, partial):
        from dask.base import tokenize  # by content: to repr, large arrays are all alike

        return [_identity(function.func), tokenize(function.args, function.keywords)]
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _what_is_wrong(labels: NDArray[Any], region: Box) -> str:
    """What makes an array no labels of a region; empty if nothing does."""
    if labels.shape != region.shape:
        return f"an array of shape {labels.shape}"
    if labels.dtype.kind not in "bui":
        return f"{labels.dtype} values"
    if labels.dtype.kind == "i" and labels.min() < 0:
        return f"negative labels ({labels.min()})"
    return ""
