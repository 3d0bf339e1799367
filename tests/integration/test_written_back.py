"""What was read about space, time, channels and labels is written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.conversion.convert import convert
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import VolumeError
from embedseg_large.labels.target import label_levels, label_units
from embedseg_large.volumes.look import looks_like_labels
from embedseg_large.volumes.volume import Volume, open_volume


def cells(shape: tuple[int, ...] = (5, 300, 300)) -> NDArray[Any]:
    """Labels without gaps, so that a mean of neighbours is the label of another place."""
    z, y, x = np.indices(shape)
    labels: NDArray[Any] = ((y // 7) * 50 + x // 7 + 1 + z * 0).astype(np.uint16)
    return labels


def test_coarse_levels_of_labels_hold_labels_of_their_own_place(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", cells(), metadata={"axes": "ZYX"})
    convert(tmp_path / "a.tif", tmp_path / "a.zarr")
    coarse = np.asarray(open_volume(tmp_path / "a.zarr", level=1).data)
    corners = [cells()[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    assert np.any([coarse == c for c in corners], axis=0).all()
    assert not open_volume(tmp_path / "a.zarr").is_labels
    convert(tmp_path / "a.tif", tmp_path / "b.zarr", labels=True)
    assert open_volume(tmp_path / "b.zarr").is_labels


def test_an_image_does_not_look_like_labels() -> None:
    noisy = np.random.default_rng(0).poisson(3, (8, 64, 64)).astype(np.uint8)
    assert not looks_like_labels(open_volume(noisy))
    assert not looks_like_labels(open_volume(np.zeros((8, 64, 64), np.uint8)))
    assert not looks_like_labels(open_volume(cells().astype(np.float32)))
    assert looks_like_labels(open_volume(cells()))


def test_channel_names_translation_and_interval_outlive_conversions(tmp_path: Path) -> None:
    metadata = {
        "axes": "TCZYX",
        "Channel": {"Name": ["GFP", "DAPI"]},
        "TimeIncrement": 90.0,
        "PhysicalSizeZ": 2.0,
        "PhysicalSizeY": 0.5,
        "PhysicalSizeX": 0.5,
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", np.ones((2, 2, 4, 8, 8), np.uint8), metadata=metadata)
    convert(tmp_path / "a.ome.tif", tmp_path / "a.zarr")
    convert(tmp_path / "a.zarr", tmp_path / "b.zarr", ngff_version="0.4")
    for place in ("a.zarr", "b.zarr"):
        volume = open_volume(tmp_path / place, channel="DAPI")
        assert (volume.channel_names, volume.channel) == (("GFP", "DAPI"), 1)
        assert volume.voxel_size == (2.0, 0.5, 0.5)
        assert volume.describe()["frame_interval"] == "90 second"


def placed(folder: Path, unit: str | None, factor: float = 1.0) -> Volume:
    """An image that lies somewhere, in some unit."""
    import json

    write_image(folder, np.ones((4, 8, 8), np.uint8), "zyx", ngff_version="0.4")
    about = json.loads((folder / ".zattrs").read_text())
    stored = about["multiscales"][0]
    steps, shift = [2 * factor, 0.5 * factor, 0.5 * factor], [10 * factor, 20 * factor, 0.0]
    stored["datasets"][0]["coordinateTransformations"] = [
        {"type": "scale", "scale": steps},
        {"type": "translation", "translation": shift},
    ]
    for axis in stored["axes"]:
        axis.pop("unit", None)
        axis.update({} if unit is None else {"unit": unit})
    (folder / ".zattrs").write_text(json.dumps(about))
    return open_volume(folder)


@pytest.mark.parametrize("unit", [None, "micrometer"])
def test_the_place_of_an_image_outlives_a_conversion(tmp_path: Path, unit: str | None) -> None:
    placed(tmp_path / "a.zarr", unit)
    convert(tmp_path / "a.zarr", tmp_path / "b.zarr")
    level = open_volume(tmp_path / "b.zarr").levels[0]
    assert (level.scale, level.translation) == ((2.0, 0.5, 0.5), (10.0, 20.0, 0.0))


@pytest.mark.parametrize("unit", [None, "micrometer"])
def test_the_place_of_a_flipped_image_is_the_same_after_a_conversion(
    tmp_path: Path, unit: str | None
) -> None:
    before = placed(tmp_path / "a.zarr", unit, factor=-1.0)
    convert(tmp_path / "a.zarr", tmp_path / "b.zarr")
    after = open_volume(tmp_path / "b.zarr")
    assert after.origin == before.origin
    assert after.levels[0].translation == (-10.0, -20.0, 0.0)


def test_labels_have_the_scale_and_the_unit_of_their_image(tmp_path: Path) -> None:
    volume = placed(tmp_path / "a.zarr", "nanometer", 1000.0)
    assert volume.voxel_size == (2.0, 0.5, 0.5)
    level = label_levels(volume, "zyx")[0]
    assert (level.scale, level.translation) == ((2000.0, 500.0, 500.0), (10000.0, 20000.0, 0.0))
    assert label_units(volume, "zyx") == ("nanometer",) * 3
    given = open_volume(tmp_path / "a.zarr", voxel_size=(1, 1, 1))
    assert label_levels(given, "zyx")[0].scale == (1.0, 1.0, 1.0)
    assert label_units(given, "zyx") == ("micrometer",) * 3


def test_axes_are_those_of_the_file_that_has_none(tmp_path: Path) -> None:
    labels = cells((5, 40, 40))
    write_image(tmp_path / "a.zarr", labels, "zyx")
    tifffile.imwrite(
        tmp_path / "y.tif", np.moveaxis(labels, 0, -1).copy(), photometric="minisblack"
    )
    (score,) = es.evaluate(tmp_path / "a.zarr", tmp_path / "y.tif", [0.9], axes="yxz")
    assert score.ap == 1


def test_a_coloured_picture_is_no_label_image(tmp_path: Path) -> None:
    labels = cells((1, 64, 64))[0]
    colours = np.random.default_rng(0).integers(0, 255, (labels.max() + 1, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "t.tif", labels)
    tifffile.imwrite(tmp_path / "m.tif", colours[labels], photometric="rgb")
    for sides in (("t.tif", "m.tif"), ("m.tif", "t.tif")):
        with pytest.raises(VolumeError, match=r"m\.tif: 3 channels .*a label image has one"):
            es.evaluate(tmp_path / sides[0], tmp_path / sides[1], [0.5])


def test_labels_of_a_flipped_image_are_flipped_like_it(tmp_path: Path) -> None:
    volume = placed(tmp_path / "a.zarr", "micrometer", factor=-1.0)
    assert volume.voxel_size == (2.0, 0.5, 0.5)
    (level,) = label_levels(volume, "zyx")
    assert level.scale == (-2.0, -0.5, -0.5)
    assert level.translation == (-10.0, -20.0, 0.0)
    assert label_units(volume, "zyx") == ("micrometer",) * 3


def test_labels_of_an_image_in_another_order_of_axes_lie_on_it(tmp_path: Path) -> None:
    import json

    import zarr

    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "xyz"]
    moves = [
        {"type": "scale", "scale": [0.5, 0.4, 2.0]},
        {"type": "translation", "translation": [3.0, 2.0, 1.0]},
    ]
    datasets = [{"path": "0", "coordinateTransformations": moves}]
    about = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]}
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "a.zarr" / ".zattrs").write_text(json.dumps(about))
    zarr.create_array(str(tmp_path / "a.zarr" / "0"), shape=(8, 6, 4), dtype="u2", zarr_format=2)
    volume = open_volume(tmp_path / "a.zarr")
    assert (volume.shape, volume.voxel_size) == ((4, 6, 8), (2.0, 0.4, 0.5))
    (level,) = label_levels(volume, "zyx")
    assert (level.shape, level.scale) == ((4, 6, 8), (2.0, 0.4, 0.5))
    assert level.translation == (1.0, 2.0, 3.0)
