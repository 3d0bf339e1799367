"""Training data from a review: what was looked at counts, and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.review.annotation import RIM, annotated_volume, annotation_of, image_of
from embedseg_large.review.review import Review, open_review
from embedseg_large.volumes.volume import open_volume

Labels = NDArray[Any]
WriteLabels = Callable[..., Path]


def mask_of(review: Review) -> Labels:
    annotation = annotation_of(review)
    return annotation.read(Box.whole(annotation.shape))


@pytest.fixture
def review(source: Path, cells: Labels) -> Review:
    """One of each decision."""
    review = open_review(source)
    review.accept(3)
    review.delete(8)
    voxels = np.argwhere(cells == 11)
    review.split(11, voxels[0], voxels[-1])
    review.merge(14, 15)
    review.paint(review.free, np.argwhere(cells == 0)[:20])
    review.paint(0, np.argwhere(cells == 20)[:30])
    return review


def test_only_what_was_decided_is_annotated(review: Review, cells: Labels) -> None:
    mask, now = mask_of(review), review.data.compute()
    decided = np.isin(now, [3, 11, 14, *range(cells.max() + 1, review.free)])
    assert set(np.unique(mask[mask > 0])) == set(np.unique(now[decided]))
    assert np.array_equal(mask[decided], now[decided])
    seen = decided | (now != cells)
    near = ndimage.binary_dilation(seen, iterations=RIM)
    assert np.array_equal(mask == 0, near & (now == 0))
    assert (mask[(now > 0) & ~decided] == -1).all()
    assert (mask[cells == 8] == 0).all()  # deleted: known to be empty
    assert (mask == -1).any()


def test_an_undone_decision_is_no_annotation(source: Path) -> None:
    review = open_review(source)
    review.accept(3)
    review.delete(8)
    review.undo()
    assert set(np.unique(mask_of(review))) == {-1, 0, 3}


def test_boxes_of_any_size_give_the_whole(review: Review) -> None:
    whole, lazy = mask_of(review), annotated_volume(review)
    for box in Box.whole(whole.shape).split((7, 13, 9)):
        assert np.array_equal(lazy.read(box), whole[box.slices])
    assert np.array_equal(lazy.data.compute(), whole)
    assert np.array_equal(pickle.loads(pickle.dumps(lazy)).data.compute(), whole)


def test_far_from_everything_that_was_decided_nothing_is_read(
    review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    review_of_one = open_review(review.place.source, name="other")
    review_of_one.accept(3)
    annotation = annotation_of(review_of_one)
    near = annotation.boxes[0].grow((RIM,) * 3).clip(annotation.shape)
    cells = Box.whole(annotation.shape).split((8, 8, 8))
    far = [cell for cell in cells if not cell.intersect(near.grow((RIM,) * 3)).size]
    assert far
    monkeypatch.setattr("embedseg_large.review.voxels.ReviewedVoxels.read", None)
    for box in far:
        assert (annotation.read(box) == -1).all()


def test_a_review_without_decisions_is_no_training_data(source: Path) -> None:
    with pytest.raises(UsageError, match="nothing was reviewed; accept or correct some instances"):
        annotation_of(open_review(source))


def test_the_image_is_the_one_that_was_segmented(write_labels: WriteLabels, cells: Labels) -> None:
    source = write_labels(cells)
    found = image_of(open_review(source))
    assert found.path == str(source.parents[1])
    assert found.spatial_shape == cells.shape
    assert np.array_equal(found.data.compute(), open_volume(source.parents[1]).data.compute())


def test_of_a_series_the_image_is_at_the_timepoint(
    write_labels: WriteLabels, cells: Labels
) -> None:
    source = write_labels(np.stack([cells, np.flip(cells, 1)]), axes="tzyx")
    review = open_review(source, timepoint=1)
    review.accept(3)
    image = open_volume(source.parents[1]).data[1].compute()
    assert np.array_equal(image_of(review).data.compute(), image)
    assert (mask_of(review)[np.flip(cells, 1) == 3] == 3).all()
