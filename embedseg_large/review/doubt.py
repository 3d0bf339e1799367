"""The queue: how doubtful each instance is, and why.

Each reason contributes a value between 0 and 1; the doubt of an instance is their weighted sum:

=============== ====== ======================================================================
reason          weight 1 if
=============== ====== ======================================================================
joined          1      it was joined from pieces on which tiles disagreed (seam report)
low seediness   1      its seediness is the lowest of all; 0 at the median and above
large, small    1      its size differs by 4 deviations or more; 0 up to 2
irregular       1      its sphericity (circularity) is 4 deviations too low; 0 up to 2
not certified   0.5    the run could not prove that it equals the untiled result
border          0.25   it touches the border of the volume, where it may be cut
=============== ====== ======================================================================

Deviations are robust: 1.4826 times the median absolute deviation, computed from logarithms for
sizes. A reason is listed if its value is at least 0.5. The order is by doubt, then by label, so it
depends only on the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box

WEIGHTS: Mapping[str, float] = {
    "joined": 1.0,
    "low seediness": 1.0,
    "large": 1.0,
    "small": 1.0,
    "irregular": 1.0,
    "not certified": 0.5,
    "border": 0.25,
}
"""Weight of each reason, in the order in which reasons are listed."""
NAMED = 0.5
"""Minimum value of a reason that is listed."""

_FREE, _FULL = 2.0, 4.0
"""Number of deviations up to which the value of an outlier is 0, and from which it is 1."""
_MAD = 1.4826
"""Standard deviations of a normal distribution per median absolute deviation."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Doubtful:
    """One entry of the queue."""

    label: int
    doubt: float
    """Weighted sum of the reasons; 0: there is no reason to doubt the instance."""
    reasons: tuple[str, ...]
    voxels: int
    center: tuple[float, ...]
    """Centroid in voxels, (z,) y, x."""
    box: Box
    """Bounding box."""

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as values that JSON can hold."""
        return {
            "label": self.label,
            "doubt": round(self.doubt, 4),
            "reasons": list(self.reasons),
            "voxels": self.voxels,
            "center": [round(c, 2) for c in self.center],
            "box": [list(self.box.start), list(self.box.stop)],
        }


@dataclass(frozen=True, slots=True, eq=False)
class Queue:
    """All instances, the most doubtful first; about 150 bytes each."""

    columns: Mapping[str, NDArray[Any]]
    """The table of the instances, see `embedseg_large.review.table`."""
    parts: Mapping[str, Floats]
    """Value of each reason, 0 to 1, by row of the table."""
    doubts: Floats
    """Doubt of each row of the table."""
    order: NDArray[np.intp]
    """Rows of the table, the most doubtful first."""

    def __len__(self) -> int:
        return self.order.size

    def __getitem__(self, place: int) -> Doubtful:
        """Return the instance at a position of the queue, counted from 0."""
        row = int(self.order[place])
        axes = axes_of(self.columns)
        ends = (
            tuple(int(self.columns[f"{a}_{end}"][row]) for a in axes) for end in ("start", "stop")
        )
        return Doubtful(
            label=int(self.columns["label"][row]),
            doubt=float(self.doubts[row]),
            reasons=tuple(n for n, part in self.parts.items() if part[row] >= NAMED),
            voxels=int(self.columns["voxels"][row]),
            center=tuple(float(self.columns[a][row]) for a in axes),
            box=Box(*ends),
        )


def axes_of(columns: Mapping[str, NDArray[Any]]) -> str:
    """``"zyx"`` or ``"yx"``: the axes of a table of instances."""
    return "zyx" if "z" in columns else "yx"


def queue_of(columns: Mapping[str, NDArray[Any]]) -> Queue:
    """Order instances by their doubt.

    Parameters
    ----------
    columns
        ``label``, ``voxels``, centroid and bounding box, ``touches_border``, ``roundness``; and
        ``seediness``, ``certified`` and ``joined`` if they are known.
    """
    parts = dict(_parts(columns))
    doubts = np.zeros(columns["label"].size)
    for name, part in parts.items():
        doubts += WEIGHTS[name] * part
    # rounded, so that the last bits of a quantile do not affect the order
    order = np.lexsort((columns["label"], -np.round(doubts, 9)))
    return Queue(columns, parts, doubts, order)


def _parts(columns: Mapping[str, NDArray[Any]]) -> list[tuple[str, Floats]]:
    """Compute the value of each reason, in the order of `WEIGHTS`."""
    size = _deviations(np.log(np.maximum(columns["voxels"].astype(np.float64), 1)))
    found = {
        "large": _beyond(size),
        "small": _beyond(-size),
        "irregular": _beyond(-_deviations(columns["roundness"].astype(np.float64))),
        "border": columns["touches_border"].astype(np.float64),
    }
    if "joined" in columns:
        found["joined"] = columns["joined"].astype(np.float64)
    if "seediness" in columns:
        found["low seediness"] = _lowest(columns["seediness"].astype(np.float64))
    if "certified" in columns:
        found["not certified"] = (~columns["certified"].astype(bool)).astype(np.float64)
    return [(name, found[name]) for name in WEIGHTS if name in found]


def _lowest(values: Floats) -> Floats:
    """Scale values: 1 for the lowest, 0 at the median and above, and for unknown values."""
    known = values[np.isfinite(values)]
    if not known.size or (top := np.median(known)) == (low := known.min()):
        return np.zeros(values.size)
    lowness: Floats = np.nan_to_num(np.clip((top - values) / (top - low), 0, 1))
    return lowness


def _deviations(values: Floats) -> Floats:
    """Compute distances from the median in robust deviations; 0 if most values are equal."""
    known = values[np.isfinite(values)]
    if not known.size:
        return np.zeros(values.size)
    middle = np.median(known)
    deviation = _MAD * np.median(np.abs(known - middle))
    return np.nan_to_num((values - middle) / deviation) if deviation else np.zeros(values.size)


def _beyond(deviations: Floats) -> Floats:
    beyond: Floats = np.clip((deviations - _FREE) / (_FULL - _FREE), 0, 1)
    return beyond
