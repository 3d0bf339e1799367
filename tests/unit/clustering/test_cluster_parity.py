"""The clustering finds voxel for voxel what the original program found."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import cluster
from embedseg_large.embedding import Embedding

PARITY = Path(__file__).parents[2] / "data" / "parity"


def differing_voxels(found: NDArray[np.integer], expected: NDArray[np.integer]) -> int:
    """Voxels that differ under the best renaming, which must be one to one."""
    pairs, counts = np.unique(
        np.stack([found.reshape(-1), expected.reshape(-1)]), axis=1, return_counts=True
    )
    order = np.argsort(-counts)
    names: dict[int, int] = {}
    agreed = 0
    for (one, other), count in zip(pairs[:, order].T.tolist(), counts[order].tolist(), strict=True):
        if one not in names and other not in names.values() and (one == 0) == (other == 0):
            names[one] = other
            agreed += count
    return found.size - agreed


@pytest.mark.parametrize("case", ["clean", "noisy", "hard"])
def test_labels_equal_those_of_the_original(case: str) -> None:
    with np.load(PARITY / f"cluster_3d_{case}.npz") as file:
        raw, expected = file["prediction"].astype(np.float32), file["labels"]
        pitch = tuple(file["pixel"] / (file["grid"] - 1))
    labels = cluster(Embedding.from_raw(raw, pitch), min_object_size=36)
    assert labels.max() == len(np.unique(expected)) - 1 > 40
    assert differing_voxels(labels, expected) == 0


def test_a_difference_would_be_counted() -> None:
    labels = np.array([0, 1, 1, 2, 2, 2])
    assert differing_voxels(labels, np.array([0, 5, 5, 3, 3, 3])) == 0
    assert differing_voxels(labels, np.array([0, 5, 5, 5, 3, 3])) == 1
    assert differing_voxels(labels, np.array([0, 5, 5, 5, 5, 5])) == 2
