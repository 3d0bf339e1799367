"""The classical method finds bright round objects, and tells them from dim ground by Otsu."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from skimage import filters

import embedseg_large as es
from embedseg_large.clustering.classical import ENHANCE, enhanced, radius, watershed
from embedseg_large.errors import IntensityError, UsageError
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.volumes.histogram import otsu_threshold
from embedseg_large.volumes.intensity import otsu_ranges


def otsu(image: NDArray[Any]) -> float:
    volume = es.open_volume(image, axes="zyx"[-image.ndim :])
    return otsu_ranges(volume)[0].high


def otsu_of_scikit_image(image: NDArray[Any]) -> float:
    library: Any = filters  # not annotated
    return float(library.threshold_otsu(image))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("diameter", [(16, 16, 16), (8, 16, 16), (4, 16, 16)])
def test_tubes_respond_alike_in_voxels_of_any_shape(diameter: tuple[int, ...], axis: int) -> None:
    shape = (32, 48, 48)
    away = [(np.arange(n) - n / 2) / (d / 2) for n, d in zip(shape, diameter, strict=True)]
    away[axis] = np.zeros(shape[axis])
    squares = np.meshgrid(*(a**2 for a in away), indexing="ij")
    tube = 1 / (1 + np.exp((np.sqrt(sum(squares)) - 1) * 10))
    response = enhanced(tube.astype(np.float32), diameter, "tubes")
    assert response[16, 24, 24] == pytest.approx(0.346, abs=0.005)


@pytest.mark.parametrize("diameter", [(6, 6), (8, 16), (16, 8), (40, 40)])
@pytest.mark.parametrize("axis", [0, 1])
def test_edges_are_slopes_per_quarter_of_an_object_at_any_size(
    diameter: tuple[int, int], axis: int
) -> None:
    image = np.zeros((41, 41), np.float32)
    image += np.expand_dims(np.arange(41, dtype=np.float32), 1 - axis)
    slope = enhanced(image, diameter, "edges")[20, 20] - 20
    assert slope == pytest.approx(diameter[axis] / 4, rel=0.02)


def test_a_threshold_sees_voxels_without_data_as_the_darkest(tmp_path: Path) -> None:
    labels = synthetic_embryo((90, 90), diameter=12)
    image = render(labels, seed=1).astype(np.float32)
    image[:, 60:] = np.nan
    options: dict[str, Any] = {"object_diameter": 12, "enhance": "edges", "nodata": "nan"}
    usual = es.segment(image, "classical", output=tmp_path / "a.zarr", axes="yx", **options)
    options["threshold"] = usual.summary["intensity"][0]["high"]
    same = es.segment(image, "classical", output=tmp_path / "b.zarr", axes="yx", **options)
    np.testing.assert_array_equal(np.asarray(same.labels), np.asarray(usual.labels))
    with pytest.raises(UsageError, match="leave out --intensity-range"):
        es.segment(
            image, "classical", output=tmp_path / "c.zarr", intensity_range=(0, 9), **options
        )


@pytest.mark.parametrize("scale", [1e-10, 1e5])
def test_a_threshold_finds_the_same_in_any_unit(scale: float, tmp_path: Path) -> None:
    image = render(synthetic_embryo((70, 70), diameter=12), seed=1).astype(np.float32)
    options: dict[str, Any] = {"object_diameter": 12, "axes": "yx"}
    threshold = float(np.percentile(image, 80))
    one = es.segment(image, "classical", output=tmp_path / "a.zarr", threshold=threshold, **options)
    scaled = (image.astype(float) * scale).astype(np.float32)
    options["threshold"] = threshold * scale
    two = es.segment(scaled, "classical", output=tmp_path / "b.zarr", **options)
    assert np.asarray(one.labels).max() > 5
    assert (np.asarray(one.labels) != np.asarray(two.labels)).sum() <= 3


@pytest.mark.parametrize(("value", "found"), [(2e-10, 1), (0.5e-10, 0)])
def test_a_constant_image_has_one_object_above_a_threshold_and_none_below(
    value: float, found: int, tmp_path: Path
) -> None:
    image = np.full((40, 40), value, np.float32)
    options: dict[str, Any] = {"object_diameter": 12, "axes": "yx", "threshold": 1e-10}
    result = es.segment(image, "classical", output=tmp_path / "a.zarr", **options)
    assert np.unique(np.asarray(result.labels)).tolist() == [found]


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


def two_lobes(*, notch: bool) -> NDArray[np.float32]:
    """A bar, with a narrow waist or a dark one."""
    image = np.zeros((30, 60), np.float32)
    image[8:22, 8:52] = 2
    if notch:
        image[8:13, 28:32] = image[17:22, 28:32] = 0
    else:
        image[:, 28:32] = np.minimum(image[:, 28:32], 1.2)
    return image


@pytest.mark.parametrize(("notch", "split"), [(True, "shape"), (False, "intensity")])
def test_objects_are_separated_where_they_are_narrow_or_dark(notch: bool, split: str) -> None:
    found = watershed(two_lobes(notch=notch), (14.0, 22.0), split=split, separation=0.4)
    assert np.unique(found[found > 0]).size == 2
    assert found[15, 15] != found[15, 45]


def test_a_larger_separation_splits_less() -> None:
    truth = synthetic_embryo((160, 160), diameter=14, density=0.5, spacing=0.8)
    image = (truth > 0).astype(np.float32)
    counts = [watershed(image, (14.0, 14.0), 0.5, separation=s).max() for s in (0.1, 0.3, 1.0)]
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize("ndim", [2, 3])
def test_speckles_on_bright_ground_are_found(ndim: int) -> None:
    shape, places = (48,) * ndim, [(12,) * ndim, (12, *(36,) * (ndim - 1)), (36,) * ndim]
    image = np.zeros(shape, np.float32)
    for place in places:
        image[place] = 1
    balls = (ndimage.gaussian_filter(image, 2) > 0.002).astype(np.float32)
    ground = np.linspace(0, 6, 48, dtype=np.float32)
    found = watershed(balls + ground, (9.0,) * ndim, 0.2, enhance="speckles")
    assert len({int(found[place]) for place in places} - {0}) == 3
    plain = watershed(balls + ground, (9.0,) * ndim, 0.9)
    assert plain.astype(bool).mean() > 3 * found.astype(bool).mean()


def test_tubes_are_enhanced_and_balls_are_not() -> None:
    image = np.zeros((40, 60), np.float32)
    image[18:22] = 1
    assert enhanced(image, (4.0, 4.0), "tubes")[20, 30] > 0.2
    assert enhanced(image, (4.0, 4.0), "tubes")[5, 30] < 0.05


def test_edges_lift_faint_objects_with_clear_rims() -> None:
    image = np.zeros((60, 60), np.float32)
    image[20:40, 20:40] = 0.8
    assert not watershed(image, (20.0, 20.0)).any()
    assert watershed(image, (20.0, 20.0), enhance="edges")[20, 30] > 0


@pytest.mark.parametrize("enhance", ENHANCE)
@pytest.mark.parametrize("ndim", [2, 3])
def test_enhancement_sees_no_farther_than_its_radius(ndim: int, enhance: str) -> None:
    diameter = (4.0, 3.0, 3.0)[-ndim:]
    far = radius(diameter, enhance) if enhance != "none" else (4,) * ndim
    image = np.random.default_rng(0).random((2 * max(far) + 12,) * ndim, np.float32)
    whole = enhanced(image, diameter, enhance)
    part = enhanced(image[4:], diameter, enhance)
    inner = far[0]
    np.testing.assert_allclose(whole[4 + inner :], part[inner:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"split": "size"}, "split is 'size'; use one of shape, intensity"),
        ({"enhance": "noise"}, "enhance is 'noise'; use one of none, speckles, tubes, edges"),
        ({"separation": 0}, "separation is 0; it must be above 0"),
    ],
)
def test_a_rule_that_does_not_exist_is_refused(
    options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=named):
        es.segment(
            np.zeros((20, 20), np.float32),
            "classical",
            output=tmp_path / "out",
            object_diameter=5,
            **options,
        )


def test_rules_of_the_classical_method_are_refused_for_networks(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((20, 20), np.float32)
    with pytest.raises(UsageError, match="split, enhance: only for the classical method"):
        es.segment(image, output=tmp_path / "out", split="intensity", enhance="tubes")


@pytest.mark.parametrize("enhance", ["none", "speckles", "edges"])
def test_the_radius_of_enhancement_is_part_of_the_halo(enhance: str, tmp_path: Path) -> None:
    truth = synthetic_embryo((120, 130), diameter=12, density=0.3, spacing=1.1, seed=3)
    image = render(truth, seed=3)
    options: dict[str, Any] = {"object_diameter": 12, "enhance": enhance}
    whole = es.segment(
        image, "classical", output=tmp_path / "a", cluster_tile=(120, 130), **options
    )
    tiled = es.segment(image, "classical", output=tmp_path / "b", cluster_tile=(40, 44), **options)
    assert whole.n_instances > 20
    np.testing.assert_array_equal(tiled.labels.compute(), whole.labels.compute())
    least = 18 if enhance == "none" else 18 + radius((12.0, 12.0), enhance)[0]
    assert tiled.summary["settings"]["halo"] == [least, least]


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
