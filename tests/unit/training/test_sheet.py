"""A sheet shows, for every image, what was given, what is true and what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.pictures import WIDTH
from embedseg_large.testing import render, synthetic_embryo
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.training.sheet import SheetRow, draw_sheet, fullest_plane
from embedseg_large.training.validation import Example, Segmented


def row(truth: NDArray[Any], labels: NDArray[Any], caption: str = "embryo") -> SheetRow:
    image = render(np.maximum(truth, 0)).astype(np.float32)
    image /= image.max()
    return SheetRow(caption, image, truth, (truth > 0).astype(np.float32), labels)


def panels(path: Path) -> list[NDArray[np.float32]]:
    """The panels of the last row, without the upper part in which words are."""
    pixels = imread(path)[..., :3]
    lower = pixels[-300:-20]
    paper = (lower == pixels[0, 0]).all(axis=(0, 2))
    edges = np.flatnonzero(np.diff(paper))
    return [lower[:, a + 1 : b + 1] for a, b in edges.reshape(-1, 2)]


@pytest.fixture(scope="module")
def labels() -> NDArray[np.int64]:
    return synthetic_embryo((96, 96), n_objects=12, diameter=16).astype(np.int64)


def test_a_sheet_is_as_wide_as_a_page_and_has_a_row_for_each_image(
    tmp_path: Path, labels: NDArray[np.int64]
) -> None:
    rows = [row(labels, labels, "a"), row(labels[:48], labels[:48], "b")]
    heights = []
    for n in (1, 2):
        draw_sheet(rows[:n], "Epoch 5", tmp_path / "pictures" / f"{n}.png")
        height, width = imread(tmp_path / "pictures" / f"{n}.png").shape[:2]
        assert width == WIDTH
        heights.append(height)
    assert 150 < heights[1] - heights[0] < 250  # half as high as wide, and its caption


def test_what_is_found_has_the_colours_of_the_truth(
    tmp_path: Path, labels: NDArray[np.int64]
) -> None:
    renamed = np.where(labels > 0, labels.max() + 7 - labels, 0)
    draw_sheet([row(labels, renamed)], "Epoch 5", tmp_path / "p.png")
    image, truth, seeds, found = panels(tmp_path / "p.png")
    assert np.array_equal(truth, found)
    assert not np.array_equal(image, found)
    assert seeds.max() > 0.9


def test_what_is_not_annotated_is_dark_in_the_truth(
    tmp_path: Path, labels: NDArray[np.int64]
) -> None:
    truth = np.where(np.arange(96) < 48, labels, -1)
    draw_sheet([row(truth, labels)], "Epoch 5", tmp_path / "p.png")
    image, shown, _, _ = panels(tmp_path / "p.png")
    unknown = slice(image.shape[1] // 2 + 10, None)
    assert (shown[:, unknown] <= 0.4 * image[:, unknown] + 0.01).all()


def test_a_volume_is_shown_by_its_fullest_plane() -> None:
    truth = np.zeros((9, 20, 20), np.int32)
    truth[1:3, 2:5, 2:5] = 1
    truth[2:8, 8:10, 8:10] = 2
    truth[5:8, 15:, 15:] = 3
    assert fullest_plane(truth) == 5  # of 2, 5, 6 and 7 the one nearest to the middle
    assert fullest_plane(np.full((5, 4, 4), -1)) == 2


def test_a_row_is_named_after_its_image_and_its_place_in_it() -> None:
    truth = np.zeros((9, 20, 20), np.int32)
    truth[4, 3:6, 3:6] = 1
    (pair,) = find_pairs([truth.astype(np.uint16)], [truth])
    part = Example(pair, (), Box((2, 0, 0), (7, 20, 20)))
    inside = part.truth()
    seeds = inside.astype(np.float32)
    image = np.stack([seeds, 2 * seeds])
    found = Segmented(part, image, inside, seeds, inside.astype(np.uint32), {})
    shown = SheetRow.of(found)
    assert shown.caption == "image 0 · z = 4 of 9"
    assert shown.image.max() == 2
    assert np.array_equal(shown.truth, truth[4])
    assert shown.labels.any()


def test_an_excerpt_lies_around_the_objects_and_inside_the_image() -> None:
    mask = np.zeros((40, 20, 700), np.uint8)
    mask[36:39, 5:9, 400:420] = 1
    ramp = np.broadcast_to(np.arange(700, dtype=np.float32), mask.shape)
    pairs = find_pairs([ramp], [mask])
    box = Example.excerpt(pairs, measure(pairs), 0).box
    assert box == Box((8, 0, 282), (40, 20, 538))


def test_of_objects_that_overlap_the_last_one_is_the_truth() -> None:
    stack = np.zeros((2, 16, 16), np.uint8)
    stack[0, 2:8, 2:8] = stack[1, 6:12, 6:12] = 255
    (pair,) = find_pairs([stack[0].astype(np.float32)], [stack])
    truth = Example.whole(pair, ()).truth()
    assert truth.shape == (16, 16)
    assert [truth[3, 3], truth[7, 7], truth[0, 0]] == [1, 2, 0]
