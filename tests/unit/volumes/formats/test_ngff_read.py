"""Every version of NGFF opens, and what is wrong with a store is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from embedseg_large.errors import (
    MetadataError,
    VolumeError,
    VolumeNotFoundError,
)
from embedseg_large.geometry import Box
from embedseg_large.volumes.volume import open_volume

WriteImage = Callable[..., Path]

SHAPE = (2, 3, 4, 6, 8)  # t, c, z, y, x
TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def image(shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint16]:
    return np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)


def axes_of(letters: str, unit: str | None = "micrometer") -> list[dict[str, str]]:
    axes = [{"name": a, "type": TYPES[a]} for a in letters]
    return [a | {"unit": unit} if unit and a["type"] == "space" else a for a in axes]


def scaled(*scales: tuple[float, ...]) -> list[dict[str, Any]]:
    return [
        {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": list(scale)}]}
        for i, scale in enumerate(scales)
    ]


def multiscale_04(unit: str | None = "micrometer") -> dict[str, Any]:
    datasets = scaled((1, 1, 2, 0.5, 0.5), (1, 1, 2, 1, 1))
    return {"version": "0.4", "axes": axes_of("tczyx", unit), "datasets": datasets}


UNSCALED: list[dict[str, Any]] = [{"path": "0"}, {"path": "1"}]
OLD: dict[str, dict[str, Any]] = {
    "0.1": {"version": "0.1", "datasets": UNSCALED},
    "0.2": {"version": "0.2", "datasets": UNSCALED},
    "0.3": {"version": "0.3", "axes": list("tczyx"), "datasets": UNSCALED},
}


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3"])
def test_old_versions_open_without_a_voxel_size(write_image: WriteImage, version: str) -> None:
    full = image()
    path = write_image([full, full[..., ::2, ::2]], OLD[version], version, chunks=(1, 1, 2, 6, 8))
    volume = open_volume(path, channel=1, timepoint=1)
    assert (volume.ngff_version, volume.zarr_format, volume.stored_axes) == (version, 2, "tczyx")
    assert volume.axes == "zyx"
    assert volume.voxel_size is None
    assert [level.scale for level in volume.levels] == [None, None]
    assert volume.chunks == (2, 6, 8)
    np.testing.assert_array_equal(volume.data.compute(), full[1, 1])


@pytest.mark.parametrize("version", ["0.1", "0.3"])
def test_the_version_is_guessed_where_none_is_written(
    write_image: WriteImage, version: str
) -> None:
    multiscale = {key: value for key, value in OLD[version].items() if key != "version"}
    path = write_image([image()], multiscale, version)
    assert open_volume(path, timepoint=0).ngff_version == version


def test_version_0_4_gives_the_voxel_size_of_each_level(write_image: WriteImage) -> None:
    full = image()
    path = write_image([full, full[..., ::2, ::2]], multiscale_04(), "0.4")
    assert open_volume(path, level=0).voxel_size == (2, 0.5, 0.5)
    half = open_volume(path, level=1, timepoint=1, channel=2)
    assert half.voxel_size == (2, 1, 1)
    np.testing.assert_array_equal(half.data.compute(), full[1, 2, :, ::2, ::2])


@pytest.mark.parametrize("shards", [None, (1, 4, 6, 8)])
def test_version_0_5_opens_sharded_or_not(
    write_image: WriteImage, shards: tuple[int, ...] | None
) -> None:
    full = image((3, 8, 6, 8))
    multiscale = {"axes": axes_of("czyx"), "datasets": scaled((1, 2, 0.5, 0.5))}
    path = write_image([full], multiscale, "0.5", chunks=(1, 2, 3, 4), shards=shards)
    volume = open_volume(str(path), channel=2)
    assert (volume.ngff_version, volume.zarr_format) == ("0.5", 3)
    assert volume.chunks == (2, 3, 4)
    assert volume.shards == (None if shards is None else (4, 6, 8))
    assert volume.data.chunksize == ((2, 3, 4) if shards is None else (4, 6, 8))
    np.testing.assert_array_equal(volume.data.compute(), full[2])
    box = Box((1, 2, 3), (7, 5, 8))
    np.testing.assert_array_equal(volume.read(box), full[2][box.slices])


def test_levels_are_found_through_the_metadata_and_not_by_name(write_image: WriteImage) -> None:
    full = image((8, 6, 8))
    multiscale = {"axes": axes_of("zyx"), "datasets": scaled((1, 1, 1), (2, 2, 2))}
    for dataset, name in zip(multiscale["datasets"], ("fine/a", "0"), strict=True):
        dataset["path"] = name
    path = write_image([full, full[::2, ::2, ::2]], multiscale, "0.5", paths=("fine/a", "0"))
    volume = open_volume(path, level=0)
    assert [level.path for level in volume.levels] == ["fine/a", "0"]
    assert volume.shape == full.shape
    assert open_volume(path, level=1).shape == (4, 3, 4)


@pytest.mark.parametrize(
    ("unit", "voxel_size"),
    [
        ("micrometer", (2, 0.5, 0.5)),
        ("nanometer", (0.002, 0.0005, 0.0005)),
        ("millimeter", (2000, 500, 500)),
        ("angstrom", (2e-4, 5e-5, 5e-5)),
        ("pixel", None),
        (None, None),
    ],
)
def test_units_become_micrometres_and_no_unit_means_unknown(
    write_image: WriteImage, unit: str | None, voxel_size: tuple[float, ...] | None
) -> None:
    path = write_image([image()], multiscale_04(unit), "0.4")
    found = open_volume(path).voxel_size
    assert found == (None if voxel_size is None else pytest.approx(voxel_size))


def test_one_spatial_axis_without_a_unit_leaves_the_voxel_size_unknown(
    write_image: WriteImage,
) -> None:
    multiscale = multiscale_04()
    del multiscale["axes"][2]["unit"]
    assert open_volume(write_image([image()], multiscale, "0.4")).voxel_size is None


def test_transformations_of_the_whole_multiscale_apply_after_those_of_the_level(
    write_image: WriteImage,
) -> None:
    multiscale = {
        "axes": axes_of("yx"),
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [0.5, 0.25]},
                    {"type": "translation", "translation": [1, 2]},
                ],
            }
        ],
        "coordinateTransformations": [{"type": "scale", "scale": [10, 10]}],
    }
    volume = open_volume(write_image([image((6, 8))], multiscale, "0.5"))
    assert volume.voxel_size == (5, 2.5)
    assert volume.levels[0].translation == (10, 20)
    assert (volume.axes, volume.ndim) == ("yx", 2)


def test_a_scale_may_be_missing(write_image: WriteImage) -> None:
    multiscale = {"axes": axes_of("zyx"), "datasets": [{"path": "0"}]}
    volume = open_volume(write_image([image((4, 6, 8))], multiscale, "0.5"))
    assert volume.voxel_size is None
    assert volume.levels[0].scale is None


def test_axis_types_may_be_missing(write_image: WriteImage) -> None:
    multiscale = multiscale_04()
    multiscale["axes"] = [{"name": axis["name"]} for axis in multiscale["axes"]]
    assert open_volume(write_image([image()], multiscale, "0.4"), timepoint=0).axes == "zyx"


def test_a_label_group_opens_like_an_image(write_image: WriteImage) -> None:
    multiscale = {"axes": axes_of("czyx"), "datasets": scaled((1, 2, 0.5, 0.5))}
    write_image([image((1, 4, 6, 8))], multiscale, "0.5")
    path = write_image(
        [image((1, 4, 6, 8))],
        multiscale,
        "0.5",
        name="image.ome.zarr/labels/nuclei",
        attributes={"image-label": {"source": {"image": "../../"}}},
    )
    volume = open_volume(path)
    assert volume.is_labels
    assert (volume.axes, volume.shape) == ("zyx", (4, 6, 8))


def test_a_stack_of_one_plane_stays_three_dimensional(write_image: WriteImage) -> None:
    volume = open_volume(write_image([image((1, 1, 1, 6, 8))], OLD["0.1"], "0.1"))
    assert (volume.axes, volume.shape, volume.ndim) == ("zyx", (1, 6, 8), 3)


def test_strange_rendering_settings_do_not_matter(write_image: WriteImage) -> None:
    path = write_image([image()], multiscale_04(), "0.4", attributes={"omero": {"channels": 7}})
    assert open_volume(path).n_channels == 3


def test_a_level_that_is_listed_but_absent_fails_only_when_asked_for(
    write_image: WriteImage,
) -> None:
    path = write_image([image()], multiscale_04(), "0.4")
    volume = open_volume(path, level=0)
    assert volume.levels[1].shape is None
    assert volume.levels[1].scale == (1, 1, 2, 1, 1)
    with pytest.raises(
        VolumeNotFoundError, match=r"level 1 should be at '1'.*existing levels: \[0\]"
    ):
        open_volume(path, level=1)


@pytest.mark.parametrize("level", [2, -1])
def test_a_level_out_of_range_says_how_many_there_are(write_image: WriteImage, level: int) -> None:
    path = write_image([image()], multiscale_04(), "0.4")
    with pytest.raises(VolumeNotFoundError, match=rf"no level {level}, there are 2"):
        open_volume(path, level=level)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("axes"), r"multiscales\[0\]\.axes is not valid NGFF 0\.4"),
        (lambda m: m.pop("datasets"), r"multiscales\[0\]\.datasets is not valid"),
        (lambda m: m["datasets"][0].pop("path"), r"datasets\[0\]\.path is not valid"),
        (lambda m: m["axes"].reverse(), r"multiscales\[0\]\.axes is not valid"),
        (
            lambda m: m["datasets"][1]["coordinateTransformations"][0].update(scale=[9] * 6),
            r"multiscales\[0\] is not valid NGFF 0\.4 .*dimensionality",
        ),
        (
            lambda m: m["datasets"][1]["coordinateTransformations"][0].update(scale=[9, 9]),
            r"multiscales\[0\]\.datasets have scales of different lengths",
        ),
        (
            lambda m: m["datasets"][0].update(
                coordinateTransformations=[{"type": "scale", "path": "0"}]
            ),
            r"scale that is stored in a separate file",
        ),
        (lambda m: m.update(version="0.7"), r"version '0\.7' is not one of 0\.1, "),
        (lambda m: m["axes"].pop(), r"axes"),
    ],
)
def test_invalid_metadata_name_the_field_in_one_line(
    write_image: WriteImage, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    multiscale = multiscale_04()
    change(multiscale)
    with pytest.raises(MetadataError, match=message) as error:
        open_volume(write_image([image()], multiscale, "0.4"))
    assert "\n" not in str(error.value)


def test_axes_that_do_not_fit_the_array_are_refused(write_image: WriteImage) -> None:
    with pytest.raises(MetadataError, match=r"axes 'tczyx' do not match .* \(4, 6, 8\)"):
        open_volume(write_image([image((4, 6, 8))], OLD["0.1"], "0.1"))


def test_space_axes_with_unknown_names_ask_for_axes(write_image: WriteImage) -> None:
    multiscale = {"axes": axes_of("zyx"), "datasets": scaled((1, 1, 1))}
    multiscale["axes"][0]["name"] = "depth"
    path = write_image([image((4, 6, 8))], multiscale, "0.5")
    with pytest.raises(MetadataError, match=r"axis 0 .* pass the axes, such as axes="):
        open_volume(path)
    assert open_volume(path, axes="zyx").voxel_size == (1, 1, 1)


def test_a_voxel_size_that_is_no_size_is_as_good_as_missing(write_image: WriteImage) -> None:
    multiscale = {"axes": axes_of("zyx"), "datasets": scaled((0, 1, 1))}
    path = write_image([image((4, 6, 8))], multiscale, "0.5")
    assert open_volume(path).voxel_size is None
    assert open_volume(path, voxel_size=(2, 1, 1)).voxel_size == (2, 1, 1)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"plate": {"wells": [{"path": "B/3"}]}}, r"a plate: .* such as .*image\.ome\.zarr/B/3/0"),
        ({"well": {"images": [{"path": "0"}]}}, r"a well of a plate; open .*ome\.zarr/0"),
        ({"bioformats2raw.layout": 3}, r"bioformats2raw container; open .*ome\.zarr/0"),
        ({"labels": ["nuclei"]}, r"a list of labels; open .*where NAME is one of \['nuclei'\]"),
        ({"colour": "green"}, r"not an OME-Zarr image: no multiscales; it holds 0"),
    ],
)
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_group_that_is_no_image_says_what_it_is(
    write_image: WriteImage, attributes: dict[str, Any], message: str, version: str
) -> None:
    path = write_image([image()], None, version, attributes=attributes)
    with pytest.raises(MetadataError, match=message):
        open_volume(path)


def test_a_plain_zarr_array_opens(tmp_path: Path) -> None:
    full = image((4, 6, 8))
    zarr.create_array(tmp_path / "a.zarr", data=full)
    volume = open_volume(tmp_path / "a.zarr")
    assert (volume.axes, volume.ngff_version, volume.levels[0].path) == ("zyx", None, "")
    np.testing.assert_array_equal(volume.data.compute(), full)


def test_the_dimension_names_of_a_plain_array_are_its_axes(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=image((3, 6, 8)), dimension_names=("c", "y", "x"))
    assert open_volume(tmp_path / "a.zarr", channel=None).axes == "cyx"


def test_a_folder_without_a_store_and_a_missing_path_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="neither a zarr store nor a TIFF"):
        open_volume(tmp_path)
    with pytest.raises(VolumeNotFoundError, match="no such file or folder"):
        open_volume(tmp_path / "nothing.zarr")


def test_damaged_json_is_a_metadata_error(write_image: WriteImage) -> None:
    path = write_image([image()], multiscale_04(), "0.5")
    (path / "zarr.json").write_text('{"zarr_format": 3,')
    with pytest.raises(MetadataError, match="damaged"):
        open_volume(path)


def test_only_metadata_are_read_when_opening(write_image: WriteImage) -> None:
    path = write_image([image()], multiscale_04(), "0.5", chunks=(1, 1, 2, 6, 8))
    shutil.rmtree(path / "0" / "c")
    volume = open_volume(path, timepoint=0)
    json.dumps(volume.describe())
    assert volume.data.shape == (4, 6, 8)


@pytest.mark.shared_data
def test_the_real_image_of_version_0_1_opens(shared_data: Path) -> None:
    path = shared_data / "idr0062_6001240_blastocyst" / "6001240_v0.1.zarr"
    volume = open_volume(path, channel=1)
    assert (volume.ngff_version, volume.n_channels, volume.voxel_size) == ("0.1", 2, None)
    assert (volume.axes, volume.shape, str(volume.dtype)) == ("zyx", (236, 275, 271), "uint16")
    assert [level.shape and level.shape[3:] for level in volume.levels] == [
        (275, 271),
        (137, 135),
        (68, 67),
    ]
    assert volume.read(Box((100, 100, 100), (104, 104, 104))).mean() > 0


@pytest.mark.shared_data
def test_the_real_sharded_labels_of_version_0_5_open(shared_data: Path) -> None:
    store = shared_data / "idr0062_6001240_blastocyst" / "6001240_labels_v0.5.zarr"
    labels = open_volume(store / "labels" / "0")
    assert labels.is_labels
    assert (labels.axes, labels.shape, labels.shards) == ("zyx", (236, 275, 271), (10, 512, 512))
    assert labels.voxel_size == pytest.approx((0.5002, 0.3604, 0.3604), rel=1e-3)
    assert len(np.unique(labels.read(Box.whole(labels.shape)))) == 62
    assert open_volume(store, channel=1).levels[0].path == "2"


def test_a_store_with_labels_only_says_which_path_they_have(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "found.zarr", mode="w").create_group("labels").create_group("nuclei")
    with pytest.raises(MetadataError, match=r"labels only, .*found\.zarr/labels/NAME"):
        open_volume(tmp_path / "found.zarr")
