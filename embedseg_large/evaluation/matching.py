"""One-to-one matching of predicted and true objects by intersection over union (IoU).

1. Only objects that share voxels can match: the candidates are a sparse bipartite graph.
2. If no object has two good partners, the good pairs are the matches. It is so above a threshold of
   1/2, unless objects of one side overlap.
3. Otherwise the goal is the matching with the most good pairs, and among those the one with the
   largest total IoU. Pairs that no alternative can beat are taken first; a few rounds settle
   nearly all.
4. The rest falls into connected components, each of which is solved exactly.

A dense matrix of objects by objects is never built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from embedseg_large.evaluation.contingency import Contingency

_ROUNDS = 8  # of step 3; each sorts the remaining pairs, and few remain after two

Places = NDArray[np.intp]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Overlaps:
    """The pairs of objects that share voxels.

    Parameters
    ----------
    prediction, truth
        The objects of each pair, by their indices 0, 1, ... among the ascending ids.
    iou
        Intersection over union of each pair, in (0, 1].
    n_prediction, n_truth
        All objects of either side, with and without a partner.
    """

    prediction: Places
    truth: Places
    iou: Values
    n_prediction: int
    n_truth: int

    @classmethod
    def of(cls, contingency: Contingency) -> Overlaps:
        """Compute the IoU of every pair of objects that share voxels."""
        counts = contingency.counts
        p_ids, p, p_sizes = _objects(contingency.prediction_ids, counts)
        t_ids, t, t_sizes = _objects(contingency.truth_ids, counts)
        pair = (contingency.prediction_ids > 0) & (contingency.truth_ids > 0)
        shared, p, t = counts[pair], p[pair], t[pair]
        iou = shared / (p_sizes[p] + t_sizes[t] - shared)
        return cls(p, t, iou, int(np.count_nonzero(p_ids)), int(np.count_nonzero(t_ids)))


def matches(overlaps: Overlaps, threshold: float) -> Places:
    """Return the pairs that match at a threshold: their indices, each object at most once.

    Parameters
    ----------
    overlaps
        The candidates.
    threshold
        Minimum value of a match.
    """
    good = np.flatnonzero(overlaps.iou >= threshold)
    if _is_unique(overlaps.prediction[good]) and _is_unique(overlaps.truth[good]):
        return good
    return _with_choice(overlaps, threshold)


def _is_unique(places: Places) -> bool:
    return np.unique(places).size == places.size


def _objects(
    ids: NDArray[np.uint64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], Places, NDArray[np.int64]]:
    """Return the distinct ids, the index of each entry among them, and their sizes in voxels."""
    distinct, place = np.unique(ids, return_inverse=True)
    sizes = np.zeros(distinct.size, np.int64)
    np.add.at(sizes, place, counts)
    return distinct, place, sizes


def _with_choice(overlaps: Overlaps, threshold: float) -> Places:
    """Take as many good pairs as possible, and among such choices the largest total IoU.

    This is StarDist's objective, in which pairs below the threshold count in the total as well,
    although they are not matches.
    """
    p, t, iou = overlaps.prediction, overlaps.truth, overlaps.iou
    at_most = 2 * max(min(overlaps.n_prediction, overlaps.n_truth), 1)
    value = (iou >= threshold) + iou / at_most  # the sum of all IoU weighs less than one good pair
    left = np.arange(iou.size)
    taken = []
    for _ in range(_ROUNDS):
        sure = left[_unbeatable(p[left], t[left], value[left])]
        taken.append(sure)
        left = left[~(np.isin(p[left], p[sure]) | np.isin(t[left], t[sure]))]
        if sure.size == 0 or left.size == 0:
            break
    taken += [part[_best(p[part], t[part], value[part])] for part in _components(p, t, left)]
    chosen = np.concatenate(taken)
    return chosen[iou[chosen] >= threshold]


def _unbeatable(p: Places, t: Places, value: Values) -> NDArray[np.bool_]:
    """Whether a pair is worth at least the best other pairs of its two objects together.

    Then replacing them by this pair does not make a best matching worse.
    """
    p_leads, p_other = _lead(p, value)
    t_leads, t_other = _lead(t, value)
    return p_leads & t_leads & (value >= p_other + t_other)


def _lead(place: Places, value: Values) -> tuple[NDArray[np.bool_], Values]:
    """Whether each pair is the best one of its object, and if so the value of the second best."""
    order = np.lexsort((-value, place))
    first = np.diff(place[order], prepend=-1) != 0
    second = np.append(value[order][1:], 0.0)
    second[np.append(first[1:], True)] = 0.0  # the next pair belongs to another object
    leads, other = np.zeros(value.size, np.bool_), np.zeros(value.size)
    leads[order] = first
    other[order] = second
    return leads, other


def _components(p: Places, t: Places, left: Places) -> Iterator[Places]:
    """Split pairs into groups without common objects."""
    if left.size == 0:
        return
    p_place = np.unique(p[left], return_inverse=True)[1]
    t_place = np.unique(t[left], return_inverse=True)[1] + p_place.max() + 1
    n = int(t_place.max()) + 1
    graph = coo_array((np.ones(left.size, np.int8), (p_place, t_place)), shape=(n, n))
    group = connected_components(graph, directed=False)[1][p_place]
    order = np.argsort(group, kind="stable")
    yield from np.split(left[order], np.flatnonzero(np.diff(group[order])) + 1)


def _best(p: Places, t: Places, value: Values) -> Places:
    """Return the pairs of a matching of largest total value.

    The solver requires every row to be matched, and no weight of zero. Each prediction may
    therefore also stay alone, with a private column of value zero, and every value is raised by
    one.
    """
    row = np.unique(p, return_inverse=True)[1]
    column = np.unique(t, return_inverse=True)[1]
    n, m = int(row.max()) + 1, int(column.max()) + 1
    alone = np.arange(n)
    rows, columns = np.append(row, alone), np.append(column, m + alone)
    weights = 1.0 + np.append(value, np.zeros(n))
    graph = coo_array((weights, (rows, columns)), shape=(n, m + n)).tocsr()
    partner = min_weight_full_bipartite_matching(graph, maximize=True)[1]  # row by row
    return np.flatnonzero(partner[row] == column)
