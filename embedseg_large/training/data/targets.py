"""Training crops, and the batch of them that network and loss read.

A batch stores which voxel belongs to which instance as a list of *memberships*, grouped by
instance, instead of one mask per instance. Overlapping objects then need no special case (a voxel
appears once for each), and sums over instances are segmented sums, without loops::

    voxels     17 18 33 34 | 18 19 35 | 70 71       flat index into (samples, *spatial)
    instances   0  0  0  0 |  1  1  1 |  2  2       0 .. K-1 over the whole batch
    sizes                4 |        3 |    2
    samples              0 |        0 |    1        the sample that holds the instance
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedseg_large.errors import UsageError
from embedseg_large.fields import UNANNOTATED


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One crop.

    Parameters
    ----------
    image
        float32 ``(channels, *spatial)``, normalised.
    labels
        int32 ``(*spatial)``: 0 background, 1 to K the instances of the crop, -1 ignored.
    masks
        bool ``(K, *spatial)`` where objects overlap, otherwise None. With masks, `labels` only
        distinguishes ignored (-1), background (0) and foreground (above 0).
    centers
        float32 ``(K, ndim)``: z, y, x of each instance's centre in voxels of the crop. NaN where
        the centre is outside the crop or not in its instance: it becomes the mean of the
        instance's coordinates in the crop, unrounded.

    Raises
    ------
    UsageError
        If the shapes do not match, or a label has no centre.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.int32]
    masks: NDArray[np.bool_] | None
    centers: NDArray[np.float32]

    def __post_init__(self) -> None:
        shape, n = self.labels.shape, len(self.centers)
        found = {"image": self.image.shape[1:], "centers": self.centers.shape}
        wanted = {"image": shape, "centers": (n, len(shape))}
        if self.masks is not None:
            found["masks"], wanted["masks"] = self.masks.shape, (n, *shape)
        for name in wanted:
            if found[name] != wanted[name]:
                raise UsageError(f"{name} {found[name]} in a crop; pass {wanted[name]}")
        if self.masks is None and self.labels.max(initial=0) > n:
            raise UsageError(f"label {self.labels.max()} in a crop with {n} centers; pass one each")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Crops of one shape, and the memberships of their K instances.

    Instances without a voxel that counts are left out. Grouped by sample, then in the
    order of the sample's labels or masks.

    Parameters
    ----------
    image
        float32 ``(samples, channels, *spatial)``.
    annotated
        bool ``(samples, *spatial)``: voxels that count.
    background
        bool ``(samples, *spatial)``: voxels that count and belong to no instance.
    voxels
        int64 ``(memberships,)``: flat index into ``(samples, *spatial)``, grouped by instance,
        ascending within.
    instances
        int64 ``(memberships,)``: instance of each membership, 0 to K-1, ascending.
    sizes
        int64 ``(K,)``: number of voxels of each instance.
    samples
        int64 ``(K,)``: sample of each instance, ascending.
    centers
        float32 ``(K, ndim)``: z, y, x in voxels of the crop.
    """

    image: Tensor
    annotated: Tensor
    background: Tensor
    voxels: Tensor
    instances: Tensor
    sizes: Tensor
    samples: Tensor
    centers: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return Batch(*(t.to(device, non_blocking=non_blocking) for t in self._tensors()))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; DataLoaders call this."""
        return Batch(*(t.pin_memory() for t in self._tensors()))

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


def collate(samples: Sequence[Sample]) -> Batch:
    """Join crops of one shape into a batch.

    Raises
    ------
    UsageError
        If there is no sample, or their shapes differ.
    """
    shapes = sorted({sample.image.shape for sample in samples})
    if len(shapes) != 1:
        raise UsageError(f"crops of shapes {shapes} in one batch; pass crops of one shape")
    parts = [_members(sample) for sample in samples]
    labels = np.stack([sample.labels for sample in samples])
    counts = [len(part.sizes) for part in parts]
    volume = labels[0].size
    return Batch(
        image=torch.from_numpy(np.stack([sample.image for sample in samples], dtype=np.float32)),
        annotated=torch.from_numpy(labels != UNANNOTATED),
        background=torch.from_numpy(labels == 0),
        voxels=_joined([part.voxels + i * volume for i, part in enumerate(parts)]),
        instances=_joined(
            [part.instances + n for n, part in zip(accumulate(counts, initial=0), parts)]  # noqa: B905
        ),
        sizes=_joined([part.sizes for part in parts]),
        samples=torch.from_numpy(np.repeat(np.arange(len(samples)), counts)),
        centers=_joined([part.centers for part in parts]),
    )


class _Members(NamedTuple):
    """The memberships of one crop; the fields of a Batch, numbered from 0."""

    voxels: NDArray[np.int64]
    instances: NDArray[np.int64]
    sizes: NDArray[np.int64]
    centers: NDArray[np.float32]


def _members(sample: Sample) -> _Members:
    """Return the memberships of a crop, empty instances left out."""
    voxels, numbers = _memberships(sample)
    sizes = np.bincount(numbers, minlength=len(sample.centers))
    kept = sizes > 0
    instances = (np.cumsum(kept) - 1)[numbers]
    coordinates = np.unravel_index(voxels, sample.labels.shape)
    sums = [np.bincount(numbers, weights=x, minlength=len(kept)) for x in coordinates]
    means = (np.stack(sums, axis=-1)[kept] / sizes[kept, None]).astype(np.float32)
    centers = sample.centers[kept]
    lost = np.isnan(centers).any(axis=1, keepdims=True)
    return _Members(voxels, instances, sizes[kept], np.where(lost, means, centers))


def _memberships(sample: Sample) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return flat voxel index and instance (0 to K-1) of each membership, grouped by instance."""
    labels = sample.labels.ravel()
    if sample.masks is not None:
        masks = sample.masks.reshape(len(sample.masks), -1)
        numbers, voxels = np.nonzero(masks & (labels != UNANNOTATED))
        return voxels, numbers
    voxels = np.flatnonzero(labels > 0)
    numbers = labels[voxels].astype(np.int64) - 1
    order = np.argsort(numbers, kind="stable")
    return voxels[order], numbers[order]


def _joined(arrays: list[NDArray[np.int64]] | list[NDArray[np.float32]]) -> Tensor:
    """Return the arrays one after the other, as a tensor."""
    return torch.from_numpy(np.concatenate(arrays))
