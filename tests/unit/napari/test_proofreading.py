"""A review in a viewer, without one: places, what is around an instance, what was painted."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from embedseg_large.data import copy_demo
from embedseg_large.geometry import Box
from embedseg_large.napari.proofreading import (
    label_at,
    open_for_review,
    painted,
    placed,
    surroundings,
    voxel_at,
    world_of,
)
from embedseg_large.review.review import Review


@pytest.fixture
def review(tmp_path: Path) -> Review:
    copy_demo(tmp_path / "embryo.ome.zarr")
    opened = open_for_review(str(tmp_path / "embryo.ome.zarr"))
    assert opened.image is not None
    assert opened.levels[0].shape == opened.review.voxels.shape
    assert opened.contrast is not None
    assert opened.contrast[0] < opened.contrast[1]
    return opened.review


def test_voxels_and_places_in_the_world_are_each_others(review: Review) -> None:
    for voxel in ((0, 0, 0), (17, 40, 99), (117, 136, 134)):
        assert voxel_at(review, world_of(review, voxel)) == voxel
        assert voxel_at(review, (3.0, *world_of(review, voxel))) == voxel  # of a viewer with time
    assert voxel_at(review, world_of(review, (-1, 0, 0))) is None
    assert voxel_at(review, world_of(review, (0, 0, 135))) is None


def test_a_part_lies_where_it_is_in_the_volume(review: Review) -> None:
    box = review.queue[0].box
    assert np.allclose(placed(review, box)["translate"], world_of(review, box.start))


def test_the_surroundings_hold_the_instance_and_are_bounded(review: Review) -> None:
    whole = Box.whole(review.voxels.shape)
    for place in range(len(review.queue)):
        box = review.queue[place].box
        assert surroundings(review, box).contains(box)
        assert whole.contains(surroundings(review, box))
    assert surroundings(review, Box((50,) * 3, (51,) * 3)).shape == (49,) * 3


def test_painted_voxels_are_edits_that_lead_to_the_same_labels(review: Review) -> None:
    box = surroundings(review, review.queue[0].box)
    before = review.read(box)
    labels = before.copy()
    assert painted(review, box, before, labels) == []
    known = int(labels.max())
    labels[3:6, 3:6, 3:6], labels[8:10, 2:9, 4], labels[12, 12, 12:14] = known, 0, 777
    edits = painted(review, box, before, labels)
    assert sorted(edit.label for edit in edits)[-1] == review.free
    for edit in edits:
        review.apply(edit)
    wanted = np.where(labels == 777, 62, labels)
    assert np.array_equal(review.read(box), wanted)


def test_several_new_objects_get_labels_of_their_own(review: Review) -> None:
    box = Box((0,) * 3, (20,) * 3)
    before = review.read(box)
    labels = before.copy()
    labels[0, 0, :3], labels[2, 2, :3] = 500, 600
    assert [edit.label for edit in painted(review, box, before, labels)] == [62, 63]


def test_the_label_of_a_voxel_is_that_of_now(review: Review) -> None:
    first = review.queue[0]
    inside = np.argwhere(review.read(first.box) == first.label)[0] + first.box.start
    voxel = tuple(inside.tolist())
    assert label_at(review, voxel) == first.label
    review.delete(first.label)
    assert label_at(review, voxel) == 0


def test_an_image_without_one_of_its_coarse_levels_is_shown(tmp_path: Path) -> None:
    store = copy_demo(tmp_path / "embryo.ome.zarr")
    n_levels = len(open_for_review(str(store.truth)).levels)
    document = store.image / "zarr.json"
    about = json.loads(document.read_text())
    datasets = about["attributes"]["ome"]["multiscales"][0]["datasets"]
    gone = copy.deepcopy(datasets[-1]) | {"path": "gone"}
    gone["coordinateTransformations"][0]["scale"] = [16.0, 16.0, 16.0]
    datasets.append(gone)
    document.write_text(json.dumps(about))
    opened = open_for_review(str(store.truth))
    assert opened.image is not None
    assert len(opened.levels) == n_levels
