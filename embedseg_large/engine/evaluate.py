"""Compare two label volumes of any size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.io.volume import Volume, open_volume
from embedseg_large.metrics.contingency import Contingency
from embedseg_large.metrics.scores import Score, scores

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_EDGE = {2: 4096, 3: 256}
"""Of the boxes that are read at a time, in voxels, by ndim."""


def evaluate(
    prediction: Any,
    truth: Any,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    axes: str | None = None,
) -> list[Score]:
    """Score predicted instances against true ones.

    Parameters
    ----------
    prediction, truth
        Integer labels of the same shape, 0 for background: arrays, or paths of label groups
        (``STORE/labels/NAME``), TIFFs or zarr arrays. Read box by box.
    thresholds
        Intersection over union from which a pair of instances counts as found.
    axes
        Letters of the axes of files that do not say it, such as ``zyx`` for a plain TIFF.

    Returns
    -------
    One `Score` a threshold: AP = TP / (TP + FP + FN), precision, recall, F1, PQ and mean IoU of
    the pairs, from a one-to-one matching.

    Raises
    ------
    VolumeError
        When a side cannot be read, holds no integers, or the shapes differ.
    UsageError
        When a threshold is not between 0 and 1, or a side is an image.
    """
    return scores(compare_volumes(_labels(prediction, axes), _labels(truth, axes)), thresholds)


def compare_volumes(prediction: Volume, truth: Volume) -> Contingency:
    """The contingency of two label volumes, added up over boxes."""
    if prediction.shape != truth.shape:
        raise VolumeError(
            f"the prediction has shape {prediction.shape}, the truth {truth.shape}; "
            "compare volumes of the same level and region"
        )
    if "t" in prediction.axes:
        raise VolumeError(
            f"the labels have {prediction.n_timepoints} timepoints; compare them one by one"
        )
    boxes = Box.whole(truth.spatial_shape).split((_EDGE[truth.ndim],) * truth.ndim)
    parts = (Contingency.of(prediction.read(box), truth.read(box)) for box in boxes)
    return reduce(add, parts, Contingency.empty())


def _labels(source: Any, axes: str | None) -> Volume:
    volume = source if isinstance(source, Volume) else open_volume(source, axes=axes)
    inside = None if volume.path is None else Path(volume.path, "labels")
    if not volume.is_labels and inside is not None and inside.is_dir():
        raise UsageError(f"{volume.path} is an image; give its labels: {inside}/NAME")
    return volume
