"""What may happen to a crop, and that it stays within what was asked for."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.errors import UsageError
from embedseg_large.symmetry import group
from embedseg_large.training.data.augment import AugmentSettings, allowed_symmetries, draw_view
from embedseg_large.training.data.intensities import (
    QUANTILES,
    Change,
    IntensitySettings,
    coarse_weights,
    distort,
    drawn_ranges,
)
from embedseg_large.training.data.resample import (
    filtered,
    gaussian_weights,
    linear_weights,
    voted,
)
from embedseg_large.volumes.intensity import IntensityRange

EQUAL = (1 / 63, 1 / 63, 1 / 63)
PAIRS = ("objects_share", "blur_z")


def crop(rng: np.random.Generator, channels: int = 1) -> NDArray[np.float32]:
    return rng.normal(0.5, 0.4, (channels, 12, 16, 20)).astype(np.float32)


def always(**ranges: tuple[float, float]) -> IntensitySettings:
    return IntensitySettings(
        **{n: r if n in PAIRS else Change(*r) for n, r in ranges.items()}  # type: ignore[arg-type]
    )


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
        {"gain": Change(0.5, 1.0, 1.5)},
        {"gain": Change(0.0, 1.0)},
        {"gamma": Change(2.0, 1.0)},
        {"noise": Change(-0.1, 0.1)},
        {"blur": Change(0.0, float("inf"))},
        {"blur": Change(0.0, float("nan"))},
        {"coarse_z": Change(0.5, 2.0)},
        {"low_percentile": Change(1.0, 50.0)},
        {"objects_share": (0.5, 1.5)},
        {"blur_z": (0.0, 1.0)},
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


def test_the_robust_settings_change_every_kind_of_thing_each_with_its_own_probability() -> None:
    robust = IntensitySettings.robust()
    changes = {f.name: getattr(robust, f.name) for f in fields(robust)}
    assert all(isinstance(c, Change) for n, c in changes.items() if n not in PAIRS)
    assert len({c.probability for c in changes.values() if isinstance(c, Change)}) > 3
    assert AugmentSettings.robust().scale == (0.5, 2.2)
    assert AugmentSettings.robust().stretch == 1.3
    assert IntensitySettings().is_nothing
    assert not robust.is_nothing


def test_half_the_ranges_are_half_as_far_from_no_change() -> None:
    half = AugmentSettings.robust().narrowed(0.5)
    assert half.scale == pytest.approx((0.5**0.5, 2.2**0.5))
    assert half.stretch == pytest.approx(1.3**0.5)
    intensity = half.intensity
    for change, wanted in (
        (intensity.gamma, (0.4**0.5, 2.2**0.5, 0.45)),
        (intensity.offset, (-0.05, 0.25, 0.4)),
        (intensity.low_percentile, (0.6, 4.5, 0.5)),
        (intensity.high_percentile, (99.15, 99.89, 0.5)),
    ):
        assert change is not None
        assert (change.low, change.high, change.probability) == pytest.approx(wanted)
    assert intensity.blur_z == pytest.approx((0.5**0.5, 2.5**0.5))
    assert AugmentSettings.robust().narrowed(1) == AugmentSettings.robust()
    nothing = AugmentSettings.robust().narrowed(0)
    assert (nothing.scale, nothing.stretch) == ((1, 1), 1)


def test_a_change_happens_as_often_as_it_says(rng: np.random.Generator) -> None:
    image = np.ones((1, 4, 4), np.float32)
    settings = IntensitySettings(gain=Change(2, 2, 0.3), offset=Change(0.25, 0.25, 0.8))
    seen = np.array([distort(image, settings, rng)[0, 0, 0] for _ in range(2000)])
    assert np.mean((seen == 2) | (seen == 2.25)) == pytest.approx(0.3, abs=0.04)
    assert np.mean((seen == 1.25) | (seen == 2.25)) == pytest.approx(0.8, abs=0.04)


def test_ranges_that_change_nothing_change_nothing(rng: np.random.Generator) -> None:
    image = crop(rng)
    np.testing.assert_array_equal(distort(image, always(), rng), image)
    never = IntensitySettings(gain=Change(2.0, 2.0, 0), noise=Change(1.0, 1.0, 0))
    np.testing.assert_array_equal(distort(image, never, rng), image)


def test_single_objects_are_dimmed_and_what_is_between_them_is_not(
    rng: np.random.Generator,
) -> None:
    labels = np.zeros((12, 40, 40), np.int32)
    labels[:, 2:18, 2:18], labels[:, 22:38, 22:38] = 1, 2
    image = np.ones((1, 12, 40, 40), np.float32)
    settings = always(objects=(0.4, 0.4), objects_share=(0.5, 0.5))
    seen = {
        tuple(
            np.round(
                distort(image, settings, rng, labels)[0, 6, (10, 30, 20), (10, 30, 3)].tolist(), 3
            ).tolist()
        )
        for _ in range(40)
    }
    assert seen == {(a, b, 1.0) for a in (1.0, 0.4) for b in (1.0, 0.4)}
    masks = [labels == 1, labels == 2]
    one, two = (distort(image, settings, np.random.default_rng(4), o) for o in (labels, masks))
    np.testing.assert_array_equal(one, two)


def test_a_gradient_is_smooth_and_as_strong_as_asked(rng: np.random.Generator) -> None:
    image = np.ones((1, 24, 48, 48), np.float32)
    found = distort(image, always(gradient=(0.2, 0.2)), rng)[0]
    assert found.mean() == pytest.approx(1, abs=0.01)
    assert found.std() == pytest.approx(0.2, abs=0.01)
    assert max(np.abs(np.diff(found, axis=axis)).max() for axis in range(3)) < 0.15


def test_along_z_a_blur_may_be_wider(rng: np.random.Generator) -> None:
    image = np.zeros((1, 31, 31, 31), np.float32)
    image[0, 15, 15, 15] = 1
    blurred = distort(image, always(blur=(1.0, 1.0), blur_z=(2.0, 2.0)), rng)[0]
    spread = [
        (blurred.sum(axis=tuple({0, 1, 2} - {axis})) * (np.arange(31) - 15) ** 2).sum()
        for axis in range(3)
    ]
    assert spread == pytest.approx([4, 1, 1], rel=0.02)


def test_of_coarse_planes_every_nth_is_kept(rng: np.random.Generator) -> None:
    image = crop(rng)
    kinds = set()
    for _ in range(20):
        found = distort(image, always(coarse_z=(3, 3)), rng)[0]
        kept = [z for z in range(12) if np.allclose(found[z], image[0, z], atol=1e-6)]
        assert set(np.diff(kept)) == {3}
        a = kept[0]
        kinds.add(bool(np.allclose(found[a + 1], image[0, a], atol=1e-6)))
    assert kinds == {True, False}  # repeated, or interpolated
    flat = image[:, 0]
    np.testing.assert_array_equal(distort(flat, always(coarse_z=(3, 3)), rng), flat)


def test_drawn_percentiles_are_those_of_the_image(rng: np.random.Generator) -> None:
    voxels = rng.gamma(2.0, 300.0, 200_000)
    table = np.percentile(voxels, QUANTILES).tolist()
    usual = (IntensityRange(*np.percentile(voxels, (1, 99.8))),)
    settings = always(low_percentile=(4, 8), high_percentile=(98, 99.5))
    found = [drawn_ranges([table], usual, settings, rng)[0] for _ in range(200)]
    lows = [np.mean(voxels < f.low) * 100 for f in found]
    highs = [np.mean(voxels < f.high) * 100 for f in found]
    assert 3.9 < min(lows) < 4.4 < 7.3 < max(lows) < 8.1
    assert 97.9 < min(highs) < 98.2 < 99.4 < max(highs) < 99.6
    assert drawn_ranges([table], usual, IntensitySettings(), rng) == usual
    constant = [[5.0] * len(QUANTILES)]
    assert drawn_ranges(constant, usual, settings, rng) == usual  # a range must not be empty


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
    grown = voted(labels, (60, 20))
    assert set(np.unique(grown)) == {0, 5}
    _, y, x = np.nonzero(grown)
    assert (y.min(), y.max() + 1, x.min(), x.max() + 1) == (20, 40, 10, 15)


def test_repeated_planes_do_not_displace_an_image() -> None:
    rng, planes = np.random.default_rng(0), np.arange(24, dtype=np.float32)
    moved = [
        np.mean(coarse_weights(24, step, offset, repeats=True) @ planes - planes)
        for step, offset in zip(rng.uniform(1.5, 4, 2000), rng.random(2000), strict=True)
    ]
    assert abs(np.mean(moved)) < 0.05
