"""Predictions designed to break tiling, and a network that returns them unchanged.

Real networks point to the middle of an object from all of its voxels. These point far, to nowhere,
or just beyond the permitted reach; seeds rise along chains that run through many tiles, or are all
equal; sigmas are larger than any object. The rule yields some labels in every case, and tiles must
yield the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.embedding import background, channel_count
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box

Shape = tuple[int, ...]
Stored = NDArray[np.float16]
_NOT_SEEN = np.float16(-np.finfo(np.float16).max)
_LEAST = 2.0**-24  # of float16, and so of any difference between embeddings


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredNetwork:
    """Stands in for a model in the engine: its predictions are an array; picklable.

    Parameters
    ----------
    stored
        ``(2·ndim + 1, *spatial)`` float16, the predictions; background beyond.
    reach
        Longest accepted offset, in voxels.
    halo, tile
        Halo around a core, and core of a prediction tile, in voxels.
    """

    stored: Stored
    reach: tuple[float, ...]
    halo: Shape
    tile: Shape
    min_object_size: int = 0
    seed: float = 0.9
    margin: float = 0.5
    channels: int = 1
    bytes_per_voxel: float = 100.0
    tta_modes: tuple[str, ...] = ("none",)
    object_diameter: float | None = None
    object_depth: float | None = None
    voxel_size: tuple[float, ...] | None = None
    cleaning: tuple[bool, bool] = (False, False)

    def __post_init__(self) -> None:
        if len(self.stored) != channel_count(self.ndim):
            raise UsageError(f"{len(self.stored)} channels over {self.ndim} axes")

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.stored.ndim - 1

    @property
    def shape(self) -> Shape:
        """Shape of the known volume."""
        return self.stored.shape[1:]

    @property
    def context(self) -> Shape:
        """No input beyond the core is needed."""
        return (0,) * self.ndim

    @property
    def card(self) -> dict[str, Any]:
        """Unknown, because there is no model."""
        return {"name": "stored"}

    @property
    def fingerprint(self) -> str:
        """Hash of all predictions."""
        return sha256(self.stored.tobytes()).hexdigest()

    def thresholds_of(self, tta: str) -> tuple[float, float]:  # noqa: ARG002
        """Return seed and margin."""
        return self.seed, self.margin

    def tta_mode(self, tta: bool | int | str) -> str:  # noqa: ARG002
        """There is no test-time augmentation."""
        return "none"

    def predict_tile(
        self,
        image: NDArray[np.float32],  # noqa: ARG002
        region: Box,
        tta: bool | int | str = "none",  # noqa: ARG002
    ) -> Stored:
        """Look up the predictions of a region."""
        found = background(region.shape)
        known = region.clip(self.shape)
        found[(slice(None), *known.slices_in(region))] = self.stored[(slice(None), *known.slices)]
        return found


def hostile(rng: np.random.Generator, shape: Shape) -> tuple[str, Stored]:
    """Draw predictions of a random kind.

    Returns
    -------
    The name of the kind, and float16 ``(2·ndim + 1, *shape)``.
    """
    name = str(rng.choice(sorted(KINDS)))
    with np.errstate(over="ignore"):
        return name, KINDS[name](rng, shape).astype(np.float16)


def _empty(shape: Shape) -> NDArray[np.float64]:
    return background(shape).astype(np.float64)


def packed(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Cells that fill the volume, off the lattice; wide or narrow for their size."""
    ndim, grid = len(shape), np.indices(shape).astype(np.float64)
    count = max(1, int(np.prod(shape) / rng.integers(6, 200)))
    centres = rng.uniform(-1, np.array(shape) + 1, (count, ndim))
    square = sum((grid[a][..., None] - centres[:, a]) ** 2 for a in range(ndim))
    owner = square.argmin(axis=-1)
    far = np.sqrt(square.min(axis=-1))
    out = _empty(shape)
    spread = rng.choice([0.0, 0.2, 1.0])
    for a in range(ndim):
        out[a] = centres[owner, a] - grid[a] + rng.normal(0, spread, shape)
    sigma = rng.uniform(-1, 1.2, (ndim, *(1,) * ndim))
    out[ndim : 2 * ndim] = sigma + rng.normal(0, rng.choice([0.0, 0.1]), (ndim, *shape))
    out[-1] = 5 - 0.4 * far + rng.normal(0, 0.3, shape)
    return out


def chains(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Seeds fall along a direction, each claims the next: who is a seed is decided at one end."""
    ndim, grid = len(shape), np.indices(shape).astype(np.float64)
    along = rng.normal(0, 1, ndim)
    along[rng.integers(ndim)] *= 10
    place = np.tensordot(along / np.linalg.norm(along), grid, axes=1)
    place = (place - place.min()) / (np.ptp(place) + 1e-9)
    out = _empty(shape)
    out[-1] = 3 + 20 * (1 - place) + rng.normal(0, rng.choice([0.0, 0.4, 2.0]), shape)
    out[:ndim] = rng.normal(0, rng.choice([0.0, 0.05, 0.5]), (ndim, *shape))
    out[ndim : 2 * ndim] = rng.uniform(-0.4, 1.0, (ndim, *(1,) * ndim))
    if rng.random() < 0.5:
        kept = np.zeros(shape, bool)
        for _ in range(rng.integers(1, 6)):
            axis = rng.integers(ndim)
            kept[
                tuple(slice(None) if a == axis else rng.integers(shape[a]) for a in range(ndim))
            ] = 1
        out[-1][~kept] = _NOT_SEEN
    return out


def plateaus(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Few values of seediness, so that ties decide."""
    out = (packed if rng.random() < 0.5 else chains)(rng, shape)
    levels = int(rng.integers(1, 4))
    edges = np.quantile(out[-1], np.linspace(0, 1, levels + 1)[1:-1])
    out[-1] = np.array([2.5, 3.0, 4.0])[np.digitize(out[-1], edges)]
    return out


def strays(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Offsets that point far, alike in groups of voxels."""
    ndim, far = len(shape), rng.choice([4.0, 8.0, 15.0])
    ways = rng.uniform(-far, far, (ndim, int(rng.integers(1, 6))))
    if rng.random() < 0.5:
        group = rng.integers(0, ways.shape[1], shape)
    else:
        group = np.indices(shape)[rng.integers(ndim)] // rng.integers(1, 6) % ways.shape[1]
    out = _empty(shape)
    out[:ndim] = np.round(ways[:, group]) if rng.random() < 0.7 else ways[:, group]
    out[ndim : 2 * ndim] = rng.uniform(-1.5, 2.0, (ndim, *shape))
    out[-1] = rng.normal(2.5, 2, shape)
    return out


def noise(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Predictions without any structure."""
    ndim, out = len(shape), _empty(shape)
    out[:ndim] = rng.normal(0, rng.choice([0.3, 1.0, 3.0]), (ndim, *shape))
    out[ndim : 2 * ndim] = rng.normal(
        rng.choice([-1.0, 0.7]), rng.choice([0.1, 1.0]), (ndim, *shape)
    )
    out[-1] = rng.normal(rng.choice([0.0, 2.0, 4.0]), rng.choice([0.5, 2.0]), shape)
    return out


def bodies(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Sheets, shells and balls, many of them larger than a tile, that lie on each other."""
    ndim, grid, out = len(shape), np.indices(shape).astype(np.float64), _empty(shape)
    for _ in range(rng.integers(1, 14)):
        centre = rng.uniform(-2, np.array(shape) + 2).reshape(ndim, *(1,) * ndim)
        far = np.sqrt(((grid - centre) ** 2).sum(axis=0))
        radius = rng.uniform(0.6, max(shape) / 1.5)
        sheet = (np.abs(grid - centre)[rng.integers(ndim)] < 0.8) & (far < radius)
        here = [sheet, np.abs(far - radius) < 1, far < 0.6 * radius, far < 0.9][rng.integers(4)]
        out[:ndim, here] = (centre - grid + rng.normal(0, rng.choice([0.0, 0.3]), grid.shape))[
            :, here
        ]
        out[ndim : 2 * ndim, here] = np.log(max(radius, 0.5) / rng.choice([0.7, 1.5, 3.0]))
        out[-1, here] = (rng.uniform(1, 6) - rng.choice([0.0, 0.2]) * far)[here]
    return out


def edges(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Distances that are integers but for the least float16, sigmas at their cap or at its edge."""
    ndim, out = len(shape), _empty(shape)
    nudge = rng.choice([0.0, 0.0, _LEAST, -_LEAST, 0.5], (ndim, *shape))
    out[:ndim] = rng.integers(-6, 7, (ndim, *shape))
    out[:ndim] = np.where(rng.random(out[:ndim].shape) < 0.5, nudge, out[:ndim] + nudge)
    out[ndim : 2 * ndim] = rng.choice([0.0, 0.5, 3.0, 20.0, 30.0], (ndim, *shape))
    out[-1] = rng.choice([1.0, 2.5, 3.0, 4.0], shape)
    out[-1][rng.random(shape) < rng.choice([0.0, 0.7])] = _NOT_SEEN
    return out


def extremes(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Any of the others, with the largest and the least numbers sprinkled in."""
    others = [kind for name, kind in sorted(KINDS.items()) if name != "extremes"]
    out = others[rng.integers(len(others))](rng, shape)
    values = np.array([np.inf, -np.inf, 65504, -65504, 0.0, -0.0, _LEAST, -_LEAST])
    for channel in out:
        here = rng.random(shape) < rng.choice([0.0, 0.02, 0.1])
        channel[here] = rng.choice(values, int(here.sum()))
    return out


KINDS: dict[str, Callable[[np.random.Generator, Shape], NDArray[np.float64]]] = {
    kind.__name__: kind
    for kind in (packed, chains, plateaus, strays, noise, bodies, edges, extremes)
}
"""All kinds, by name."""
