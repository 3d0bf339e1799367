"""Linking the instances of a time series by position: two linear assignments (Jaqaman et al. 2008).

1. Between successive timepoints: the set of links with the smallest sum of squared distances, where
an instance without a link costs a little more than the longest link. 2. Every instance that then
has no predecessor may continue a track that ended a few timepoints earlier (a gap), or be the
second daughter of an instance that has one.

A mother lies between its daughters: nearer to their middle than a quarter of the distance between
them. An instance that appears beside another one is therefore not taken for its daughter.

Only pairs within reach are considered (k-d trees), so memory grows with the number of instances,
not with its square. Groups of instances without common candidates are independent problems,
solved in batches: time grows only with the square of the largest group.

Jaqaman, K. et al., "Robust single-particle tracking in live-cell time-lapse sequences", Nature
Methods 5, 695-702 (2008).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching
from scipy.spatial import KDTree

Points = NDArray[np.float64]
"""Positions (n, ndim) of the instances of one timepoint, in µm."""
Links = NDArray[np.int64]
"""Pairs (n, 2) of instances, the earlier one first, ascending by the later one.

Instances are counted from 0 over all timepoints, in the order of time."""

_BATCH = 1000
"""Instances that are assigned together if their groups are smaller."""
LEFT_OUT = 2.1
"""Cost of an instance without a partner, in units of the squared reach: the end of one track and
the start of another, each 1.05 times the cost of the longest link."""
_MIDDLE = 0.25
"""Maximum distance of a mother from the middle of its daughters, relative to their distance."""


@dataclass(frozen=True, kw_only=True)
class LinkSettings:
    """Which instances may be linked."""

    reach: float
    """Maximum distance that an instance moves between two timepoints, in µm."""
    division_reach: float | None
    """Maximum distance between a mother and each of its daughters, in µm; None: no divisions."""
    gap: int = 1
    """Number of timepoints that an instance may be missing."""


@dataclass(frozen=True)
class _Pairs:
    """Candidates for links, and their costs."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    costs: NDArray[np.float64]


def neighbour_distance(points: Sequence[Points]) -> float | None:
    """Compute the median distance of instances to their nearest neighbour in a timepoint, in µm.

    None if no timepoint has two instances.
    """
    found = [KDTree(p).query(p, k=2)[0][:, 1] for p in points if len(p) > 1]
    return float(np.median(np.concatenate(found))) if found else None


def link(points: Sequence[Points], settings: LinkSettings) -> Links:
    """Link the instances of a time series.

    Parameters
    ----------
    points
        Positions in each timepoint, in order.
    settings
        Which instances may be linked.

    Returns
    -------
    int64 (n, 2)
        See `Links`. The later instance of a link occurs once, the earlier one at most twice.
    """
    first = np.cumsum([0, *(len(p) for p in points)])
    found = [
        first[t : t + 2] + _linked(a, b, settings.reach)
        for t, (a, b) in enumerate(pairwise(points))
    ]
    links = _stacked(found)
    return _sorted(_stacked([links, _starts(points, first, links, settings)]))


def _linked(a: Points, b: Points, reach: float) -> Links:
    """Link two timepoints; links are indices in each."""
    pairs = _within(a, b, reach)
    return _assign(pairs, LEFT_OUT * reach**2)


def _within(a: Points, b: Points, reach: float) -> _Pairs:
    """Find pairs of points within reach, and their squared distances."""
    if not (len(a) and len(b)):
        return _Pairs(*(np.empty(0, np.int64),) * 2, np.empty(0))
    near = KDTree(a).sparse_distance_matrix(KDTree(b), reach, output_type="coo_matrix")
    rows, columns = near.row.astype(np.int64), near.col.astype(np.int64)
    order = np.lexsort((columns, rows))
    return _Pairs(rows[order], columns[order], near.data[order] ** 2)


def _assign(pairs: _Pairs, left_out: float) -> Links:
    """Choose pairs with the smallest sum of costs, each row and each column at most once.

    Parameters
    ----------
    pairs
        Candidate pairs, with costs below `left_out`.
    left_out
        Cost of a row without a column.
    """
    if not len(pairs.rows):
        return np.empty((0, 2), np.int64)
    found = [_solved(part, left_out) for part in _batches(pairs)]
    return _stacked(found)


def _batches(pairs: _Pairs) -> Iterator[_Pairs]:
    """Split pairs into independent problems, small ones together."""
    rows, row = np.unique(pairs.rows, return_inverse=True)
    columns, column = np.unique(pairs.columns, return_inverse=True)
    n = len(rows) + len(columns)
    graph = coo_array((np.ones(len(row), bool), (row, len(rows) + column)), shape=(n, n))
    _, group = connected_components(graph, directed=False)
    sizes = np.bincount(group[: len(rows)], minlength=group.max() + 1)
    batch = (np.cumsum(sizes) - sizes) // _BATCH  # of each group; no group is cut
    of_pair = batch[group[row]]
    order = np.argsort(of_pair, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(of_pair[order])) + 1):
        yield _Pairs(pairs.rows[part], pairs.columns[part], pairs.costs[part])


def _solved(pairs: _Pairs, left_out: float) -> Links:
    """Solve one problem; each row has a private column that stands for no partner."""
    rows, row = np.unique(pairs.rows, return_inverse=True)
    columns, column = np.unique(pairs.columns, return_inverse=True)
    n, m = len(rows), len(columns)
    costs = pairs.costs + 1e-9 * left_out  # a sparse matrix would drop a cost of 0
    own = np.arange(n)
    matrix = csr_array(
        (
            np.concatenate([costs, np.full(n, left_out)]),
            (np.concatenate([row, own]), np.concatenate([column, m + own])),
        ),
        shape=(n, m + n),
    )
    chosen, partner = min_weight_full_bipartite_matching(matrix)
    has_one = partner < m
    return np.stack([rows[chosen[has_one]], columns[partner[has_one]]], axis=1)


def _starts(
    points: Sequence[Points], first: NDArray[np.int64], links: Links, settings: LinkSettings
) -> Links:
    """Link earlier instances to those without a predecessor."""
    where = np.concatenate(points) if points else np.empty((0, 0))
    child = np.full(len(where), -1)
    child[links[:, 0]] = links[:, 1]
    is_start, is_end = np.ones((2, len(where)), bool)
    is_start[links[:, 1]], is_end[links[:, 0]] = False, False
    is_mother = ~is_end
    pairs = []
    for t in range(1, len(points)):
        starts = _at(t, first, is_start)
        for before in range(2, min(settings.gap + 1, t) + 1):
            ends = _at(t - before, first, is_end)
            pairs.append(_between(where, starts, ends, settings.reach))
        if settings.division_reach is not None:
            mothers = _at(t - 1, first, is_mother)
            near = _between(where, starts, mothers, settings.division_reach)
            pairs.append(_daughters(where, child, near))
    if not pairs:
        return np.empty((0, 2), np.int64)
    every = _Pairs(
        np.concatenate([p.rows for p in pairs]),
        np.concatenate([p.columns for p in pairs]),
        np.concatenate([p.costs for p in pairs]),
    )
    farthest = max(settings.reach, settings.division_reach or 0)
    return _assign(every, LEFT_OUT * farthest**2)[:, ::-1]


def _at(t: int, first: NDArray[np.int64], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the chosen instances of a timepoint; the others are not looked at."""
    found: NDArray[np.int64] = first[t] + np.flatnonzero(chosen[first[t] : first[t + 1]])
    return found


def _between(
    where: Points, later: NDArray[np.int64], earlier: NDArray[np.int64], reach: float
) -> _Pairs:
    """Find pairs within reach, the later instances as rows, numbered over all timepoints."""
    near = _within(where[later], where[earlier], reach)
    return _Pairs(later[near.rows], earlier[near.columns], near.costs)


def _daughters(where: Points, child: NDArray[np.int64], pairs: _Pairs) -> _Pairs:
    """Keep pairs of second daughter and mother in which the mother lies between its daughters."""
    second, mother = where[pairs.rows], where[pairs.columns]
    one = where[child[pairs.columns]]
    off = np.sum((mother - (one + second) / 2) ** 2, axis=1)
    is_between = off < _MIDDLE**2 * np.sum((one - second) ** 2, axis=1)
    return _Pairs(pairs.rows[is_between], pairs.columns[is_between], off[is_between])


def _stacked(parts: Sequence[Links]) -> Links:
    return np.concatenate([np.empty((0, 2), np.int64), *parts])


def _sorted(links: Links) -> Links:
    return links[np.argsort(links[:, 1], kind="stable")]
