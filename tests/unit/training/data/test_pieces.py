"""Extents are those of objects in one piece, and few objects are read for it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.training.data import objects as objects_module
from embedseg_large.training.data import pieces as pieces_module
from embedseg_large.training.data.objects import ObjectTable, scan, voxels_of
from embedseg_large.training.data.pieces import piece_extents, pieces
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import Pair, find_pairs

Labels = NDArray[Any]


def pair_of(mask: Labels, *, stacked: bool = False) -> Pair:
    shape = mask.shape[-2:] if stacked else mask.shape
    return find_pairs([np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)], [mask])[0]


def extent_of(*masks: Labels, stacked: bool = False) -> tuple[int, ...]:
    pairs = [pair_of(mask, stacked=stacked) for mask in masks]
    extents = piece_extents(pairs, ObjectTable.joined([scan(pair).objects for pair in pairs]))
    return tuple(extents.max(axis=0).tolist())


def extent_by_labelling_all(mask: Labels) -> tuple[int, ...]:
    """The definition: the largest piece of every object, the first of equal ones."""
    extents = []
    for number in np.unique(mask[mask > 0]):
        labelled, _ = ndimage.label(mask == number, np.ones((3,) * mask.ndim))
        slices = ndimage.find_objects(labelled)[np.bincount(labelled.ravel())[1:].argmax()]
        extents.append([s.stop - s.start for s in slices])
    return tuple(np.max(extents, axis=0).tolist())


def nuclei() -> Labels:
    """Three cubes with an edge of 6 voxels."""
    mask = np.zeros((30, 60, 80), np.uint16)
    for number, x in enumerate((2, 12, 22), start=1):
        mask[2:8, 2:8, x : x + 6] = number
    return mask


label_arrays = hnp.arrays(
    np.int16,
    hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=9),
    elements=st.sampled_from([-1, 0, 0, 0, 1, 2, 3]),
)


@settings(deadline=None)
@given(label_arrays)
def test_pieces_are_those_of_full_connectivity(mask: Labels) -> None:
    coordinates = np.argwhere(mask > 0)
    if len(coordinates):
        expected = ndimage.label(mask > 0, np.ones((3,) * mask.ndim))[0][mask > 0]
        found = pieces(coordinates)
        numbers = {*zip(found.tolist(), expected.tolist(), strict=True)}
        assert len(numbers) == found.max() + 1 == expected.max()


@settings(deadline=None)
@given(label_arrays)
def test_the_few_objects_that_are_read_decide_as_all_would(mask: Labels) -> None:
    if np.unique(mask[mask > 0], return_counts=True)[1].max(initial=0) > 1:
        assert extent_of(mask) == extent_by_labelling_all(mask)


def test_a_slip_of_the_brush_does_not_stretch_the_halo(caplog: pytest.LogCaptureFixture) -> None:
    mask = nuclei()
    mask[20, 50, 70] = 2
    assert extent_of(mask) == (6, 6, 6)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "image 0: label 2 is in 2 pieces in [2:21, 2:51, 12:71]; check whether it is one object: "
        "only the largest piece, in [2:8, 2:8, 12:18], counts for halo and crop"
    )


def test_two_nuclei_under_one_number_do_not_stretch_the_halo() -> None:
    mask = nuclei()
    mask[mask == 3] = 1
    mask[15:19, 40:44, 60:64] = 1  # a third, smaller one
    assert extent_of(mask) == (6, 6, 6)


def test_a_large_object_in_one_piece_counts_fully(caplog: pytest.LogCaptureFixture) -> None:
    mask = nuclei()
    mask[10:30, 10:60, 10] = 4  # a thin, bent sheet, a hundred times less than its box
    mask[29, 59, 10:80] = 4
    assert extent_of(mask) == (20, 50, 70)
    assert not caplog.records


def test_voxels_that_touch_by_a_corner_are_one_piece(caplog: pytest.LogCaptureFixture) -> None:
    assert extent_of(np.eye(9, dtype=np.uint8)) == (9, 9)
    assert extent_of(np.eye(9, dtype=np.uint8)[:, ::-1]) == (9, 9)
    assert not caplog.records


def test_planes_of_a_stack_are_objects_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    stack = np.zeros((3, 600, 600), np.uint8)
    stack[0, 10:20, 10:30] = stack[1, 15:35, 15:25] = stack[2, 500:505, 500:505] = 1
    stack[2, 50, 40] = 1  # connected to nothing of its plane
    assert extent_of(stack, stacked=True) == (20, 20)
    (record,) = caplog.records
    assert "image 0: plane 3 is in 2 pieces" in record.getMessage()


def test_the_file_of_the_mask_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = nuclei()
    mask[20, 50, 70] = 2
    for name, array in (("a.tif", nuclei()), ("b.tif", mask)):
        tifffile.imwrite(tmp_path / name, array, photometric="minisblack")
    pairs = find_pairs([nuclei(), nuclei()], [tmp_path / "a.tif", tmp_path / "b.tif"])
    piece_extents(pairs, ObjectTable.joined([scan(pair).objects for pair in pairs]))
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'b.tif'}: label 2 is in 2 pieces")


def test_many_objects_in_pieces_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    mask = np.zeros((20, 60), np.uint8)
    for number in range(1, 16):
        mask[number, [0, 1, 2 * number + 20]] = number
    assert extent_of(mask) == (1, 2)
    assert len(caplog.messages) == pieces_module.WARNINGS + 1
    assert caplog.messages[-1] == "5 more objects are in several pieces"


def test_only_objects_that_may_decide_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []

    def watched(pair: Pair, number: int, box: Any) -> Any:
        looked_at.append(number)
        return voxels_of(pair, number, box)

    monkeypatch.setattr(pieces_module, "voxels_of", watched)
    mask = nuclei()
    mask[2:9, 2:9, 2] = 1  # the longest along z and y
    mask[9, 50:58, 79] = 2  # longer than that, but in pieces
    assert extent_of(mask) == (7, 7, 6)
    assert sorted(looked_at) == [1, 2]


def test_voxels_of_an_object_are_found_however_the_mask_is_read(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    mask = rng.integers(0, 3, (20, 31, 17)).astype(np.int32)
    mask[:3] = mask[:, 29:] = mask[:, :, :5] = 0
    monkeypatch.setattr(objects_module, "PART", {3: (4, 8, 8)})
    monkeypatch.setattr("embedseg_large.volumes.intensity.TILE_BYTES", 2000)
    pair = pair_of(mask)
    for row, number in enumerate((1, 2)):
        found = voxels_of(pair, number, scan(pair).objects.box(row))
        np.testing.assert_array_equal(found, np.argwhere(mask == number))


def test_a_model_gets_halo_and_crop_of_objects_in_one_piece() -> None:
    mask = nuclei()
    mask[20, 50, 70] = 2
    found, clean = measure([pair_of(mask)]), measure([pair_of(nuclei())])
    assert (found.crop, found.extent_mean, found.extent_sd) == (clean.crop, (6, 6, 6), (0, 0, 0))
    assert found.extent_largest == (6, 6, 6)
    assert found.model_settings().halo == (6, 6, 6)
    assert found.model_settings().reach == (9, 9, 9)


@pytest.mark.shared_data
def test_two_broken_labels_of_the_blastocyst_do_not_stretch_its_halo(
    shared_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shared_data / "idr0062_6001240_blastocyst"
    labels = folder / "6001240_labels_v0.5.zarr" / "labels" / "0"
    pairs = find_pairs([folder / "6001240_v0.1.zarr"], [labels], channel=1)
    table = scan(pairs[0]).objects
    assert table.extents.max(axis=0).tolist() == [78, 111, 92]
    assert piece_extents(pairs, table).max(axis=0).tolist() == [51, 53, 47]
    assert [message.split(" is in ")[0][-8:] for message in caplog.messages] == [
        "label 55",
        "label 36",
    ]
