"""The middle of objects; and labels without certainty, converted into named instances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import Clustering, OpenFaces
from embedseg_large.methods.storing import probability
from embedseg_large.stitching.middle import middles, numbered


def unproven(
    labels: NDArray[Any], logits: NDArray[np.float32], least: int, open_faces: OpenFaces
) -> Clustering:
    """Name each label by its most central voxel; no instance is certain.

    Parameters
    ----------
    labels
        ``(*region)`` integers, 0 for background.
    logits
        ``(*region)`` logits of foreground; the probability at the middle is recorded.
    least
        Only instances with more voxels than this, and those at an open face, are kept.
    open_faces
        For each axis: whether the volume continues below the low and above the high face.
    """
    found, count = numbered(labels, least, open_faces[-labels.ndim :])
    seeds = middles(found, count)
    return Clustering(
        labels=found,
        seeds=seeds,
        seediness=probability(logits.reshape(-1)[seeds]),
        certain=np.zeros(count, np.bool_),
        doubtful=np.arange(found.size),
    )


def most_central(own: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels of a mask that are nearest to its centroid, including all ties.

    The arithmetic is exact, so a mask and its mirror image have them at mirrored positions.
    """
    at = np.argwhere(own)
    square = ((len(at) * at - at.sum(axis=0)) ** 2).sum(axis=1)
    middle = np.zeros(own.shape, np.bool_)
    middle[tuple(at[square == square.min()].T)] = True
    return middle
