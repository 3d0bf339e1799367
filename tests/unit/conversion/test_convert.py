from __future__ import annotations

import importlib
import pickle
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import dask.array as da
import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.conversion.convert import convert
from embedseg_large.conversion.options import WriteOptions
from embedseg_large.conversion.plan import Place, plan_conversion, write_image
from embedseg_large.errors import OutputError, UsageError, VolumeError
from embedseg_large.labels.target import label_levels
from embedseg_large.volumes.volume import open_volume

VERSIONS = ["0.4", "0.5"]


def random_image(*shape: int) -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 4000, shape, dtype=np.uint16)


def voxels_of(place: Path, level: int = 0) -> NDArray[Any]:
    voxels: NDArray[Any] = open_volume(place, channel=None, level=level).data.compute()
    return voxels


def check_valid(place: Path, version: str) -> None:
    models = importlib.import_module(f"ome_zarr_models.v{version.replace('.', '')}")
    models.Image.from_zarr(zarr.open_group(str(place), mode="r"))
    yaozarrs.validate_zarr_store(str(place))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("yx", (40, 600)),
        ("zyx", (20, 300, 80)),
        ("czyx", (3, 5, 40, 30)),
        ("tczyx", (2, 2, 4, 9, 9)),
    ],
)
def test_every_voxel_of_an_ome_tiff_is_kept(
    tmp_path: Path, version: str, axes: str, shape: tuple[int, ...]
) -> None:
    image = random_image(*shape)
    about = {"axes": axes.upper(), "PhysicalSizeX": 0.4, "PhysicalSizeXUnit": "µm"}
    about |= {"PhysicalSizeY": 0.4, "PhysicalSizeYUnit": "µm"}
    about |= {"PhysicalSizeZ": 2.0, "PhysicalSizeZUnit": "µm"} if "z" in axes else {}
    tifffile.imwrite(tmp_path / "a.ome.tif", image, metadata=about)
    convert(tmp_path / "a.ome.tif", tmp_path / "a.zarr", ngff_version=version)
    volume = open_volume(tmp_path / "a.zarr", channel=None)
    assert volume.axes == axes
    assert volume.ngff_version == version
    assert volume.voxel_size == (2.0, 0.4, 0.4)[-volume.ndim :]
    assert np.array_equal(voxels_of(tmp_path / "a.zarr"), image)
    check_valid(tmp_path / "a.zarr", version)


def test_axes_and_voxel_size_of_the_user_win(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", random_image(6, 5, 20, 30))
    convert(tmp_path / "a.tif", tmp_path / "a.zarr", axes="zcyx", voxel_size=(3.0, 1.0, 1.0))
    volume = open_volume(tmp_path / "a.zarr", channel=None)
    assert (volume.axes, volume.shape) == ("czyx", (5, 6, 20, 30))
    assert np.array_equal(voxels_of(tmp_path / "a.zarr"), random_image(6, 5, 20, 30).swapaxes(0, 1))
    assert volume.voxel_size == (3.0, 1.0, 1.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "a.zarr"]


def test_coarse_levels_are_means_and_become_isotropic(tmp_path: Path) -> None:
    image = random_image(80, 600, 70)
    write_image(tmp_path / "a.zarr", image, "zyx", (2.0, 0.5, 0.5))
    levels = open_volume(tmp_path / "a.zarr").levels
    assert [k.shape for k in levels] == [(80, 600, 70), (80, 300, 35), (80, 150, 35)]
    mean = image.reshape(80, 300, 2, 35, 2).mean(axis=(2, 4))
    assert np.array_equal(voxels_of(tmp_path / "a.zarr", 1), np.rint(mean))
    assert [k.scale for k in levels] == [(2.0, 0.5, 0.5), (2.0, 1.0, 1.0), (2.0, 2.0, 1.0)]


@pytest.mark.parametrize("version", [*VERSIONS, "0.6"])
def test_a_spot_has_the_same_place_on_every_level(tmp_path: Path, version: str) -> None:
    y, x = np.mgrid[:600, :600]
    spot = np.exp(-((y - 300.0) ** 2 + (x - 250.0) ** 2) / (2 * 30**2)).astype(np.float32)
    write_image(tmp_path / "a.zarr", spot, "yx", (0.5, 0.5), ngff_version=version)
    origins = []
    for level in (0, 1, 2):
        volume = open_volume(tmp_path / "a.zarr", level=level)
        assert volume.voxel_size is not None
        weights = volume.data.compute()
        centre = [np.average(i, weights=weights) for i in np.indices(weights.shape)]
        steps = zip(centre, volume.voxel_size, volume.origin, strict=True)
        assert [c * step + start for c, step, start in steps] == pytest.approx([150.0, 125.0])
        origins.append(volume.origin)
    assert origins == [(0, 0), (0.25, 0.25), (0.75, 0.75)]
    if version in VERSIONS:
        check_valid(tmp_path / "a.zarr", version)


def test_labels_of_a_coarse_level_lie_on_it(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", random_image(600, 300), "yx", (0.5, 0.5))
    for level, at in ((0, None), (1, (0.25, 0.25)), (2, (0.75, 0.75))):
        finest = label_levels(open_volume(tmp_path / "a.zarr", level=level), "yx")[0]
        assert finest.translation == at


def test_samples_lie_where_they_were_taken(tmp_path: Path) -> None:
    labels = np.kron(
        np.arange(1, 401, dtype=np.uint16).reshape(20, 20), np.ones((30, 30), np.uint16)
    )
    write_image(tmp_path / "a.zarr", labels, "yx", labels=True)
    levels = open_volume(tmp_path / "a.zarr").levels
    assert [level.translation for level in levels] == [None] * 3
    assert np.array_equal(voxels_of(tmp_path / "a.zarr", 1), labels[::2, ::2])


def test_an_unknown_voxel_size_stays_unknown(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", random_image(8, 8))
    assert open_volume(tmp_path / "a.zarr").voxel_size is None


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_the_dtype_is_kept(tmp_path: Path, dtype: str) -> None:
    write_image(tmp_path / "a.zarr", random_image(300, 20).astype(dtype))
    for level in (0, 1):
        assert voxels_of(tmp_path / "a.zarr", level).dtype == dtype


def test_dask_arrays_are_written_out_of_core(tmp_path: Path) -> None:
    array = da.from_array(random_image(20, 30, 40), chunks=(7, 7, 7))
    write_image(tmp_path / "a.zarr", array, chunks=(8, 8, 8))
    assert np.array_equal(voxels_of(tmp_path / "a.zarr"), random_image(20, 30, 40))
    assert open_volume(tmp_path / "a.zarr").chunks == (8, 8, 8)


def test_tasks_may_run_elsewhere_in_any_order(tmp_path: Path) -> None:
    def elsewhere(task: Callable[[Place], None], places: Iterable[Place]) -> Iterable[None]:
        copy = pickle.loads(pickle.dumps(task))
        return [copy(place) for place in pickle.loads(pickle.dumps(list(places)))[::-1]]

    image = random_image(2, 300, 520)
    tifffile.imwrite(tmp_path / "a.tif", image, metadata={"axes": "CYX"}, ome=True)
    for name, way in (("one", map), ("two", elsewhere)):
        write_image(tmp_path / name, tmp_path / "a.tif", chunks=(64, 64), map=way)
    for level in (0, 1):
        assert np.array_equal(
            voxels_of(tmp_path / "one", level), voxels_of(tmp_path / "two", level)
        )
    assert np.array_equal(voxels_of(tmp_path / "two"), image)


def test_regions_of_any_width_give_the_same_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedseg_large.volumes.multiscale._REGION", {3: 16})
    for byte_limit in (1, 20_000):
        monkeypatch.setattr("embedseg_large.conversion.plan._COPY_BYTES", byte_limit)
        place = tmp_path / f"{byte_limit}.zarr"
        write_image(place, random_image(20, 50, 60), chunks=(8, 8, 8))
        assert np.array_equal(voxels_of(place), random_image(20, 50, 60))


@pytest.mark.parametrize("version", VERSIONS)
def test_channel_names_come_with_a_display_range(tmp_path: Path, version: str) -> None:
    image = np.stack([np.full((8, 8), 7, np.uint16), np.full((8, 8), 90, np.uint16)])
    place = tmp_path / "a.zarr"
    write_image(place, image, "cyx", ngff_version=version, channel_names=["membrane", "nuclei"])
    attributes: Any = dict(zarr.open_group(str(place), mode="r").attrs)
    channels = attributes.get("ome", attributes)["omero"]["channels"]
    assert [c["label"] for c in channels] == ["membrane", "nuclei"]
    assert channels[1]["window"] == {"min": 0.0, "max": 65535.0, "start": 90.0, "end": 90.0}
    check_valid(place, version)


def window_of(place: Path) -> dict[str, float]:
    attributes: Any = dict(zarr.open_group(str(place), mode="r").attrs)
    window: dict[str, float] = attributes["ome"]["omero"]["channels"][0]["window"]
    return window


def test_the_display_range_is_that_of_all_finite_voxels(tmp_path: Path) -> None:
    image = np.zeros((3, 8, 8), np.float32)
    image[0, 0], image[1], image[2, 3, 3] = (np.nan, -2, 9)
    image[2, 4, 4] = np.inf
    write_image(tmp_path / "a.zarr", image, "tyx", channel_names=["a"])
    assert window_of(tmp_path / "a.zarr") == {"min": -2, "max": 9, "start": -2, "end": 9}
    check_valid(tmp_path / "a.zarr", "0.5")


def test_an_image_without_finite_voxels_has_a_display_range(tmp_path: Path) -> None:
    image = np.full((8, 8), np.nan, np.float32)
    write_image(tmp_path / "a.zarr", image, "yx", channel_names=["a"])
    assert window_of(tmp_path / "a.zarr") == {"min": 0, "max": 1, "start": 0, "end": 1}


@pytest.mark.parametrize(
    ("axes", "image", "message"),
    [
        ("cyx", np.ones((3, 8, 8), np.uint8), "3 channels .*a label image has one"),
        ("yx", np.ones((8, 8), bool), "a mask, which does not distinguish objects"),
    ],
)
def test_what_cannot_be_labels_is_not_written_as_labels(
    tmp_path: Path, axes: str, image: NDArray[Any], message: str
) -> None:
    with pytest.raises(VolumeError, match=message):
        write_image(tmp_path / "a.zarr", image, axes, labels=True)
    assert list(tmp_path.iterdir()) == []


def test_the_places_of_a_step_are_not_held_in_memory(tmp_path: Path) -> None:
    volume = open_volume(da.zeros((2**12, 2**12, 2**12), dtype=np.uint8, chunks=2**9))
    plan = plan_conversion(volume, tmp_path / "a.zarr", WriteOptions(chunks=(1, 512, 512)))
    step = next(plan.steps(plan.store(tmp_path / "a.zarr")))
    tracemalloc.start()
    places = step.places()
    first = next(places)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert step.count() == 2**8
    assert first[1].start == (0, 0, 0)
    assert most < 2**14


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    image = random_image(2, 8, 8)
    with pytest.raises(UsageError, match="3 channel names for 2 channels"):
        write_image(tmp_path / "a.zarr", image, "cyx", channel_names=["a", "b", "c"])
    with pytest.raises(UsageError, match="chunks"):
        write_image(tmp_path / "a.zarr", image, "cyx", chunks=(8, 8, 8))
    with pytest.raises(UsageError, match=r"0\.3"):
        write_image(tmp_path / "a.zarr", image, "cyx", ngff_version="0.3")
    with pytest.raises(OutputError, match="object stores"):
        write_image("s3://bucket/a.zarr", image, "cyx")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_replaced_only_if_asked(tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    write_image(place, random_image(8, 8))
    with pytest.raises(UsageError, match="exists"):
        write_image(place, random_image(9, 9))
    assert voxels_of(place).shape == (8, 8)
    write_image(place, random_image(9, 9), overwrite=True)
    assert voxels_of(place).shape == (9, 9)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_what_is_in_an_image_beside_its_levels_is_never_removed(
    tmp_path: Path, version: str
) -> None:
    place = tmp_path / "a.zarr"
    write_image(place, random_image(8, 8), ngff_version=version)
    write_image(place / "labels" / "cells", random_image(8, 8), ngff_version=version)
    with pytest.raises(UsageError, match=r"a\.zarr holds more than an image \(labels\)"):
        write_image(place, random_image(9, 9), overwrite=True)
    assert voxels_of(place / "labels" / "cells").shape == (8, 8)


def test_a_folder_that_is_no_group_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    with pytest.raises(UsageError, match="not a zarr group"):
        write_image(tmp_path / "thesis", random_image(8, 8), overwrite=True)


def test_a_failure_leaves_the_older_image_and_nothing_else(tmp_path: Path) -> None:
    def broken(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    place = tmp_path / "a.zarr"
    write_image(place, random_image(8, 8))
    with pytest.raises(KeyboardInterrupt):
        write_image(place, random_image(9, 9), overwrite=True, map=broken)
    assert voxels_of(place).shape == (8, 8)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("name", ["out.tif", "OUT.TIFF", "x.ome.zarr.zip", "a.h5", "a.png/"])
def test_a_store_is_not_given_the_name_of_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"is a folder, not a \.\w+ file; name it \w+\.ome\.zarr"):
        convert(np.zeros((8, 8), np.uint8), f"{tmp_path}/{name}")
    with pytest.raises(UsageError, match=r"is a folder, not a"):
        es.segment(np.zeros((8, 8), np.uint8), output=f"{tmp_path}/{name}")
    assert not list(tmp_path.iterdir())
