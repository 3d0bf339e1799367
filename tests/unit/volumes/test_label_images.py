"""What is no label image is refused, with the way out; what is one never is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.conversion.convert import convert
from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.volumes.label_images import check_label_voxels, unannotated
from embedseg_large.volumes.volume import open_volume


def balls(shape: tuple[int, ...] = (24, 64, 64), step: int = 12) -> NDArray[np.uint16]:
    """Objects in a grid, that do not touch."""
    cells = np.indices(shape)
    inside = (np.abs(cells % step - step // 2) < step // 3).all(axis=0)
    number = np.ravel_multi_index(tuple(cells // step), tuple(n // step + 1 for n in shape)) + 1
    labels: NDArray[np.uint16] = np.where(inside, number, 0).astype(np.uint16)
    return labels


def test_labels_are_no_mask_and_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"values above 0; .*pass --labels instead") as caught:
        convert(balls(), tmp_path / "a.ome.zarr", components=True)
    assert "decoded" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def noise() -> NDArray[np.uint16]:
    return np.random.default_rng(0).poisson(200, (24, 64, 64)).astype(np.uint16)


def smooth() -> NDArray[np.uint8]:
    """An image without noise, whose neighbours are often equal."""
    z, y, x = np.indices((24, 64, 64)) / 9
    waves: NDArray[np.uint8] = (100 + 40 * np.sin(x) * np.sin(y + z)).astype(np.uint8)
    return waves


FOREIGN: dict[str, tuple[Any, str]] = {
    "float": (balls().astype(np.float32), "--labels|astype"),
    "mask": ((balls() > 0).astype(np.uint8), "--components|ndimage.label"),
    "mask of 255": (((balls() > 0) * 255).astype(np.uint8), "--components|ndimage.label"),
    "yes and no": (balls() > 0, "--components|ndimage.label"),
    "image": (noise(), "looks like an image"),
    "smooth image": (smooth(), "looks like an image"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_truth_that_is_no_label_image_is_refused_everywhere(kind: str) -> None:
    truth, way_out = FOREIGN[kind]
    with pytest.raises(VolumeError, match=way_out):
        es.evaluate(balls(), truth)
    with pytest.raises(VolumeError, match=way_out):
        find_pairs(noise(), truth)[0].check_mask()


@pytest.mark.parametrize("kind", ["float", "yes and no", "image"])
def test_what_can_be_no_labels_at_all_is_not_measured_nor_scored(kind: str) -> None:
    labels, way_out = FOREIGN[kind]
    with pytest.raises(VolumeError, match=way_out):
        es.measure(labels)
    with pytest.raises(VolumeError, match=way_out):
        es.evaluate(labels, balls())


def test_a_poor_result_is_scored_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    one = (balls() > 0).astype(np.uint16)
    assert es.evaluate(one, balls())[0].tp == 0
    assert "a mask" in caplog.text


@pytest.mark.parametrize(
    "labels",
    [
        balls(),
        balls().astype(np.int32) - 2 * (balls() == 5),
        (balls() == 1).astype(np.uint8) * 255,
        np.zeros((8, 16, 16), np.uint8),
        np.arange(4096, dtype=np.uint16).reshape(16, 16, 16).repeat(2, 0).repeat(2, 1).repeat(2, 2),
        balls((48, 48))[np.newaxis][0],
    ],
    ids=["balls", "with -1", "one object of 255", "nothing", "cells of 2", "2D"],
)
def test_labels_are_labels(labels: NDArray[Any]) -> None:
    check_label_voxels(open_volume(labels), strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_that_were_saved_as_float_become_integers(tmp_path: Path, dtype: str) -> None:
    saved = balls().astype(dtype)
    saved[0, 0, :5] = -1
    tifffile.imwrite(tmp_path / "a.tif", saved, metadata={"axes": "ZYX"})
    convert(tmp_path / "a.tif", tmp_path / "a.ome.zarr", labels=True)
    volume = open_volume(tmp_path / "a.ome.zarr")
    assert (volume.dtype.kind, volume.is_labels) == ("i", True)
    np.testing.assert_array_equal(volume.data.compute(), saved)
    saved[3, 4, 5] = 1.5
    tifffile.imwrite(tmp_path / "b.tif", saved, metadata={"axes": "ZYX"})
    with pytest.raises(VolumeError, match=r"voxel \(3, 4, 5\) is 1.5, which is not a label"):
        convert(tmp_path / "b.tif", tmp_path / "b.ome.zarr", labels=True)


@pytest.mark.parametrize("axes", ["zyx", "tzyx", "yxz"])
def test_the_pieces_of_a_mask_become_labels(tmp_path: Path, axes: str) -> None:
    labels = balls()
    stored = {"zyx": labels, "tzyx": np.stack([labels, labels]), "yxz": np.moveaxis(labels, 0, 2)}
    tifffile.imwrite(tmp_path / "a.tif", stored[axes] > 0, photometric="minisblack")
    convert(tmp_path / "a.tif", tmp_path / "a.ome.zarr", axes=axes, components=True)
    volume = open_volume(tmp_path / "a.ome.zarr")
    for t in range(volume.n_timepoints):
        found = volume.data[t].compute() if "t" in volume.axes else volume.data.compute()
        assert es.evaluate(found, labels, [0.99])[0].ap == 1
    assert volume.is_labels


def test_a_mask_that_does_not_fit_into_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**20))
    mask = np.zeros((40, 64, 64), np.uint8)
    with pytest.raises(UsageError, match=r"of \(40, 64, 64\) voxels takes 0\.0 GiB of memory, and"):
        convert(mask, tmp_path / "a.ome.zarr", components=True)
    assert list(tmp_path.iterdir()) == []
    convert(mask[:2], tmp_path / "a.ome.zarr", components=True)


def test_classes_that_touch_are_different_objects(tmp_path: Path) -> None:
    classes = np.zeros((4, 20, 20), np.uint8)
    classes[:, :10, 5:15], classes[:, 10:, 5:15] = 1, 2
    convert(classes, tmp_path / "a.ome.zarr", components=True)
    assert np.unique(open_volume(tmp_path / "a.ome.zarr").data.compute()).tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="2 channels"):
        convert(np.stack([classes] * 2), tmp_path / "b", axes="czyx", components=True)


@pytest.mark.parametrize(
    ("others", "dtype", "warned"),
    [((1, 2), "u2", True), ((1, 65534), "u2", False), ((1, 2), "i4", False), ((), "u1", False)],
)
def test_the_largest_number_may_have_been_not_annotated(
    others: tuple[int, ...], dtype: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.zeros((8, 32, 32), dtype)
    for k, label in enumerate((*others, np.iinfo(dtype).max)):
        labels[:, 10 * k : 10 * k + 6, 5:15] = label
    check_label_voxels(open_volume(labels), strict=True)
    assert ("--ignore-label" in caplog.text) == warned


def test_voxels_that_are_not_annotated_count_nowhere() -> None:
    truth = balls().astype(np.int32)
    prediction = truth.copy()
    prediction[:, :, 32:] = 0  # nothing is found there
    truth[:, :, 32:] = -1  # and nobody has looked
    prediction[0, 0, 60] = 999  # but for an invention
    assert es.evaluate(prediction, truth, [0.9])[0].ap == 1
    truth[truth == -1] = 7000
    assert es.evaluate(prediction, truth, [0.9])[0].ap < 1
    assert es.evaluate(prediction, truth, [0.9], ignore=7000)[0].ap == 1
    truth[truth == 7000] = -1
    measured = es.measure(truth)
    expected = es.measure(np.maximum(truth, 0))
    assert measured["label"].tolist() == expected["label"].tolist()
    np.testing.assert_array_equal(measured["surface"], expected["surface"])
    assert unannotated(np.zeros((3, 3), np.uint8)) is None
