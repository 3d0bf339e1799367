"""The best seed and margin for a model: a grid search on annotated images.

*Criterion*: mean AP over the IoU thresholds 0.5 to 0.9, AP = TP / (TP + FP + FN) pooled over the
objects of a set of images; of several sets the mean, so that a large one does not outweigh others.
*Ties*: of all within `TOLERANCE` of the best, those with the lowest seed, because a network is less
certain on images unlike its training data, and a high seed loses objects that it does find; of
these the margin nearest to the paper's; of two equally near, the better one. *Augmentation*: the
mean of several maps is lower than one, so at the same seed it loses objects. Only those thresholds
qualify that find, in every set, at least `KEPT` of the objects that one pass finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.clean import CleanSettings, clean
from embedseg_large.clustering.cluster import AXES, cluster_points, points_of_stored
from embedseg_large.clustering.settings import DEFAULT_MARGIN, ClusteringSettings
from embedseg_large.evaluation.contingency import Contingency, Layers
from embedseg_large.evaluation.scores import scores
from embedseg_large.network.settings import Thresholds

IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)
SEEDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
MARGINS = (0.3, 0.4, 0.5, 0.6, 0.7)
TOLERANCE = 0.005
"""Loss of the criterion that is accepted for a lower seed."""

KEPT = 0.99
"""Fraction of the instances found by one pass that a test-time augmentation must find, too."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tally(Generic[T]):
    """How well instances match the truth, for each setting that was tried."""

    sets: tuple[Mapping[T, NDArray[np.int64]], ...]
    """For each set of images and each setting: ``(IOUS, 3)`` true positives, false positives and
    false negatives, summed over the images."""

    def ap(self, at: T) -> dict[float, float]:
        """AP at each IoU threshold, mean over the sets."""
        each = np.mean([ap_of(counts[at]) for counts in self.sets], axis=0)
        return dict(zip(IOUS, each.tolist(), strict=True))

    def score(self, at: T) -> float:
        """The criterion."""
        return float(np.mean(list(self.ap(at).values())))

    def found(self, at: T) -> tuple[int, ...]:
        """Return the number of instances found in each set."""
        return tuple(int(counts[at][0, :2].sum()) for counts in self.sets)


@dataclass(frozen=True, slots=True)
class Sweep(Tally[Thresholds]):
    """Results of each pair of thresholds."""

    @property
    def best(self) -> Thresholds:
        """The thresholds to use, see the top of this file."""
        return self.best_with((0,) * len(self.sets))

    def best_with(self, least: Sequence[int]) -> Thresholds:
        """Return the best thresholds that lose no instances.

        Parameters
        ----------
        least
            Number of instances that one pass finds in each set. If no thresholds find `KEPT` of
            them in every set, those that come nearest are used.
        """
        kept = {at: self._kept(at, least) for at in self.sets[0]}
        limit = min(KEPT, max(kept.values()))
        tried = {at: self.score(at) for at in kept if kept[at] >= limit}
        enough = max(tried.values()) - TOLERANCE
        good = [at for at, score in tried.items() if score >= enough]
        return min(good, key=lambda at: (at.seed, abs(at.margin - DEFAULT_MARGIN), -tried[at]))

    def _kept(self, at: Thresholds, least: Sequence[int]) -> float:
        """Return the smallest fraction of the instances of one pass that a set keeps, at most 1."""
        parts = zip(self.found(at), least, strict=True)
        return min([1.0, *(found / one for found, one in parts if one)])


def sweep(
    sets: Sequence[Iterable[tuple[NDArray[np.float16], Layers]]],
    settings: ClusteringSettings,
    cleaning: CleanSettings | None = None,
    more: Sequence[Thresholds] = (),
) -> Sweep:
    """Try thresholds on annotated images.

    Parameters
    ----------
    sets
        Sets of images: stored predictions, ``(2·ndim + 1, *spatial)``, and the truth,
        ``(*spatial)`` integers, -1 where unannotated and 0 for background; several such arrays if
        objects overlap.
    settings
        All settings except seed and margin.
    cleaning
        What is cleaned before it is scored; None: nothing.
    more
        Thresholds to try in addition to each of `SEEDS` with each of `MARGINS`.
    """
    grid = [Thresholds(seed, margin) for seed, margin in product(SEEDS, MARGINS)]
    tried = list(dict.fromkeys([*grid, *more]))
    return Sweep(tuple(_summed(examples, tried, settings, cleaning) for examples in sets))


def _summed(
    examples: Iterable[tuple[NDArray[np.float16], Layers]],
    tried: Sequence[Thresholds],
    settings: ClusteringSettings,
    cleaning: CleanSettings | None,
) -> Mapping[Thresholds, NDArray[np.int64]]:
    total = {at: np.zeros((len(IOUS), 3), np.int64) for at in tried}
    for stored, truth in examples:
        for at in tried:
            total[at] += counts_of(_instances(stored, at, settings, cleaning), truth)
    return total


def _instances(
    stored: NDArray[np.float16],
    at: Thresholds,
    settings: ClusteringSettings,
    cleaning: CleanSettings | None,
) -> NDArray[np.uint32]:
    rule = replace(settings, seed=at.seed, margin=at.margin)
    found = cluster_points(points_of_stored(stored, rule), rule, ((False, False),) * AXES)
    labels = found.labels.reshape(stored.shape[1:])
    if cleaning:
        labels = clean(labels, cleaning.keep_largest_piece, cleaning.fill_holes)
    return labels


def counts_of(labels: NDArray[np.integer], truth: Layers) -> NDArray[np.int64]:
    """Return true positives, false positives and false negatives, ``(IOUS, 3)``.

    Parameters
    ----------
    labels
        Instances, ``(*spatial)``.
    truth
        Objects, likewise, or several such arrays; -1 where unannotated.
    """
    found = scores(Contingency.of_annotated(labels, truth), IOUS)
    return np.array([(score.tp, score.fp, score.fn) for score in found], np.int64)


def ap_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return AP at each of `IOUS`; 1 if there are neither objects nor instances."""
    objects = counts.sum(axis=1)
    ap: NDArray[np.float64] = np.where(objects > 0, counts[:, 0] / np.maximum(objects, 1), 1.0)
    return ap
