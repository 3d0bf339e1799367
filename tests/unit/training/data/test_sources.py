"""What belongs together as image and mask, and what is refused before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from embedseg_large.errors import EmbedSegError, UsageError, VolumeError
from embedseg_large.geometry import Box
from embedseg_large.training.data.sources import Pair, find_pairs
from tests.conftest import WriteImage

IMAGE = np.arange(6 * 8 * 10, dtype=np.uint16).reshape(6, 8, 10)
MASK = np.zeros((6, 8, 10), np.uint8)
MASK[1:3, 2:4, 2:4] = 7


def write(folder: Path, name: str, array: NDArray[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / name, array)
    return folder / name


def only(images: Any, masks: Any, **options: Any) -> Pair:
    (pair,) = find_pairs([images], [masks], **options)
    return pair


def voxels(pair: Pair) -> NDArray[Any]:
    return pair.labels_of(pair.mask.read(pair.mask_box(Box.whole(pair.shape))))


def test_folders_are_matched_by_stem_in_the_order_of_the_stems(tmp_path: Path) -> None:
    for name in ("b.tif", "a.tiff", "c.x.tif"):
        write(tmp_path / "images", name, IMAGE)
    for name in ("c.x.tif", "a.tif", "b.tif"):
        write(tmp_path / "masks", name, MASK)
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks")
    assert [pair.name for pair in pairs] == ["a", "b", "c.x"]
    assert all(pair.shape == IMAGE.shape for pair in pairs)


def test_files_without_a_partner_are_listed(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        write(tmp_path / "images", name, IMAGE)
    for name in ("a.tif", "d.tif"):
        write(tmp_path / "masks", name, MASK)
    with pytest.raises(UsageError, match=r"no mask for b\.tif.*no image for d\.tif"):
        find_pairs(tmp_path / "images", tmp_path / "masks")


def test_lists_may_mix_paths_and_arrays(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tif", IMAGE)
    pairs = find_pairs([path, IMAGE], [MASK, MASK])
    assert [pair.name for pair in pairs] == ["a", "image 1"]
    assert (voxels(pairs[1]) == MASK).all()


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(UsageError, match="2 images and 1 masks"):
        find_pairs([IMAGE, IMAGE], [MASK])


@pytest.mark.parametrize("arguments", [{}, {"masks": [MASK], "labels": "nuclei"}])
def test_masks_are_given_in_exactly_one_way(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="only one"):
        find_pairs([IMAGE], **arguments)


def test_labels_inside_an_ome_zarr_image_are_its_mask(write_image: WriteImage) -> None:
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    scale = [{"type": "scale", "scale": [2.0, 0.5, 0.5]}]
    metadata = {
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": scale}],
    }
    folder = write_image([IMAGE], metadata, "0.5")
    write_image([MASK], metadata, "0.5", name="image.ome.zarr/labels/nuclei")
    (pair,) = find_pairs(folder, labels="nuclei")
    assert pair.name == "image"
    assert pair.image.voxel_size == (2.0, 0.5, 0.5)
    assert (voxels(pair) == MASK).all()


def test_arrays_have_no_labels_inside() -> None:
    with pytest.raises(UsageError, match="labels="):
        find_pairs([IMAGE], labels="nuclei")


def test_a_tiff_of_three_unnamed_axes_is_a_volume(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tif", IMAGE)
    with tifffile.TiffFile(path) as file:
        assert file.series[0].axes not in ("ZYX", "YX")
    assert only(path, MASK).ndim == 3


class Unread:
    """An array that must not be read."""

    def __init__(self, like: NDArray[Any]) -> None:
        self.shape, self.dtype, self.ndim = like.shape, like.dtype, like.ndim

    def __getitem__(self, index: object) -> NDArray[Any]:
        raise AssertionError("a voxel was read")


def test_nothing_is_read_until_it_is_needed() -> None:
    assert only(Unread(IMAGE), Unread(MASK)).shape == IMAGE.shape


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK.astype(np.float32), "float32; labels are integers"),
        (MASK > 0, "a mask, which does not distinguish"),
        (MASK[:5], r"\(5, 8, 10\), its image \(6, 8, 10\)"),
        (MASK[0], "one label volume for each image"),
    ],
)
def test_masks_that_cannot_work_are_refused_by_name_in_one_line(
    tmp_path: Path, mask: NDArray[Any], message: str
) -> None:
    path = write(tmp_path, "embryo_mask.tif", mask)
    with pytest.raises(VolumeError, match=message) as caught:
        only(IMAGE, path)
    assert "embryo_mask.tif" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_with_channels_is_refused_for_a_volume() -> None:
    with pytest.raises(EmbedSegError, match="axes"):
        only(IMAGE, np.stack([MASK, MASK]))


def test_images_of_another_number_of_axes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"image 1: 2D .* where 3D"):
        find_pairs([IMAGE, IMAGE[0]], [MASK, MASK[0]])
    with pytest.raises(UsageError, match=r"image 0: 3D .* where 2D"):
        find_pairs([IMAGE], [MASK], ndim=2)


def test_a_time_series_needs_a_timepoint_and_its_mask_may_have_none() -> None:
    series = np.stack([IMAGE, IMAGE + 1])
    with pytest.raises(UsageError, match="2 timepoints; choose one"):
        only(series, MASK, axes="tzyx")
    pair = only(series, MASK, axes="tzyx", timepoint=1)
    assert (pair.image.read(Box.whole(pair.shape)) == IMAGE + 1).all()


def test_all_channels_or_one_are_used() -> None:
    both = np.stack([IMAGE, IMAGE + 1])
    assert only(both, MASK, axes="czyx").channels == 1
    assert only(both, MASK, axes="czyx", channel=None).channels == 2


def test_negative_labels_and_the_users_value_are_not_annotated() -> None:
    mask = MASK.astype(np.int16)
    mask[0, 0, :3] = (-1, -5, 99)
    assert voxels(only(IMAGE, mask, ignore=99))[0, 0, :4].tolist() == [-1, -1, -1, 0]
    assert voxels(only(IMAGE, mask))[0, 0, :4].tolist() == [-1, -1, 99, 0]


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_large_labels_survive_and_too_large_ones_are_refused(dtype: Any) -> None:
    mask = MASK.astype(dtype)
    mask[0, 0, 0] = 2**31 + 5
    assert voxels(only(IMAGE, mask))[0, 0, 0] == 2**31 + 5
    if dtype is np.uint64:
        mask[0, 0, 0] = 2**63
        with pytest.raises(VolumeError, match="number the objects from 1"):
            voxels(only(IMAGE, mask))


def test_a_stack_of_masks_holds_one_object_in_each_plane() -> None:
    stack = np.zeros((3, 8, 10), np.int16)
    stack[0, 2:5, 2:5] = stack[1, 3:6, 3:6] = 255
    stack[2, 7, 9] = -1
    pair = only(IMAGE[0], stack)
    assert pair.stacked
    labels = voxels(pair)
    assert labels[:, 3, 3].tolist() == [1, 2, 0]
    assert labels[:, 7, 9].tolist() == [-1, -1, -1]
    assert only(IMAGE[0], stack > 0).stacked


def test_the_mask_of_a_volume_is_no_stack_for_a_plane() -> None:
    mask = np.zeros((3, 8, 10), np.uint16)
    mask[1, :3], mask[1, 5:] = 4, 9
    with pytest.raises(VolumeError, match=r"plane 1 has labels 4 and 9.*of a volume"):
        voxels(only(IMAGE[0], mask))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="nope: there is no such file or folder"):
        find_pairs(tmp_path / "nope", tmp_path)
