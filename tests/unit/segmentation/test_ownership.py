"""Ownership: an object is never doubled, and one tile decides about all of its voxels.

Drawings of one row: digits are labels of the tile whose turn it is, letters names claimed earlier.
"""

from __future__ import annotations

import numpy as np
import pytest

from embedseg_large.stitching.ownership import Claims, claim, turn


def ids(drawing: str) -> list[int]:
    return [0 if c == "." else ord(c) for c in drawing]


def claimed(
    labels: str, taken: str, seen: list[slice], *, free: str = "1", near: str = "1"
) -> Claims:
    own = np.array([0 if c == "." else int(c) for c in labels], np.uint32)
    count = int(own.max())
    may, reaches = (np.resize([c == "1" for c in text], count) for text in (free, near))
    names = np.array([ord("1") + n for n in range(count)], np.uint64)
    before = np.array(ids(taken), np.uint64)
    earlier = [((part,), before[part]) for part in seen]
    return claim(own, names, may, reaches, before, earlier)


def drawn(claims: Claims) -> str:
    return "".join("." if v == 0 else chr(v) for v in claims.ids.tolist())


ALL = slice(None)


@pytest.mark.parametrize(
    ("labels", "taken", "result"),
    [
        ("..1111..", "........", "..1111.."),  # nobody else wants it
        ("..1111..", ".aaaa...", "........"),  # the same object: its rim is background
        ("..1111..", "aaa.....", "...111.."),  # a neighbour, which overlaps a little
        ("..111122", "..aaaaaa", "........"),  # seen as two, decided to be one
        ("..111111", "..aaabbb", "........"),  # seen as one, decided to be two
    ],
)
def test_what_an_earlier_tile_saw_and_mostly_took_is_its_own(
    labels: str, taken: str, result: str
) -> None:
    assert drawn(claimed(labels, taken, [ALL])) == result


def test_what_lies_beyond_the_earlier_tile_gets_its_name() -> None:
    claims = claimed("11111111", "aaaa....", [slice(0, 5)])
    assert drawn(claims) == ".....aaa"  # the fifth voxel was seen, and left
    assert claims.given.size == 0


def test_an_object_longer_than_two_earlier_tiles_joins_their_names() -> None:
    claims = claimed("11111111", "aaa..bbb", [slice(0, 3), slice(5, 8)])
    assert drawn(claims) == "...bb..."
    assert claims.same.tolist() == [[ord("a"), ord("b")]]


def test_an_object_of_a_later_tile_is_left_to_it() -> None:
    assert drawn(claimed("11.22", ".....", [], free="01")) == "...22"


def test_far_ends_are_left_to_the_tiles_whose_core_they_reach() -> None:
    assert drawn(claimed("1111", "aa..", [slice(0, 2)], near="0")) == "...."


def test_names_are_given_once() -> None:
    claims = claimed("11.22", "aa...", [ALL])
    assert claims.given.tolist() == [ord("2")]


def test_neighbours_never_have_the_same_turn() -> None:
    tiles = list(np.ndindex(3, 3, 3))
    for one in tiles:
        for other in tiles:
            near = max(abs(a - b) for a, b in zip(one, other, strict=True)) == 1
            assert not near or turn(one) != turn(other)
    assert {turn(tile) for tile in tiles} == set(range(8))
