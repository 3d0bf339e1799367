"""A review keeps every decision, undoes and repeats it, and writes only the chunks that change."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import MetadataError, OutputError, RunError, UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.review import review as review_module
from embedseg_large.review import voxels as voxels_module
from embedseg_large.review.edits import Accept, Delete, Edit, Merge, Paint, Split, flooded
from embedseg_large.review.review import Review, open_review
from embedseg_large.review.voxels import ReviewedVoxels
from embedseg_large.volumes.volume import Volume, open_volume

Labels = NDArray[Any]
WriteLabels = Callable[..., Path]


def ngff(name: str) -> dict[str, Any]:
    """The multiscale metadata of one level."""
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    axes = [{"name": axis, "type": "space"} for axis in "zyx"]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    return {"multiscales": [{"name": name, "axes": axes, "datasets": levels}]}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 16 voxels, so that even small instances lie in several."""
    monkeypatch.setitem(voxels_module._CHUNK, 3, 16)
    monkeypatch.setitem(voxels_module._CHUNK, 2, 16)


def now(review: Review) -> Labels:
    return review.read(Box.whole(review.voxels.shape))


def inside(labels: Labels, label: int) -> Labels:
    return np.argwhere(labels == label)


def files(folder: Path) -> dict[str, int]:
    """Files below a folder, with the time of their last change."""
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()
    }


# An independent account of what edits do, on whole arrays ----------------------------------------


def expected(labels: Labels, edit: Edit, free: int) -> Labels:
    """What an edit makes of a whole volume."""
    after = labels.copy()
    if isinstance(edit, Delete):
        after[labels == edit.label] = 0
    elif isinstance(edit, Merge):
        after[labels == edit.other] = edit.label
    elif isinstance(edit, Paint):
        for start, length in edit.runs:
            for step in range(length):
                after[(*start[:-1], start[-1] + step)] = edit.label
    elif isinstance(edit, Split):
        mask = labels == edit.label
        parts = flooded(mask, edit.points, (2.0, 0.5, 0.5)[-labels.ndim :])
        for number in range(2, len(edit.points) + 1):
            after[parts == number] = free + number - 2
    return after


def random_edit(labels: Labels, free: int, rng: np.random.Generator) -> Edit:
    present = np.unique(labels[labels > 0]).tolist()
    label, other = (int(n) for n in rng.choice(present, 2, replace=False))
    kind = rng.integers(5)
    if kind == 0:
        return Accept(label)
    if kind == 1:
        return Delete(label)
    if kind == 2:
        return Merge(label, other)
    if kind == 3 and len(places := inside(labels, label)) > 3:
        points = rng.permutation(places)[: rng.integers(2, 4)].tolist()
        return Split(label, tuple(map(tuple, points)))
    middle = rng.integers(0, labels.shape)
    brush = middle + rng.integers(-4, 5, (60, labels.ndim))
    brush = brush[((brush >= 0) & (brush < labels.shape)).all(axis=1)]
    brush = np.concatenate([brush, middle[np.newaxis]])
    return Paint.of(int(rng.choice([0, label, free])), brush)


@pytest.mark.parametrize("seed", range(4))
def test_any_edits_are_undone_repeated_and_replayed_to_the_voxel(
    seed: int, source: Path, cells: Labels
) -> None:
    rng, review = np.random.default_rng(seed), open_review(source)
    before, undone = [cells.astype(np.int64)], list[Labels]()
    for _ in range(30):
        action = rng.random()
        if action < 0.2:
            if review.undo() is not None:
                undone.append(before.pop())
        elif action < 0.3:
            if review.redo() is not None:
                before.append(undone.pop())
        else:
            free = review.free
            edit = random_edit(before[-1], free, rng)
            review.apply(edit)
            before.append(expected(before[-1], edit, free))
            undone.clear()
        assert np.array_equal(now(review), before[-1])
        assert review.free > before[-1].max()
    again = open_review(source)
    assert np.array_equal(now(again), before[-1])
    assert again.decisions == review.decisions
    other = open_review(source, name="others")
    assert other.apply_script(review.script()) == len(review.decisions)
    assert np.array_equal(now(other), before[-1])
    while again.undo() is not None:
        pass
    assert np.array_equal(now(again), cells)
    while again.redo() is not None:
        pass
    assert np.array_equal(now(open_review(source)), before[-1] if not undone else now(again))
    assert np.array_equal(open_volume(source).data.compute(), cells)


def test_a_plane_is_reviewed_like_a_volume(write_labels: WriteLabels, cells: Labels) -> None:
    source = write_labels(cells[12], axes="yx")
    review, rng = open_review(source), np.random.default_rng(1)
    labels = cells[12].astype(np.int64)
    for _ in range(15):
        free = review.free
        edit = random_edit(labels, free, rng)
        review.apply(edit)
        labels = expected(labels, edit, free)
        assert np.array_equal(now(review), labels)


def test_every_timepoint_has_a_review_of_its_own(write_labels: WriteLabels, cells: Labels) -> None:
    source = write_labels(np.stack([cells, np.flip(cells, 2)]), axes="tzyx")
    with pytest.raises(UsageError, match=r"2 timepoints; choose one \(--timepoint\)"):
        open_review(source)
    label = int(cells.max())
    open_review(source, timepoint=1).delete(label)
    first, second = (open_review(source, timepoint=t) for t in (0, 1))
    assert np.array_equal(now(first), cells)
    assert np.array_equal(now(second), np.where(np.flip(cells, 2) == label, 0, np.flip(cells, 2)))
    assert (len(first.decisions), len(second.decisions)) == (0, 1)


# The queue ---------------------------------------------------------------------------------------


def test_the_queue_loses_what_was_decided_and_gets_it_back(source: Path, cells: Labels) -> None:
    review = open_review(source)
    first, second, third, *_ = (review.queue[i].label for i in range(4))
    review.accept(first)
    review.merge(second, third)
    assert [review.queue[i].label for i in review.left][:1] == [review.queue[3].label]
    review.undo()
    assert [review.queue[i].label for i in review.left][:2] == [second, third]
    assert len(review.queue) == len(np.unique(cells)) - 1


def test_what_paint_covers_entirely_is_not_to_be_looked_at(source: Path, cells: Labels) -> None:
    review = open_review(source)
    review.paint(0, inside(cells, 5))
    assert 5 not in [review.queue[i].label for i in review.left]
    assert 5 not in review.decided
    with pytest.raises(UsageError, match="there is no instance 5 any more"):
        review.accept(5)


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("accept 999", "there is no instance 999 in "),
        ("merge 3 999", "there is no instance 999"),
        ("merge 999 3", "there is no instance 999"),
        ("paint 999 1,1,1+1", "there is no instance 999"),
        ("paint 3 1,1,40+5", "is not inside the volume"),
        ("paint 3 1,1,99999999999+5", "is not inside the volume"),
        ("split 3 0,0,0 1,1,1", "is not in instance 3"),
    ],
)
def test_an_impossible_edit_changes_nothing(source: Path, line: str, message: str) -> None:
    review = open_review(source)
    with pytest.raises(UsageError, match=message):
        review.apply_script(line)
    assert review.decisions == []
    assert not (source.parents[1] / "reviews").exists()


def test_a_script_says_which_line_failed_and_what_was_made(source: Path) -> None:
    review = open_review(source)
    with pytest.raises(
        UsageError, match=r"^day, line 4: there is no instance 2 any more; deci.*2$"
    ):
        review.apply_script("accept 1\n# gone\ndelete 2\naccept 2", "day")
    assert review.script() == "accept 1\ndelete 2\n"


def test_nothing_to_undo_is_no_error(source: Path) -> None:
    review = open_review(source)
    assert review.undo() is None
    assert review.redo() is None


def test_a_new_decision_ends_what_can_be_redone(source: Path) -> None:
    review = open_review(source)
    review.delete(1)
    review.undo()
    review.accept(2)
    assert review.redo() is None
    assert review.script() == "accept 2\n"


# What is written ---------------------------------------------------------------------------------


def test_looking_writes_nothing(source: Path) -> None:
    before = files(source.parents[1])
    review = open_review(source)
    assert len(review.queue)
    assert files(source.parents[1]) == before


def test_an_edit_writes_the_chunks_that_it_changes_and_no_others(
    source: Path, cells: Labels
) -> None:
    review, folder = open_review(source), source.parents[1] / "reviews" / "cells_reviewed"
    untouched = files(source)
    for label in (4, 9, 17):
        before = files(folder) if folder.exists() else {}
        review.delete(label)
        after = files(folder)
        written = {name for name in after if after[name] != before.get(name)}
        cells_of = {tuple(c) for c in (inside(cells, label) // 16).tolist()}
        chunks = {f"voxels/c/{'/'.join(map(str, cell))}" for cell in cells_of}
        there = {name for name in written if name.startswith("voxels/c/")}
        assert there <= chunks  # a chunk that is now empty is not stored
        assert {c for c in chunks if c not in there} <= set(chunks) - set(after)
    assert files(source) == untouched


def test_accepting_writes_no_voxels(source: Path) -> None:
    review = open_review(source)
    review.accept(3)
    names = set(files(source.parents[1] / "reviews"))
    assert names == {
        f"cells_reviewed/{n}" for n in ("review.json", "instances.npz", "log/00000000")
    }


def test_an_edit_reads_the_box_of_its_instance_only(
    source: Path, cells: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = open_review(source)
    review.accept(1)  # the table is there
    seen: list[Box] = []
    read = Volume.read

    def reading(self: Volume, box: Box, timepoint: int | None = None) -> Labels:
        seen.append(box)
        return read(self, box, timepoint)

    monkeypatch.setattr(Volume, "read", reading)
    review.delete(4)
    places = inside(cells, 4)
    near = Box(tuple(places.min(axis=0).tolist()), tuple((places.max(axis=0) + 1).tolist()))
    assert seen
    assert all(near.rounded_out((16,) * 3).contains(box) for box in seen)


def test_the_second_opening_measures_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_review(source)
    first.accept(1)
    monkeypatch.setattr("embedseg_large.review.review.measured", None)
    again = open_review(source)
    assert [again.queue[i] for i in range(5)] == [first.queue[i] for i in range(5)]


def test_an_edit_in_a_volume_of_a_tebivoxel_takes_the_memory_of_an_instance(
    write_labels: WriteLabels, cells: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_review(write_labels(cells)).columns
    monkeypatch.setattr("embedseg_large.review.review.measured", lambda *_: table)
    monkeypatch.setitem(voxels_module._CHUNK, 3, 64)
    place = tmp_path / "huge.ome.zarr" / "labels" / "cells"
    group: Any = zarr.create_group(
        place, attributes={"ome": {"version": "0.5", **ngff("cells"), "image-label": {}}}
    )
    shape, chunks = (8192, 8192, 16384), (64, 64, 64)
    array = group.create_array("0", shape=shape, dtype=np.uint32, chunks=chunks)
    array[:24, :40, :44] = cells
    tracemalloc.start()
    review = open_review(place)
    review.delete(4)
    review.split(9, *inside(cells, 9)[[0, -1]])
    review.undo()
    assert tracemalloc.get_traced_memory()[1] < 64e6
    tracemalloc.stop()
    after = review.read(Box((0,) * 3, cells.shape))
    assert np.array_equal(after, np.where(cells == 4, 0, cells))
    assert not review.read(Box((8000, 8000, 16000), (8010, 8010, 16010))).any()


def test_voxels_far_apart_are_not_painted_at_once(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = open_review(source)
    monkeypatch.setattr(review_module, "_MOST_PAINTED", 1000)
    review.paint(0, np.array([[3, 4, 5], [12, 13, 14]]))
    with pytest.raises(UsageError, match=r"paint refers to a box of 1,100 voxels .*in several"):
        review.paint(0, np.array([[3, 4, 5], [12, 13, 15]]))
    assert len(review.decisions) == 1


def test_an_instance_too_large_for_the_memory_is_not_edited(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = open_review(source)
    monkeypatch.setattr(review_module, "_MOST_VOXELS", review.box_of(7).size - 1)
    with pytest.raises(UsageError, match=r"delete refers to a box of .*; edit it in another"):
        review.delete(7)
    assert review.decisions == []


def test_labels_of_bytes_get_labels_beyond_255(write_labels: WriteLabels, cells: Labels) -> None:
    small = np.where(cells > 0, 255 - cells, 0).astype(np.uint8)
    review = open_review(write_labels(small))
    free = review.free
    review.paint(free, np.array([[0, 0, 0]]))
    assert now(review)[0, 0, 0] == free >= 255
    assert free + 1 == review.free


# Faults ------------------------------------------------------------------------------------------


class KilledError(Exception):
    """A process died."""


@pytest.mark.parametrize("chunks", [0, 1])
@pytest.mark.parametrize("action", ["delete", "undo", "redo"])
def test_a_process_that_dies_while_it_writes_voxels_loses_nothing(
    action: str, chunks: int, source: Path, cells: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = open_review(source)
    gone = np.where(cells == 7, 0, cells)
    if action != "delete":
        review.delete(7)
    if action == "redo":
        review.undo()

    opened, count = ReviewedVoxels._array, iter(range(99))

    def die(self: ReviewedVoxels, mode: Literal["r", "r+"]) -> Any:
        if mode == "r+" and next(count) == chunks:
            raise KilledError
        return opened(self, mode)

    with monkeypatch.context() as patch:
        patch.setattr(ReviewedVoxels, "_array", die)
        with pytest.raises(KilledError):
            review.delete(7) if action == "delete" else getattr(review, action)()
    again = open_review(source)
    assert np.array_equal(now(again), cells if action == "undo" else gone)


def test_a_process_that_dies_before_the_log_is_written_has_decided_nothing(
    source: Path, cells: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = open_review(source)

    def die(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(type(review.log.folder), "create", die)
        with pytest.raises(KilledError):
            review.delete(7)
    again = open_review(source)
    assert again.decisions == []
    assert np.array_equal(now(again), cells)


def test_of_two_reviewers_the_second_is_told_to_open_again(source: Path, cells: Labels) -> None:
    one, two = open_review(source), open_review(source)
    one.delete(3)
    with pytest.raises(RunError, match="another program has added a decision"):
        two.delete(4)
    again = open_review(source)
    assert np.array_equal(now(again), np.where(cells == 3, 0, cells))
    again.delete(4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"edit": "delete 3"}',
        b'{"undo": 1}',
        b'{"undo": true, "x": 1}',
        b'{"edit":"delete 3","box":[[0,0,0],[99,99,99]],"runs":"","instances":[],"source":[0,""]}',
    ],
)
def test_a_damaged_step_is_named(source: Path, content: bytes) -> None:
    open_review(source).accept(1)
    step = source.parents[1] / "reviews" / "cells_reviewed" / "log" / "00000001"
    step.write_bytes(content)
    with pytest.raises(MetadataError, match=r"00000001: no step of a review .*; restore it"):
        open_review(source)


def test_a_missing_step_is_named(source: Path) -> None:
    review = open_review(source)
    for label in (1, 2, 3):
        review.accept(label)
    (source.parents[1] / "reviews" / "cells_reviewed" / "log" / "00000001").unlink()
    with pytest.raises(MetadataError, match="00000001 is missing"):
        open_review(source)


def test_a_damaged_table_is_named(source: Path) -> None:
    open_review(source).accept(1)
    (source.parents[1] / "reviews" / "cells_reviewed" / "instances.npz").write_bytes(b"PK")
    with pytest.raises(MetadataError, match=r"instances\.npz: no table of instances .*; delete it"):
        open_review(source)


def test_lost_voxels_are_made_again_from_the_log(source: Path) -> None:
    review, rng = open_review(source), np.random.default_rng(5)
    for _ in range(12):
        review.apply(random_edit(now(review), review.free, rng))
    review.undo()
    before = now(review)
    shutil.rmtree(source.parents[1] / "reviews" / "cells_reviewed" / "voxels")
    assert np.array_equal(now(open_review(source)), before)


@pytest.mark.parametrize("n_written", [0, 1, 3])
def test_voxels_whose_making_was_interrupted_are_complete_after_the_next_opening(
    n_written: int, source: Path, cells: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    review, deleted = open_review(source), np.unique(cells[cells > 0])[:5]
    for label in deleted.tolist():
        review.delete(label)
    shutil.rmtree(source.parents[1] / "reviews" / "cells_reviewed" / "voxels")
    opened, count = ReviewedVoxels._array, iter(range(99))

    def die(self: ReviewedVoxels, mode: Literal["r", "r+"]) -> Any:
        if mode == "r+" and next(count) == n_written:
            raise KilledError
        return opened(self, mode)

    with monkeypatch.context() as patch:
        patch.setattr(ReviewedVoxels, "_array", die)
        with pytest.raises(KilledError):
            open_review(source)
    again = open_review(source)
    expected = np.where(np.isin(cells, deleted), 0, cells)
    assert np.array_equal(now(again), expected)
    assert np.array_equal(open_volume(again.publish()).data.compute(), expected)


def test_a_lost_chunk_is_made_again_and_this_is_logged(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    review = open_review(source)
    for label in (3, 7, 9):
        review.delete(label)
    before = now(review)
    folder = source.parents[1] / "reviews" / "cells_reviewed" / "voxels" / "c"
    next(p for p in sorted(folder.rglob("*")) if p.is_file()).unlink()
    with caplog.at_level("INFO", "embedseg_large"):
        again = open_review(source)
    assert np.array_equal(now(again), before)
    assert "voxels: wrote 1 chunks again" in caplog.text


def test_a_chunk_of_background_is_not_written_again_and_again(
    write_labels: WriteLabels, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.zeros((20, 20, 20), np.uint32)
    labels[2:6, 2:6, 2:6] = 1
    labels[17:, 17:, 17:] = 2
    source = write_labels(labels)
    open_review(source).delete(1)
    open_review(source).delete(2)
    with caplog.at_level("INFO", "embedseg_large"):
        assert not now(open_review(source)).any()
    assert "again" not in caplog.text


@pytest.mark.parametrize("later", ["delete", "undo"])
def test_after_a_full_disk_the_session_goes_on_with_the_voxels_of_its_decisions(
    later: str, source: Path, cells: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    review, opened = open_review(source), ReviewedVoxels._array
    review.delete(3)

    def full(self: ReviewedVoxels, mode: Literal["r", "r+"]) -> Any:
        if mode == "r+":
            raise OSError(28, "No space left on device")
        return opened(self, mode)

    with monkeypatch.context() as patch:
        patch.setattr(ReviewedVoxels, "_array", full)
        with pytest.raises(OutputError, match="the disk is full"):
            review.delete(7)
    review.delete(9) if later == "delete" else review.undo()
    gone = [3, 7, 9] if later == "delete" else [3]
    expected = np.where(np.isin(cells, gone), 0, cells)
    assert np.array_equal(now(review), expected)
    assert np.array_equal(now(open_review(source)), expected)


def test_after_a_full_disk_voxels_of_another_program_are_not_overwritten(
    source: Path, cells: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = open_review(source)

    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ReviewedVoxels, "put", full)
        with pytest.raises(OutputError):
            review.delete(7)
    open_review(source).undo()
    with pytest.raises(RunError, match="open it again"):
        review.delete(9)
    assert np.array_equal(now(open_review(source)), cells)


# Labels that changed -----------------------------------------------------------------------------


@pytest.fixture
def reviewed(source: Path) -> Iterator[Path]:
    """Labels of which two instances were decided; the review must outlast the test."""
    review = open_review(source)
    review.delete(3)
    review.accept(5)
    folder = source.parents[1] / "reviews" / "cells_reviewed"
    before = files(folder)
    yield source
    assert files(folder) == before


def refused(source: Path, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_review(source)
    text = str(caught.value)
    assert f"labels/cells has changed since its review began ({what}" in text
    assert "the 2 decisions stay in " in text
    assert "\n" not in text


def test_labels_of_another_run_are_refused(
    reviewed: Path, write_labels: WriteLabels, cells: Labels
) -> None:
    write_labels(cells, token="run 2")
    refused(reviewed, "the run that made them differs")
    other = open_review(reviewed, name="second")
    assert other.decisions == []


def test_labels_of_another_shape_are_refused(
    reviewed: Path, write_labels: WriteLabels, cells: Labels
) -> None:
    shutil.rmtree(reviewed)
    write_labels(cells[:, :, :40], store="other.ome.zarr")
    shutil.copytree(reviewed.parents[2] / "other.ome.zarr" / "labels" / "cells", reviewed)
    refused(reviewed, "shape differs")


@pytest.mark.parametrize("label", [3, 5])
def test_labels_that_were_painted_where_something_was_decided_are_refused(
    reviewed: Path, label: int, cells: Labels
) -> None:
    array: Any = zarr.open_array(str(reviewed / "0"), mode="r+")
    array[tuple(inside(cells, label)[0])] = 1
    refused(reviewed, "the voxels of")


def test_a_copy_of_the_store_can_be_reviewed(reviewed: Path, cells: Labels) -> None:
    copy = reviewed.parents[2] / "copy.ome.zarr"
    shutil.copytree(reviewed.parents[1], copy, copy_function=shutil.copyfile)
    for file in copy.rglob("*"):
        os.utime(file, (1, 1))
    assert np.array_equal(now(open_review(copy)), np.where(cells == 3, 0, cells))


def test_the_same_labels_written_again_can_be_reviewed(
    reviewed: Path, write_labels: WriteLabels, cells: Labels
) -> None:
    write_labels(cells)
    assert len(open_review(reviewed).decisions) == 2


# Names -------------------------------------------------------------------------------------------


def test_a_review_is_found_by_store_labels_or_result(source: Path) -> None:
    store = source.parents[1]
    open_review(source).accept(1)
    for place in (store, f"{store}/", source, store / "labels" / "cells_reviewed"):
        assert open_review(place).script() == "accept 1\n"


@pytest.mark.parametrize("below", ["labels", "labels/embryos"])
def test_in_a_folder_named_labels_the_labels_of_a_store_are_reviewed_and_not_its_image(
    below: str, write_labels: WriteLabels, cells: Labels, tmp_path: Path
) -> None:
    (tmp_path / below).mkdir(parents=True)
    source = write_labels(cells, store=f"{below}/embryo.ome.zarr")
    store = source.parents[1]
    for place in (store, f"{store}/", source):
        review = open_review(place)
        assert review.place.source == str(source)
        assert np.array_equal(now(review), cells)


def test_an_image_in_a_folder_named_labels_has_no_labels_to_review(tmp_path: Path) -> None:
    image = tmp_path / "labels" / "embryo.ome.zarr"
    image.parent.mkdir()
    write_image(image, np.zeros((8, 8), np.uint16))
    with pytest.raises(UsageError, match="has no labels inside; name one"):
        open_review(image)


def test_noise_that_is_listed_as_labels_is_refused(source: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 4000, (24, 40, 44)).astype(np.uint32)
    shutil.rmtree(source)
    write_image(source, noise)
    with pytest.raises(VolumeError, match="image"):
        open_review(source)


@pytest.mark.parametrize("name", ["cells", "", "../x", ".hidden", "a/b"])
def test_a_name_that_no_labels_can_have_is_refused(source: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name reviewed labels"):
        open_review(source, name=name or "/")


def test_a_place_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no labels inside; name one, as STORE/labels/NAME"):
        open_review(tmp_path)
