"""How good a model is on whole images, by the instances it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import cluster
from embedseg_large.geometry import Box
from embedseg_large.io.intensity import IntensityRange, normalise
from embedseg_large.metrics.contingency import Contingency
from embedseg_large.metrics.scores import Score, scores
from embedseg_large.network.model import Model
from embedseg_large.training.sources import Pair
from embedseg_large.training.targets import IGNORED

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Validation:
    """Average precision, AP = TP / (TP + FP + FN), pooled over the objects of all images."""

    ap: dict[float, float]
    """At each IoU threshold."""

    @property
    def score(self) -> float:
        """Mean over the thresholds 0.5 to 0.9: what the best model has most of."""
        return float(np.mean(list(self.ap.values())))


def validate(
    model: Model,
    pairs: Sequence[Pair],
    ranges: Sequence[Sequence[IntensityRange]],
    *,
    tta: bool = False,
) -> Validation:
    """Segment whole images with a model and score the instances.

    Parameters
    ----------
    model
        The model.
    pairs, ranges
        Images with masks, and the intensity range of each image and channel.
    tta
        Whether to predict with test-time augmentation.
    """
    found = [_scores(model, pair, r, tta) for pair, r in zip(pairs, ranges, strict=True)]
    return Validation({each[0].threshold: _pooled(each) for each in zip(*found, strict=True)})


def _pooled(each: Sequence[Score]) -> float:
    tp = sum(s.tp for s in each)
    objects = tp + sum(s.fp + s.fn for s in each)
    return tp / objects if objects else 1.0


def _scores(model: Model, pair: Pair, ranges: Sequence[IntensityRange], tta: bool) -> list[Score]:
    whole = Box.whole(pair.shape)
    voxels = pair.image_of(pair.image.read(whole))
    image = np.stack([normalise(c, r) for c, r in zip(voxels, ranges, strict=True)])
    labels = cluster(model.predict(image, tta=tta), model.min_object_size)
    truth = np.asarray(pair.labels_of(pair.mask.read(pair.mask_box(whole))))
    return scores(Contingency.of(*_annotated(labels, truth)), THRESHOLDS)


def _annotated(
    labels: NDArray[np.uint32], truth: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Both without what is not annotated."""
    counts = truth != IGNORED
    return labels[counts], truth[counts]
