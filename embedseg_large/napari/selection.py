"""Which voxels of a layer to segment, and where the result belongs in world coordinates.

The last two or three axes of a layer are the model's; the axes before them are time and channels.
The displayed position along these, and the displayed level of a pyramid, are used. Arrays begin at
voxel 0 of that level, and boxes are in its voxels, z, y, x.

Layers are accessed only by their attributes, so nothing here needs napari.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box

Floats = NDArray[np.float64]

_NOT_SPATIAL = {"t": "time", "time": "time", "c": "channel", "channel": "channel"}
_FLAT = 0.5
"""A drawn shape that is thinner than this along an axis, in voxels, does not restrict the axis."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerSource:
    """The image or labels in a layer."""

    name: str
    """Name of the layer."""
    layer: Any
    array: Any
    """Numpy or dask array, (z,) y, x."""
    level: int
    leading: tuple[int, ...]
    """Position along the leading axes, in voxels of the level."""
    factors: Floats
    """Voxels of the finest level per voxel of this level, along each axis of the layer."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (z,) y, x."""
        return tuple(int(n) for n in self.array.shape)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.shape)

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Distance between voxels in µm; None if unknown.

        A scale in pixels other than 1 is taken as micrometres, the convention of napari readers.
        """
        scale = np.abs(np.asarray(self.layer.scale, float))[-self.ndim :]
        units = [_micrometres(unit) for unit in self.layer.units[-self.ndim :]]
        if None in units and np.all(scale == 1):
            return None
        steps = (s * (u or 1.0) for s, u in zip(scale, units, strict=True))
        size = np.array(list(steps)) * self.factors[-self.ndim :]
        return tuple(size.tolist())

    def voxel_at(self, world: Floats) -> Floats:
        """Convert a world point to voxels of this level, along all axes of the layer."""
        finest = np.asarray(self.layer.world_to_data(world), float)
        return (finest - (self.factors - 1) / 2) / self.factors

    def placed(self, box: Box) -> dict[str, Any]:
        """Return the arguments that place a result for a box as a new layer.

        The result has leading axes of length 1, so that it is shown only where it belongs.
        """
        layer = self.layer
        first = np.array([*self.leading, *box.start], float)
        finest = first * self.factors + (self.factors - 1) / 2
        moved = np.subtract(layer.data_to_world(finest), layer.data_to_world(np.zeros(layer.ndim)))
        before_affine = np.linalg.solve(np.asarray(layer.affine.linear_matrix, float), moved)
        return {
            "scale": np.asarray(layer.scale) * self.factors,
            "translate": np.asarray(layer.translate) + before_affine,
            "rotate": layer.rotate,
            "shear": layer.shear,
            "affine": np.asarray(layer.affine.affine_matrix),
            "units": layer.units,
            "axis_labels": layer.axis_labels,
        }

    def in_front(self, result: NDArray[Any]) -> NDArray[Any]:
        """Add leading axes of length 1 to a result."""
        return result.reshape((1,) * len(self.leading) + result.shape)

    def describe(self, box: Box) -> str:
        """Describe the selection, in one line."""
        level = f"level {self.level}, " if getattr(self.layer, "multiscale", False) else ""
        names = self.layer.axis_labels
        shown = ", ".join(f"axis {n} at {i}" for n, i in zip(names, self.leading, strict=False))
        size = " x ".join(map(str, box.shape))
        return f"{level}{size} voxels" + (f", {shown}" if shown else "")


def source_of(
    layer: Any, ndim: int, point: Sequence[float], level: int | None = None
) -> LayerSource:
    """Find the image for a model with `ndim` axes.

    Parameters
    ----------
    layer
        An image or labels layer.
    ndim
        Spatial axes of the model, 2 or 3.
    point
        Position of the viewer, in world coordinates.
    level
        Level of a pyramid; None: the displayed one.

    Raises
    ------
    UsageError
        If it is a colour image, has too few axes, or its last axis is time or channels.
    """
    _check_axes(layer, ndim)
    is_pyramid = bool(layer.multiscale)
    level = (layer.data_level if level is None else level) if is_pyramid else 0
    data = layer.data[level] if is_pyramid else layer.data
    factors = np.asarray(layer.downsample_factors[level] if is_pyramid else np.ones(layer.ndim))
    before = layer.ndim - ndim
    finest = np.asarray(layer.world_to_data(point), float)[:before]
    leading = np.rint(finest / factors[:before]).astype(int)
    lengths = np.array(data.shape[:before], int)
    return LayerSource(
        name=layer.name,
        layer=layer,
        array=_lazy(data)[tuple(np.clip(leading, 0, lengths - 1).tolist())],
        level=int(level),
        leading=tuple(np.clip(leading, 0, lengths - 1).tolist()),
        factors=factors.astype(float),
    )


def _check_axes(layer: Any, ndim: int) -> None:
    if getattr(layer, "rgb", False):
        raise UsageError(
            f"{layer.name} is an RGB image; split it (right click on the layer, Split RGB) "
            "and choose the channel of the nuclei"
        )
    if layer.ndim < ndim:
        raise UsageError(
            f"{layer.name} has {layer.ndim} axes, the model is {ndim}D; "
            f"choose a {layer.ndim}D model, or an image with z, y, x"
        )
    last = [str(name).lower() for name in layer.axis_labels[-ndim:]]
    wrong = [name for name in last if name in _NOT_SPATIAL]
    if wrong:
        raise UsageError(
            f"the last {ndim} axes of {layer.name} are {', '.join(last)}, and {wrong[0]} is "
            f"{_NOT_SPATIAL[wrong[0]]}; choose a 2D model, or bring that axis to the front"
        )


def _lazy(data: Any) -> Any:
    """Return an array that can be sliced without being read."""
    import dask.array as da

    if isinstance(data, np.ndarray | da.Array):
        return data
    return da.from_array(data, chunks=getattr(data, "chunks", None) or "auto")


def _micrometres(unit: Any) -> float | None:
    """Return a length unit in micrometres; None for pixels and the like."""
    if not hasattr(unit, "is_compatible_with") or not unit.is_compatible_with("micrometer"):
        return None
    return float((1 * unit).to("micrometer").magnitude)


def box_in_view(source: LayerSource, displayed: Sequence[int]) -> Box:
    """Find the visible part of an image.

    Parameters
    ----------
    source
        The image.
    displayed
        Displayed axes of the layer; along all others the whole image is used. For a pyramid, napari
        extends the part to whole chunks.
    """
    low, high = np.asarray(source.layer.corner_pixels, float)
    start, stop = np.zeros(len(low)), np.array([*source.leading, *source.shape], float)
    for axis in displayed:
        start[axis], stop[axis] = low[axis], high[axis] + 1
    return _inside(source, start, stop, "what is in view")


def box_of_shapes(source: LayerSource, shapes: Sequence[Floats]) -> Box:
    """Find the smallest box of an image around drawn shapes.

    Parameters
    ----------
    source
        The image.
    shapes
        Corners of each shape in world coordinates, ``(corners, axes)``. Along an axis that shapes
        lack, or along which they are flat, the whole image is used.

    Raises
    ------
    UsageError
        If there are no shapes, or they lie outside the image.
    """
    if not shapes:
        raise UsageError("no shape is drawn; draw a rectangle in a Shapes layer")
    corners = np.concatenate(shapes)
    places = np.stack([source.voxel_at(_with_axes(c, source.layer.ndim)) for c in corners])
    low, high = places.min(axis=0), places.max(axis=0)
    whole = np.array([*source.leading, *source.shape], float)
    flat = high - low < _FLAT
    flat[: source.layer.ndim - corners.shape[1]] = True
    start = np.where(flat, 0, np.floor(low + 0.5))
    stop = np.where(flat, whole, np.floor(high + 0.5) + 1)
    return _inside(source, start, stop, "the drawn shape")


def corners_of(layer: Any) -> list[Floats]:
    """Return the world coordinates of the selected shapes, or else of the last one drawn."""
    if layer is None or not len(layer.data):
        return []
    chosen = sorted(layer.selected_data) or [len(layer.data) - 1]
    return [np.array([layer.data_to_world(c) for c in layer.data[i]], float) for i in chosen]


def _with_axes(point: Floats, ndim: int) -> Floats:
    """Add missing leading axes to a world point."""
    return np.concatenate([np.zeros(max(0, ndim - len(point))), point])


def _inside(source: LayerSource, start: Floats, stop: Floats, what: str) -> Box:
    """Return the spatial part of a box, clipped to the layer."""
    ends = [tuple(int(v) for v in end[-source.ndim :]) for end in (start, stop)]
    if any(b <= a for a, b in zip(*ends, strict=True)):
        raise UsageError(f"{what} has no voxel of {source.name}; move it onto the image")
    box = Box(*ends).clip(source.shape)
    if not box.size:
        raise UsageError(f"{what} has no voxel of {source.name}; move it onto the image")
    return box


def within_planes(box: Box, planes: tuple[int, int]) -> Box:
    """Restrict a 3D box to a range of planes, from the first to the last.

    Raises
    ------
    UsageError
        If no plane is left, or the last one comes before the first.
    """
    if box.ndim < 3:
        return box
    first, last = planes
    if first > last:
        raise UsageError(f"the first plane, {first}, is after the last, {last}; swap them")
    start, stop = max(box.start[0], first), min(box.stop[0], last + 1)
    if start >= stop:
        raise UsageError(
            f"planes {first} to {last} are not in the region, which has planes {box.start[0]} to "
            f"{box.stop[0] - 1}; choose others"
        )
    return Box((start, *box.start[1:]), (stop, *box.stop[1:]))
