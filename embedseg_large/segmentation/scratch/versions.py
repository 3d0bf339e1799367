"""Which attempt counts: versions of the files that tasks write.

A task never overwrites a file. It writes one of its own, with a random number in its name, and
returns the number; the client alone decides which number counts, and passes it to the tasks that
read. So a worker that was given up but comes back and writes after all changes
nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedseg_large.tiling.grid import Index

MISSING = 0
"""Version of a file that does not exist yet."""
ABSENT = 1
"""Version of a tile that was not predicted because the volume holds no data there."""
MASKED = 2
"""Version of a tile that was not predicted because it lies outside the user's mask."""
DARK = 3
"""Version of a tile that was not predicted because nothing in it is bright."""
EMPTY = 4
"""Version of predictions without foreground, which need no file."""

Span = Sequence[tuple[int, int]]
"""Half-open range of tile numbers along each axis."""


def new_version() -> int:
    """Return a number that no other attempt has (except once in 2³¹)."""
    return EMPTY + 1 + secrets.randbelow(2**31)


class TileVersion(NamedTuple):
    """One attempt of one tile at one level of its halo."""

    tile: Index
    level: int
    version: int


@dataclass(frozen=True, slots=True, eq=False)
class TileVersions:
    """The results that count, for the tiles in a box of the grid: 5 bytes per tile."""

    origin: Index
    """The first tile."""
    levels: NDArray[np.uint8]
    """How often the halo of each tile was raised."""
    versions: NDArray[np.uint32]
    """Version of each tile at its level; `MISSING` before it was clustered."""

    @classmethod
    def none_yet(cls, counts: Index) -> TileVersions:
        """Versions of a grid with no clustered tile yet."""
        return cls((0,) * len(counts), np.zeros(counts, np.uint8), np.zeros(counts, np.uint32))

    def unmade(self) -> TileVersions:
        """Return the same tiles at the same levels, without results."""
        return TileVersions(self.origin, self.levels.copy(), np.zeros_like(self.versions))

    def __getitem__(self, index: Index) -> TileVersion:
        at = tuple(i - o for i, o in zip(index, self.origin, strict=True))
        return TileVersion(index, int(self.levels[at]), int(self.versions[at]))

    def __iter__(self) -> Iterator[TileVersion]:
        """Yield the tiles in raster order."""
        axes = zip(self.origin, self.versions.shape, strict=True)
        return (self[index] for index in product(*(range(o, o + n) for o, n in axes)))

    def part(self, span: Span) -> TileVersions:
        """Return the part for some tiles: small enough to travel with a task."""
        at = tuple(slice(a - o, b - o) for (a, b), o in zip(span, self.origin, strict=True))
        start = tuple(a for a, _ in span)
        return TileVersions(start, self.levels[at].copy(), self.versions[at].copy())

    def put(self, name: TileVersion) -> None:
        """Replace the result of a tile."""
        self.levels[name.tile] = name.level
        self.versions[name.tile] = name.version

    @property
    def highest(self) -> int:
        """The highest level any tile has."""
        return int(self.levels.max(initial=0))

    @property
    def raised(self) -> int:
        """Number of tiles above level 0."""
        return int(np.count_nonzero(self.levels))
