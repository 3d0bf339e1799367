"""Pictures of a result: an image, its true labels and its predicted labels, side by side.

::

             z slice    x slice    y slice
    image    y, x       y, z       x, z or z, x     all panels have one scale
    truth    ...
    labels   ...                                    matching objects have the colour of the truth

A 2D image has one slice, and the rows stand side by side. Panels are composed pixel by pixel;
matplotlib, imported on use, places them and draws the text.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.contrast import display_range
from embedseg_large.errors import UsageError
from embedseg_large.evaluation.contingency import Contingency

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 1600, 2000
"""Largest size of a picture, in pixels."""

_DPI = 200
_MARGIN, _GAP, _HEAD, _TITLE = 20, 8, 34, 52  # pixels; the head is the line above the panels
_PAPER = "#0b0d12"
_INK, _FAINT_INK = "#f2f4f8", "#9aa3b2"
_PERCENTILES = (1.0, 99.8)  # as for the network, whose module is not imported; a test compares
_GAMMA = 0.75  # of the image, so that dim objects are visible on a dark background
_FILL = 0.6  # opacity of a label over the image; its outline is opaque

Rgb = NDArray[np.float32]
Labels = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _View:
    """One slice of a volume, and how it lies in its panel."""

    caption: str
    index: tuple[int | slice, ...]
    flip: bool  # whether the first remaining axis runs to the right
    height: float  # of the panel, in micrometres
    width: float

    def of(self, volume: NDArray[Any]) -> NDArray[Any]:
        plane = volume[self.index]
        return plane.T if self.flip else plane


@dataclass(frozen=True, slots=True)
class _Row:
    """A volume that is shown in every view; without labels it is the image itself."""

    caption: str
    labels: Labels | None = None
    colours: Rgb | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """Where a panel lies in the picture, in pixels from the upper left corner."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """A picture in pixels: its panels by view and row, and its scale in pixels per micrometre."""

    width: int
    height: int
    panels: list[list[Panel]]
    scale: float


def orthogonal_slices(
    image: NDArray[Any],
    truth: Labels | None,
    labels: Labels,
    voxel_size: Sequence[float] | None,
    path: str | os.PathLike[str],
    title: str = "",
) -> None:
    """Write a picture of three slices through an image and its labels.

    Parameters
    ----------
    image
        (z,) y, x; for a volume larger than memory pass a coarse level.
    truth
        True labels of that shape, or None.
    labels
        Predicted labels of that shape.
    voxel_size
        Micrometres along (z,) y, x; None if unknown, in which case all are assumed equal.
    path
        PNG file to write, 1600 pixels wide, or less where it would be higher than 2000.
    title
        One line above the panels.

    Raises
    ------
    UsageError
        If shapes differ, or the image is neither 2D nor 3D.
    """
    _check_shapes(image, truth, labels)
    views = _views(image.shape, voxel_size, labels if truth is None else truth)
    rows = _rows(truth, labels)
    layout = _arrange(views, len(rows), bool(title))
    canvas = Canvas.blank(layout.width, layout.height)
    low, high = display_range(image, _PERCENTILES)
    for view, column in zip(views, layout.panels, strict=True):
        for row, panel in zip(rows, column, strict=True):
            grey = grey_of(view.of(image), panel, low, high)
            canvas.show(_composed(grey, row, view, panel), panel)
    _write_words(canvas, views, rows, layout, title)
    _scale_bar(canvas, layout, "px" if voxel_size is None else "µm")
    canvas.save(path)


def _check_shapes(image: NDArray[Any], truth: Labels | None, labels: Labels) -> None:
    if image.ndim not in (2, 3):
        raise UsageError(f"image has {image.ndim} axes; pass one channel of one timepoint")
    for name, other in (("truth", truth), ("labels", labels)):
        if other is not None and other.shape != image.shape:
            raise UsageError(f"{name} has shape {other.shape}, the image {image.shape}")


# Slices -----------------------------------------------------------------------------------------


def _views(
    shape: tuple[int, ...], voxel_size: Sequence[float] | None, labels: Labels
) -> list[_View]:
    """Choose the slices: for each axis the one with the most labelled voxels."""
    steps = tuple(voxel_size) if voxel_size else (1.0,) * len(shape)
    size = [n * step for n, step in zip(shape, steps, strict=True)]
    if len(shape) == 2:
        return [_View("", (slice(None),) * 2, False, size[0], size[1])]
    at = [fullest(labels, axis) for axis in range(3)]
    unit = " µm" if voxel_size else ""
    words = [f"{a} = {k * step:.0f}{unit}" for a, k, step in zip("zyx", at, steps, strict=True)]
    every, right = slice(None), "   z →"
    # the y slice is oriented to leave less of a row empty
    z, y, x = size
    flip = (x + z + z) * max(y, x) <= (x + z + x) * max(y, z)
    high, wide = (x, z) if flip else (z, x)
    return [
        _View(words[0], (at[0], every, every), False, y, x),
        _View(words[2] + right, (every, every, at[2]), True, y, z),
        _View(words[1] + right * flip, (every, at[1], every), flip, high, wide),
    ]


def fullest(labels: Labels, axis: int) -> int:
    """Return the plane with the most labelled voxels; the middle one if there are none."""
    others = tuple(d for d in range(labels.ndim) if d != axis)
    counts = np.count_nonzero(labels, axis=others)
    return int(counts.argmax()) if counts.any() else labels.shape[axis] // 2


# Layout -----------------------------------------------------------------------------------------


def _arrange(views: list[_View], rows: int, titled: bool) -> _Layout:
    """Place panels at the largest scale at which all fit."""
    across, down = (len(views), rows) if len(views) > 1 else (rows, 1)
    wide = sum(view.width for view in views) * (across / len(views))
    high = max(view.height for view in views) * down
    top = (_TITLE if titled else _MARGIN) + (_HEAD if views[0].caption else 0)
    frame = 2 * _MARGIN + (across - 1) * _GAP, top + (down - 1) * _GAP + _MARGIN
    scale = min((WIDTH - frame[0]) / wide, (HEIGHT - frame[1]) / high)
    heights = [max(1, round(scale * view.height)) for view in views]
    panels, left = [], _MARGIN
    for view, height in zip(views, heights, strict=True):
        width = max(1, round(scale * view.width))
        steps = (0, max(heights) + _GAP) if down > 1 else (width + _GAP, 0)
        places = [(left + k * steps[0], top + k * steps[1]) for k in range(rows)]
        panels.append([Panel(*place, width, height) for place in places])
        left = places[-1][0] + width + _GAP
    full = WIDTH if scale * high < HEIGHT - frame[1] - 1 else left - _GAP + _MARGIN
    return _Layout(full, frame[1] + down * max(heights), panels, scale)


# Pixels -----------------------------------------------------------------------------------------


def grey_of(
    plane: NDArray[Any], panel: Panel, low: float, high: float, gamma: float = _GAMMA
) -> Rgb:
    """Return the image of a panel.

    Parameters
    ----------
    plane
        Any numbers ``(rows, columns)``; interpolated if the panel is larger, otherwise smoothed.
        NaN is black; it would spread over the picture.
    panel
        Where it is shown.
    low, high
        Numbers that become black and white.
    gamma
        Exponent of the shades between; below 1 lightens.

    Returns
    -------
    float32 ``(height, width, 3)`` of the panel, from 0 to 1.
    """
    values = plane.astype(np.float32)
    np.nan_to_num(values, copy=False, nan=low, posinf=high, neginf=low)
    per_pixel = [n / m for n, m in zip(plane.shape, (panel.height, panel.width), strict=True)]
    if max(per_pixel) > 1:
        values = ndimage.gaussian_filter(values, [max(0.0, (r - 1) / 2) for r in per_pixel])
    rows, columns = _sources(plane.shape, panel)
    grid = np.meshgrid(rows, columns, indexing="ij")
    values = ndimage.map_coordinates(values, grid, order=1, mode="nearest")
    shades = np.clip((values - low) / max(high - low, 1e-12), 0, 1) ** gamma
    return np.repeat(shades[..., None], 3, axis=2).astype(np.float32)


def _sources(shape: tuple[int, ...], panel: Panel) -> list[NDArray[np.float64]]:
    """Return the voxel coordinate of each pixel row and column."""
    sizes = zip(shape, (panel.height, panel.width), strict=True)
    return [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in sizes]


def _composed(grey: Rgb, row: _Row, view: _View, panel: Panel) -> Rgb:
    """Lay the labels of a row over the image."""
    if row.labels is None or row.colours is None:
        return grey
    return painted(grey, view.of(row.labels), row.colours, panel)


def painted(grey: Rgb, plane: NDArray[np.intp], colours: Rgb, panel: Panel) -> Rgb:
    """Paint objects over the image of a panel, with outlines.

    Parameters
    ----------
    grey
        float32 ``(height, width, 3)``: what `grey_of` made of the image.
    plane
        Numbers of the objects ``(rows, columns)``; 0 shows the image.
    colours
        float32 ``(n + 1, 3)``: the colour of each number.
    panel
        Where it is shown.
    """
    rows, columns = (np.rint(s).astype(np.intp) for s in _sources(plane.shape, panel))
    labels = plane[np.ix_(rows.clip(0, plane.shape[0] - 1), columns.clip(0, plane.shape[1] - 1))]
    colour = colours[labels]
    opacity = np.where(labels > 0, _FILL, np.float32(0))[..., None]
    filled = grey * (1 - opacity) + colour * (0.65 + 0.35 * grey) * opacity
    composed: Rgb = np.where(outlines(labels)[..., None], colour, filled)
    return composed


def outlines(labels: Labels, width: int = 1) -> NDArray[np.bool_]:
    """Return the pixels of objects that are at most `width` from another label."""
    edge = 2 * width + 1
    different = ndimage.maximum_filter(labels, edge) != ndimage.minimum_filter(labels, edge)
    found: NDArray[np.bool_] = different & (labels > 0)
    return found


# Colours ----------------------------------------------------------------------------------------


def _rows(truth: Labels | None, labels: Labels) -> list[_Row]:
    """Number the objects of each volume from 1, and give them colours."""
    ids, numbers = numbered(labels)
    if truth is None:
        return [_Row("image"), _Row(_count("labels", ids), numbers, palette(ids.size))]
    true_ids, true_numbers = numbered(truth)
    true_colours = palette(true_ids.size)
    colours = matched_colours(numbers, true_numbers, true_colours, ids.size)
    return [
        _Row("image"),
        _Row(_count("truth", true_ids), true_numbers, true_colours),
        _Row(_count("labels", ids), numbers, colours),
    ]


def numbered(labels: Labels) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the ids of the objects, ascending, and the labels with these numbered from 1."""
    ids, place = np.unique(labels, return_inverse=True)
    has_background = ids.size > 0 and ids[0] == 0
    numbers = place.reshape(labels.shape) + (0 if has_background else 1)
    return ids[ids != 0], numbers


def _count(name: str, ids: NDArray[Any]) -> str:
    return f"{name} · {ids.size:,} object{'s' if ids.size != 1 else ''}"


def palette(n: int) -> Rgb:
    """Return n + 1 colours, float32: black, then light ones, most different for close numbers."""
    k = np.arange(n)
    hue = 2 * np.pi * ((0.1 + k * 0.6180339887) % 1)  # golden-ratio steps stay far apart for long
    lightness = np.array([0.78, 0.68, 0.87])[k % 3]
    chroma = np.array([0.17, 0.21, 0.14])[k % 3]
    rgb = _srgb(lightness, chroma * np.cos(hue), chroma * np.sin(hue))
    return np.concatenate([np.zeros((1, 3)), rgb]).astype(np.float32)


def _srgb(
    lightness: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Convert Oklab, in which equal lightness looks equally light, to sRGB (Ottosson 2020)."""
    cones = [
        (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3,
        (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3,
        (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3,
    ]
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(np.stack(cones, axis=-1) @ to_linear.T, 0, 1)
    encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    srgb: NDArray[np.float64] = encoded
    return srgb


def matched_colours(
    labels: NDArray[np.intp], truth: NDArray[np.intp], true_colours: Rgb, n: int
) -> Rgb:
    """Give each object the colour of the true object with which it shares the most voxels.

    If several share most with the same true object, the largest share gets its colour; the others,
    and objects without a partner, get colours that no true object has.

    Parameters
    ----------
    labels, truth
        Objects of the same shape, numbered by `numbered`.
    true_colours
        ``(objects + 1, 3)``: the colours of the true ones.
    n
        How many objects `labels` has.
    """
    table = Contingency.of(labels, truth)
    pair = np.flatnonzero((table.prediction_ids > 0) & (table.truth_ids > 0))
    pair = pair[np.argsort(-table.counts[pair], kind="stable")]
    pair = pair[np.sort(np.unique(table.prediction_ids[pair], return_index=True)[1])]
    pair = pair[np.unique(table.truth_ids[pair], return_index=True)[1]]
    n_true = len(true_colours) - 1
    colours = palette(n_true + n)[n_true:]
    colours[0] = true_colours[0]
    matched, by = table.prediction_ids[pair], table.truth_ids[pair]
    colours[matched.astype(np.intp)] = true_colours[by.astype(np.intp)]
    return colours


# Canvas -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Canvas:
    """A matplotlib figure addressed in pixels from its upper left corner."""

    figure: Figure
    width: int
    height: int

    @classmethod
    def blank(cls, width: int, height: int) -> Canvas:
        """Create an empty canvas: no window, no global state."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        FigureCanvasAgg(figure)
        return cls(figure, width, height)

    def save(self, path: str | os.PathLike[str], format: str = "png") -> None:
        """Write a PNG file, or one of another format."""
        self.figure.savefig(path, dpi=_DPI, facecolor=_PAPER, format=format)

    def show(self, pixels: Rgb, panel: Panel) -> None:
        """Put the pixels of a panel into their place, one to one."""
        axes = self.figure.add_axes(self._bounds(panel))
        axes.imshow(pixels, aspect="auto", interpolation="nearest")
        axes.set_axis_off()

    def fill(self, panel: Panel) -> None:
        """Fill a rectangle with ink."""
        from matplotlib.patches import Rectangle

        left, bottom, width, height = self._bounds(panel)
        bar = Rectangle((left, bottom), width, height, facecolor=_INK, edgecolor="black", lw=0.4)
        self.figure.add_artist(bar)

    def write(self, left: float, middle: float, text: str, size: float, **more: Any) -> None:
        """Write a line, vertically centred."""
        style = {"color": _INK, "fontsize": size, "va": "center", "family": "DejaVu Sans", **more}
        style["parse_math"] = False  # a file name may have a $
        self.figure.text(left / self.width, 1 - middle / self.height, text, **style)

    def write_over(self, left: float, middle: float, text: str, **more: Any) -> None:
        """Write on a panel, legible over any colour."""
        from matplotlib.patheffects import withStroke

        halo = [withStroke(linewidth=2.5, foreground="black", alpha=0.8)]
        self.write(left, middle, text, 7.5, path_effects=halo, **more)

    def _bounds(self, panel: Panel) -> tuple[float, float, float, float]:
        """Return left, bottom, width and height as fractions of the figure."""
        return (
            panel.left / self.width,
            1 - (panel.top + panel.height) / self.height,
            panel.width / self.width,
            panel.height / self.height,
        )


def _write_words(
    canvas: Canvas, views: list[_View], rows: list[_Row], layout: _Layout, title: str
) -> None:
    if title:
        canvas.write(_MARGIN, _TITLE / 2 + 4, title, 10, weight="bold")
    for view, column in zip(views, layout.panels, strict=True):
        middle = column[0].top - _HEAD / 2
        canvas.write(column[0].left, middle, view.caption, 7, color=_FAINT_INK)
    for row, panel in zip(rows, layout.panels[0], strict=True):
        canvas.write_over(panel.left + 12, panel.top + 22, row.caption)


def _scale_bar(canvas: Canvas, layout: _Layout, unit: str) -> None:
    """Draw a bar of a round length into the lower right corner of the first panel."""
    panel = layout.panels[0][0]
    length = round_length(0.3 * panel.width / layout.scale)
    width = round(length * layout.scale)
    bar = Panel(panel.left + panel.width - 16 - width, panel.top + panel.height - 22, width, 6)
    canvas.fill(bar)
    canvas.write_over(bar.left + width / 2, bar.top - 18, f"{length:g} {unit}", ha="center")


def round_length(most: float) -> float:
    """Return the largest of 1, 2 or 5 times a power of ten that is not longer."""
    power = 10.0 ** floor(log10(most))
    return max(k * power for k in (1, 2, 5) if k * power <= most)
