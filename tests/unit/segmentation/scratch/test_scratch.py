"""The scratch folder: what is kept comes back; what cannot be kept is one clear line."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedseg_large.embedding import background
from embedseg_large.errors import OutputError, RunError
from embedseg_large.geometry import Box
from embedseg_large.segmentation.scratch.scratch import Scratch, pack_prediction
from embedseg_large.segmentation.scratch.versions import ABSENT, TileVersion
from embedseg_large.stitching.tile_result import TileResult
from embedseg_large.storage.disk import LocalFolder
from embedseg_large.tiling.grid import Grid

GRID = Grid((20, 20), (16, 16), (0, 0))


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    (tmp_path / "run.scratch").mkdir()
    return Scratch.at(str(tmp_path / "run.scratch"))


def result() -> TileResult:
    core = np.arange(6, dtype=np.uint32).reshape(2, 3) % 3
    table = np.array([4, 9])
    return TileResult(
        core=core,
        seams=(core[:, 1:],),
        ids=table.astype(np.uint64),
        sizes=table,
        core_sizes=table,
        owned=np.array([True, False]),
        certain=np.array([False, True]),
        seediness=np.array([0.75, 0.5], np.float32),
        exact=False,
    )


def test_predictions_come_back_over_tile_borders(scratch: Scratch) -> None:
    stored = np.random.default_rng(0).normal(size=(5, 20, 20)).astype(np.float16)
    versions = np.full(GRID.counts, ABSENT, np.uint32)
    for index in [(0, 0), (1, 0), (1, 1)]:
        core = GRID.tile(index).core
        versions[index] = scratch.write_prediction(index, stored[(slice(None), *core.slices)])
    box = Box((10, 12), (19, 20))
    expected = stored[:, 10:19, 12:20].copy()
    expected[:, :6, 4:] = background((6, 4))  # of the tile that was skipped
    np.testing.assert_array_equal(scratch.read_prediction(GRID, box, versions), expected)


def test_background_of_a_prediction_costs_a_bit_a_voxel_at_most(scratch: Scratch) -> None:
    stored = background((16, 16))
    stored[:, 3, 4:6] = np.random.default_rng(0).normal(size=(5, 2))
    version = scratch.write_prediction((0, 0), stored)
    found = scratch.read_prediction(GRID, Box((0, 0), (16, 16)), np.array([[version]], np.uint32))
    np.testing.assert_array_equal(found, stored)
    headers = 8 + 2 * 16
    assert len(pack_prediction(stored)) <= headers + 16 * 16 // 8 + 5 * 2 * 2


def test_a_late_attempt_changes_nothing(scratch: Scratch) -> None:
    first, second = (np.full((5, 4, 4), v, np.float16) for v in (1, 2))
    version = scratch.write_prediction((1, 1), first)
    scratch.write_prediction((1, 1), second)
    found = scratch.read_prediction(GRID, Box((16, 16), (20, 20)), np.array([[version]], np.uint32))
    np.testing.assert_array_equal(found, first)


def test_a_view_comes_back_piece_by_piece(scratch: Scratch) -> None:
    name = TileVersion((1, 2), 3, scratch.write_result((1, 2), 3, result()))
    (kept,) = scratch.read_results([name])
    labels, names = kept.core((2, 3))
    np.testing.assert_array_equal(labels, result().core)
    assert names.tolist() == [0, 4, 9]
    np.testing.assert_array_equal(kept.seam(0, (2, 2)), np.array([0, 4, 9])[result().seams[0]])
    assert not kept.exact


def test_the_account_of_instances_reads_no_labels(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = TileVersion((1, 2), 3, scratch.write_result((1, 2), 3, result()))
    read: list[str] = []
    whole = LocalFolder.read

    def remembered(folder: LocalFolder, name: str) -> bytes:
        read.append(name)
        return whole(folder, name)

    monkeypatch.setattr(LocalFolder, "read", remembered)
    (entries,) = scratch.read_entries([name], [17])
    assert (entries.ids.tolist(), entries.tile.tolist()) == ([4, 9], [17, 17])
    assert entries.certain.tolist() == [False, True]
    assert entries.seediness.tolist() == [0.75, 0.5]
    assert [name.partition("/")[0] for name in read] == ["tables"]


def test_a_task_that_outlives_its_run_does_not_begin_a_new_one(scratch: Scratch) -> None:
    scratch.remove()
    with pytest.raises(RunError, match="the run has ended"):
        scratch.write_result((0, 0), 0, result())
    assert not Path(scratch.path).exists()


def test_a_full_disk_is_one_line_that_names_the_folder(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"run\.scratch: the disk is full"):
        scratch.write_result((0, 0), 0, result())
