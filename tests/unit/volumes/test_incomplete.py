"""What is missing of a TIFF is an error, not zeros; what it holds besides is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from embedseg_large.errors import MetadataError, UsageError, VolumeError
from embedseg_large.evaluation.pairs import open_label_pairs
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.volumes.formats.tiff import tiff_content
from embedseg_large.volumes.volume import open_volume


def stack() -> NDArray[Any]:
    return np.random.default_rng(0).integers(1, 99, (20, 64, 64)).astype(np.uint16)


def member(path: Path, t: int, names: list[str]) -> None:
    """One file of an OME-TIFF of several, a timepoint each, whose planes are of 8 x 16 x 16."""
    data = "".join(
        f'<TiffData FirstT="{i}" FirstZ="{z}" FirstC="0" IFD="{z}" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{i:08d}-0000-0000-0000-000000000000</UUID></TiffData>'
        for i, name in enumerate(names)
        for z in range(8)
    )
    description = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="urn:uuid:{t:08d}-0000-0000-0000-000000000000"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZTC" Type="uint16" SizeX="16" SizeY="16" '
        f'SizeZ="8" SizeC="1" SizeT="{len(names)}">{data}</Pixels></Image></OME>'
    )
    voxels = np.full((8, 16, 16), t + 1, np.uint16)
    tifffile.imwrite(path, voxels, description=description, metadata=None)


def test_a_lost_member_of_a_set_is_named(tmp_path: Path) -> None:
    names = [f"set_T{t}.ome.tif" for t in range(3)]
    for t, name in enumerate(names):
        member(tmp_path / name, t, names)
    assert open_volume(tmp_path / names[0]).shape == (3, 8, 16, 16)
    (tmp_path / names[1]).unlink()
    with pytest.raises(VolumeError, match=r"incomplete: .*'set_T1.ome.tif'.*--allow-missing"):
        open_volume(tmp_path / names[0])
    found = open_volume(tmp_path / names[0], allow_missing=True).data.compute()
    assert [int(frame.max()) for frame in found] == [1, 0, 3]


@pytest.mark.parametrize("opening", [{}, {"allow_missing": True}])
def test_files_of_other_folders_are_not_read(tmp_path: Path, opening: dict[str, Any]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir()
    names = ["../mine/a.ome.tif", "../theirs/b.ome.tif"]
    for t, name in enumerate(names):
        member(tmp_path / "mine" / name, t, names)
    with pytest.raises(MetadataError, match=r"name a file outside of its folder \(.*theirs/b"):
        open_volume(tmp_path / "mine" / "a.ome.tif", **opening)


def test_training_and_evaluation_read_a_set_with_a_lost_member_only_when_told(
    tmp_path: Path,
) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    names = [f"set_T{t}.ome.tif" for t in range(3)]
    for folder in (images, masks):
        folder.mkdir()
        for t, name in enumerate(names):
            member(folder / name, t, names)
        (folder / names[1]).unlink()
    pair = [str(images / names[0])], [str(masks / names[0])]
    with pytest.raises(VolumeError, match=r"incomplete: .*--allow-missing"):
        find_pairs(*pair, timepoint=0)
    (found,) = find_pairs(*pair, timepoint=1, allow_missing=True)
    assert not found.image.data.compute().any()
    assert not found.mask.data.compute().any()
    with pytest.raises(VolumeError, match=r"incomplete: .*--allow-missing"):
        open_label_pairs(pair[0], pair[1])
    with pytest.raises(VolumeError, match="3 timepoints"):  # it is read
        open_label_pairs(pair[0], pair[1], allow_missing=True)


KINDS: dict[str, dict[str, Any]] = {
    "imagej": {"imagej": True},
    "plain": {},
    "ome": {"ome": True},
    "packed": {"compression": "zlib"},
    "packed ome": {"ome": True, "compression": "zlib"},
    "tiled": {"tile": (16, 16)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.3, 0.7, 0.97])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, kind: str, part: float) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack(), metadata={"axes": "ZYX"}, **KINDS[kind])
    assert open_volume(path).shape == tiff_content(str(path))[0] == (20, 64, 64)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    looks: tuple[Callable[[Path], Any], ...] = (
        open_volume,
        lambda p: tiff_content(str(p)),
        lambda p: open_volume(p, allow_missing=True),  # zeros stand for whole planes only
    )
    for look in looks:
        with pytest.raises(VolumeError, match=r"a\.tif: (incomplete|neither|cannot)") as found:
            look(path)
        assert "--allow-missing" not in str(found.value)


@pytest.fixture
def two_images(tmp_path: Path) -> Path:
    """A thumbnail before the image."""
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(stack()[0, ::8, ::8], metadata=None)
        writer.write(stack(), photometric="minisblack", metadata=None)
    return path


def test_of_several_images_the_largest_is_taken_and_all_are_listed(two_images: Path) -> None:
    volume = open_volume(two_images, axes="zyx")
    np.testing.assert_array_equal(volume.data.compute(), stack())
    told = volume.describe()
    assert told["images"] == ["0: YX 8 x 8 uint16", "1: IYX 20 x 64 x 64 uint16"]
    assert told["image"] == 1
    assert open_volume(two_images, series=0).shape == (8, 8)
    with pytest.raises(UsageError, match="no image 2, there are 2, counted from 0"):
        open_volume(two_images, series=2)
    with pytest.raises(MetadataError, match=r"image 1 of 2 in the file .*choose with --series"):
        open_volume(two_images)


def test_names_of_channels_and_the_frame_interval_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "TCYX", "Channel": {"Name": ["GFP", "DAPI"]}, "TimeIncrement": 90.0}
    tifffile.imwrite(path, np.zeros((3, 2, 8, 8), np.uint8), metadata=metadata)
    volume = open_volume(path, channel="dapi")
    assert (volume.channel, volume.channel_names) == (1, ("GFP", "DAPI"))
    assert volume.describe()["frame_interval"] == "90 second"
    with pytest.raises(UsageError, match="no channel 'DNA'; names are GFP, DAPI"):
        open_volume(path, channel="DNA")


@pytest.mark.parametrize("length", ["", "0,5", "abc", "nan", "0"])
def test_a_length_that_is_none_is_not_known(tmp_path: Path, length: str) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((5, 8, 8), np.uint8), metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as file:
        xml = file.ome_metadata
    assert xml is not None
    xml = xml.replace("<Pixels ", f'<Pixels PhysicalSizeX="0.5" PhysicalSizeY="{length}" ')
    tifffile.imwrite(path, np.zeros((5, 8, 8), np.uint8), description=xml, metadata=None)
    assert open_volume(path).voxel_size is None
    assert open_volume(path, voxel_size=(1, 2, 3)).voxel_size == (1, 2, 3)


def test_a_member_that_changes_changes_the_stamp_of_the_set(tmp_path: Path) -> None:
    names = [f"set_T{t}.ome.tif" for t in range(3)]
    for t, name in enumerate(names):
        member(tmp_path / name, t, names)
    storage = open_volume(tmp_path / names[0]).storage
    assert storage.members == tuple(str(tmp_path / name) for name in names[1:])
    whole = (slice(None),) * 4
    before = storage.stamp(whole)
    assert open_volume(tmp_path / names[0]).storage.stamp(whole) == before
    (tmp_path / names[2]).touch()
    os.utime(tmp_path / names[2], (0, 0))
    assert storage.stamp(whole) != before
