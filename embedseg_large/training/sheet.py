"""A sheet of pictures: results of a model on a few images during training.

::

    Emb07 · z = 31 of 60
    input      truth      seed map   found         found objects have the colour of the true one
    Emb08 · z = 28 of 55                           that they share most pixels with
    ...

A volume is shown by one plane, the one with the most true objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedseg_large.fields import UNANNOTATED
from embedseg_large.pictures import (
    WIDTH,
    Canvas,
    Labels,
    Panel,
    Rgb,
    grey_of,
    matched_colours,
    numbered,
    painted,
    palette,
)
from embedseg_large.training.validation import Segmented

ROWS = 4
"""Images on a sheet."""

_COLUMNS = ("input", "truth", "seed map", "found")
_MARGIN, _GAP, _TITLE, _COLUMN_HEAD, _ROW_HEAD = 20, 8, 48, 34, 38  # pixels
_PANEL = (WIDTH - 2 * _MARGIN - 3 * _GAP) // 4  # largest height and width of a panel, in pixels
_SEED_COLOURS = "inferno"
_UNKNOWN = 0.35  # brightness of unannotated voxels
_SAMPLES = 256  # pixels along an axis that are examined to choose a plane


@dataclass(frozen=True, slots=True, eq=False)
class SheetRow:
    """One image of a sheet: planes ``(y, x)`` of one shape.

    Parameters
    ----------
    caption
        Text above the row.
    image
        Intensities; 0 is shown black, 1 white.
    truth
        -1 unannotated, 0 background, otherwise the object.
    seeds
        Seediness, 0 to 1.
    labels
        The instances found; 0 background.
    """

    caption: str
    image: NDArray[np.float32]
    truth: Labels
    seeds: NDArray[np.float32]
    labels: Labels

    @classmethod
    def of(cls, found: Segmented) -> SheetRow:
        """Show a segmented image, or the fullest plane of a volume; the lightest channel counts."""
        name, image = found.example.pair.name, found.image.max(axis=0)
        if found.truth.ndim == 2:
            return cls(name, image, found.truth, found.seeds, found.labels)
        z = fullest_plane(found.truth)
        place = f"z = {found.example.box.start[0] + z} of {found.example.pair.shape[0]}"
        planes = (a[z].copy() for a in (image, found.truth, found.seeds, found.labels))
        return cls(f"{name} · {place}", *planes)


def fullest_plane(labels: Labels) -> int:
    """Return the z of the plane ``(y, x)`` with the most objects; if equal, the most central."""
    steps = (slice(None, None, max(1, n // _SAMPLES)) for n in labels.shape[1:])
    sampled = labels[(slice(None), *steps)]
    counts = np.array([np.count_nonzero(np.unique(plane) > 0) for plane in sampled])
    fullest = np.flatnonzero(counts == counts.max())
    return int(fullest[np.abs(fullest - (len(labels) - 1) / 2).argmin()])


def draw_sheet(rows: Sequence[SheetRow], title: str, path: Path) -> None:
    """Write a sheet as a PNG file, 1600 pixels wide, creating its folder."""
    shapes = [_panel_shape(row) for row in rows]
    top = _TITLE + _COLUMN_HEAD
    canvas = Canvas.blank(WIDTH, top + sum(h + _ROW_HEAD for h, _ in shapes) + _MARGIN)
    canvas.write(_MARGIN, _TITLE / 2 + 4, title, 10, weight="bold")
    _write_column_heads(canvas)
    for row, (height, width) in zip(rows, shapes, strict=True):
        canvas.write(_MARGIN, top + _ROW_HEAD / 2, row.caption, 8)
        top += _ROW_HEAD
        panels = [Panel(_left(column), top, width, height) for column in range(len(_COLUMNS))]
        _show(canvas, row, panels)
        top += height
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def _left(column: int) -> int:
    return _MARGIN + column * (_PANEL + _GAP)


def _panel_shape(row: SheetRow) -> tuple[int, int]:
    """Return height and width of the row's panels in pixels."""
    height, width = row.image.shape
    scale = _PANEL / max(height, width)
    return max(1, round(scale * height)), max(1, round(scale * width))


def _write_column_heads(canvas: Canvas) -> None:
    middle = _TITLE + _COLUMN_HEAD / 2
    for column, name in enumerate(_COLUMNS):
        canvas.write(_left(column), middle, name, 8, color="#9aa3b2")
    strip = Panel(_left(2) + 150, round(middle) - 7, 120, 14)
    canvas.show(_seed_colours(np.linspace(0, 1, strip.width)[None]), strip)
    canvas.write(strip.left - 20, middle, "0", 7, color="#9aa3b2")
    canvas.write(strip.left + strip.width + 8, middle, "1", 7, color="#9aa3b2")


def _show(canvas: Canvas, row: SheetRow, panels: Sequence[Panel]) -> None:
    """Fill the four panels of a row."""
    grey = grey_of(row.image, panels[0], 0, 1)
    ids, numbers = numbered(row.labels)
    true_ids, true_numbers = numbered(np.maximum(row.truth, 0))
    true_colours = palette(true_ids.size)
    colours = matched_colours(numbers, true_numbers, true_colours, ids.size)
    known = grey_of((row.truth != UNANNOTATED).astype(np.float32), panels[1], 0, 1, gamma=1)
    shaded = grey * (_UNKNOWN + (1 - _UNKNOWN) * known)
    canvas.show(grey, panels[0])
    canvas.show(painted(shaded, true_numbers, true_colours, panels[1]), panels[1])
    canvas.show(_seed_colours(grey_of(row.seeds, panels[2], 0, 1, gamma=1)[..., 0]), panels[2])
    canvas.show(painted(grey, numbers, colours, panels[3]), panels[3])
    _count(canvas, panels[1], true_ids.size, "" if known.all() else ", dark: not annotated")
    _count(canvas, panels[3], ids.size)


def _seed_colours(seeds: NDArray[np.floating]) -> Rgb:
    """Return the colours ``(*shape, 3)`` of numbers from 0 to 1."""
    from matplotlib import colormaps

    colours: Rgb = colormaps[_SEED_COLOURS](seeds)[..., :3].astype(np.float32)
    return colours


def _count(canvas: Canvas, panel: Panel, n: int, more: str = "") -> None:
    text = f"{n:,} object{'s' * (n != 1)}{more}"
    canvas.write_over(panel.left + 12, panel.top + 22, text)
