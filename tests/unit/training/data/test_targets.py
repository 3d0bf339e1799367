"""A batch holds exactly the voxels of its crops' instances, and nothing that is ignored."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.training.data.targets import Batch, Sample, collate

LABELS = np.array([[1, 1, 0, -1], [0, 2, 2, 2], [0, 0, 2, -1]], np.int32)
CENTERS = np.array([[0, 1], [1, 2]], np.float32)


def sample(
    labels: NDArray[np.int32] = LABELS,
    centers: NDArray[np.float32] = CENTERS,
    masks: NDArray[np.bool_] | None = None,
) -> Sample:
    return Sample(np.ones((1, *labels.shape), np.float32), labels, masks, centers)


def members(batch: Batch) -> list[list[int]]:
    """Voxels of each instance."""
    return [v.tolist() for v in torch.split(batch.voxels, batch.sizes.tolist())]


def test_memberships_are_grouped_by_instance_over_the_whole_batch() -> None:
    batch = collate([sample(), sample()])
    first = [[0, 1], [5, 6, 7, 10]]
    assert members(batch) == first + [[v + LABELS.size for v in m] for m in first]
    assert batch.instances.tolist() == [0] * 2 + [1] * 4 + [2] * 2 + [3] * 4
    assert batch.samples.tolist() == [0, 0, 1, 1]
    assert batch.image.shape == (2, 1, 3, 4)


def test_ignored_voxels_are_neither_background_nor_members() -> None:
    batch = collate([sample()])
    assert torch.equal(batch.annotated[0], torch.from_numpy(LABELS >= 0))
    assert torch.equal(batch.background[0], torch.from_numpy(LABELS == 0))


def test_overlapping_masks_share_voxels_and_lose_ignored_ones() -> None:
    masks = np.zeros((2, *LABELS.shape), bool)
    masks[0, :2], masks[1, 1:] = True, True
    labels = np.where(LABELS == -1, -1, 1).astype(np.int32)
    assert members(collate([sample(labels, masks=masks)])) == [
        [0, 1, 2, 4, 5, 6, 7],
        [4, 5, 6, 7, 8, 9, 10],
    ]


def test_a_lost_centre_becomes_the_unrounded_mean_in_the_crop() -> None:
    centers = np.array([[0, 1], [np.nan, np.nan]], np.float32)
    batch = collate([sample(centers=centers)])
    assert batch.centers.tolist() == [[0, 1], [1.25, 2]]


def test_instances_without_a_voxel_that_counts_are_left_out() -> None:
    labels = np.where(LABELS == 1, -1, LABELS)
    batch = collate([sample(labels), sample()])
    assert batch.sizes.tolist() == [4, 2, 4]
    assert batch.samples.tolist() == [0, 1, 1]
    assert batch.instances.tolist() == [0] * 4 + [1] * 2 + [2] * 4
    assert batch.centers.tolist() == [[1, 2], [0, 1], [1, 2]]


def test_a_crop_without_instances_is_a_crop() -> None:
    batch = collate([sample(np.zeros_like(LABELS), np.zeros((0, 2), np.float32))])
    assert len(batch.voxels) == len(batch.sizes) == 0
    assert batch.centers.shape == (0, 2)


def test_a_batch_moves_as_a_whole() -> None:
    moved = collate([sample()]).to("meta")
    assert all(getattr(moved, name).is_meta for name in Batch.__slots__)


def test_a_batch_travels_between_processes() -> None:
    batch = collate([sample()])
    copy = pickle.loads(pickle.dumps(batch))
    assert all(torch.equal(getattr(copy, n), getattr(batch, n)) for n in Batch.__slots__)


def test_images_become_float32() -> None:
    double = Sample(np.ones((1, *LABELS.shape)), LABELS, None, CENTERS)
    assert collate([double]).image.dtype == torch.float32


def test_crops_of_different_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="crops of one shape"):
        collate([sample(), sample(LABELS[:, :2])])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"centers": CENTERS[:1]}, "label 2"),
        ({"centers": np.zeros((2, 3), np.float32)}, "centers"),
        ({"masks": np.zeros((1, *LABELS.shape), bool)}, "masks"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    change: dict[str, NDArray[np.generic]], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        sample(**change)  # type: ignore[arg-type]
