"""The demo volume that comes with the package."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import tifffile

from embedseg_large.data import VOXEL_SIZE, copy_demo, load_demo
from embedseg_large.errors import UsageError
from embedseg_large.review.review import open_review
from embedseg_large.volumes.volume import open_volume

FOLDER = Path(str(files("embedseg_large.data")))


def test_it_is_an_embryo_with_61_nuclei() -> None:
    demo = load_demo()
    assert demo.image.shape == demo.truth.shape == (118, 137, 135)
    assert demo.image.dtype == np.uint16
    assert demo.truth.dtype == np.uint8
    assert np.unique(demo.truth).tolist() == list(range(62))
    assert demo.image[demo.truth > 0].mean() > 5 * demo.image[demo.truth == 0].mean()


def test_it_is_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in FOLDER.glob("*.tif")) < 4_000_000


def test_other_programs_can_read_its_voxel_size() -> None:
    for file in FOLDER.glob("*.tif"):
        with tifffile.TiffFile(file) as tif:
            assert f'PhysicalSizeZ="{VOXEL_SIZE[0]}"' in (tif.ome_metadata or "")
            assert tif.series[0].axes == "ZYX"
        assert open_volume(file).voxel_size == pytest.approx(VOXEL_SIZE)


def test_its_source_and_licence_are_named() -> None:
    notice = (Path(__file__).parents[3] / "NOTICE").read_text()
    for word in ("blastocyst.ome.tif", "idr0062", "Nessys", "Attribution 4.0", "BBBC050"):
        assert word in notice


def test_a_copy_is_an_ome_zarr_image_with_its_truth(tmp_path: Path) -> None:
    store = copy_demo(tmp_path / "embryo.ome.zarr")
    demo, image, truth = load_demo(), open_volume(store.image), open_volume(store.truth)
    assert np.array_equal(np.asarray(image.data), demo.image)
    assert np.array_equal(np.asarray(truth.data), demo.truth)
    assert image.voxel_size == truth.voxel_size == pytest.approx(VOXEL_SIZE)


def test_a_copy_is_replaced_only_when_asked(tmp_path: Path) -> None:
    copy_demo(tmp_path / "embryo.ome.zarr")
    with pytest.raises(UsageError, match="exists"):
        copy_demo(tmp_path / "embryo.ome.zarr")
    copy_demo(tmp_path / "embryo.ome.zarr", overwrite=True)


def test_what_is_not_replaced_keeps_its_labels(tmp_path: Path) -> None:
    store = copy_demo(tmp_path / "embryo.ome.zarr")
    open_review(store.truth).delete(7)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(UsageError, match=r"holds more than an image \(reviews\)"):
        copy_demo(store.image, overwrite=True)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_the_older_copy_remains_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_demo(tmp_path / "embryo.ome.zarr")

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("embedseg_large.data.label_target", die)
    with pytest.raises(KeyboardInterrupt):
        copy_demo(store.image, overwrite=True)
    assert np.array_equal(np.asarray(open_volume(store.truth).data), load_demo().truth)
    assert [path.name for path in tmp_path.iterdir()] == ["embryo.ome.zarr"]
