"""The noise of the background, of images with few and with many bright objects."""

from __future__ import annotations

import numpy as np
import pytest

from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.volumes.background import background_ceiling
from embedseg_large.volumes.volume import open_volume


@pytest.mark.parametrize("shape", [(40, 96, 96), (300, 300)])
@pytest.mark.parametrize("level", [0.0, 100.0])
def test_noise_stays_below_and_objects_do_not(shape: tuple[int, ...], level: float) -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(level, 5, shape).astype(np.float32)
    image = noise.copy()
    image[..., : shape[-1] // 2] += rng.random((*shape[:-1], shape[-1] // 2)) * 300
    found = background_ceiling(open_volume(image))
    assert found == pytest.approx(level + 6 * 5, abs=3)
    assert noise.max() < found < image.max()


def test_objects_of_an_embryo_are_above() -> None:
    labels = np.zeros((48, 96, 96), np.uint32)
    labels[:, :48, :48] = synthetic_embryo((48, 48, 48), n_objects=8, diameter=14, seed=3)
    image = render(labels, seed=1)
    found = background_ceiling(open_volume(image))
    assert image[:, 60:, 60:].max() < found
    for label in range(1, labels.max() + 1):
        assert image[labels == label].max() > found


def test_what_was_never_imaged_is_not_background() -> None:
    image = np.zeros((40, 96, 96), np.uint16)
    image[:, :, 40:] = np.random.default_rng(1).poisson(400, (40, 96, 56))
    assert 400 + 5 * 20 < background_ceiling(open_volume(image)) < 400 + 7 * 20


def test_a_constant_image_has_no_noise() -> None:
    assert background_ceiling(open_volume(np.full((8, 8, 8), 3, np.uint8))) == 3
