"""A review of labels in a bucket: the same decisions, copy and training mask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import embedseg_large as es
from embedseg_large.data import copy_demo, load_demo
from embedseg_large.errors import RunError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.review.annotation import annotation_of, image_of
from embedseg_large.storage.open import folder_at

if TYPE_CHECKING:
    from tests.integration.conftest import Faults, Web

STORE = "s3://embryos/embryo.ome.zarr"


@pytest.fixture
def store(faults: Faults, tmp_path: Path) -> str:  # noqa: ARG001
    """The embryo of the package in a bucket."""
    copy_demo(tmp_path / "embryo.ome.zarr")
    bucket = folder_at(STORE)
    for file in sorted((tmp_path / "embryo.ome.zarr").rglob("*")):
        if file.is_file():
            bucket.write(
                file.relative_to(tmp_path / "embryo.ome.zarr").as_posix(), file.read_bytes()
            )
    return STORE


def now(review: es.Review) -> Any:
    return review.read(Box.whole(review.voxels.shape))


def test_labels_in_a_bucket_are_reviewed_and_published(store: str) -> None:
    truth = load_demo().truth
    review, second = es.open_review(store), es.open_review(store)
    review.apply_script("accept 1\ndelete 2\nmerge 3 4\n")
    review.undo()
    with pytest.raises(RunError, match="another program has added a decision"):
        second.delete(9)
    again = es.open_review(f"{store}/labels/truth")
    wanted = np.where(truth == 2, 0, truth)
    assert np.array_equal(now(again), wanted)
    again.publish()
    again.delete(5)
    again.publish()
    copy = es.open_volume(f"{store}/labels/truth_reviewed").data.compute()
    assert np.array_equal(copy, np.where(wanted == 5, 0, wanted))
    assert image_of(again).spatial_shape == truth.shape
    assert (annotation_of(again).read(Box.whole(truth.shape))[truth == 1] == 1).all()


def test_a_failing_server_loses_no_decision(store: str, faults: Faults) -> None:
    faults.every, faults.late = 7, True
    review = es.open_review(store)
    review.apply_script("".join(f"delete {n}\n" for n in range(1, 9)))
    faults.every = 0
    again = es.open_review(store)
    assert again.decisions == review.decisions
    truth = load_demo().truth
    assert np.array_equal(now(again), np.where(truth < 9, 0, truth))


def test_on_a_web_server_labels_can_be_looked_at_only(web: Web, tmp_path: Path) -> None:
    copy_demo(tmp_path / "embryo.ome.zarr")
    review = es.open_review(f"{web.url}/embryo.ome.zarr/labels/truth")
    assert review.queue[0].label == 55
    with pytest.raises(UsageError, match="copy the store to review its labels"):
        review.delete(55)
