from __future__ import annotations

import errno
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from embedseg_large.errors import MetadataError, OutputError, RunError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.storage.disk import check_writable, replaced
from embedseg_large.storage.group import ZarrGroup, packed
from embedseg_large.storage.open import folder_at
from embedseg_large.volumes.multiscale import (
    LevelSpec,
    MultiscaleStore,
    check_local,
    check_version,
    checked_cast,
    layout,
    ngff_attributes,
)
from embedseg_large.volumes.pyramid import mode_pool


def store_in(folder: Path, version: str = "0.5", **more: Any) -> MultiscaleStore:
    levels = (
        LevelSpec((2, 40, 50, 60), (1.0, 2.0, 0.5, 0.5)),
        LevelSpec((2, 40, 25, 30), (1.0, 2.0, 1.0, 1.0)),
    )
    settings: dict[str, Any] = {
        "path": str(folder / "group"),
        "ngff_version": version,
        "axes": "tzyx",
        "units": (None, "micrometer", "micrometer", "micrometer"),
        "dtype": "uint16",
        "levels": levels,
        "chunks": (8, 8, 8),
    }
    return MultiscaleStore(**(settings | more))


@pytest.mark.parametrize(
    ("shape", "zarr_format", "chunks", "region"),
    [
        ((1000, 1000, 1000), 3, (64, 64, 64), (256, 256, 256)),
        ((1000, 1000, 1000), 2, (128, 128, 128), (256, 256, 256)),
        ((9000, 9000), 3, (512, 512), (2048, 2048)),
        ((9000, 9000), 2, (1024, 1024), (2048, 2048)),
        ((10, 100, 70), 3, (10, 64, 64), (10, 128, 128)),
        ((10, 100, 30), 2, (10, 100, 30), (10, 100, 30)),
    ],
)
def test_files_are_large_and_not_larger_than_the_level(
    shape: tuple[int, ...], zarr_format: int, chunks: tuple[int, ...], region: tuple[int, ...]
) -> None:
    cut = layout(shape, zarr_format)
    assert (cut.chunks, cut.region) == (chunks, region)


def test_regions_about_a_part_show_all_of_it_and_are_few(tmp_path: Path) -> None:
    levels = tuple(
        LevelSpec(tuple(-(-n // 2**k) for n in (3000, 5000)), (2.0**k,) * 2) for k in range(4)
    )
    store = store_in(tmp_path, axes="yx", units=(None, None), levels=levels, chunks=(64, 64))
    part = Box((2040, 4100), (2100, 4200))
    for level, count in enumerate((2, 1, 1, 1)):
        every, some = list(store.regions(level)), list(store.regions(level, part))
        assert set(some) <= set(every)
        assert len(some) <= count + 2 < len(every) + 3
        seen = Box(
            tuple(a >> level for a in part.start), tuple(((b - 1) >> level) + 1 for b in part.stop)
        )
        assert sum(box.intersect(seen).size for box in some) == seen.size


@pytest.mark.parametrize("chunks", [(7, 300, 33), (1, 1, 1), (256, 256, 256)])
def test_regions_are_whole_chunks(chunks: tuple[int, ...]) -> None:
    cut = layout((500, 600, 700), 3, chunks)
    assert all(r % c == 0 for r, c in zip(cut.region, cut.chunks, strict=True))


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_voxels_written_by_region_are_read_back(tmp_path: Path, version: str) -> None:
    store = pickle.loads(pickle.dumps(store_in(tmp_path, version)))
    store.create()
    image = np.random.default_rng(0).integers(0, 65536, (2, 40, 50, 60), dtype=np.uint16)
    for lead in store.leads():
        for box in store.regions(0):
            store.write(0, box, image[(*lead, *box.slices)], lead)
    assert np.array_equal(zarr.open_array(store.path + "/0", mode="r")[:], image)


@pytest.mark.parametrize(("content", "shuffled"), [("image", True), ("labels", False)])
@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_arrays_are_nested_and_compressed_for_what_they_hold(
    tmp_path: Path, version: str, content: Literal["image", "labels"], shuffled: bool
) -> None:
    store = replace(store_in(tmp_path, version), content=content)
    store.create()
    array: Any = zarr.open_array(store.path + "/0", mode="r")
    store.write(0, Box.whole((40, 50, 60)), np.ones((40, 50, 60), np.uint16), (1,))
    file = Path(store.path, "0", *(() if version == "0.4" else ("c",)), "1", "0", "0", "0")
    assert file.is_file()
    assert (array.shards is None) == (version == "0.4")
    assert "zstd" in str(array.compressors).lower()
    assert ("shuffle" in str(array.compressors)) == shuffled


def test_a_box_that_shares_a_shard_with_others_is_refused(tmp_path: Path) -> None:
    store = store_in(tmp_path, levels=(LevelSpec((2, 300, 50, 60), (1.0,) * 4),))
    store.create()
    with pytest.raises(RunError, match="whole regions"):
        store.write(0, Box((0, 0, 0), (8, 50, 60)), np.zeros((8, 50, 60), np.uint16), (0,))


def test_voxels_of_another_shape_are_refused(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.create()
    with pytest.raises(RunError, match="do not fill"):
        store.write(0, Box.whole((40, 50, 60)), np.zeros((1, 1, 1), np.uint16), (0,))


def test_creating_again_keeps_voxels(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.create()
    box = Box.whole((40, 50, 60))
    store.write(0, box, np.full(box.shape, 7, np.uint16), (0,))
    store.create()
    assert np.all(store.read(0, box, (0,)) == 7)


def test_an_array_of_another_run_is_not_reused(tmp_path: Path) -> None:
    store_in(tmp_path).create()
    with pytest.raises(RunError, match="uint16"):
        store_in(tmp_path, dtype="uint32").create()


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_arrays_cut_into_other_files_are_not_gone_on_with(tmp_path: Path, version: str) -> None:
    """Their regions share files, which two tasks would write at the same time."""
    store_in(tmp_path, version).create()
    with pytest.raises(RunError, match=r"has files of \(.*\) voxels, this run writes files of"):
        store_in(tmp_path, version, chunks=(8, 8, 12)).create()
    store_in(tmp_path, version).create()


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)
    store.create()

    async def full(*_: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.raises(OutputError, match=r"^[^\n]*the disk is full; free[^\n]*$"):
        store.write(0, Box.whole((40, 50, 60)), np.ones((40, 50, 60), np.uint16), (0,))


def test_labels_are_sampled_and_intensities_averaged(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.create()
    image = np.random.default_rng(0).integers(0, 1000, (40, 50, 60), dtype=np.uint16)
    store.write(0, Box.whole(image.shape), image, (0,))
    box = Box.whole((40, 25, 30))
    store.sample(1, box, (0,))
    assert np.array_equal(store.read(1, box, (0,)), image[:, ::2, ::2])
    store.average(1, box, (0,))
    mean = image.reshape(40, 25, 2, 30, 2).mean(axis=(2, 4))
    assert np.array_equal(store.read(1, box, (0,)), np.rint(mean))


@pytest.mark.parametrize("start", [None, (0.0, 2.0, 3.0, 4.0)])
def test_labels_of_levels_whose_voxels_are_cells_lie_where_the_cells_lie(
    start: tuple[float, ...] | None, tmp_path: Path
) -> None:
    first = start or (0.0,) * 4
    levels = (
        LevelSpec((1, 12, 41, 30), (1.0, 2.0, 0.5, 0.5), start),
        LevelSpec((1, 12, 21, 15), (1.0, 2.0, 1.0, 1.0), (*first[:2], first[2] + 0.25, first[3])),
    )
    store = store_in(tmp_path, levels=levels)  # along y the centres of cells, along x their starts
    store.create()
    labels = np.random.default_rng(0).integers(0, 4, (12, 41, 30), dtype=np.uint16)
    store.write(0, Box.whole(labels.shape), labels, (0,))
    box = Box.whole((12, 21, 15))
    store.sample(1, box, (0,))
    np.testing.assert_array_equal(store.read(1, box, (0,)), mode_pool(labels[..., ::2], (1, 2, 1)))
    part = Box((8, 16, 0), (12, 21, 8))
    assert store.source(1, part) == Box((8, 32, 0), (12, 41, 15))


@pytest.mark.parametrize("offset", [0.0, 0.25])
def test_reducing_piece_by_piece_leaves_no_trace(
    offset: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine, coarse = store_in(tmp_path).levels
    moved = replace(coarse, translation=(0.0, 0.0, offset, offset))
    store = store_in(tmp_path, levels=(fine, moved))
    store.create()
    image = np.random.default_rng(0).integers(0, 1000, (40, 50, 60), dtype=np.uint16)
    store.write(0, Box.whole(image.shape), image, (0,))
    monkeypatch.setattr("embedseg_large.volumes.multiscale._PIECE", {3: 14})
    store.sample(1, Box.whole((40, 25, 30)), (0,))
    expected = mode_pool(image, (1, 2, 2)) if offset else image[:, ::2, ::2]
    assert np.array_equal(store.read(1, Box.whole((40, 25, 30)), (0,)), expected)


def test_casts_never_wrap_around() -> None:
    assert checked_cast(np.array([255], np.uint64), np.dtype(np.uint8)).tolist() == [255]
    with pytest.raises(RunError, match="256"):
        checked_cast(np.array([0, 256], np.uint64), np.dtype(np.uint8))
    with pytest.raises(RunError, match="-1"):
        checked_cast(np.array([-1], np.int64), np.dtype(np.uint64))
    with pytest.raises(RunError, match="float64"):
        checked_cast(np.array([0.5]), np.dtype(np.uint8))


@pytest.mark.parametrize("version", ["0.1", "0.6rc0", "v0.5"])
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(UsageError, match=r"choose 0\.6, 0\.5 or 0\.4"):
        check_version(version)


def test_object_stores_are_refused_without_repeating_the_signature() -> None:
    with pytest.raises(OutputError, match="object stores") as caught:
        check_local("https://host/image.zarr?signature=secret")
    assert "secret" not in str(caught.value)


def test_metadata_that_no_version_allows_never_reach_the_disk(tmp_path: Path) -> None:
    shrinking = (LevelSpec((8, 8), (2.0, 2.0)), LevelSpec((4, 4), (1.0, 1.0)))
    store = store_in(tmp_path, axes="yx", units=(None, None), levels=shrinking, chunks=None)
    with pytest.raises(ValueError, match="resolution"):
        ngff_attributes(store, name="image", method="mean")


def test_json_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "zarr.json"
    folder_at(tmp_path).write(file.name, packed({"a": 1}))

    def broken(*_: Any) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OutputError, match="Input/output error"):
        folder_at(tmp_path).write(file.name, packed({"a": 2}), durable=True)
    assert json.loads(file.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["zarr.json"]


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_broken_document_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "zarr.json").write_text(text)
    with pytest.raises(MetadataError, match=r"zarr\.json"):
        ZarrGroup.at(tmp_path).document("zarr.json")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_group_keeps_what_is_not_ours(tmp_path: Path, zarr_format: int) -> None:
    ZarrGroup.at(tmp_path).write(zarr_format, {"a": 1})
    assert ZarrGroup.at(tmp_path).attributes() == {"a": 1}
    assert dict(zarr.open_group(str(tmp_path), mode="r").attrs) == {"a": 1}


def test_a_read_only_place_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "not" / "there" / "yet")
    assert list(tmp_path.iterdir()) == []

    def read_only(*_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(OutputError, match="read-only; write somewhere else"):
        check_writable(tmp_path)


def test_a_replaced_folder_comes_back_if_the_commit_fails(tmp_path: Path) -> None:
    new, final, aside = (tmp_path / name for name in ("new", "final", "aside"))
    for folder in (new, final):
        folder.mkdir()
        (folder / folder.name).touch()
    with pytest.raises(KeyboardInterrupt), replaced(new, final, aside):
        raise KeyboardInterrupt
    assert (final / "final").exists()
    assert (new / "new").exists()
    assert not aside.exists()
