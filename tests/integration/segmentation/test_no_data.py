"""What was never imaged has no instances, and changes none, whatever file it is in."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.errors import IntensityError

SHAPE = (32, 64, 64)


def bright(image: NDArray[np.float32]) -> NDArray[Any]:
    """Takes one component for each: what is bright, and what is far darker than anything."""
    from scipy import ndimage

    labels, count = ndimage.label(image > 0.5)
    dark, _ = ndimage.label(image < -0.5)
    both: NDArray[Any] = np.where(dark > 0, dark + count, labels)
    return both


def segmenter() -> es.TileSegmenter:
    return es.TileSegmenter(
        bright, name="bright", ndim=3, tile=(32, 40, 40), halo=(16, 16, 16), min_object_size=20
    )


@pytest.fixture(scope="module")
def nuclei() -> NDArray[Any]:
    """Eight balls, each of another size, over a noisy background."""
    image = np.random.default_rng(0).normal(1000, 10, SHAPE)
    at = np.indices(SHAPE)
    for number, middle in enumerate(product((8, 24), (16, 48), (16, 48))):
        distance = np.sqrt(sum((a - m) ** 2 for a, m in zip(at, middle, strict=True)))
        image[distance < 4 + number / 3] += 400
    return image.astype(np.uint16)


def frames_of(result: es.SegmentResult) -> NDArray[Any]:
    return np.asarray(result.labels)


def test_labels_beside_what_was_never_imaged_are_those_of_the_crop(
    tmp_path: Path, nuclei: NDArray[Any]
) -> None:
    image = np.zeros((32, 128, 128), np.uint16)
    image[:, 32:96, 32:96] = nuclei
    for written in (False, True):
        stored = zarr.create_array(
            tmp_path / f"{written}.zarr",
            shape=image.shape,
            dtype="u2",
            chunks=(32, 32, 32),
            config={"write_empty_chunks": written},
        )
        stored[...] = image
    tifffile.imwrite(tmp_path / "a.tif", image, metadata={"axes": "ZYX"})
    sources = [tmp_path / "False.zarr", tmp_path / "True.zarr", tmp_path / "a.tif", image]
    found = [
        frames_of(es.segment(s, segmenter(), output=tmp_path / f"{i}.zarr", axes="zyx"))
        for i, s in enumerate(sources)
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    crop = es.segment(nuclei, segmenter(), output=tmp_path / "crop.zarr")
    assert crop.n_instances > 3
    np.testing.assert_array_equal(found[0][:, 32:96, 32:96] > 0, frames_of(crop) > 0)
    assert np.count_nonzero(found[0]) == np.count_nonzero(frames_of(crop))


@pytest.mark.parametrize("per_timepoint", [False, True])
def test_a_blank_timepoint_is_told_and_leaves_the_others_alone(
    tmp_path: Path, nuclei: NDArray[Any], per_timepoint: bool
) -> None:
    series = np.stack([nuclei, nuclei, nuclei])
    series[1] = 0
    tifffile.imwrite(tmp_path / "a.tif", series, metadata={"axes": "TZYX"})
    result = es.segment(
        tmp_path / "a.tif",
        segmenter(),
        output=tmp_path / "o.zarr",
        intensity_per_timepoint=per_timepoint,
    )
    found = frames_of(result)
    alone = frames_of(es.segment(nuclei, segmenter(), output=tmp_path / "alone.zarr"))
    assert alone.max() > 3
    np.testing.assert_array_equal(found[0], alone)
    assert not found[1].any()
    np.testing.assert_array_equal(found[2], alone)
    assert any("timepoint 1: no voxel holds data" in w for w in result.summary["warnings"])


def test_nan_outside_of_the_mask_does_not_matter(tmp_path: Path, nuclei: NDArray[Any]) -> None:
    image = nuclei.astype(np.float32)
    mask = np.ones(SHAPE, np.uint8)
    mask[:, :10] = 0
    dark, image[:, :10] = image.copy(), np.nan
    with pytest.raises(IntensityError, match="--nodata nan"):
        es.segment(image, segmenter(), output=tmp_path / "refused.zarr")
    masked = es.segment(image, segmenter(), output=tmp_path / "m.zarr", mask=mask)
    said = es.segment(image, segmenter(), output=tmp_path / "n.zarr", nodata="nan")
    other = es.segment(dark, segmenter(), output=tmp_path / "d.zarr", mask=mask)
    assert masked.n_instances > 3
    np.testing.assert_array_equal(frames_of(masked), frames_of(said))
    np.testing.assert_array_equal(frames_of(masked), frames_of(other))


@pytest.mark.parametrize("diameter", [8.0, 16.0])
def test_no_data_holds_no_instance_on_another_grid(
    tmp_path: Path, nuclei: NDArray[Any], diameter: float
) -> None:
    image = np.where(np.arange(64) < 32, 0, nuclei).astype(np.uint16)
    own = es.TileSegmenter(
        lambda image: np.ones(image.shape, np.uint8),
        name="all",
        ndim=3,
        tile=(32, 40, 40),
        halo=(16, 16, 16),
        object_diameter=12,
    )
    result = es.segment(
        image, own, output=tmp_path / "o.zarr", object_diameter=diameter, axes="zyx"
    )
    found = frames_of(result)
    assert not found[..., :31].any()
    assert found[..., 33:].all()
