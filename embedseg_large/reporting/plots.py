"""The plots of the page: histograms of a table of instances, and maps of their positions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from embedseg_large.reporting.charts import (
    HeatMap,
    HistogramChart,
    heat_map,
    histogram,
    tile_lattice,
)
from embedseg_large.reporting.gallery import size_column
from embedseg_large.reporting.subject import ReportSubject
from embedseg_large.reporting.tasktimes import Column
from embedseg_large.storage.tables import Table

_CELLS = 8
"""Number of cells along the longer side of a map if there are no tiles, or too few."""
_LEAST_CELLS = 4
_WIDE = 30
"""Ratio of sizes from which the axis of the histogram is logarithmic."""


def histograms(subject: ReportSubject, table: Table) -> list[HistogramChart]:
    """Histograms of size, shape, seediness if it is known, and depth."""
    size = next((n for n in ("volume_um3", "area_um2") if n in table.columns), size_column(table))
    unit = {"volume_um3": "µm³", "area_um2": "µm²"}.get(size, size)
    sizes = table[size].astype(float)
    marks = [(float(np.median(sizes)), "median")]
    if least := _least(subject):
        marks.append((least * prod(subject.steps), "least"))
    is_wide = bool(sizes.max() > _WIDE * sizes.min())
    charts = [histogram(sizes, "Size", unit, logarithmic=is_wide, marks=marks)]
    titles = {
        "sphericity": "Sphericity (1: a ball; small objects may exceed it)",
        "circularity": "Circularity (1: a disc; small objects may exceed it)",
        "seediness": "Seediness",
        "z_um": "Depth (z, µm)",
    }
    for name, title in titles.items():
        if name in table.columns:
            charts.append(histogram(table[name].astype(float), title))
    return [chart for chart in charts if chart is not None]


def _least(subject: ReportSubject) -> float:
    """Smallest size that the run allowed, if it saw the voxels of the labels; else 0."""
    is_native = subject.made.get("volume", {}).get("grid") == list(subject.shape)
    least = subject.made.get("settings", {}).get("min_object_size")
    return float(least) if is_native and least is not None else 0.0


def maps(subject: ReportSubject, table: Table, times: dict[Column, float] | None) -> list[HeatMap]:
    """Maps over y and x of the number of instances and, if known, of time."""
    tile = _cells(subject)
    edges = tile_lattice(subject.shape, tile)
    at = [
        np.clip(np.searchsorted(edge, table[axis], side="right") - 1, 0, edge.size - 2)
        for axis, edge in zip("yx", edges, strict=True)
    ]
    counts = np.zeros([edge.size - 1 for edge in edges])
    np.add.at(counts, tuple(at), 1)
    where = "tile" if _is_tiled(subject) else "area"
    title = f"Instances by {where}"
    maps = [heat_map(counts, edges, title, "instances", subject.steps)]
    if times and _is_tiled(subject):
        spent = _spent(times, edges, tile)
        maps.append(heat_map(spent, edges, "Network seconds by tile", "s", subject.steps))
    return maps


def _spent(
    times: dict[Column, float], edges: Sequence[NDArray[np.float64]], tile: Sequence[float]
) -> NDArray[np.float64]:
    spent = np.zeros([edge.size - 1 for edge in edges])
    for (y, x), seconds in times.items():
        middle = ((y + 0.5) * tile[-2], (x + 0.5) * tile[-1])
        i, j = (
            min(int(np.searchsorted(edge, at)) - 1, edge.size - 2)
            for edge, at in zip(edges, middle, strict=True)
        )
        spent[i, j] += seconds
    return spent


def _tiles(subject: ReportSubject) -> tuple[float, ...] | None:
    """Prediction tiles along y and x, in voxels of the labels."""
    settings, volume = subject.made.get("settings", {}), subject.made.get("volume", {})
    if "tile" not in settings or len(volume.get("grid", ())) != len(subject.shape):
        return None
    sizes = zip(settings["tile"], subject.shape, volume["grid"], strict=True)
    return tuple(step * n / m for step, n, m in sizes)[-2:]


def _is_tiled(subject: ReportSubject) -> bool:
    """Whether there are enough tiles to be worth a map."""
    tile = _tiles(subject)
    if tile is None:
        return False
    counts = [-(-n // step) for n, step in zip(subject.shape[-2:], tile, strict=True)]
    return prod(counts) >= _LEAST_CELLS


def _cells(subject: ReportSubject) -> tuple[float, ...]:
    """Cells of a map along y and x: tiles, or squares if there are too few tiles."""
    tile = _tiles(subject)
    if tile is not None and _is_tiled(subject):
        return tile
    sides = [n * s for n, s in zip(subject.shape[-2:], subject.steps[-2:], strict=True)]
    edge = max(sides) / _CELLS
    return tuple(max(1.0, edge / step) for step in subject.steps[-2:])
