"""Integer regions of an array, as values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A half-open integer region ``[start, stop)`` of any number of axes.

    Parameters
    ----------
    start, stop
        First voxel of the region and first voxel past it, one integer per axis. Axes follow the
        array (z, y, x). ``stop >= start`` on every axis; a box with an empty axis has size 0.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop):
            raise ValueError(f"start {self.start} and stop {self.stop} differ in length")
        if any(b < a for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"stop {self.stop} lies before start {self.start}")

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """The box of a whole array of that shape."""
        return cls((0,) * len(shape), tuple(int(n) for n in shape))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.start)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The index of this region in an array that starts at the origin."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def slices_in(self, outer: Box) -> tuple[slice, ...]:
        """The index of this region in an array that holds exactly `outer`."""
        return self.shift(tuple(-a for a in outer.start)).slices

    def shift(self, by: Sequence[int]) -> Box:
        """The same region moved by a vector."""
        return Box(
            tuple(a + d for a, d in zip(self.start, by, strict=True)),
            tuple(b + d for b, d in zip(self.stop, by, strict=True)),
        )

    def grow(self, by: Sequence[int]) -> Box:
        """The region with `by` more voxels on both sides of each axis."""
        return Box(
            tuple(a - d for a, d in zip(self.start, by, strict=True)),
            tuple(b + d for b, d in zip(self.stop, by, strict=True)),
        )

    def intersect(self, other: Box) -> Box:
        """The common region; where there is none, an empty box."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Box(start, tuple(max(a, b) for a, b in zip(start, stop, strict=True)))

    def clip(self, shape: Sequence[int]) -> Box:
        """The part that lies in an array of that shape."""
        return self.intersect(Box.whole(shape))

    def contains(self, other: Box) -> bool:
        """Whether every voxel of `other` lies in this region."""
        return self.intersect(other) == other or other.size == 0

    def open_faces(self, shape: Sequence[int]) -> tuple[tuple[bool, bool], ...]:
        """For each axis, whether a volume goes on below the low and above the high face."""
        axes = zip(self.start, self.stop, shape, strict=True)
        return tuple((start > 0, stop < length) for start, stop, length in axes)

    def widths_around(self, inner: Box) -> list[tuple[int, int]]:
        """Voxels before and after a box inside this one, along each axis, as `numpy.pad` takes."""
        ends = zip(self.start, inner.start, inner.stop, self.stop, strict=True)
        return [(first - start, stop - last) for start, first, last, stop in ends]

    def rounded_out(self, shape: Sequence[int]) -> Box:
        """The smallest box of whole cells of the lattice of multiples of `shape` around it."""
        return Box(
            tuple(a // n * n for a, n in zip(self.start, shape, strict=True)),
            tuple(-(-b // n) * n for b, n in zip(self.stop, shape, strict=True)),
        )

    def split(self, shape: Sequence[int]) -> Iterator[Box]:
        """Boxes on the lattice of multiples of `shape`, clipped to this region, in raster order."""
        for corner in raster(self._corners(shape)):
            cell = Box(corner, tuple(c + n for c, n in zip(corner, shape, strict=True)))
            yield cell.intersect(self)

    def count(self, shape: Sequence[int]) -> int:
        """Number of boxes that `split` yields."""
        return prod(map(len, self._corners(shape)))

    def _corners(self, shape: Sequence[int]) -> list[range]:
        ends = zip(self.start, self.stop, shape, strict=True)
        return [range(a // n * n, b, n) for a, b, n in ends]

    def __str__(self) -> str:
        return "[" + ", ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True)) + "]"


def raster(ranges: Sequence[range]) -> Iterator[tuple[int, ...]]:
    """All combinations of a number from each range, the last one varying fastest.

    As `itertools.product`, which would first list every range in memory.
    """
    if not ranges:
        yield ()
        return
    for first in ranges[0]:
        for rest in raster(ranges[1:]):
            yield (first, *rest)
