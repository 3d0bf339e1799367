"""Files of microscopes open through bioio, or one line says what to install."""

from __future__ import annotations

import pickle
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType
from typing import Any

import dask.array as da
import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.conversion.convert import convert
from embedseg_large.errors import UsageError, VolumeError, VolumeNotFoundError
from embedseg_large.geometry import Box
from embedseg_large.volumes.volume import open_volume

Sizes = namedtuple("Sizes", "Z Y X")
VOXELS = np.arange(2 * 3 * 4 * 6 * 8, dtype=np.uint16).reshape(2, 3, 4, 6, 8)


class BioImage:
    """As bioio's: lazy voxels t, c, z, y, x, and sizes in µm or None."""

    voxels: NDArray[Any] = VOXELS
    physical_pixel_sizes = Sizes(2.0, 0.5, 0.5)

    def __init__(self, path: str) -> None:
        if Path(path).read_text() != "voxels":
            raise ValueError("no reader for\nthis file")

    @property
    def dask_data(self) -> Any:
        return da.from_array(self.voxels, chunks=(1, 1, 2, 6, 8))


@pytest.fixture
def bioio(monkeypatch: pytest.MonkeyPatch) -> type[BioImage]:
    class Image(BioImage):
        pass

    module = ModuleType("bioio")
    module.__dict__["BioImage"] = Image
    monkeypatch.setitem(sys.modules, "bioio", module)
    return Image


@pytest.fixture
def czi(tmp_path: Path) -> Path:
    file = tmp_path / "a.czi"
    file.write_text("voxels")
    return file


@pytest.mark.usefixtures("bioio")
def test_axes_sizes_and_voxels_come_from_bioio(czi: Path) -> None:
    volume = open_volume(czi, channel=1)
    assert (volume.axes, volume.voxel_size) == ("tzyx", (2.0, 0.5, 0.5))
    assert volume.chunks == (2, 6, 8)
    again = pickle.loads(pickle.dumps(volume))
    whole = Box.whole(volume.spatial_shape)
    np.testing.assert_array_equal(again.read(whole, timepoint=1), VOXELS[1, 1])
    with pytest.raises(VolumeNotFoundError, match="no level 1"):
        open_volume(czi, level=1)


def test_one_plane_is_two_dimensional_and_a_missing_size_unknown(
    czi: Path, bioio: type[BioImage]
) -> None:
    bioio.voxels, bioio.physical_pixel_sizes = VOXELS[:1, :1, :1], Sizes(None, 0.5, 0.5)
    assert open_volume(czi).axes == "yx"
    assert open_volume(czi).voxel_size == (0.5, 0.5)
    bioio.physical_pixel_sizes = Sizes(None, None, 0.5)
    assert open_volume(czi).voxel_size is None


def test_of_several_scenes_the_largest_is_taken_and_all_are_listed(
    czi: Path, bioio: type[BioImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = {"overview": VOXELS[:, :, :1, :2, :2], "nucleus": VOXELS, "nucleus again": VOXELS + 1}

    def set_scene(self: BioImage, number: int) -> None:
        self.voxels = list(scenes.values())[number]

    monkeypatch.setattr(bioio, "scenes", tuple(scenes), raising=False)
    monkeypatch.setattr(bioio, "set_scene", set_scene, raising=False)
    volume = open_volume(czi, channel=1)
    assert volume.image == 1
    assert [line.split(":")[1].strip() for line in volume.describe()["images"]] == list(scenes)
    whole = Box.whole(volume.spatial_shape)
    np.testing.assert_array_equal(volume.read(whole, timepoint=1), VOXELS[1, 1])
    last = pickle.loads(pickle.dumps(open_volume(czi, channel=1, series=2)))
    np.testing.assert_array_equal(last.read(whole, timepoint=1), VOXELS[1, 1] + 1)
    with pytest.raises(UsageError, match=r"no image 3, there are 3.*--series"):
        open_volume(czi, series=3)


@pytest.mark.usefixtures("bioio")
def test_such_files_are_converted(czi: Path, tmp_path: Path) -> None:
    convert(czi, tmp_path / "a.ome.zarr")
    volume = open_volume(tmp_path / "a.ome.zarr", channel=None)
    assert (volume.axes, volume.voxel_size) == ("tczyx", (2.0, 0.5, 0.5))
    np.testing.assert_array_equal(volume.data.compute(), VOXELS)


def test_without_bioio_the_command_is_named(czi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bioio", None)
    with pytest.raises(VolumeError, match=r'pip install "embedseg-large\[bioio\]" bioio-czi$'):
        open_volume(czi)


@pytest.mark.usefixtures("bioio")
def test_without_a_reader_the_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("something")
    with pytest.raises(VolumeError, match=r"no reader for.*bioio-bioformats$"):
        open_volume(tmp_path / "a.xyz")


@pytest.mark.usefixtures("bioio")
def test_colours_of_a_picture_are_channels(
    bioio: type[BioImage], czi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(1, 1, 1, 6, 8, 3)
    monkeypatch.setattr(bioio, "voxels", colours)
    monkeypatch.setattr(bioio, "dask_data", property(lambda self: da.from_array(self.voxels)))
    volume = open_volume(czi, channel=1)
    assert (volume.axes, volume.n_channels) == ("yx", 3)
    np.testing.assert_array_equal(volume.data.compute(), colours[0, 0, 0, ..., 1])


@pytest.mark.usefixtures("bioio")
def test_channels_have_the_names_that_bioio_says(
    bioio: type[BioImage], czi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bioio, "channel_names", ["GFP", "DAPI", "RFP"], raising=False)
    assert open_volume(czi, channel="dapi").channel == 1
    assert open_volume(czi, channel=None).describe()["channel_names"] == ["GFP", "DAPI", "RFP"]


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("a.ome.zarr.zip", "unzip it first"),
        ("a.npy", "numpy.load"),
        ("a.h5", "h5py.File"),
        ("a.ims", "OME-TIFF"),
        ("a.jpg", "bioio-imageio"),
        ("a.safetensors", "--model"),
    ],
)
def test_other_formats_come_with_a_way_out(tmp_path: Path, name: str, way_out: str) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    with pytest.raises(VolumeError, match=f"neither a zarr store nor a TIFF.*{way_out}"):
        open_volume(tmp_path / name)
