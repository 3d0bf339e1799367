"""Scores of a method on images that no method has seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.comparison.contender import Fitted
from embedseg_large.comparison.division import truth_of
from embedseg_large.evaluation.evaluate import THRESHOLDS, evaluate_images
from embedseg_large.training.data.sources import Pair


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """Labels of the held-out images, and their scores."""

    labels: list[NDArray[np.integer]]
    scores: list[dict[str, float]]
    """One dict per IoU threshold, pooled over the objects of all images."""
    boundary: dict[str, float]
    """The same for boundaries, at IoU 0.5."""
    errors: dict[str, int]
    """Objects of each kind."""
    seconds: float
    """Time to segment."""
    voxels: int


def judge(fitted: Fitted, pairs: Sequence[Pair]) -> Judged:
    """Segment and score images."""
    began = time.perf_counter()
    labels = [fitted.find(pair) for pair in pairs]
    seconds = time.perf_counter() - began
    truths: list[Any] = [truth_of(pair) for pair in pairs]
    found = evaluate_images(list(labels), truths, THRESHOLDS, count_errors=True)
    edges = evaluate_images(list(labels), truths, (0.5,), localisation="boundary")
    return Judged(
        labels=labels,
        scores=[dict(score.as_dict()) for score in found.scores],
        boundary=dict(edges.scores[0].as_dict()),
        errors=found.errors or {},
        seconds=seconds,
        voxels=sum(prod(pair.shape) for pair in pairs),
    )
