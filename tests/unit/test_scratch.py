"""The scratch folder: what is kept comes back; what cannot be kept is one clear line."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedseg_large.engine.scratch import Scratch
from embedseg_large.errors import OutputError, RunError
from embedseg_large.geometry import Box
from embedseg_large.stitching.view import TileView
from embedseg_large.tiling.grid import Grid


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    scratch = Scratch(str(tmp_path / "run.scratch"))
    scratch.create(5, Grid((20, 20), (16, 16), (0, 0)))
    return scratch


def view() -> TileView:
    core = np.arange(6, dtype=np.uint32).reshape(2, 3) % 3
    table = np.array([4, 9])
    return TileView(
        core=core,
        seams=(core[:, 1:],),
        ids=table.astype(np.uint64),
        sizes=table,
        core_sizes=table,
        owned=np.array([True, False]),
        certain=np.array([False, True]),
        exact=False,
    )


def test_predictions_come_back_over_tile_borders(scratch: Scratch) -> None:
    stored = np.random.default_rng(0).normal(size=(5, 20, 20)).astype(np.float16)
    for core in Box.whole((20, 20)).split((16, 16)):
        scratch.write_prediction(core, stored[(slice(None), *core.slices)])
    box = Box((10, 12), (19, 20))
    np.testing.assert_array_equal(scratch.read_prediction(box), stored[:, 10:19, 12:20])


def test_a_view_comes_back_piece_by_piece(scratch: Scratch) -> None:
    scratch.write_view((1, 2), 3, view())
    labels, names = scratch.read_core((1, 2), 3, (2, 3))
    np.testing.assert_array_equal(labels, view().core)
    assert names.tolist() == [0, 4, 9]
    np.testing.assert_array_equal(
        scratch.read_seam((1, 2), 3, 0, (2, 2)), np.array([0, 4, 9])[view().seams[0]]
    )
    entries = scratch.read_entries((1, 2), 3, 17)
    assert (entries.ids.tolist(), entries.tile.tolist()) == ([4, 9], [17, 17])
    assert not scratch.read_exact((1, 2), 3)


def test_a_task_that_outlives_its_run_does_not_begin_a_new_one(scratch: Scratch) -> None:
    scratch.remove()
    with pytest.raises(RunError, match="ended"):
        scratch.write_view((0, 0), 0, view())
    assert not Path(scratch.path).exists()


def test_a_full_disk_is_one_line_that_names_the_folder(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match=r"run\.scratch: the disk is full"):
        scratch.write_view((0, 0), 0, view())
