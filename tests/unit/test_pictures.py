"""Pictures show what is there, in the right place, at the right scale."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from embedseg_large.contrast import display_range
from embedseg_large.errors import UsageError
from embedseg_large.pictures import (
    HEIGHT,
    WIDTH,
    Panel,
    grey_of,
    orthogonal_slices,
)
from embedseg_large.testing import render, synthetic_embryo


def panels_of(path: Path) -> list[NDArray[np.float32]]:
    """The panels of a 2D picture, without the upper part in which words are."""
    pixels = imread(path)[..., :3]
    lower = pixels[pixels.shape[0] // 4 :]
    paper = (lower == pixels[0, 0]).all(axis=(0, 2))
    edges = np.flatnonzero(np.diff(paper))
    return [lower[:, a + 1 : b + 1] for a, b in edges.reshape(-1, 2)]


@pytest.fixture(scope="module")
def labels() -> NDArray[np.uint32]:
    return synthetic_embryo((40, 60, 50), diameter=14)


@pytest.mark.parametrize("voxel_size", [(2.0, 0.5, 0.5), (0.5, 1.0, 1.0), None])
def test_a_picture_of_a_volume_fits_a_page(
    tmp_path: Path, labels: NDArray[np.uint32], voxel_size: tuple[float, ...] | None
) -> None:
    path = tmp_path / "p.png"
    orthogonal_slices(render(labels), labels, labels, voxel_size, path, "An embryo")
    height, width = imread(path).shape[:2]
    assert width == WIDTH or height == pytest.approx(HEIGHT, abs=3)
    assert width <= WIDTH
    assert height <= HEIGHT + 3


def test_one_row_more_makes_the_picture_higher(tmp_path: Path, labels: NDArray[np.uint32]) -> None:
    image = render(labels)
    orthogonal_slices(image, None, labels, None, tmp_path / "two.png")
    orthogonal_slices(image, labels, labels, None, tmp_path / "three.png")
    two, three = (imread(tmp_path / name).shape[0] for name in ("two.png", "three.png"))
    assert three == HEIGHT or 1.3 < three / two < 1.5


def test_a_2d_image_shows_its_rows_side_by_side(tmp_path: Path) -> None:
    labels = synthetic_embryo((100, 100), diameter=14)
    orthogonal_slices(render(labels), labels, labels, None, tmp_path / "p.png")
    pixels = imread(tmp_path / "p.png")
    assert pixels.shape[1] > 2.5 * pixels.shape[0]


def test_objects_that_match_have_the_colour_of_the_truth(tmp_path: Path) -> None:
    truth = synthetic_embryo((100, 100), diameter=14)
    renamed = np.where(truth > 0, truth.max() + 1000 - truth, 0)
    orthogonal_slices(render(truth), truth, renamed, None, tmp_path / "p.png")
    image, middle, right = panels_of(tmp_path / "p.png")
    assert np.array_equal(middle, right)
    assert not np.array_equal(image[:100], middle[:100])


def test_an_object_without_a_match_has_a_colour_of_its_own(tmp_path: Path) -> None:
    truth = np.zeros((60, 60), np.uint8)
    truth[30:50, 10:50] = 1
    halves = truth * np.where(np.arange(60) < 28, 1, 2)
    orthogonal_slices(truth, truth, halves, None, tmp_path / "p.png")
    _, middle, right = panels_of(tmp_path / "p.png")
    row, width = len(right) // 2, right.shape[1]
    small, large = right[row, width // 3], right[row, 2 * width // 3]
    assert np.array_equal(large, middle[row, 2 * width // 3])
    assert np.abs(small - large).max() > 0.2


def test_labels_lie_where_the_object_is(tmp_path: Path) -> None:
    labels = np.zeros((50, 100), np.uint8)
    labels[30:40, 60:80] = 7
    orthogonal_slices(np.eye(50, 100), None, labels, None, tmp_path / "p.png")
    _, panel = panels_of(tmp_path / "p.png")
    coloured = np.ptp(panel, axis=2) > 0.05
    y, x = np.nonzero(coloured)
    scale = panel.shape[1] / 100
    assert (x.min() / scale, x.max() / scale) == pytest.approx((60, 80), abs=0.5)
    assert np.ptp(y) / scale == pytest.approx(10, abs=0.5)


def test_ids_of_64_bits_and_empty_labels_can_be_drawn(tmp_path: Path) -> None:
    image = np.arange(64, dtype=np.float32).reshape(8, 8)
    big = np.zeros((8, 8), np.uint64)
    big[2:5, 2:5] = 2**64 - 1
    orthogonal_slices(image, np.zeros((8, 8), int), big, None, tmp_path / "a.png")
    orthogonal_slices(image, big, np.zeros((8, 8), int), None, tmp_path / "b.png")
    orthogonal_slices(np.zeros((4, 5, 6)), None, np.ones((4, 5, 6), int), None, tmp_path / "c.png")


def test_pictures_do_not_start_pyplot(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, numpy as np; from embedseg_large.pictures import orthogonal_slices;"
        "assert 'matplotlib' not in sys.modules; a = np.eye(9, dtype=int);"
        f"orthogonal_slices(a, None, a, None, {str(tmp_path / 'p.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shapes_that_differ_are_refused(tmp_path: Path) -> None:
    image = np.zeros((4, 5, 6))
    with pytest.raises(UsageError, match="truth has shape"):
        orthogonal_slices(image, image[1:].astype(int), image.astype(int), None, tmp_path / "p")
    with pytest.raises(UsageError, match="4 axes"):
        orthogonal_slices(image[None], None, image[None].astype(int), None, tmp_path / "p")


def test_the_display_range_is_that_of_the_finite_voxels() -> None:
    voxels = np.array([np.nan, -np.inf, np.inf, 1e300, *range(101)])
    assert display_range(voxels, (10, 90)) == (10, 90)
    assert display_range(np.array([True, False]), (0, 100)) == (0, 1)
    assert display_range(np.full(3, np.nan), (1, 99)) == (0, 1)
    assert display_range(np.zeros(0, np.uint8), (1, 99)) == (0, 1)
    low, high = display_range(np.full(3, 7), (1, 99))
    assert low == 7 < high


def test_voxels_that_are_no_number_are_black_and_nothing_else_is() -> None:
    plane = np.full((40, 40), 10, np.float32)
    plane[:5], plane[20, 20] = np.nan, np.inf
    shades = grey_of(plane, Panel(0, 0, 20, 20), 0, 10)  # smoothed
    assert shades[0, 0, 0] < 0.05
    assert shades[10:].min() == pytest.approx(1)


def test_an_image_with_nan_has_a_picture(tmp_path: Path, labels: NDArray[np.uint32]) -> None:
    image = np.where(labels > 0, 100, 10).astype(np.float32)
    image[:2, :3] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        orthogonal_slices(image, None, labels, None, tmp_path / "nan.png")
    orthogonal_slices(np.nan_to_num(image, nan=10), None, labels, None, tmp_path / "no.png")
    nan, no = (imread(tmp_path / f"{name}.png")[..., :3] for name in ("nan", "no"))
    assert np.mean(np.abs(nan - no) > 0.02) < 0.02
