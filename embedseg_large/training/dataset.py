"""Crops as a torch dataset: the same crops in the same order, whoever cuts them.

Sample ``i`` of epoch ``e`` depends on the seed, on ``e`` and on ``i``, and on nothing else: not on
the workers, not on the process, not on what was cut before. The key of a sample is the pair
``(e, i)``, so workers that live for many epochs need not be told which one it is, and training
continues in the middle of an epoch::

    data = CropDataset(pairs, properties, find_centers(pairs, properties.objects), seed=1)
    order = EpochSampler(len(data))
    loader = DataLoader(data, batch_size=2, sampler=order, collate_fn=collate,
                        num_workers=2, persistent_workers=True)
    for epoch in range(epochs):
        order.epoch = epoch
        for batch in loader: ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler, get_worker_info

from embedseg_large.errors import UsageError
from embedseg_large.io.volume import Volume
from embedseg_large.training.augment import AugmentSettings, allowed_symmetries, draw_view
from embedseg_large.training.crops import AnnotatedImage, Cache, cut
from embedseg_large.training.intensities import distort
from embedseg_large.training.properties import Properties
from embedseg_large.training.sources import Pair
from embedseg_large.training.targets import Sample

Key = tuple[int, int]
"""Epoch and number of a sample in it."""

CACHE_BYTES = 2**30


class CropDataset(Dataset[Sample]):
    """Every annotated object once an epoch, each in a crop around it.

    Parameters
    ----------
    pairs, properties
        The training data and what `measure` found in them.
    centers
        float64 ``(n, ndim)``: what `find_centers` found for ``properties.objects``.
    augment
        What happens to crops; None leaves them as they are.
    seed
        Of the order of the objects and of all that is random about crops.
    epoch_crops
        Crops of an epoch; None or more than there are objects: every object once.
    cache_bytes
        Small images are kept in memory up to this many bytes, shared out among the workers.

    Raises
    ------
    UsageError
        The data do not allow the symmetries, or `centers` do not belong to the objects.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        properties: Properties,
        centers: NDArray[np.float64],
        *,
        augment: AugmentSettings | None = None,
        seed: int = 0,
        epoch_crops: int | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        objects = properties.objects
        if centers.shape != objects.starts.shape:
            raise UsageError(f"centers {centers.shape} for {len(objects)} objects; find them again")
        self.properties = properties
        self.augment = AugmentSettings.none() if augment is None else augment
        self.seed = seed
        self._symmetries = allowed_symmetries(
            self.augment.symmetries, properties.pitch, properties.voxel_size
        )
        self._sources = []
        for i, (pair, ranges) in enumerate(zip(pairs, properties.ranges, strict=True)):
            rows = objects.rows_of(i)
            self._sources.append(AnnotatedImage(pair, ranges, objects.ids[rows], centers[rows]))
        self._length = min(epoch_crops or len(objects), len(objects))
        self._cache = Cache(cache_bytes)
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._worker: int | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: Key) -> Sample:
        """Cut sample ``i`` of epoch ``e``; the key is ``(e, i)``, i below the length."""
        epoch, i = key
        self._enter_worker()
        rng = np.random.default_rng((self.seed, epoch, i + 1))
        row = int(self._order_of(epoch)[i])
        objects = self.properties.objects
        view = draw_view(self.augment, self._symmetries, rng)
        intensity = self.augment.intensity
        changes = partial(distort, settings=intensity, rng=rng)
        return cut(
            self._sources[objects.images[row]],
            objects.box(row),
            self.properties.crop,
            view,
            read=self._cache.read,
            distort=changes if intensity.probability else None,
        )

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        """Return the rows of the objects in the order of an epoch."""
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch, 0))  # samples count from 1
            objects = self.properties.objects
            if self._length == len(objects):
                order = rng.permutation(self._length)
            else:
                order = drawn_rows(objects.images, self._length, rng)
            self._order = epoch, order
        return self._order[1]

    def _enter_worker(self) -> None:
        """Open files anew in a worker, and take its share of the memory.

        A forked worker would share the position in an open file with its siblings, and all of them
        would read wrong bytes.
        """
        info = get_worker_info()
        if info is None or self._worker == info.id:
            return
        self._worker = info.id
        self._sources = [replace(s, pair=_reopened(s.pair)) for s in self._sources]
        self._cache = Cache(self._cache.total // info.num_workers)


class EpochSampler(Sampler[Key]):
    """Keys of one epoch, or of what is left of it.

    Parameters
    ----------
    length
        Samples of an epoch, at most the length of the dataset.
    rank, world
        Which of how many processes trains with these keys; all get equally many.

    Raises
    ------
    UsageError
        There are fewer samples than processes.
    """

    epoch: int
    """The epoch that the next iteration goes through; set it before each."""
    start: int
    """Samples (of this process) of that epoch to leave out, when training is resumed in it."""

    def __init__(self, length: int, *, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world <= length:
            raise UsageError(f"{length} samples an epoch for process {rank} of {world}; use fewer")
        self.epoch = 0
        self.start = 0
        self._samples = range(rank, length - length % world, world)

    def __len__(self) -> int:
        return len(self._samples[self.start :])

    def __iter__(self) -> Iterator[Key]:
        epoch = self.epoch
        return ((epoch, i) for i in self._samples[self.start :])


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
    return rng.choice(len(images), count, replace=False, p=weights / weights.sum())


def _reopened(pair: Pair) -> Pair:
    """Return the pair without the files that this process has opened."""

    def fresh(volume: Volume) -> Any:
        return replace(volume, storage=copy(volume.storage))  # its copies are not open

    return replace(pair, image=fresh(pair.image), mask=fresh(pair.mask))
