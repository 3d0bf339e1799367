"""Bring your own segmenter: any function from the image of a tile to its labels.

::

    halo halo halo halo      The function sees core and halo, as if they were the whole image, and
    halo ┌────────┐ halo     numbers the objects in it. Objects are then named by their
    halo │  core  │ halo     most central voxel, and the engine does the rest: it compares
    halo └────────┘ halo     neighbours, enlarges the halo where they disagree, and lets the tile
    halo halo halo halo      that owns an object's middle decide about all its voxels.

Labels do not depend on the tiles if the segmenter is *local*: if its result for an object does not
depend on anything farther away than the halo. The seam report shows where this failed.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.settings import DEFAULT_MARGIN
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.runs.devices import is_gpu
from embedseg_large.segmentation.segmenters.loading import OneAtATime
from embedseg_large.segmentation.segmenters.protocol import (
    CLUSTER_TILE,
    Decide,
    Intensity,
    Network,
    TileLabeller,
    Traits,
)
from embedseg_large.segmentation.settings import SegmentSettings, sizes_of
from embedseg_large.stitching.tile_result import SEAM_DEPTH
from embedseg_large.storage.folder import Folder
from embedseg_large.tiling.axis import STRIDE, round_up

if TYPE_CHECKING:
    from embedseg_large.segmentation.options import SegmentOptions

Function = Callable[..., Any]
MAX_HALO_FACTOR = 2
"""Default of the maximum halo, as a multiple of the halo. If twice as much is not enough, a
segmenter is usually not local, and larger halos would not help."""
_NETWORKS_ONLY = ("tta", "dtype", "tile", "context", "foreground", "seed", "margin", "strict")
"""Options of networks that predict embeddings."""


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
    intensity: Intensity | tuple[float | None, float] = "percentiles"
    """Intensities of the image: ``raw``; or mapped linearly, by the same map in every
    tile, so that percentiles 1 and 99.8 of the volume become 0 and 1 (``percentiles``), or the
    darkest voxel of it and Otsu's threshold (``otsu``), or two intensities that are given here; of
    these, None as the first one is the darkest voxel."""
    min_object_size: int = 0
    """Objects have more voxels than this."""
    object_diameter: float | None = None
    """Diameter of objects along y and x, in voxels, as the function expects them; None:
    irrelevant."""
    object_depth: float | None = None
    """The same along z."""
    voxel_size: tuple[float, ...] | None = None
    """Voxel size of images as the function expects them, µm along (z,) y, x; None: irrelevant."""
    bytes_per_voxel: float = 100.0
    """Peak memory of the function for each voxel of core and halo; an estimate, for --dry-run."""

    def __post_init__(self) -> None:
        _check(self)
        sizes = (int(n) for n in self.tile or (CLUSTER_TILE[self.ndim],) * self.ndim)
        object.__setattr__(self, "tile", tuple(sizes))
        object.__setattr__(self, "halo", tuple(max(SEAM_DEPTH, int(n)) for n in self.halo))

    # -- what a run requires of a segmenter
    # ----------------------------------------------------------

    @property
    def traits(self) -> Traits:
        """Traits of a segmenter that sees tiles directly; nothing can be proven about it."""
        return Traits(
            name=self.name,
            decode=None,
            decide=Decide.OWNER,
            columns=("certified",),
            promise="local",
        )

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

    def settings(
        self, shape: Sequence[int], device: str, options: SegmentOptions
    ) -> SegmentSettings:
        """Fill in what the user left open; options of networks are not used."""
        del shape
        self._refuse_useless(options)
        core = sizes_of("cluster_tile", options.cluster_tile, self.tile)
        own_halo = options.halo or self.halo
        halo = sizes_of("halo", options.halo, self.halo)
        most = tuple(MAX_HALO_FACTOR * n for n in own_halo)
        return SegmentSettings(
            tta="none",
            device=device,
            dtype="float32",
            tile=tuple(round_up(n, STRIDE) for n in core),
            context=(0,) * self.ndim,
            cluster_tile=core,
            halo=halo,
            max_halo=sizes_of("max_halo", options.max_halo, most),
            strict=False,
            min_object_size=(
                self.min_object_size if options.min_object_size is None else options.min_object_size
            ),
            foreground=options.foreground,
            seed=0.0,
            margin=DEFAULT_MARGIN,
            reach=tuple(float(n) for n in self.halo),
            keep_largest_piece=bool(options.keep_largest_piece),
            fill_holes=bool(options.fill_holes),
        )

    def _refuse_useless(self, options: SegmentOptions) -> None:
        """Refuse options that only networks have."""
        unset = type(options)()
        useless = [n for n in _NETWORKS_ONLY if getattr(options, n) != getattr(unset, n)]
        if useless:
            advice = "; the core of its tiles is cluster_tile" if "tile" in useless else ""
            raise UsageError(
                f"{', '.join(useless)}: not supported by the external segmenter {self.name}; "
                f"leave it out{advice}"
            )
        if options.keep_predictions or options.from_predictions is not None:
            raise UsageError(f"{self.name} makes no predictions that could be kept or read")
        if options.intensity_field != "none" and self.intensity == "raw":
            raise UsageError(f"{self.name} takes raw intensities; leave out --intensity-field")
        if options.intensity_range is not None and self._knows_intensities:
            raise UsageError(
                f"{self.name} has its own threshold, or takes raw intensities; leave out "
                "--intensity-range"
            )

    @property
    def _knows_intensities(self) -> bool:
        own = self.intensity
        return own == "raw" or (not isinstance(own, str) and own[0] is None)

    def chosen_device(self, asked: str | None) -> str:
        """The requested device, or else the CPU."""
        return asked or "cpu"

    def placed(self, device: str, dtype: str) -> TileSegmenter:  # noqa: ARG002
        """The segmenter with its function, on a device."""
        if self.load is None:
            return self
        return replace(
            self, function=self.load(device, **self.parameters), load=None, parameters={}
        )

    def spec(self, device: str, dtype: str, folder: Folder) -> SegmenterSpec:  # noqa: ARG002
        """How workers obtain it: pickled, once per worker."""
        return SegmenterSpec(self, device)

    def network_to_scale(self) -> Network:
        """Raise a UsageError: there is none."""
        raise UsageError(
            f"{self.name}: object diameter auto needs a network that predicts "
            "embeddings; pass the diameter of the objects"
        )

    def label_tile(self, image: NDArray[np.float32], region: Box) -> NDArray[Any]:
        """Labels of the image of a tile.

        Parameters
        ----------
        image
            ``(channels, *region)`` float32.
        region
            Where it lies, for errors.

        Raises
        ------
        UsageError
            If the function did not return labels of that region.
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


@dataclass(frozen=True, slots=True)
class SegmenterSpec:
    """How a worker obtains a segmenter."""

    segmenter: TileSegmenter
    device: str

    def __reduce__(self) -> tuple[Any, ...]:
        """By cloudpickle, which carries the code of functions that workers may not import."""
        import cloudpickle

        return _unpacked, (cloudpickle.dumps((self.segmenter, self.device)),)

    def load(self) -> TileLabeller:
        """The segmenter on its device; on a GPU, tasks enter it one at a time."""
        placed = self.segmenter.placed(self.device, "float32")
        return OneAtATime(placed) if is_gpu(self.device) else placed


def _unpacked(packed: bytes) -> SegmenterSpec:
    return SegmenterSpec(*pickle.loads(packed))  # from the client, as all of a task


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
            f"segmenter {name!r}: parameters must be numbers, strings and lists of these "
            f"({error}); "
            "create everything else in load"
        ) from None


def _identity(function: Any) -> Any:
    """Identity of a function: its full name, and its bound arguments."""
    if isinstance(function, partial):
        from dask.base import tokenize  # by content: repr abbreviates large arrays

        return [_identity(function.func), tokenize(function.args, function.keywords)]
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _what_is_wrong(labels: NDArray[Any], region: Box) -> str:
    """Why an array cannot be the labels of a region; empty if it can."""
    if labels.shape != region.shape:
        return f"an array of shape {labels.shape}"
    if labels.dtype.kind not in "bui":
        return f"{labels.dtype} values"
    if labels.dtype.kind == "i" and labels.min() < 0:
        return f"negative labels ({labels.min()})"
    return ""
