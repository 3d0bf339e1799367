"""What may happen to a crop, and that it stays within what was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.symmetry import group
from embedseg_large.training.data.augment import AugmentSettings, allowed_symmetries, draw_view
from embedseg_large.training.data.intensities import IntensitySettings, distort
from embedseg_large.training.data.resample import (
    filtered,
    gaussian_weights,
    linear_weights,
    nearest,
)

EQUAL = (1 / 63, 1 / 63, 1 / 63)


def crop(rng: np.random.Generator, channels: int = 1) -> NDArray[np.float32]:
    return rng.normal(0.5, 0.4, (channels, 12, 16, 20)).astype(np.float32)


def always(**ranges: tuple[float, float]) -> IntensitySettings:
    return IntensitySettings(probability=1.0, **ranges)


@pytest.mark.parametrize("ndim", [2, 3])
def test_by_default_all_turns_in_the_plane_and_all_flips_are_drawn(ndim: int) -> None:
    allowed = allowed_symmetries(None, EQUAL[:ndim], None)
    assert set(allowed) == set(group({2: "8", 3: "16"}[ndim], ndim))


@pytest.mark.parametrize(
    ("pitch", "voxel_size"),
    [((0.1, 0.1, 0.2), None), (EQUAL, (1.0, 1.0, 1.1)), ((0.1, 0.2), None)],
)
def test_axes_that_differ_are_flipped_and_never_exchanged(
    pitch: tuple[float, ...], voxel_size: tuple[float, ...] | None
) -> None:
    allowed = allowed_symmetries(None, pitch, voxel_size)
    assert len(set(allowed)) == 2 ** len(pitch)
    assert all(p.axes == tuple(range(len(pitch))) for p in allowed)


def test_a_mode_that_the_data_do_not_allow_is_refused() -> None:
    assert len(allowed_symmetries("48", EQUAL, (1, 1, 1))) == 48
    with pytest.raises(UsageError, match="exchanges z and y"):
        allowed_symmetries("48", EQUAL, (2, 1, 1))
    with pytest.raises(UsageError, match="no symmetry mode"):
        allowed_symmetries("7", EQUAL, None)


@pytest.mark.parametrize(
    "values",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (2.0, 1.0)},
        {"stretch": 0.5},
        {"stretch": float("nan")},
    ],
)
def test_impossible_magnifications_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        AugmentSettings(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"probability": 1.5},
        {"gain": (0.0, 1.0)},
        {"gamma": (2.0, 1.0)},
        {"noise": (-0.1, 0.1)},
        {"blur": (0.0, float("inf"))},
    ],
)
def test_impossible_intensities_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        IntensitySettings(**values)


def test_magnifications_are_as_often_above_one_as_below(rng: np.random.Generator) -> None:
    settings = AugmentSettings(scale=(0.5, 2.0), stretch=1.2)
    views = [draw_view(settings, group("none", 3), rng) for _ in range(2000)]
    zooms = np.array([view.zoom for view in views])
    assert np.mean(zooms > 1) == pytest.approx(0.5, abs=0.05)
    spread = zooms.max(axis=1) / zooms.min(axis=1)
    assert 1.2 < spread.max() <= 1.2**2
    assert 0.5 / 1.2 <= zooms.min() < 0.5
    assert 2.0 < zooms.max() <= 2.0 * 1.2


def test_the_robust_settings_change_every_kind_of_thing() -> None:
    robust = IntensitySettings.robust()
    plain = IntensitySettings()
    for name in ("blur", "gamma", "gain", "offset", "shot", "noise"):
        assert getattr(robust, name) != getattr(plain, name)
    assert AugmentSettings.robust().scale == (0.6, 1.7)


def test_ranges_that_change_nothing_change_nothing(rng: np.random.Generator) -> None:
    image = crop(rng)
    np.testing.assert_array_equal(distort(image, always(), rng), image)
    never = IntensitySettings(probability=0.0, gain=(2.0, 2.0), noise=(1.0, 1.0))
    np.testing.assert_array_equal(distort(image, never, rng), image)


def test_gain_and_offset_are_linear(rng: np.random.Generator) -> None:
    image = crop(rng)
    changed = distort(image, always(gain=(2, 2), offset=(0.5, 0.5)), rng)
    np.testing.assert_allclose(changed, 2 * image + 0.5, rtol=1e-6)
    assert changed.dtype == np.float32


def test_gamma_keeps_0_and_1_the_sign_and_the_order(rng: np.random.Generator) -> None:
    image = np.sort(crop(rng).ravel()).reshape(1, 12, 16, 20)
    image[0, 0, 0, :3] = (-1, 0, 1)
    changed = distort(image, always(gamma=(1.7, 1.7)), rng)
    np.testing.assert_array_equal(changed[0, 0, 0, :3], (-1, 0, 1))
    assert (np.diff(changed.ravel()[3:]) >= 0).all()
    assert (np.sign(changed) == np.sign(image)).all()


def test_noise_has_the_deviation_that_was_asked_for(rng: np.random.Generator) -> None:
    image = np.full((1, 40, 40, 40), 4.0, np.float32)
    for settings, deviation in ((always(noise=(0.3, 0.3)), 0.3), (always(shot=(0.1, 0.1)), 0.2)):
        change = distort(image, settings, rng) - image
        assert change.std() == pytest.approx(deviation, rel=0.02)
        assert change.mean() == pytest.approx(0, abs=0.005)
    np.testing.assert_array_equal(distort(-image, always(shot=(0.1, 0.1)), rng), -image)


def test_blur_keeps_the_mean_and_spreads_a_point(rng: np.random.Generator) -> None:
    image = np.zeros((1, 21, 21, 21), np.float32)
    image[0, 10, 10, 10] = 1
    blurred = distort(image, always(blur=(1.5, 1.5)), rng)[0]
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    for axis in range(3):
        line = blurred.sum(axis=tuple(d for d in range(3) if d != axis))
        variance = (line * (np.arange(21) - 10) ** 2).sum()
        assert variance == pytest.approx(1.5**2, rel=0.01)


def test_channels_are_changed_each_on_its_own(rng: np.random.Generator) -> None:
    image = np.ones((2, 8, 8), np.float32)
    first, second = distort(image, always(gain=(0.5, 2.0)), rng)
    assert len(np.unique(first)) == len(np.unique(second)) == 1
    assert first[0, 0] != second[0, 0]


def test_the_image_itself_is_not_changed(rng: np.random.Generator) -> None:
    image = crop(rng)
    before = image.copy()
    distort(image, IntensitySettings.robust(), rng)
    np.testing.assert_array_equal(image, before)


def test_intensities_depend_on_the_generator_alone(rng: np.random.Generator) -> None:
    image = crop(rng)
    settings = IntensitySettings.robust()
    same = [distort(image, settings, np.random.default_rng(5)) for _ in range(2)]
    np.testing.assert_array_equal(same[0], same[1])
    assert (distort(image, settings, np.random.default_rng(6)) != same[0]).any()


@pytest.mark.parametrize(("n_in", "n_out"), [(20, 32), (32, 20), (51, 32), (8, 8), (1, 8)])
def test_resampling_keeps_constants_and_straight_lines(n_in: int, n_out: int) -> None:
    weights = linear_weights(n_in, n_out)
    assert weights.shape == (n_out, n_in)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    positions = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    inner = slice(n_out // 4, -(n_out // 4)) if n_in > 1 else slice(0)
    np.testing.assert_allclose((weights @ np.arange(n_in))[inner], positions[inner], atol=0.1)


def test_what_a_coarse_grid_cannot_show_is_averaged_away() -> None:
    stripes = np.tile([0.0, 1.0], 32).astype(np.float32)
    reduced = linear_weights(64, 20) @ stripes
    np.testing.assert_allclose(reduced[1:-1], 0.5, atol=0.05)


def test_each_axis_gets_its_own_filter(rng: np.random.Generator) -> None:
    image = crop(rng, channels=2)
    along_z, along_x = linear_weights(12, 7), gaussian_weights(20, 1.0)
    expected = np.tensordot(along_z, image @ along_x.T, axes=(1, 1)).transpose(1, 0, 2, 3)
    found = filtered(image, [along_z, None, along_x])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_no_weight_is_subnormal() -> None:
    weights = gaussian_weights(64, 1.0)
    assert (weights[weights > 0] > np.finfo(np.float32).tiny).all()


def test_labels_are_resampled_without_new_values_on_the_grid_of_the_image() -> None:
    labels = np.zeros((1, 30, 40), np.int32)
    labels[0, 10:20, 20:30] = 5
    grown = nearest(labels, (60, 20))
    assert set(np.unique(grown)) == {0, 5}
    _, y, x = np.nonzero(grown)
    assert (y.min(), y.max() + 1, x.min(), x.max() + 1) == (20, 40, 10, 15)
