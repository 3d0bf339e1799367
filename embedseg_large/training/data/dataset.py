"""Crops as a torch dataset: the same crops in the same order, whoever cuts them.

Sample ``i`` of epoch ``e`` depends on the seed, on ``e`` and on ``i``, and on nothing else: not on
the workers, not on the process, not on what was cut before. The key of a sample is the pair
``(e, i)``, so workers that live for many epochs need not be told which one it is, and training
continues in the middle of an epoch::

    source = AnnotatedSource(pairs, properties, find_centers(pairs, properties.objects))
    data = CropDataset(Mixture((source,)), properties, seed=1)
    order = EpochSampler(len(data))
    loader = DataLoader(data, batch_size=2, sampler=order, collate_fn=collate,
                        num_workers=2, persistent_workers=True)
    for epoch in range(epochs):
        order.epoch = epoch
        for batch in loader: ...
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler, get_worker_info

from embedseg_large.errors import UsageError
from embedseg_large.training.data.augment import AugmentSettings, allowed_symmetries, draw_view
from embedseg_large.training.data.crops import cut
from embedseg_large.training.data.intensities import distort
from embedseg_large.training.data.properties import Properties
from embedseg_large.training.data.supply import ANY, AnnotatedSource, Mixture
from embedseg_large.training.data.targets import Sample

Key = tuple[int, int]
"""Epoch and number of a sample in it."""


class CropDataset(Dataset[Sample]):
    """Crops around objects: of annotated images alone, every object once an epoch.

    Parameters
    ----------
    mixture
        Where the crops come from.
    properties
        What `measure` found in the training data.
    augment
        What happens to crops; None leaves them as they are.
    seed
        Of the order of the objects and of all that is random about crops.
    epoch_crops
        Crops of an epoch; None: those that show the first source once. Of annotated images alone
        there are never more than that.

    Raises
    ------
    UsageError
        The data do not allow the symmetries.
    """

    def __init__(
        self,
        mixture: Mixture,
        properties: Properties,
        *,
        augment: AugmentSettings | None = None,
        seed: int = 0,
        epoch_crops: int | None = None,
    ) -> None:
        self.mixture = mixture
        self.properties = properties
        self.augment = AugmentSettings.none() if augment is None else augment
        self.seed = seed
        self._symmetries = allowed_symmetries(
            self.augment.symmetries, properties.pitch, properties.voxel_size
        )
        self._length = epoch_crops or mixture.once
        if all(isinstance(source, AnnotatedSource) for source in mixture.sources):
            self._length = min(self._length, mixture.once)
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._worker: int | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: Key) -> Sample:
        """Cut sample ``i`` of epoch ``e``; the key is ``(e, i)``, i below the length."""
        epoch, i = key
        self._enter_worker()
        rng = np.random.default_rng((self.seed, epoch, i + 1))
        number, index, row = (int(n) for n in self._order_of(epoch)[i])
        source = self.mixture.sources[number]
        volume = source.volume(index)
        if row == ANY:
            row = int(rng.integers(len(volume.objects)))
        view = draw_view(self.augment, self._symmetries, rng)
        intensity = self.augment.intensity
        changes = partial(distort, settings=intensity, rng=rng)
        return cut(
            volume.image,
            volume.objects.box(row),
            self.properties.crop,
            view,
            read=source.read,
            distort=changes if intensity.probability else None,
        )

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        """Return source, volume and object of each crop of an epoch."""
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch, 0))  # samples count from 1
            self._order = epoch, self.mixture.order(self._length, rng)
        return self._order[1]

    def _enter_worker(self) -> None:
        """In a worker process, take the sources as they are for one of several."""
        info = get_worker_info()
        if info is None or self._worker == info.id:
            return
        self._worker = info.id
        self.mixture = self.mixture.in_worker(info.num_workers)


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
