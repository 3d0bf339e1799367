"""Matching: what two tiles see of one object gets one name, and doubtful objects are left.

Drawings of one row that two tiles see, each with labels of its own; ``|`` is the face between the
cores of the two.
"""

from __future__ import annotations

import random
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.stitching.matching import Matches, SeamOverlaps, SeamView, match, overlaps


def row(drawing: str) -> NDArray[np.uint32]:
    return np.array([0 if c == "." else int(c) for c in drawing.replace("|", "")], np.uint32)


def view(drawing: str, first: int, *, is_low: bool) -> SeamView:
    """Labels 1, 2, ... are called `first` + 1, `first` + 2, ..."""
    labels, face = row(drawing), drawing.index("|")
    low, high = slice(0, face), slice(face, None)
    own, other = (low, high) if is_low else (high, low)
    names = np.arange(first, first + labels.max(initial=0) + 1, dtype=np.uint64)
    names[0] = 0
    near = np.isin(np.arange(names.size), labels[own])
    return SeamView(labels, names, near, (other,))


def seen(low: str, high: str, at: tuple[int, int] = (10, 20)) -> SeamOverlaps:
    return overlaps(view(low, at[0], is_low=True), view(high, at[1], is_low=False))


def matched(low: str, high: str) -> Matches:
    found = seen(low, high)
    everything = [*(10 + n for n in np.unique(row(low))), *(20 + n for n in np.unique(row(high)))]
    return match([(0, 1, found)], np.array([n for n in everything if n % 10], np.uint64))


def pairs(found: Matches) -> list[tuple[int, int]]:
    joins = found.joins()
    return list(zip(joins.representative.tolist(), joins.ids.tolist(), strict=True))


@pytest.mark.parametrize(
    ("low", "high", "joined", "left"),
    [
        ("..111|11...", "..111|1....", [(11, 21)], []),  # outlines jitter
        ("..111|11...", ".....|.....", [], [11]),  # only one sees it
        ("1111.|.....", "1....|.....", [], [11, 21]),  # less than half of the union
        ("11222|2233.", "11122|22333", [(11, 21), (12, 22), (13, 23)], []),  # touching cells
        ("11111|11111", "11111|12222", [], [11, 21, 22]),  # one here, two there
        ("1122|22", "1111|11", [], [11, 12, 21]),  # two here, one there
        ("..111|22...", "..111|11...", [(11, 21)], [12]),  # the second is no core's of its tile
        ("11...|.22..", "11...|.....", [(11, 21)], [12]),  # what is left harms no neighbour
    ],
)
def test_objects_that_overlap_well_are_one(
    low: str, high: str, joined: list[tuple[int, int]], left: list[int]
) -> None:
    found = matched(low, high)
    assert pairs(found) == joined
    assert found.left.tolist() == left


def test_an_object_that_the_neighbour_takes_for_background_is_left_with_all_its_names() -> None:
    agreed = seen("11|11", "11|11", (10, 30))
    unseen = seen("11|11", "..|..", (10, 20))
    assert match([(0, 1, agreed), (0, 2, unseen)], np.empty(0, np.uint64)).left.tolist() == [11, 31]


def test_two_objects_of_one_tile_are_never_joined_through_others() -> None:
    """A ring of four tiles: the better pairs are joined, and the last one is refused."""
    good, poor = ("111|111", "111|111"), ("1111|11..", "1111|1...")
    ring = [
        (0, 1, seen(*good, (10, 20))),
        (1, 2, seen(*good, (20, 30))),
        (2, 3, seen(*good, (30, 40))),
        (3, 0, seen(*poor, (40, 11))),  # there, tile 0 sees another object: 12
    ]
    found = match(ring, np.empty(0, np.uint64))
    assert pairs(found) == []
    assert found.left.tolist() == [11, 12, 21, 31, 41]
    assert pairs(match(ring[:3], np.empty(0, np.uint64))) == [(11, 21), (11, 31), (11, 41)]


def test_the_order_of_the_tiles_does_not_matter() -> None:
    rng = random.Random(0)
    for _ in range(20):
        seams = []
        for one, other in ((0, 1), (1, 2), (0, 2)):
            low, high = (
                f"{''.join(rng.choices('.12', k=4))}|{''.join(rng.choices('.12', k=4))}"
                for _ in range(2)
            )
            seams.append((one, other, seen(low, high, (10 * one + 10, 10 * other + 10))))
        disputed = np.arange(11, 13, dtype=np.uint64)
        results = [match(order, disputed) for order in permutations(seams)]
        assert len({(tuple(pairs(r)), tuple(r.left.tolist())) for r in results}) == 1


def test_ownership_joins_what_matching_left_but_not_two_settled_objects_of_one_tile() -> None:
    found = match([(0, 1, seen("112|2", "112|2"))], np.empty(0, np.uint64))
    same = np.array([[11, 12], [12, 99]], np.uint64)
    joins = found.joins(same)
    assert joins.apply(np.array([11, 12, 21, 22, 99], np.uint64)).tolist() == [11, 12, 11, 12, 12]
