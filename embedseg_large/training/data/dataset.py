"""Crops as a torch dataset: the same crops in the same order in any process.

Sample ``i`` of epoch ``e`` depends only on the seed, on ``e`` and on ``i``: not on the workers, the
process, or earlier crops. The key of a sample is the pair ``(e, i)``, so workers that live for many
epochs need not know the current one, and training continues in the middle of an epoch::

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
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler, get_worker_info

from embedseg_large.errors import UsageError
from embedseg_large.training.data.augment import (
    AugmentSettings,
    View,
    allowed_symmetries,
    draw_view,
    source_shape,
)
from embedseg_large.training.data.crops import cut, emptiest
from embedseg_large.training.data.intensities import distort, drawn_ranges
from embedseg_large.training.data.properties import Properties
from embedseg_large.training.data.supply import (
    ANY,
    EMPTY,
    AnnotatedSource,
    LabelledVolume,
    Mixture,
)
from embedseg_large.training.data.targets import Sample

Key = tuple[int, int]
"""Epoch and number of a sample in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """Settings that differ in the last epochs of a training."""

    epoch: int
    """The first of these epochs, counted from 0."""
    crop: tuple[int, ...] | None = None
    """Shape of a crop; None: unchanged."""
    ranges: float = 1.0
    """Factor on the ranges of augmentation."""
    shares: tuple[float, ...] | None = None
    """Fractions of the crops from each source; None: unchanged."""


class CropDataset(Dataset[Sample]):
    """Crops around objects: for annotated images alone, every object once per epoch.

    Parameters
    ----------
    mixture
        The sources of the crops.
    properties
        What `measure` found in the training data.
    augment
        Augmentation of crops; None: none.
    seed
        Seed of the order of objects and of everything random about crops.
    epoch_crops
        Crops per epoch; None: enough to show the first source once. For annotated images alone that
        is also the maximum, unless they `repeat`.
    repeat
        Whether an epoch may show an object several times.
    empty_share
        Fraction of the crops from places with hardly any objects, or none.
    synthetic_ranges
        Factor on the ranges of augmentation for crops from volumes that already vary.
    late
        Settings of the last epochs; None: unchanged.

    Raises
    ------
    UsageError
        If the data do not allow the symmetries.
    """

    def __init__(
        self,
        mixture: Mixture,
        properties: Properties,
        *,
        augment: AugmentSettings | None = None,
        seed: int = 0,
        epoch_crops: int | None = None,
        repeat: bool = False,
        empty_share: float = 0.0,
        synthetic_ranges: float = 1.0,
        late: Late | None = None,
    ) -> None:
        self.mixture = mixture
        self.properties = properties
        self.augment = AugmentSettings.none() if augment is None else augment
        self.seed = seed
        self._symmetries = allowed_symmetries(
            self.augment.symmetries, properties.pitch, properties.voxel_size
        )
        self._length = epoch_crops or mixture.once
        self._empty_share = empty_share
        self._synthetic_ranges = synthetic_ranges
        self._late = late
        if not repeat and all(isinstance(s, AnnotatedSource) for s in mixture.sources):
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
        volume = self.mixture.sources[number].volume(index)
        augment, crop = self._augment_of(number, epoch), self.crop_of(epoch)
        view = draw_view(augment, self._symmetries, rng)
        sample = self._cut(number, volume, row, crop, view, augment, rng)
        intensity = augment.intensity
        if intensity.is_nothing:
            return sample
        objects = sample.labels if sample.masks is None else sample.masks
        return replace(sample, image=distort(sample.image, intensity, rng, objects))

    def _cut(
        self,
        number: int,
        volume: LabelledVolume,
        row: int,
        crop: tuple[int, ...],
        view: View,
        augment: AugmentSettings,
        rng: np.random.Generator,
    ) -> Sample:
        read = self.mixture.sources[number].read
        image = volume.image
        if augment.intensity.draws_percentiles and image.tables is not None:
            ranges = drawn_ranges(image.tables, image.ranges, augment.intensity, rng)
            image = replace(image, ranges=ranges)
        if row == EMPTY:
            target = emptiest(image, source_shape(crop, view), rng, read=read)
        else:
            row = int(rng.integers(len(volume.objects))) if row == ANY else row
            target = volume.objects.box(row)
        return cut(image, target, crop, view, read=read)

    def crop_of(self, epoch: int) -> tuple[int, ...]:
        """Return the shape of the crops of an epoch."""
        late = self._late_in(epoch)
        return self.properties.crop if late is None or late.crop is None else late.crop

    def origin(self, key: Key) -> tuple[int, int]:
        """Return the source and the volume that a sample is cut from."""
        epoch, i = key
        number, index, _ = self._order_of(epoch)[i].tolist()
        return number, index

    @property
    def errors(self) -> NDArray[np.float64] | None:
        """Current error of each annotated image; None where there is none."""
        first = self.mixture.sources[0]
        return first.errors if isinstance(first, AnnotatedSource) else None

    @errors.setter
    def errors(self, values: NDArray[np.float64]) -> None:
        first = self.mixture.sources[0]
        assert isinstance(first, AnnotatedSource)
        first.errors = values
        self._order = None

    def _late_in(self, epoch: int) -> Late | None:
        return None if self._late is None or epoch < self._late.epoch else self._late

    def _augment_of(self, number: int, epoch: int) -> AugmentSettings:
        """Return the augmentation of crops from a source in an epoch."""
        late = self._late_in(epoch)
        ranges = 1.0 if late is None else late.ranges
        if not isinstance(self.mixture.sources[number], AnnotatedSource):
            ranges *= self._synthetic_ranges
        return self.augment.narrowed(ranges)

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        """Return source, volume and object of each crop of an epoch."""
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch, 0))  # samples count from 1
            late = self._late_in(epoch)
            mixture = self.mixture
            if late is not None and late.shares is not None:
                mixture = replace(mixture, shares=late.shares)
            order = mixture.order(self._length, rng, empty_share=self._empty_share)
            self._order = epoch, order
        return self._order[1]

    def _enter_worker(self) -> None:
        """In a worker process, use the sources prepared for one of several processes."""
        info = get_worker_info()
        if info is None or self._worker == info.id:
            return
        self._worker = info.id
        self.mixture = self.mixture.in_worker(info.num_workers)


class EpochSampler(Sampler[Key]):
    """Keys of one epoch, or of the beginning of it.

    Parameters
    ----------
    length
        Samples of an epoch, at most the length of the dataset.
    rank, world
        Rank of the process, and number of processes; all get the same number of keys.

    Raises
    ------
    UsageError
        If there are fewer samples than processes.
    """

    epoch: int
    """The epoch that the next iteration goes through; set it before each."""
    stop: int | None
    """Samples (of this process) after which the epoch ends; None: all of them."""

    def __init__(self, length: int, *, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world <= length:
            raise UsageError(f"{length} samples per epoch for process {rank} of {world}; use fewer")
        self.epoch = 0
        self.stop = None
        self._samples = range(rank, length - length % world, world)

    def __len__(self) -> int:
        return len(self._samples[: self.stop])

    def __iter__(self) -> Iterator[Key]:
        epoch = self.epoch
        return ((epoch, i) for i in self._samples[: self.stop])
