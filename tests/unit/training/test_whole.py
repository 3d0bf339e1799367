"""Large images are predicted in tiles, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.network.backbones import new_network
from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings
from embedseg_large.training import whole
from embedseg_large.training.decoding import MethodDecoder

SETTINGS = ModelSettings.from_objects(
    pitch=(1 / 63,) * 2, extent=(20, 20), min_object_size=9, tile=(64, 64), context=(64, 64)
)


def test_large_images_are_predicted_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(new_network(SETTINGS).state_dict(), SETTINGS)
    image = np.random.default_rng(0).random((1, 128, 100), np.float32)
    raw = whole.whole_raw(model, image)
    stored = MethodDecoder.of(model).predictions(model, image, "4")
    seen: list[tuple[int, ...]] = []
    predict = Model.predict_raw

    def recorded(own: Model, part: NDArray[np.float32], **options: Any) -> NDArray[np.float32]:
        seen.append(part.shape)
        return predict(own, part, **options)

    monkeypatch.setattr(Model, "predict_raw", recorded)
    monkeypatch.setattr(whole, "MOST_VOXELS", 100)
    np.testing.assert_allclose(whole.whole_raw(model, image), raw, atol=1e-5)
    assert seen == [(1, 128, 100)] * 4  # tiles of 64 with as much context see all of it
    tiled = MethodDecoder.of(model).predictions(model, image, "4")
    np.testing.assert_allclose(tiled.seeds, stored.seeds, atol=1e-3)
    small = Model(model.weights, replace(SETTINGS, tile=(32, 32), context=(8, 8)))
    seen.clear()
    whole.whole_raw(small, image)
    assert len(seen) == 16
    assert max(seen) == (1, 48, 48)
