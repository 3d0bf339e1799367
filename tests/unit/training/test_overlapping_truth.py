"""Validation and thresholds where true objects overlap: they are compared by their full masks."""

import numpy as np
import pytest

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
