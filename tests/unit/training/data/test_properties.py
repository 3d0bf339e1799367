"""What the training data say about the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.training.data.objects import ObjectTable, scan
from embedseg_large.training.data.properties import (
    crop_shape,
    default_pitch,
    measure,
    smallest_object,
)
from embedseg_large.training.data.sources import Pair, find_pairs


def pair_of(mask: NDArray[Any], **options: Any) -> Pair:
    shape = mask.shape[-2:] if options.pop("stacked", False) else mask.shape
    image = np.random.default_rng(0).integers(0, 1000, shape).astype(np.uint16)
    return find_pairs([image], [mask], **options)[0]


def boxes(*edges: int, gap: int = 4, dtype: Any = np.uint16) -> NDArray[Any]:
    """Cubes of these edges, in a row along x."""
    width = sum(edges) + gap * (len(edges) + 1)
    mask = np.zeros((max(edges), max(edges), width), dtype)
    x = gap
    for number, edge in enumerate(edges, start=1):
        mask[:edge, :edge, x : x + edge] = number
        x += edge + gap
    return mask


def objects_of_sizes(*sizes: int) -> ObjectTable:
    n = len(sizes)
    zeros = np.zeros((n, 3), np.int64)
    return ObjectTable(
        np.zeros(n, np.int64), np.arange(1, n + 1), np.array(sizes), zeros, zeros + 1
    )


@pytest.mark.parametrize("step", [1, 2**40])
@pytest.mark.parametrize("shape", [(70, 140, 150), (600, 530)])
def test_the_table_is_that_of_the_whole_mask_however_it_is_read(
    shape: tuple[int, ...], step: int, rng: np.random.Generator
) -> None:
    mask = ndimage.zoom(rng.integers(0, 40, tuple(n // 10 for n in shape)), 10, order=0)
    found = scan(pair_of(mask * step))
    expected = [s for s in enumerate(ndimage.find_objects(mask), start=1) if s[1] is not None]
    assert found.objects.ids.tolist() == [number * step for number, _ in expected]
    for row, (number, slices) in enumerate(expected):
        assert found.objects.box(row).slices == slices
        assert found.objects.sizes[row] == np.count_nonzero(mask == number)
    assert found.foreground == np.count_nonzero(mask)
    assert found.background == np.count_nonzero(mask == 0)


def test_voxels_that_are_not_annotated_are_neither_foreground_nor_background() -> None:
    mask = boxes(4, 4, dtype=np.int16)
    found = scan(pair_of(np.where(mask == 0, -1, mask)))
    assert (found.foreground, found.background) == (128, 0)


def test_objects_of_a_stack_may_overlap() -> None:
    stack = np.zeros((3, 600, 600), np.uint8)
    stack[0, 10:20, 500:520] = stack[2, 15:25, 510:560] = 1
    found = scan(pair_of(stack, stacked=True))
    assert found.objects.ids.tolist() == [1, 3]
    assert found.objects.sizes.tolist() == [200, 500]
    assert found.objects.starts.tolist() == [[10, 500], [15, 510]]
    assert found.foreground == 200 + 500 - 5 * 10


def test_rows_of_an_image_are_those_of_its_objects() -> None:
    joined = ObjectTable.joined(
        [objects_of_sizes(5, 6), objects_of_sizes(7), objects_of_sizes(8, 9)]
    )
    assert [joined.sizes[joined.rows_of(i)].tolist() for i in range(3)] == [[5, 6], [7], [8, 9]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((4, 8, 8), np.uint8), "has no objects"),
        (np.full((4, 8, 8), -1, np.int8), "has no objects"),
        (1 + np.arange(256, dtype=np.uint16).reshape(4, 8, 8), "256 objects are smaller than 2"),
    ],
)
def test_masks_without_an_object_to_learn_are_refused_by_name(
    tmp_path: Path, mask: NDArray[Any], message: str
) -> None:
    tifffile.imwrite(tmp_path / "embryo_mask.tif", mask, photometric="minisblack")
    pairs = find_pairs([np.zeros((4, 8, 8), np.uint16)], [tmp_path / "embryo_mask.tif"])
    with pytest.raises(VolumeError, match=message) as caught:
        measure(pairs)
    assert "embryo_mask.tif" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_specks_do_not_decide_how_small_an_object_may_be() -> None:
    assert smallest_object(objects_of_sizes(900, 1000, 1100, 30)) == 30
    assert smallest_object(objects_of_sizes(900, 1000, 1100, 9)) == 900


def test_the_crop_of_the_mouse_embryos_is_that_of_the_original() -> None:
    mean, sd = (13.38, 17.06, 15.52), (3.99, 4.55, 4.06)  # of its checkpoint
    assert crop_shape(mean, sd, (51, 139, 140)) == (32, 64, 64)


@pytest.mark.parametrize(
    ("mean", "sd", "image", "crop"),
    [
        ((40.0, 60.0, 50.0), (5.0, 10.0, 20.0), (999, 999, 999), (56, 112, 112)),
        ((10.0, 10.0, 10.0), (1.0, 1.0, 1.0), (17, 40, 999), (24, 40, 64)),
        ((20.0, 20.0), (10.0, 10.0), (520, 696), (256, 256)),
        ((90.0, 150.0), (10.0, 50.0), (520, 696), (304, 304)),
    ],
)
def test_crops_hold_large_objects_and_are_multiples_of_8_that_images_can_fill(
    mean: tuple[float, ...], sd: tuple[float, ...], image: tuple[int, ...], crop: tuple[int, ...]
) -> None:
    assert crop_shape(mean, sd, image) == crop


def test_pitch_follows_the_crop_and_the_anisotropy() -> None:
    assert default_pitch((32, 64, 64), None) == pytest.approx((1 / 63,) * 3)
    assert default_pitch((32, 64, 64), (2.0, 0.5, 0.5)) == pytest.approx((4 / 63, 1 / 63, 1 / 63))
    assert default_pitch((256, 256), (0.5, 0.5)) == pytest.approx((1 / 255,) * 2)


def test_foreground_weighs_what_balances_the_background() -> None:
    volume = boxes(4, 4)
    assert measure([pair_of(volume)]).foreground_weight == (volume.size - 128) / 128
    filled = np.where(volume == 0, 9, volume)
    assert measure([pair_of(filled)]).foreground_weight == 1
    assert measure([pair_of(volume[0])]).foreground_weight == 10


def test_all_numbers_are_pooled_over_the_images() -> None:
    found = measure([pair_of(boxes(4, 8)), pair_of(boxes(6))])
    assert (found.n_images, found.n_objects, found.min_object_size) == (2, 3, 64)
    assert found.mean_object_size == pytest.approx((4**3 + 8**3 + 6**3) / 3)
    assert found.extent_mean == pytest.approx((6, 6, 6))
    assert found.extent_sd == pytest.approx((np.std([4, 8, 6]),) * 3)
    assert found.extent_largest == (8, 8, 8)
    assert found.object_diameter == pytest.approx(6)
    assert [len(ranges) for ranges in found.ranges] == [1, 1]


def test_a_voxel_size_is_the_models_only_if_all_images_share_it() -> None:
    mask = boxes(4)
    known = [pair_of(mask, voxel_size=(2, 1, 1)), pair_of(mask, voxel_size=(2, 1, 1.001))]
    assert measure(known).voxel_size == (2, 1, 1)
    assert measure([*known, pair_of(mask)]).voxel_size is None
    assert measure([*known, pair_of(mask, voxel_size=(2, 1, 1.1))]).voxel_size is None


def test_the_model_gets_what_was_measured() -> None:
    found = measure([pair_of(boxes(4, 8), voxel_size=(2, 1, 1))])
    settings = found.model_settings()
    assert (settings.ndim, settings.channels) == (3, 1)
    assert settings.pitch == found.pitch
    assert settings.extent == settings.halo == (8, 8, 8)
    assert settings.min_object_size == 64
    assert settings.object_diameter == 6
    assert settings.voxel_size == (2, 1, 1)


def test_properties_can_be_printed_and_stored_as_json() -> None:
    values = measure([pair_of(boxes(4, 8))]).as_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["n_objects"] == 2
    assert "objects" not in values


def test_derived_values_can_be_overridden() -> None:
    found = measure(
        [pair_of(boxes(4, 8))],
        crop=(8, 16, 24),
        pitch=(0.1, 0.2, 0.3),
        min_object_size=0,
        foreground_weight=3.0,
    )
    assert (found.crop, found.pitch) == ((8, 16, 24), (0.1, 0.2, 0.3))
    assert (found.min_object_size, found.foreground_weight) == (0, 3.0)


@pytest.mark.parametrize("crop", [(8, 16), (8, 16, 20), (0, 8, 8)])
def test_crops_that_the_network_cannot_take_are_refused(crop: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="multiples of 8"):
        measure([pair_of(boxes(4, 8))], crop=crop)


def test_training_on_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no images"):
        measure([])


@pytest.mark.shared_data
def test_the_mouse_embryos_measure_what_the_original_measured(shared_data: Path) -> None:
    folder = shared_data / "bbbc050_mouse_embryo" / "train"
    found = measure(find_pairs(folder / "images", folder / "masks"))
    assert (found.n_objects, found.min_object_size) == (898, 32)
    assert found.mean_object_size == pytest.approx(1911.7962138084633)
    assert found.extent_mean == pytest.approx((13.378619153, 17.059020044, 15.522271714))
    assert found.extent_sd == pytest.approx((3.9946051436, 4.5515938540, 4.0566773250))
    assert found.crop == (32, 64, 64)
    assert found.pitch == pytest.approx((1 / 63,) * 3)
