"""Raw channels become embeddings in voxels, z, y, x; storing them loses nothing that matters."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.embedding import (
    Embedding,
    background,
    dequantise,
    quantise,
    raw_fields,
    seeds_of,
    sigmas_of,
)
from embedseg_large.errors import UsageError
from embedseg_large.fields import turn_fields
from embedseg_large.symmetry import SignedPermutation, group

PITCH = (0.1, 0.05, 0.02)


def some_raw(shape: tuple[int, ...] = (4, 5, 6), scale: float = 1) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    channels = 2 * len(shape) + 1
    return (scale * rng.standard_normal((channels, *shape))).astype(np.float32)


def test_raw_offsets_come_x_first_and_leave_z_first_in_voxels() -> None:
    raw = np.zeros((7, 1, 1, 1), np.float32)
    raw[:3, 0, 0, 0] = [0.1, 0.2, 0.3]  # x, y, z
    offsets = Embedding.from_raw(raw, PITCH).offsets[:, 0, 0, 0]
    np.testing.assert_allclose(offsets, np.tanh([0.3, 0.2, 0.1]) / PITCH, rtol=1e-6)


def test_sigma_gives_the_gaussian_of_the_paper() -> None:
    raw = np.zeros((5, 1, 1), np.float32)
    raw[2:4, 0, 0] = [0.4, 0.1]  # x, y
    sigma_y, sigma_x = Embedding.from_raw(raw, (0.1, 0.05)).sigmas[:, 0, 0]
    difference_y, difference_x = 3.0, 2.0  # voxels
    paper = (difference_x * 0.05) ** 2 * np.exp(10 * 0.4)
    paper += (difference_y * 0.1) ** 2 * np.exp(10 * 0.1)
    ours = difference_y**2 / (2 * sigma_y**2) + difference_x**2 / (2 * sigma_x**2)
    assert ours == pytest.approx(paper, rel=1e-5)


def test_seeds_are_sigmoids_even_of_extreme_logits() -> None:
    raw = np.zeros((5, 1, 5), np.float32)
    raw[-1] = [-1e4, -1, 0, 2, 1e4]
    seeds = Embedding.from_raw(raw, (1, 1)).seeds[0]
    np.testing.assert_allclose(seeds, [0, 0.26894142, 0.5, 0.88079708, 1], atol=1e-7)


def test_storing_rounds_to_float16_and_no_more() -> None:
    raw = some_raw()
    exact, stored = Embedding.from_raw(raw, PITCH), dequantise(quantise(raw, PITCH))
    np.testing.assert_allclose(stored.offsets, exact.offsets, rtol=2**-11, atol=1e-4)
    np.testing.assert_allclose(np.log(stored.sigmas), np.log(exact.sigmas), rtol=2**-10)
    np.testing.assert_allclose(stored.seeds, exact.seeds, atol=1e-3)


def test_very_good_seeds_stay_apart() -> None:
    seeds = seeds_of(np.array([8, 9, 10, 11, 12], np.float16))
    assert (np.diff(seeds) > 0).all()


def test_better_logits_never_give_worse_seeds() -> None:
    bits = np.arange(0x7C00, dtype=np.uint16)  # all non-negative finite numbers, ascending
    positive = bits.view(np.float16)
    logits = np.concatenate([-positive[::-1], positive])
    assert (np.diff(seeds_of(logits)) >= 0).all()
    assert (np.diff(sigmas_of(logits)) >= 0).all()


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_extreme_raw_values_stay_finite(scale: float) -> None:
    stored = quantise(some_raw(scale=scale), PITCH)
    assert np.isfinite(stored).all()
    embedding = dequantise(stored)
    assert np.isfinite(embedding.sigmas).all()
    assert (embedding.sigmas > 0).all()


def test_stored_voxels_are_read_alike_in_any_layout() -> None:
    stored = quantise(some_raw((6, 7, 8)), PITCH)
    whole = dequantise(stored)
    part = dequantise(np.asfortranarray(stored)[:, 1:5, ::2, 3:])
    np.testing.assert_array_equal(part.sigmas, whole.sigmas[:, 1:5, ::2, 3:])
    np.testing.assert_array_equal(part.seeds, whole.seeds[1:5, ::2, 3:])
    np.testing.assert_array_equal(part.offsets, whole.offsets[:, 1:5, ::2, 3:])


def test_what_was_not_predicted_is_never_foreground() -> None:
    embedding = dequantise(background((3, 4, 5)))
    assert embedding.shape == (3, 4, 5)
    assert embedding.ndim == 3
    assert not (embedding.seeds > 0).any()
    assert not embedding.offsets.any()


@pytest.mark.parametrize("p", group(48, 3))
def test_turning_raw_channels_turns_the_vectors(p: SignedPermutation) -> None:
    raw, pitch = some_raw((3, 3, 3)), (0.1, 0.1, 0.1)
    turned = turn_fields(raw, raw_fields(3), p)
    plain, result = Embedding.from_raw(raw, pitch), Embedding.from_raw(turned, pitch)
    np.testing.assert_array_equal(result.offsets, p.apply_vectors(plain.offsets))
    np.testing.assert_array_equal(result.sigmas, p.apply_magnitudes(plain.sigmas))
    np.testing.assert_array_equal(result.seeds, p.apply(plain.seeds))


def test_a_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(UsageError, match=r"6 channels over 3 axes .* pass 7"):
        Embedding.from_raw(np.zeros((6, 2, 2, 2), np.float32), PITCH)


@pytest.mark.parametrize("pitch", [(1, 1), (1, 1, 0)])
def test_a_pitch_that_does_not_fit_is_refused(pitch: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="pass 3 positive numbers"):
        quantise(some_raw(), pitch)


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    field, seeds = np.zeros((2, 4, 4), np.float32), np.zeros((4, 4), np.float32)
    with pytest.raises(UsageError, match=r"sigmas of an Embedding are float32 \(2, 4, 3\)"):
        Embedding(field, field[..., :3], seeds)
    with pytest.raises(UsageError, match="offsets of an Embedding are float64"):
        Embedding(field.astype(np.float64), field, seeds)
