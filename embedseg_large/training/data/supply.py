"""Supply of crops: sources of labelled volumes, and the shares in which they are mixed.

A crop is chosen in three steps, so that a source with many volumes does not crowd out one with
few::

    mixture ── its share ──► source ── draw ──► volume ──► object ──► a box to cut around

Sources are annotated images (`AnnotatedSource`), or volumes that are generated on demand
(`embedseg_large.training.data.synthetic.SyntheticSource`); anything else that satisfies
`CropSource` works too.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import ceil, isclose
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.training.data.crops import AnnotatedImage, Cache
from embedseg_large.training.data.objects import ObjectTable
from embedseg_large.training.data.properties import Properties
from embedseg_large.training.data.sources import Pair
from embedseg_large.volumes.volume import Volume

CACHE_BYTES = 2**30

ANY = -1
"""Stands for an object that is only drawn once its volume is known."""

EMPTY = -2
"""Stands for a place without objects."""

HARDEST = 0.3
"""Fraction of the images that count as hard."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledVolume:
    """A volume of a source, with the objects to cut crops around.

    Parameters
    ----------
    image
        The image, its mask, ids and centres.
    objects
        Its objects, one row each, in the order of ``image.ids``.
    """

    image: AnnotatedImage
    objects: ObjectTable


class CropSource(Protocol):
    """Labelled volumes that crops are cut from. Picklable; random generators are passed in.

    For any caller and in any order, volume ``i`` has the same voxels and the same objects.
    """

    @property
    def name(self) -> str:
        """Its name in the log, in messages and in the model card."""

    @property
    def once(self) -> int:
        """Crops that show everything once."""

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose what `count` crops are cut around.

        Returns
        -------
        int64 ``(count, 2)``: a volume and the row of one of its objects, or `ANY`.
        """

    def volume(self, index: int) -> LabelledVolume:
        """Return a volume, ready to cut from; it holds at least one object."""

    def read(self, volume: Volume, box: Box) -> NDArray[Any]:
        """Read a box of an image or mask of one of its volumes."""

    def in_worker(self, workers: int) -> CropSource:
        """Return the same source for one of several worker processes, with its share of memory."""

    def facts(self) -> dict[str, Any]:
        """Return what determines its voxels, as values that JSON can hold."""

    def described(self) -> str:
        """Describe it in a few words."""


class AnnotatedSource:
    """Images with masks.

    Parameters
    ----------
    pairs, properties
        Images and masks, and the result of `measure` for them and possibly other images.
    centers
        float64 ``(n, ndim)``: what `find_centers` found for the objects of these pairs.
    cache_bytes
        Small images are kept in memory up to this many bytes, divided among the workers.
    hard_share
        Fraction of the crops from images whose error is among the largest 30 %.
    small_objects
        Factor by which an object below half the median size is sampled more often.
    name
        Name of the source.
    first
        Index of the first of `pairs` among the images of `properties`.

    Raises
    ------
    UsageError
        If `centers` do not match the objects.
    """

    errors: NDArray[np.float64]
    """Current error of each image, 0 to 1, by which hard ones are chosen; set it between epochs."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        properties: Properties,
        centers: NDArray[np.float64],
        *,
        cache_bytes: int = CACHE_BYTES,
        hard_share: float = 0.0,
        small_objects: float = 1.0,
        name: str = "annotated",
        first: int = 0,
    ) -> None:
        objects = properties.objects
        numbers = range(first, first + len(pairs))
        rows = [objects.rows_of(i) for i in numbers]
        own = slice(rows[0].start, rows[-1].stop) if rows else slice(0, 0)
        count = own.stop - own.start
        if centers.shape != (count, objects.starts.shape[1]):
            raise UsageError(f"centers {centers.shape} for {count} objects; find them again")
        self.name = name
        self._images = objects.images[own] - first
        self._firsts = np.array([of.start - own.start for of in rows])
        self._volumes = [
            LabelledVolume(
                AnnotatedImage(
                    pair,
                    properties.ranges[i],
                    objects.ids[of],
                    centers[of.start - own.start : of.stop - own.start],
                    None if properties.tables is None else properties.tables[i],
                ),
                objects.part(of),
            )
            for i, pair, of in zip(numbers, pairs, rows, strict=True)
        ]
        self._cache = Cache(cache_bytes)
        self._hard_share = hard_share
        sizes = objects.sizes[own]
        is_small = sizes < 0.5 * np.median(sizes)
        self._weights = np.where(is_small, small_objects, 1.0)
        self.errors = np.ones(len(pairs))

    @property
    def once(self) -> int:
        """Number of annotated objects."""
        return len(self._images)

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose objects: all of them as often as they go into `count`, then some.

        The remainder is drawn without replacement, see `drawn_rows`. If some images or objects are
        to occur more often, all are drawn with replacement.
        """
        if self._hard_share or (self._weights != 1).any():
            return self._located(self._drawn_by_weight(count, rng))
        whole, left = divmod(count, self.once)
        chosen = [rng.permutation(self.once) for _ in range(whole)]
        if left:
            chosen.append(drawn_rows(self._images, left, rng))
        return self._located(np.concatenate(chosen) if chosen else np.zeros(0, np.int64))

    def _located(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return image and row in the image of objects."""
        images = self._images[rows]
        return np.stack([images, rows - self._firsts[images]], axis=-1)

    def _drawn_by_weight(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw hard objects, other objects, and their order."""
        weights = self._weights / np.sqrt(np.bincount(self._images)[self._images])
        hard = weights * (self.errors >= np.quantile(self.errors, 1 - HARDEST))[self._images]
        n_hard = round(self._hard_share * count)
        parts = [(n_hard, hard), (count - n_hard, weights)]
        drawn = [rng.choice(self.once, n, p=w / w.sum()) for n, w in parts]
        return rng.permutation(np.concatenate(drawn))

    def volume(self, index: int) -> LabelledVolume:
        """Return an image with its objects."""
        return self._volumes[index]

    def read(self, volume: Volume, box: Box) -> NDArray[Any]:
        """Read a box through the cache."""
        return self._cache.read(volume, box)

    def in_worker(self, workers: int) -> AnnotatedSource:
        """Reopen files, and take a share of the memory.

        A forked worker would share the position in an open file with its siblings, and all of them
        would read wrong bytes.
        """
        mine = copy(self)
        mine._volumes = [
            replace(v, image=replace(v.image, pair=_reopened(v.image.pair))) for v in self._volumes
        ]
        mine._cache = Cache(self._cache.total // workers)
        return mine

    def facts(self) -> dict[str, Any]:
        """Return nothing: the properties of the data, which are recorded, describe its objects."""
        return {}

    def described(self) -> str:
        """Count images and objects."""
        return f"{len(self._volumes)} images, {self.once:,} objects"


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Sources, each with its share of the crops.

    Parameters
    ----------
    sources
        At least one; an epoch shows the first one once, unless its length is stated.
    shares
        Fractions of the crops, which add up to 1.

    Raises
    ------
    UsageError
        If the shares are not fractions, or not one for each source.
    """

    sources: tuple[CropSource, ...]
    shares: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.sources or len(self.sources) != len(self.shares):
            raise UsageError(f"{len(self.shares)} shares for {len(self.sources)} sources of crops")
        if min(self.shares) <= 0 or not isclose(sum(self.shares), 1):
            raise UsageError(f"shares are {self.shares}; pass positive numbers that add up to 1")

    @property
    def once(self) -> int:
        """Crops of an epoch that shows the first source once."""
        return ceil(self.sources[0].once / self.shares[0])

    def order(
        self, count: int, rng: np.random.Generator, *, empty_share: float = 0.0
    ) -> NDArray[np.int64]:
        """Choose the crops of an epoch.

        Parameters
        ----------
        count
            Number of crops. Each source gets its share, to within one crop.
        rng
            The only source of randomness.
        empty_share
            Fraction of the crops from empty places.

        Returns
        -------
        int64 ``(count, 3)``: source, volume, and object, `ANY` or `EMPTY`.
        """
        order = self._shared_out(count, rng)
        if empty_share:
            order[rng.permutation(count)[: round(empty_share * count)], 2] = EMPTY
        return order

    def _shared_out(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        if len(self.sources) == 1:
            drawn = self.sources[0].draw(count, rng)
            return np.concatenate([np.zeros((count, 1), np.int64), drawn], axis=1)
        counts = self._counts(count)
        order = np.empty((count, 3), np.int64)
        order[:, 0] = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        for number, source in enumerate(self.sources):
            order[order[:, 0] == number, 1:] = source.draw(int(counts[number]), rng)
        return order

    def in_worker(self, workers: int) -> Mixture:
        """Return the same sources for one of several worker processes."""
        return Mixture(tuple(s.in_worker(workers) for s in self.sources), self.shares)

    def facts(self) -> dict[str, Any]:
        """Describe sources and shares; empty if there are only annotated images."""
        found: dict[str, Any] = {}
        for source, share in zip(self.sources, self.shares, strict=True):
            found |= source.facts()
            if len(self.sources) > 1:
                found[f"{source.name}_share"] = share
        return found

    def described(self) -> dict[str, str]:
        """Describe each source; nothing where there is only one, of annotated images."""
        if len(self.sources) == 1 and isinstance(self.sources[0], AnnotatedSource):
            return {}
        parts = zip(self.sources, self.shares, strict=True)
        return {s.name: f"{s.described()}, {share:.0%} of the crops" for s, share in parts}

    def _counts(self, count: int) -> NDArray[np.int64]:
        """Distribute a number of crops by largest remainder."""
        wanted = np.asarray(self.shares) * count
        counts: NDArray[np.int64] = np.floor(wanted).astype(np.int64)
        most = np.argsort(counts - wanted, kind="stable")[: count - counts.sum()]
        counts[most] += 1
        return counts


def drawn_rows(
    images: NDArray[np.integer], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw rows of objects without replacement, in random order.

    An object's weight is one over the square root of the number of objects in its image, so that
    an image with a hundred times the objects is seen ten times as often, not a hundred times.

    Parameters
    ----------
    images
        ``(n,)``: the image of each object.
    count
        Rows to draw, at most n.
    rng
        The only source of randomness.
    """
    weights = 1 / np.sqrt(np.bincount(images)[images])
    rows: NDArray[np.int64]
    rows = rng.choice(len(images), count, replace=False, p=weights / weights.sum())
    return rows


def _reopened(pair: Pair) -> Pair:
    """Return the pair without the files that this process has opened."""

    def fresh(volume: Volume) -> Any:
        return replace(volume, storage=copy(volume.storage))  # its copies are not open

    return replace(pair, image=fresh(pair.image), mask=fresh(pair.mask))
