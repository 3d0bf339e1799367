"""Histograms and heat maps as geometry; the page draws them in its colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 460.0, 190.0
"""Size of the plot of a histogram, in units of its drawing."""
_BINS = 8, 48
"""Minimum and maximum number of bins."""
_ROUND = (2, 4, 6, 8, 10, 12, 16, 20, 30, 40, 50, 60, 80, 100)
MOST_CELLS = 40
"""Maximum number of cells of a heat map along an axis; with more tiles, a cell covers several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bin."""

    x: float
    width: float
    height: float
    tip: str
    """In words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A value on an axis, or a line across the plot."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramChart:
    """Bars from the bottom of a plot of `WIDTH` and `HEIGHT`."""

    title: str
    unit: str
    alt: str
    bars: tuple[Bar, ...]
    ticks: tuple[Mark, ...]
    counts: tuple[Mark, ...]
    """Ticks of the other axis, from the bottom."""
    marks: tuple[Mark, ...]
    """Lines across."""
    note: str


def histogram(
    values: NDArray[np.float64],
    title: str,
    unit: str = "",
    *,
    logarithmic: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    note: str = "",
) -> HistogramChart | None:
    """Count values in bins of equal width, or of equal ratio.

    Parameters
    ----------
    values
        Non-finite values are ignored; must be positive if logarithmic.
    title, unit, note
        In words.
    logarithmic
        Whether the axis is logarithmic.
    marks
        Values to mark with a line, and their names; omitted if outside the axis.

    Returns
    -------
    HistogramChart or None
        None if there are no values.
    """
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    edges = _edges(known, logarithmic)
    counts, _ = np.histogram(known, edges)
    scale = _Scale(edges[0], edges[-1], logarithmic)
    most = _nice_top(int(counts.max()))
    return HistogramChart(
        title=title,
        unit=unit,
        alt=_alt(title, unit, known),
        bars=tuple(_bars(counts, edges, scale, most, unit)),
        ticks=tuple(Mark(at=scale(v), text=f"{v:,.6g}") for v in _tick_values(scale)),
        counts=tuple(Mark(at=HEIGHT * n / most, text=f"{n:,}") for n in (most // 2, most) if n),
        marks=tuple(Mark(at=scale(v), text=t) for v, t in marks if scale.low <= v <= scale.high),
        note=note,
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """Map values to positions along the plot."""

    low: float
    high: float
    logarithmic: bool

    def __call__(self, value: float) -> float:
        low, high, here = (
            np.log((self.low, self.high, value))
            if self.logarithmic
            else (self.low, self.high, value)
        )
        return float(WIDTH * (here - low) / (high - low))


def _edges(values: NDArray[np.float64], logarithmic: bool) -> NDArray[np.float64]:
    """Edges of bins: twice as many as Rice's rule gives, within limits."""
    n = int(np.clip(4 * np.cbrt(values.size), *_BINS))
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        low, high = (low, high) if high > low else (low / 1.5, high * 1.5)
        edges = np.geomspace(low, high, n + 1)
        edges[[0, -1]] = low, high  # powers are not exact
        return edges
    return (
        np.linspace(low, high, n + 1) if high > low else np.linspace(low - 0.5, high + 0.5, n + 1)
    )


def _bars(
    counts: NDArray[np.intp], edges: NDArray[np.float64], scale: _Scale, most: int, unit: str
) -> list[Bar]:
    bars = []
    for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        x = scale(low)
        tip = f"{count:,} from {low:.4g} to {high:.4g} {unit}".rstrip()
        bars.append(Bar(x=x, width=scale(high) - x, height=HEIGHT * count / most, tip=tip))
    return bars


def _tick_values(scale: _Scale) -> list[float]:
    from matplotlib.ticker import LogLocator, MaxNLocator

    is_wide = scale.logarithmic and scale.high / scale.low > 4
    locator = (
        LogLocator(subs=(1, 2, 5), numticks=99) if is_wide else MaxNLocator(6, steps=[1, 2, 5, 10])
    )
    values = [float(v) for v in locator.tick_values(scale.low, scale.high)]
    inside = [v for v in values if scale.low <= v <= scale.high]
    return inside[:: 1 + len(inside) // 9]


def _nice_top(most: int) -> int:
    """The next round number not below a count; its half is an integer too."""
    step = int(10 ** max(0, len(str(most)) - 2))
    return max(2, next(k for f in _ROUND if (k := f * step) >= most))


def _alt(title: str, unit: str, values: NDArray[np.float64]) -> str:
    low, middle, high = np.percentile(values, [5, 50, 95])
    return (
        f"Histogram of {title.lower()} of {values.size:,} instances: median {middle:.4g} {unit}, "
        f"from {low:.4g} (5 %) to {high:.4g} (95 %)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Some tiles."""

    x: float
    y: float
    width: float
    height: float
    share: float
    """Fraction of the largest value, from 0 to 1."""
    text: str
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Cells over y and x, in a drawing of `width` and `height`."""

    title: str
    alt: str
    cells: tuple[Cell, ...]
    width: float
    height: float
    low: str
    high: str
    is_spacious: bool
    """Whether numbers fit into the cells."""


def tile_lattice(shape: Sequence[int], tile: Sequence[float]) -> tuple[NDArray[np.float64], ...]:
    """Edges of the cells of a heat map along y and x, in voxels.

    Parameters
    ----------
    shape
        Shape of the volume, (z,) y, x.
    tile
        Shape of a tile, not necessarily integers.
    """
    edges = []
    for length, step in zip(shape[-2:], tile[-2:], strict=True):
        count = max(1, int(np.ceil(length / step - 1e-6)))
        whole = np.arange(0, count, -(-count // MOST_CELLS)) * step
        edges.append(np.append(whole, float(length)))
    return tuple(edges)


def _short(value: float) -> str:
    """Three digits, or all of a larger number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def heat_map(
    values: NDArray[np.float64],
    edges: Sequence[NDArray[np.float64]],
    title: str,
    unit: str,
    steps: Sequence[float],
) -> HeatMap:
    """Show a value of each cell.

    Parameters
    ----------
    values
        ``(rows, columns)``, not negative.
    edges
        As returned by `tile_lattice`.
    title, unit
        In words.
    steps
        Size of a voxel along y and x, for the proportions.
    """
    ys, xs = (edge * step for edge, step in zip(edges, steps[-2:], strict=True))
    scale = WIDTH / max(xs[-1], ys[-1])
    most = float(values.max(initial=0.0))
    cells = [
        Cell(
            x=float(xs[j]) * scale,
            y=float(ys[i]) * scale,
            width=float(xs[j + 1] - xs[j]) * scale,
            height=float(ys[i + 1] - ys[i]) * scale,
            share=float(values[i, j]) / most if most else 0.0,
            text=_short(float(values[i, j])),
            tip=f"{_short(float(values[i, j]))} {unit}: "
            f"y {edges[0][i]:.0f} to {edges[0][i + 1]:.0f}, "
            f"x {edges[1][j]:.0f} to {edges[1][j + 1]:.0f}",
        )
        for i, j in np.ndindex(*values.shape)
    ]
    return HeatMap(
        title=title,
        alt=f"{title}, {values.shape[0]} by {values.shape[1]} cells, at most {_short(most)} {unit}",
        cells=tuple(cells),
        width=float(xs[-1]) * scale,
        height=float(ys[-1]) * scale,
        low="0",
        high=f"{_short(most)} {unit}",
        is_spacious=max(values.shape) <= 10,
    )
