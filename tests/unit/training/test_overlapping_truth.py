"""Validation and thresholds: full masks where true objects overlap, and the grid of the image."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from embedseg_large.network.backbones import new_network
from embedseg_large.network.model import Model
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.training.decoding import MethodDecoder
from embedseg_large.training.tuning.thresholds import IOUS, counts_of
from embedseg_large.training.validation import Example, segment_example
from embedseg_large.volumes.intensity import intensity_ranges


def test_thresholds_are_tuned_on_full_masks() -> None:
    truth = np.zeros((2, 12, 14), np.int32)
    truth[0, 1:7, 1:7], truth[1, 4:9, 4:9] = 1, 2
    truth[:, 9:] = -1
    labels = np.where(truth[0] < 0, 5, np.maximum(*truth))  # 5 lies where nothing is annotated
    counts = counts_of(labels, list(truth))
    assert counts[IOUS.index(0.7)].tolist() == [2, 0, 0]  # 27 of 36 voxels are not covered
    assert counts[IOUS.index(0.8)].tolist() == [1, 1, 1]


def test_validation_scores_full_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = np.zeros((2, 16, 16), np.uint8)
    masks[0, 1:7, 1:7] = masks[1, 4:9, 4:9] = 255
    (pair,) = find_pairs([masks[0].astype(np.float32)], [masks])
    settings = measure([pair]).model_settings()
    model = Model(new_network(settings).state_dict(), settings)
    monkeypatch.setattr(MethodDecoder, "labels", lambda *_: pair.flat_labels().astype(np.uint32))
    found = segment_example(model, Example.whole(pair, intensity_ranges(pair.image)))
    each = {score.threshold: score.tp for score in found.scores[0.5]}
    assert (each[0.7], each[0.8]) == (2, 1)
    np.testing.assert_array_equal(found.truth, pair.flat_labels())


@pytest.mark.parametrize("diameter", [20, 8, 20 / 3, 5])
def test_what_is_right_on_the_models_grid_is_right_in_the_image(
    monkeypatch: pytest.MonkeyPatch, diameter: float
) -> None:
    y, x = np.indices((120, 120))
    truth = np.zeros((120, 120), np.uint8)
    for number, (i, j) in enumerate(np.ndindex(6, 6), 1):
        truth[(y - 20 * i - 9.7) ** 2 + (x - 20 * j - 10.2) ** 2 < 4**2] = number
    (pair,) = find_pairs([(truth > 0).astype(np.float32)], [truth])
    settings = replace(measure([pair]).model_settings(), object_diameter=20)
    model = Model(new_network(settings).state_dict(), settings)
    monkeypatch.setattr(MethodDecoder, "predictions", lambda _decoder, _model, seen, _tta: seen[0])
    monkeypatch.setattr(
        MethodDecoder, "labels", lambda _decoder, seen, _: ndimage.label(seen > 0.5)[0]
    )
    monkeypatch.setattr(MethodDecoder, "seediness", lambda _decoder, seen: seen)
    example = Example.whole(pair, intensity_ranges(pair.image), diameter=diameter)
    found = segment_example(model, example)
    assert {score.threshold: score.ap for score in found.scores[0.5]}[0.9] >= 0.95
    np.testing.assert_allclose(found.seeds, truth > 0, atol=0.75)  # a linear filter, there and back
