"""Decisions about instances, as values; each can be written as one line of text.

::

    accept 17
    delete 17
    split 17 40,20,33 44,25,33            one point in each part; the first part keeps label 17
    merge 17 18                           18 becomes part of 17
    paint 17 40,20,30+5 40,21,30+6        runs of voxels along x: first voxel + length
    paint 0 40,20,30+5                    erases
    paint 62 ...                          paints a new instance, if 62 is the next free label

Points are voxels, (z,) y, x. An edit is a function of the labels in one box, so its result is the
same in every review with the same earlier edits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.extras import extra
from embedseg_large.geometry import Box

Point = tuple[int, ...]
Where = Callable[[int], Box]
"""Returns a box that contains an instance; raises `UsageError` if there is no such instance."""

_MOST = 1 << 62
_SMOOTHING = 0.2
"""Standard deviation of the filter on the distance transform, as a fraction of the object's
depth."""
_RUN = re.compile(r"(.+)\+(\d+)")


@dataclass(frozen=True, slots=True)
class _OfOne:
    """An edit of one instance."""

    label: int

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels of the instances that the edit refers to."""
        return (self.label,)

    def box(self, where: Where) -> Box:
        """Return the region to read."""
        return where(self.label)


@dataclass(frozen=True, slots=True)
class Accept(_OfOne):
    """Accept an instance as it is."""

    def __str__(self) -> str:
        return f"accept {self.label}"

    def apply(self, labels: NDArray[Any], scene: EditScene) -> NDArray[Any]:
        """Return the labels of the box after the edit."""
        scene.mask(labels, self.label)
        return labels


@dataclass(frozen=True, slots=True)
class Delete(_OfOne):
    """Delete an instance that is not an object: its voxels become background."""

    def __str__(self) -> str:
        return f"delete {self.label}"

    def apply(self, labels: NDArray[Any], scene: EditScene) -> NDArray[Any]:
        """Return the labels of the box after the edit."""
        return np.where(scene.mask(labels, self.label), 0, labels)


@dataclass(frozen=True, slots=True)
class Split(_OfOne):
    """Split an instance that covers several objects, by flooding it from a point in each.

    The part of the first point keeps the label; the other parts get the next free labels, in the
    order of the points.
    """

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        if len(self.points) < 2 or len(set(self.points)) < len(self.points):
            raise UsageError(f"split {self.label} needs two or more different points")

    def __str__(self) -> str:
        return f"split {self.label} " + " ".join(map(_text, self.points))

    def apply(self, labels: NDArray[Any], scene: EditScene) -> NDArray[Any]:
        """Return the labels of the box after the edit."""
        inside = scene.mask(labels, self.label)
        for point in self.points:
            if not scene.holds(point) or not inside[scene.at(point)]:
                raise UsageError(f"voxel {_text(point)} is not in instance {self.label}")
        parts = flooded(inside, [scene.at(p) for p in self.points], scene.spacing)
        names = np.array([0, self.label, *range(scene.free, scene.free + len(self.points) - 1)])
        return np.where(inside, names[parts].astype(labels.dtype), labels)


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge two instances of one object, which keeps the label of the first."""

    label: int
    other: int

    def __post_init__(self) -> None:
        if self.label == self.other:
            raise UsageError(f"merge {self.label} needs two different instances")

    def __str__(self) -> str:
        return f"merge {self.label} {self.other}"

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels of the instances that the edit refers to."""
        return (self.label, self.other)

    def box(self, where: Where) -> Box:
        """Return the region to read; the first instance does not change."""
        where(self.label)
        return where(self.other)

    def apply(self, labels: NDArray[Any], scene: EditScene) -> NDArray[Any]:
        """Return the labels of the box after the edit."""
        return np.where(scene.mask(labels, self.other), labels.dtype.type(self.label), labels)


@dataclass(frozen=True, slots=True)
class Paint:
    """Give voxels a new label: 0 erases, the next free label adds an instance."""

    label: int
    runs: tuple[tuple[Point, int], ...]
    """First voxel and length of each run along x."""

    def __post_init__(self) -> None:
        if not self.runs or any(length < 1 for _, length in self.runs):
            raise UsageError(f"paint {self.label} needs voxels")

    @classmethod
    def of(cls, label: int, voxels: NDArray[np.integer]) -> Paint:
        """Paint voxels.

        Parameters
        ----------
        label
            The new label, see the class.
        voxels
            (n, ndim) coordinates, (z,) y, x.

        Raises
        ------
        UsageError
            If these are not whole numbers of that shape, or there are none.
        """
        given = np.asarray(voxels)
        if given.ndim != 2 or given.dtype.kind not in "iu":
            raise UsageError(
                f"voxels to paint have shape {given.shape} and type {given.dtype}; pass whole "
                "numbers, (n, ndim)"
            )
        places = np.unique(given.astype(np.int64), axis=0)
        apart = (np.diff(places[:, :-1], axis=0) != 0).any(axis=1) | (np.diff(places[:, -1]) != 1)
        first = np.concatenate([[0], np.flatnonzero(apart) + 1])[: len(places)]
        lengths = np.diff(first, append=len(places))
        runs = zip(places[first].tolist(), lengths.tolist(), strict=True)
        return cls(label, tuple((tuple(start), length) for start, length in runs))

    def __str__(self) -> str:
        return f"paint {self.label} " + " ".join(f"{_text(p)}+{n}" for p, n in self.runs)

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels of the instances that the edit refers to."""
        return (self.label,) if self.label else ()

    def box(self, where: Where) -> Box:  # noqa: ARG002
        """Return the region to read."""
        starts = np.array([start for start, _ in self.runs])
        stops = starts + 1
        stops[:, -1] = starts[:, -1] + [length for _, length in self.runs]
        return Box(tuple(starts.min(axis=0).tolist()), tuple(stops.max(axis=0).tolist()))

    def apply(self, labels: NDArray[Any], scene: EditScene) -> NDArray[Any]:
        """Return the labels of the box after the edit."""
        painted = labels.copy()
        for start, length in self.runs:
            at = scene.at(start)
            row = painted[at[:-1]]  # a view
            row[at[-1] : at[-1] + length] = self.label
        return painted


Edit = Accept | Delete | Split | Merge | Paint


@dataclass(frozen=True, slots=True)
class EditScene:
    """What an edit needs in addition to the labels of its box."""

    box: Box
    free: int
    """The next free label."""
    spacing: tuple[float, ...]
    """Distance between voxels along each axis."""

    def holds(self, point: Point) -> bool:
        """Whether a voxel is in the box."""
        axes = zip(self.box.start, point, self.box.stop, strict=True)
        return all(a <= p < b for a, p, b in axes)

    def at(self, point: Point) -> Point:
        """Return the index of a voxel in arrays of the box."""
        return tuple(p - a for p, a in zip(point, self.box.start, strict=True))

    def mask(self, labels: NDArray[Any], label: int) -> NDArray[np.bool_]:
        """Return the voxels of an instance, which must exist."""
        inside = np.asarray(labels == label)
        if not inside.any():
            raise UsageError(f"instance {label} has no voxels left")
        return inside


def flooded(
    inside: NDArray[np.bool_], points: Sequence[Point], spacing: Sequence[float]
) -> NDArray[np.intp]:
    """Divide an object at its necks: a watershed on its distance transform, from given points.

    The flood starts from the path that leads uphill from each point to the thickest part of the
    object, so a point near the surface counts as much as one in the middle. There is no neck
    between points that lead to the same peak; their voxels are assigned to the nearest of these
    points.

    Parameters
    ----------
    inside
        Voxels of the object.
    points
        One voxel of each part.
    spacing
        Distance between voxels along each axis.

    Returns
    -------
    Number of the part, from 1; 0 outside. Pieces without a point belong to the nearest point.

    Raises
    ------
    UsageError
        If scikit-image is not installed.
    """
    depth, markers = _depths(inside, spacing), np.zeros(inside.shape, np.int32)
    peaks = dict[Point, list[int]]()
    for number, point in enumerate(points):
        way = _way_up(depth, point)
        group = peaks.setdefault(way[-1], [])
        group.append(number)
        first = group[0] + 1
        for voxel in way:
            markers[voxel] = markers[voxel] or first
    parts = np.asarray(_watershed()(-depth, markers, mask=inside), np.intp)
    for group in ([*range(len(points))], *peaks.values()):
        shared = inside & (parts == (0 if len(group) == len(points) else group[0] + 1))
        _by_nearest(parts, shared, group, points, spacing)
    return parts


def _depths(inside: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Compute the smoothed distance to the surface: roughness of a few voxels adds no peaks."""
    from scipy import ndimage

    around = np.pad(inside, 1)  # an object that touches the box ends there
    depth = ndimage.distance_transform_edt(around, sampling=spacing)[(slice(1, -1),) * inside.ndim]
    sigma = [_SMOOTHING * depth.max() / step for step in spacing]
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(depth, sigma, mode="constant")
    return np.where(inside, smooth, -1.0)


def _way_up(depth: NDArray[np.float64], point: Point) -> list[Point]:
    """Return the steepest path from a voxel to a peak, including both."""
    way = [point]
    while True:
        here = way[-1]
        near = tuple(slice(max(p - 1, 0), p + 2) for p in here)
        best = np.unravel_index(int(depth[near].argmax()), depth[near].shape)
        there = tuple(int(b) + s.start for b, s in zip(best, near, strict=True))
        if not depth[there] > depth[here]:
            return way
        way.append(there)


def _by_nearest(
    parts: NDArray[np.intp],
    shared: NDArray[np.bool_],
    group: Sequence[int],
    points: Sequence[Point],
    spacing: Sequence[float],
) -> None:
    """Divide voxels among some points, in place."""
    voxels = np.argwhere(shared)
    if voxels.size and len(group) > 1:
        places = np.array([points[number] for number in group])
        steps = (voxels[:, np.newaxis] - places) * np.asarray(spacing)
        nearest = np.square(steps).sum(axis=2).argmin(axis=1)
        parts[tuple(voxels.T)] = np.asarray(group)[nearest] + 1


def _watershed() -> Any:
    with extra("review", "splitting instances"):
        from skimage.segmentation import watershed
    return watershed


# Text --------------------------------------------------------------------------------------------


def _text(point: Point) -> str:
    return ",".join(map(str, point))


def parse_edit(text: str, ndim: int) -> Edit:
    """Read an edit from its line of text.

    Parameters
    ----------
    text
        See the examples of this module.
    ndim
        Number of coordinates of a point.

    Raises
    ------
    UsageError
        If it is not an edit.
    """
    verb, *words = text.split()
    if verb not in _READERS:
        raise UsageError(f"{verb[:40]!r} is none of {', '.join(_READERS)}")
    return _READERS[verb](verb, words, ndim)


def parse_script(text: str, ndim: int, where: str) -> list[Edit]:
    """Read edits, one per line; empty lines and text after a ``#`` are ignored.

    Raises
    ------
    UsageError
        If a line is not an edit; the message has its number.
    """
    return [edit for _, edit in numbered_edits(text, ndim, where)]


def numbered_edits(text: str, ndim: int, where: str) -> Iterator[tuple[int, Edit]]:
    """Yield the edits of `parse_script` with their line numbers, from 1."""
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if content:
            try:
                yield number, parse_edit(content, ndim)
            except UsageError as error:
                raise UsageError(f"{where}, line {number}: {error}") from None


def _one(kind: type[Accept] | type[Delete]) -> Callable[[str, list[str], int], Edit]:
    def read(verb: str, words: list[str], ndim: int) -> Edit:  # noqa: ARG001
        if len(words) != 1:
            raise UsageError(f"{verb} needs one label, not {len(words)}")
        return kind(_label(words[0]))

    return read


def _split(verb: str, words: list[str], ndim: int) -> Edit:
    if not words:
        raise UsageError(f"{verb} needs a label and two points, like 17 40,20,33 44,25,33")
    return Split(_label(words[0]), tuple(_point(word, ndim) for word in words[1:]))


def _merge(verb: str, words: list[str], ndim: int) -> Edit:  # noqa: ARG001
    if len(words) != 2:
        raise UsageError(f"{verb} needs two labels, not {len(words)}")
    return Merge(_label(words[0]), _label(words[1]))


def _paint(verb: str, words: list[str], ndim: int) -> Edit:
    if len(words) < 2:
        raise UsageError(f"{verb} needs a label and runs of voxels, like 17 40,20,30+5")
    found = [_RUN.fullmatch(word) for word in words[1:]]
    if None in found:
        raise UsageError(f"{words[1 + found.index(None)][:40]!r} is not like 40,20,30+5")
    runs = tuple((_point(run[1], ndim), _number(run[2])) for run in found if run)
    return Paint(0 if words[0] == "0" else _label(words[0]), runs)


_READERS: dict[str, Callable[[str, list[str], int], Edit]] = {
    "accept": _one(Accept),
    "delete": _one(Delete),
    "split": _split,
    "merge": _merge,
    "paint": _paint,
}


def _label(word: str) -> int:
    label = _number(word)
    if not label:
        raise UsageError("0 is the background, not an instance")
    return label


def _number(word: str) -> int:
    if not (word.isascii() and word.isdigit()) or len(word) > 19 or int(word) >= _MOST:
        raise UsageError(f"{word[:40]!r} is not a number of an instance or a voxel")
    return int(word)


def _point(word: str, ndim: int) -> Point:
    parts = word.split(",")
    if len(parts) != ndim:
        raise UsageError(f"{word[:40]!r} is not a voxel with {ndim} coordinates")
    return tuple(map(_number, parts))
