"""The classical method finds bright round objects, and tells them from dim ground by Otsu."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from skimage import filters

import embedseg_large as es
from embedseg_large.clustering.classical import watershed
from embedseg_large.errors import IntensityError, UsageError
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.volumes.intensity import otsu_range, otsu_threshold


def otsu(image: NDArray[Any]) -> float:
    volume = es.open_volume(image, axes="zyx"[-image.ndim :])
    return otsu_range(volume).high


def otsu_of_scikit_image(image: NDArray[Any]) -> float:
    library: Any = filters  # not annotated
    return float(library.threshold_otsu(image))


@given(arrays(np.uint8, (4, 5), elements=st.integers(0, 255)))
def test_otsu_separates_the_classes_that_scikit_image_does(image: NDArray[Any]) -> None:
    if image.min() == image.max():
        # an image of zeros alone was never imaged
        with pytest.raises(IntensityError, match="constant" if image.any() else "holds data"):
            otsu(image)
        return
    ours, theirs = image > otsu(image), image > otsu_of_scikit_image(image)
    assert spread(image, ours) == pytest.approx(spread(image, theirs))  # ties are either's


def spread(image: NDArray[Any], above: NDArray[Any]) -> float:
    share = above.mean()
    difference = image[above].mean() - image[~above].mean()
    return float(share * (1 - share) * difference**2)


def test_otsu_of_floats_lies_between_the_classes() -> None:
    rng = np.random.default_rng(1)
    image = np.where(rng.random((20, 20)) < 0.3, 3.0, -2.0) + rng.normal(0, 0.2, (20, 20))
    assert -1 < otsu(image.astype(np.float32)) < 2
    assert otsu_threshold(np.array([0.0, 1.0, 9.0]), np.array([5, 5, 5])) == 5.0


@pytest.mark.parametrize("ndim", [2, 3])
def test_touching_cells_are_told_apart(ndim: int) -> None:
    truth = synthetic_embryo((40,) * 3 if ndim == 3 else (120, 120), diameter=14, density=0.4)
    image = render(truth).astype(np.float32)
    found = watershed(image, (14.0,) * ndim, otsu(render(truth)))
    (score,) = es.evaluate(found.astype(np.uint32), truth, thresholds=(0.5,))
    assert score.ap > 0.6


def test_flat_voxels_make_no_difference() -> None:
    truth = synthetic_embryo((24, 60, 60), diameter=16, density=0.3, spacing=1.2, anisotropy=2)
    found = watershed((truth > 0).astype(np.float32), (8.0, 16.0, 16.0), 0.5)
    (score,) = es.evaluate(found.astype(np.uint32), truth, thresholds=(0.5,))
    assert score.ap > 0.9


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_an_image_without_edges_is_no_error(value: float) -> None:
    found = watershed(np.full((8, 8, 8), value, np.float32), (4.0, 4.0, 4.0))
    assert found.max() == (value > 1)


def test_diameters_are_one_an_axis() -> None:
    with pytest.raises(UsageError, match="needs 2 positive numbers"):
        watershed(np.zeros((4, 4), np.float32), (3.0,))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(UsageError, match=r'pip install "embedseg-large\[classical\]"'):
        watershed(np.zeros((4, 4), np.float32), (3.0, 3.0))
