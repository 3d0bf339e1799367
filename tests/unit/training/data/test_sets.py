"""Further sets of annotated images: how they are written, and their shares of the crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedseg_large.errors import UsageError
from embedseg_large.training.data.crops import find_centers
from embedseg_large.training.data.panel import read_panel
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sets import TrainingSet, read_sets, shares_of
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.training.data.supply import AnnotatedSource, Mixture


def test_a_setting_that_is_a_number_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "panel.yaml"
    file.write_text("one: {images: images, 5: masks}")
    with pytest.raises(UsageError, match="no setting 5"):
        read_panel([file])


def test_a_further_set_has_a_share() -> None:
    (plants,) = read_sets(["plants=p/images,p/masks,share=0.25,channel=1"], TrainingSet)
    assert plants == TrainingSet(
        name="plants", images="p/images", masks="p/masks", share=0.25, channel=1
    )


def test_a_file_holds_several(tmp_path: Path) -> None:
    (tmp_path / "sets.yaml").write_text("a: {images: i, masks: m}\nb: {images: j, labels: n}\n")
    found = read_sets(tmp_path / "sets.yaml", TrainingSet)
    assert [each.name for each in found] == ["a", "b"]


def test_sets_without_a_share_divide_what_is_left() -> None:
    sets = read_sets(["a=i,m,share=0.5", "b=j,n"], TrainingSet)
    assert shares_of(sets) == (0.25, 0.5, 0.25)
    assert shares_of(()) == (1.0,)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (["images,masks"], "training set 'images,masks' is neither"),
        (["a=i,m,share=1"], "share is 1.0"),
        (["a=i,m,share=much"], "share 'much' is not a number"),
        (["a=i,m,object_diameter=3"], "no setting 'object_diameter'"),
        (["synthetic=i,m"], "this name is taken"),
        (["a=i,m", "a=j,n"], "two training sets"),
        ([Path("absent.yaml")], "absent.yaml"),
    ],
)
def test_what_is_no_set_is_refused_in_one_line(stated: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_sets(stated, TrainingSet)
    assert "\n" not in str(caught.value)


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match=r"add up to 1\.2"):
        shares_of(read_sets(["a=i,m,share=0.6", "b=i,m,share=0.6"], TrainingSet))


def plane(at: int) -> np.ndarray:
    """Two objects, at a place that tells the image."""
    labels = np.zeros((32, 32), np.int32)
    labels[at : at + 4, 2:6] = 3
    labels[at : at + 5, 20:26] = 7
    return labels


def test_each_set_has_its_own_objects_and_its_share_of_the_crops() -> None:
    masks = [plane(at) for at in (1, 8, 15, 22)]
    pairs = find_pairs([m.astype(np.float32) for m in masks], masks, ndim=2)
    properties = measure(pairs)
    objects = properties.objects
    sources = []
    for name, first, count in (("few", 0, 1), ("many", 1, 3)):
        own = slice(objects.rows_of(first).start, objects.rows_of(first + count - 1).stop)
        mine = pairs[first : first + count]
        centers = find_centers(mine, objects.part(own).renumbered(first))
        sources.append(AnnotatedSource(mine, properties, centers, name=name, first=first))
    few, many = sources
    assert (few.once, many.once) == (2, 6)
    for i, at in enumerate((8, 15, 22)):
        volume = many.volume(i)
        assert volume.objects.box(0).start == (at, 2)
        assert at <= volume.image.centers[0][0] < at + 4
    mixture = Mixture((few, many), (0.5, 0.5))
    order = mixture.order(100, np.random.default_rng(0))
    assert np.bincount(order[:, 0]).tolist() == [50, 50]
    assert set(order[order[:, 0] == 1, 1].tolist()) == {0, 1, 2}
    assert set(mixture.described()) == {"few", "many"}
