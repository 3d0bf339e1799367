"""The finished copy of reviewed labels is a label volume like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from numpy.typing import NDArray

from embedseg_large.errors import LabelsExistError
from embedseg_large.labels.published import label_names, place_of_image, provenance_of
from embedseg_large.review.review import open_review
from embedseg_large.volumes.volume import open_volume

Labels = NDArray[Any]
WriteLabels = Callable[..., Path]


def published(source: Path) -> Labels:
    volume = open_volume(source.with_name("cells_reviewed"), channel=None)
    assert volume.is_labels
    return np.asarray(volume.data.compute())


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_the_copy_is_complete_and_valid(
    version: str, write_labels: WriteLabels, cells: Labels
) -> None:
    source = write_labels(cells, version=version)
    store, review = source.parents[1], open_review(source)
    review.delete(4)
    review.merge(5, 6)
    steps: list[tuple[int, int]] = []
    assert review.publish(lambda *at: steps.append(at)) == str(source.with_name("cells_reviewed"))
    expected = np.where(cells == 4, 0, np.where(cells == 6, 5, cells))
    assert np.array_equal(published(source), expected)
    assert steps[-1][0] == steps[-1][1]
    assert label_names(str(store)) == ["cells", "cells_reviewed"]
    assert np.array_equal(open_volume(source).data.compute(), cells)
    place = str(source.with_name("cells_reviewed"))
    original = open_volume(source)
    assert len(open_volume(place).levels) == len(original.levels)
    assert open_volume(place).voxel_size == original.voxel_size
    made = provenance_of(place)
    assert made["review"] == {
        "of": "cells",
        "token": "run 1",
        "decisions": {"delete": 1, "merge": 1},
    }
    assert place_of_image(place, made) == str(store)
    if version == "0.5":
        yaozarrs.validate_zarr_store(str(store))


def test_a_later_copy_replaces_the_earlier_one(source: Path, cells: Labels) -> None:
    review = open_review(source)
    review.delete(4)
    review.publish()
    review.undo()
    review.delete(5)
    review.publish()
    assert np.array_equal(published(source), np.where(cells == 5, 0, cells))
    assert label_names(str(source.parents[1])) == ["cells", "cells_reviewed"]
    assert sorted(p.name for p in source.parent.iterdir() if p.is_dir()) == [
        "cells",
        "cells_reviewed",
    ]


def test_labels_that_are_not_of_the_review_are_not_replaced(source: Path) -> None:
    review = open_review(source)
    review.accept(4)
    review.publish()
    group: Any = zarr.open_group(str(source.with_name("cells_reviewed")), mode="r+")
    del group.attrs["embedseg_large"]
    with pytest.raises(LabelsExistError, match="exists and is no copy of this review; rename it"):
        review.publish()


def test_a_review_without_decisions_is_a_copy_of_its_labels(source: Path, cells: Labels) -> None:
    open_review(source).publish()
    assert np.array_equal(published(source), cells)


def test_of_a_series_all_timepoints_are_there(write_labels: WriteLabels, cells: Labels) -> None:
    source = write_labels(np.stack([cells, np.flip(cells, 1)]), axes="tzyx")
    review = open_review(source, timepoint=1)
    review.delete(7)
    review.publish()
    flipped = np.flip(cells, 1)
    assert np.array_equal(published(source), [cells, np.where(flipped == 7, 0, flipped)])


def test_a_plane_is_published_with_its_axes(write_labels: WriteLabels, cells: Labels) -> None:
    source = write_labels(cells[12:13])
    review = open_review(source)
    label = int(cells[12].max())
    review.delete(label)
    review.publish()
    assert np.array_equal(published(source), np.where(cells[12:13] == label, 0, cells[12:13]))


def test_of_labels_of_a_region_the_rest_stays_empty(
    write_labels: WriteLabels, cells: Labels
) -> None:
    part = np.zeros_like(cells)
    part[:, 8:30, 8:30] = cells[:, 8:30, 8:30]
    source = write_labels(part, region={"start": [0, 8, 8], "stop": [24, 30, 30]})
    review = open_review(source)
    label = int(part.max())
    review.delete(label)
    review.publish()
    assert np.array_equal(published(source), np.where(part == label, 0, part))
    assert provenance_of(str(source.with_name("cells_reviewed")))["region"]["stop"] == [24, 30, 30]
