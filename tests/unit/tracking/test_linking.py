"""Links are those of laptrack, in memory that grows with the number of instances."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.tracking import linking, with_laptrack
from embedseg_large.tracking.lineage import lineage_of, rows_of
from embedseg_large.tracking.linking import LinkSettings, link, neighbour_distance

Points = list[NDArray[np.float64]]


def wandering(n: int, ndim: int, seed: int, missing: float = 0.1) -> Points:
    """Points that move at random, and are not always seen."""
    rng = np.random.default_rng(seed)
    at = rng.uniform(0, 10 * n ** (1 / ndim), (n, ndim))
    found = []
    for _ in range(5):
        found.append(at[rng.random(n) > missing])
        at = at + rng.normal(0, 1.5, at.shape)
    return found


def settings(reach: float = 8, division: float | None = None, gap: int = 1) -> LinkSettings:
    return LinkSettings(reach=reach, division_reach=division, gap=gap)


@given(
    n=st.integers(0, 60),
    ndim=st.sampled_from([2, 3]),
    reach=st.sampled_from([2.0, 8.0, 30.0]),
    gap=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
def test_links_and_gaps_are_those_of_laptrack(
    n: int, ndim: int, reach: float, gap: int, seed: int
) -> None:
    pytest.importorskip("laptrack")
    points, rule = wandering(n, ndim, seed), settings(reach, gap=gap)
    np.testing.assert_array_equal(link(points, rule), with_laptrack.link(points, rule))


@given(n=st.integers(1, 80), seed=st.integers(0, 1000))
def test_batches_of_groups_change_no_link(n: int, seed: int) -> None:
    points, rule = wandering(n, 3, seed), settings(division=8)
    whole = link(points, rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linking, "_BATCH", 1)
        np.testing.assert_array_equal(link(points, rule), whole)


@given(n=st.integers(1, 80), seed=st.integers(0, 1000), reach=st.floats(1, 30))
def test_links_join_pairs_within_reach_each_later_one_once(n: int, seed: int, reach: float) -> None:
    points = wandering(n, 3, seed)
    links = link(points, settings(reach, division=reach))
    where = np.concatenate(points)
    far = np.linalg.norm(where[links[:, 0]] - where[links[:, 1]], axis=1)
    assert (far <= reach * (1 + 1e-9)).all()
    assert np.unique(links[:, 1]).size == len(links)
    assert np.bincount(links[:, 0], minlength=1).max(initial=0) <= 2
    time = np.repeat(np.arange(len(points)), [len(p) for p in points])
    assert (np.diff(time[links], axis=1) > 0).all()


def test_a_mother_lies_between_its_daughters() -> None:
    mother, others = [[0.0, 0.0]], [[0.0, 4.0]]
    divided = [np.array(mother), np.array([[0.0, -3.0], [0.0, 3.0]])]
    assert link(divided, settings(division=8)).tolist() == [[0, 1], [0, 2]]
    beside = [np.array(mother), np.array([*mother, *others])]
    assert link(beside, settings(division=8)).tolist() == [[0, 1]]
    assert link(divided, settings(division=None)).tolist() == [[0, 1]]


def test_the_work_for_a_timepoint_does_not_grow_with_the_length_of_the_series(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[int] = []
    find = np.flatnonzero

    def counted(values: NDArray[np.bool_]) -> NDArray[np.intp]:
        looked_at.append(len(values))
        return find(values)

    monkeypatch.setattr(np, "flatnonzero", counted)
    points = [np.array([[0.0, 0.0], [0.0, 99.0]])] * 50
    assert len(link(points, settings(division=8))) == 98
    assert max(looked_at) == 2


def test_only_one_gap_is_bridged() -> None:
    seen, unseen = np.array([[5.0, 5.0]]), np.empty((0, 2))
    assert link([seen, unseen, seen], settings(gap=1)).tolist() == [[0, 1]]
    assert link([seen, unseen, seen], settings(gap=0)).tolist() == []
    assert link([seen, unseen, unseen, seen], settings(gap=1)).tolist() == []
    assert link([unseen, unseen], settings()).tolist() == []


def test_the_largest_number_of_instances_that_laptrack_takes_depends_on_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("laptrack")
    many = np.empty((1_000_000, 3))
    with pytest.raises(UsageError, match=r"GiB for the distances of 1,000,000 .* --tracker lap"):
        with_laptrack.link([many, many], settings())
    monkeypatch.setitem(sys.modules, "laptrack", None)
    with pytest.raises(
        UsageError, match=r"--tracker laptrack needs laptrack; pip install .*\[track\]"
    ):
        with_laptrack.check_laptrack()


def test_the_neighbour_distance_is_of_the_same_timepoint() -> None:
    pair, one = np.array([[0.0, 0.0], [0.0, 6.0]]), np.array([[0.0, 1.0]])
    assert neighbour_distance([pair, one]) == 6
    assert neighbour_distance([one, one]) is None


def test_tracks_end_at_divisions_and_go_on_across_gaps() -> None:
    time = np.array([0, 1, 2, 2, 4])  # a ─ b ─┬─ c, ─── e two timepoints after d
    links = np.array([[0, 1], [1, 2], [1, 3], [3, 4]])
    whole = lineage_of(time, links)
    assert whole.track.tolist() == [1, 1, 2, 3, 3]
    assert whole.parent.tolist() == [0, 0, 1, 1, 1]
    assert (whole.n_tracks, whole.n_divisions) == (3, 1)
    assert rows_of(time, whole).tolist() == [[1, 0, 1, 0], [2, 2, 2, 1], [3, 2, 4, 1]]
    cut = lineage_of(time, links, across_gaps=False)
    assert rows_of(time, cut).tolist()[2:] == [[3, 2, 2, 1], [4, 4, 4, 3]]
    assert cut.n_divisions == 1
