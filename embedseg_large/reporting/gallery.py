"""Instances to inspect: a random selection, and doubtful ones with the reason.

Size outliers are those whose logarithm of the size has a modified z-score beyond 3.5, which is
0.6745 · (value - median) / median absolute deviation (Iglewicz and Hoaglin 1993).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.contrast import display_range
from embedseg_large.geometry import Box
from embedseg_large.pictures import Panel, fullest, grey_of
from embedseg_large.reporting.drawing import Inks, Picture, grey_pixels, overlay, picture
from embedseg_large.reporting.subject import ReportSubject
from embedseg_large.storage.tables import Table
from embedseg_large.viewing.scene import Range
from embedseg_large.volumes.intensity import PERCENTILES

OUTLIER = 3.5
"""Modified z-score beyond which a size is unusual."""
_LEAST_FOR_OUTLIERS = 8
"""Number of instances below which outliers are not determined."""
PANEL = 210
"""Edge of a panel of a card, in pixels."""
_GAP = 2
_LINE = 90
"""Grey of the gap between panels."""
_VIEW = 1.9
"""Edge of the field of view of a card, in largest extents of the instance."""
_LEAST_CONTRAST = 0.25
"""Minimum contrast of a card, as a fraction of the whole volume's, so that noise does not look like
nuclei."""
_LONGEST = 192
"""Maximum number of voxels that a card shows along an axis."""

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A reason to inspect instances."""

    key: str
    title: str
    why: str
    """A sentence."""
    total: int
    """Number of instances to which it applies."""
    rows: Rows
    """Rows of the table that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """An instance, as the page shows it."""

    label: int
    size: str
    place: str
    """Its centroid in voxels of the finest level."""
    seediness: str
    marks: tuple[str, ...]
    """What is unusual about it."""
    picture: Picture | None


def size_column(table: Table) -> str:
    """Name of the column with the number of voxels."""
    return "voxels" if "voxels" in table.columns else "pixels"


def find_groups(table: Table) -> list[Group]:
    """Choose instances of a table: at most 48, in groups that may share some.

    Parameters
    ----------
    table
        A table from `embedseg_large.measurement.measure` of one timepoint, with at least one row.
    """
    sizes = table[size_column(table)].astype(np.float64)
    small, large = _outliers(sizes, table["touches_border"])
    chosen = np.random.default_rng(0).permutation(sizes.size)[:12]  # the same in each report
    groups = [
        _group("random", "At random", "Typical instances.", np.sort(chosen), 12, sizes.size),
        *_of_seediness(table),
        *_of_seams(table),
        _group(
            "large",
            "Unusually large",
            "Perhaps neighbours that were merged.",
            large[np.argsort(-sizes[large], kind="stable")],
            6,
        ),
        _group(
            "small",
            "Unusually small",
            "Perhaps pieces or debris; --min-object-size removes them.",
            small[np.argsort(sizes[small], kind="stable")],
            6,
        ),
        _group(
            "border",
            "At the border",
            "Perhaps cut: sizes and shapes describe only the visible part.",
            np.flatnonzero(table["touches_border"]),
            6,
        ),
    ]
    return [group for group in groups if group.total]


def _group(
    key: str, title: str, why: str, rows: Rows, most: int, total: int | None = None
) -> Group:
    """Take the first rows, or if they are unordered, some that are spread out."""
    spread = key == "border" and rows.size > most
    shown = rows[np.linspace(0, rows.size - 1, most).astype(np.intp)] if spread else rows[:most]
    count = rows.size if total is None else total
    return Group(key=key, title=title, why=why, total=count, rows=shown)


def _of_seediness(table: Table) -> Iterator[Group]:
    if "seediness" in table.columns:
        known = np.flatnonzero(np.isfinite(table["seediness"]))
        order = known[np.argsort(table["seediness"][known], kind="stable")]
        why = "The network was least certain of these."
        yield _group("seediness", "Lowest seediness", why, order, 6)


def _of_seams(table: Table) -> Iterator[Group]:
    if "seam" not in table.columns:
        return
    joined = "Tiles never agreed on these, and they were joined: check them."
    repaired = "Tiles described these differently at first, and identically with a larger halo."
    for key, why, most in (("joined", joined, 8), ("repaired", repaired, 4)):
        rows = np.flatnonzero(table["seam"] == key)
        yield _group(key, f"{key.capitalize()} at a seam", why, rows, most)


def _outliers(sizes: NDArray[np.float64], at_border: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """Rows of unusually small and large instances; cut ones are small for another reason."""
    logs = np.log(sizes)
    deviation = logs - np.median(logs)
    spread = np.median(np.abs(deviation))
    if sizes.size < _LEAST_FOR_OUTLIERS or spread == 0:
        return np.array([], np.intp), np.array([], np.intp)
    score = 0.6745 * deviation / spread
    return np.flatnonzero((score < -OUTLIER) & ~at_border), np.flatnonzero(score > OUTLIER)


def cards_of(group: Group, subject: ReportSubject, table: Table, inks: Inks) -> list[Card]:
    """Draw the instances of a group, from crops at full resolution."""
    return [_card(int(row), subject, table, inks) for row in group.rows]


def _card(row: int, subject: ReportSubject, table: Table, inks: Inks) -> Card:
    axes = "zyx"[-len(subject.shape) :]
    at = [round(float(table[axis][row])) for axis in axes]
    label = int(table["label"][row])
    return Card(
        label=label,
        size=size_text(table, row),
        place=" ".join(f"{axis} {k}" for axis, k in zip(axes, at, strict=True)),
        seediness=_seediness(table, row),
        marks=tuple(_marks(table, row)),
        picture=_picture(row, subject, table, inks) if subject.image else None,
    )


def _seediness(table: Table, row: int) -> str:
    known = "seediness" in table.columns and np.isfinite(table["seediness"][row])
    return f"{table['seediness'][row]:.2f}" if known else ""


def size_text(table: Table, row: int) -> str:
    """Describe the size of an instance."""
    for name, unit in (("volume_um3", "µm³"), ("area_um2", "µm²")):
        if name in table.columns:
            return f"{table[name][row]:,.0f} {unit}"
    name = size_column(table)
    return f"{table[name][row]:,} {name}"


def _marks(table: Table, row: int) -> Iterator[str]:
    if table["touches_border"][row]:
        yield "border"
    if "seam" in table.columns and table["seam"][row]:
        yield str(table["seam"][row])


def _picture(row: int, subject: ReportSubject, table: Table, inks: Inks) -> Picture:
    """A yx plane, and in 3D a zx plane beside it, where the instance is largest."""
    label = int(table["label"][row])
    box = _view_of(row, subject, table)
    labels_level, image_level = subject.pairs()[0]
    labels = _padded(subject, labels_level, box)
    image = _padded(subject, image_level, box)
    greys, lines = [], []
    for axis in range(max(1, box.ndim - 1)):  # 3D: z and y; 2D: the image itself
        at = fullest(labels == label, axis)
        grey, line = (v if box.ndim == 2 else v.take(at, axis) for v in (image, labels))
        panel = _panel(grey.shape, subject.steps, axis)
        greys.append(grey_pixels(grey_of(grey, panel, *_contrast(subject, grey))))
        lines.append(overlay(line, panel, inks, label))
    return picture(_beside(greys), _beside(lines), f"Instance {label}, outlined, and around it")


def _contrast(subject: ReportSubject, plane: NDArray[Any]) -> Range:
    """Choose the contrast of a card, within limits, so that bright instances show detail."""
    low, high = subject.contrast
    brightest = display_range(plane, PERCENTILES)[1]
    return low, max(brightest, low + _LEAST_CONTRAST * (high - low))


def _view_of(row: int, subject: ReportSubject, table: Table) -> Box:
    """The field of view of a card: a cube around the centre of the bounding box."""
    axes = "zyx"[-len(subject.shape) :]
    start = np.array([table[f"{axis}_start"][row] for axis in axes])
    stop = np.array([table[f"{axis}_stop"][row] for axis in axes])
    steps = np.array(subject.steps)
    edge = min(_VIEW * float(((stop - start) * steps).max()), _LONGEST * float(steps.min()))
    lengths = np.maximum(1, np.rint(edge / steps)).astype(int)
    fits = bool((lengths >= stop - start).all())
    centre = (start + stop) / 2 if fits else np.array([table[axis][row] for axis in axes])
    low = np.rint(centre - lengths / 2).astype(int)
    return Box(tuple(low.tolist()), tuple((low + lengths).tolist()))


def _padded(subject: ReportSubject, volume: Any, box: Box) -> NDArray[Any]:
    """Read a region; 0 outside the volume."""
    inside = box.clip(volume.spatial_shape)
    whole: NDArray[Any] = np.zeros(box.shape, volume.dtype)
    whole[inside.slices_in(box)] = subject.read(volume, inside)
    return whole


def _panel(shape: tuple[int, ...], steps: tuple[float, ...], axis: int) -> Panel:
    """A panel as wide as all, and as high as its plane at the same scale."""
    down, right = [s for d, s in enumerate(steps) if len(steps) == 2 or d != axis]
    height = round(PANEL * shape[0] * down / (shape[1] * right))
    return Panel(0, 0, PANEL, min(max(1, height), PANEL))


def _beside(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put panels side by side, on black or transparent ground, a grey line between."""
    ground = np.zeros((PANEL, len(panels) * (PANEL + _GAP) - _GAP, panels[0].shape[2]), np.uint8)
    if ground.shape[2] == 3:
        ground[:, PANEL :: PANEL + _GAP] = _LINE
    for number, panel in enumerate(panels):
        left = number * (PANEL + _GAP)
        top = (PANEL - panel.shape[0]) // 2
        ground[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
    return ground
