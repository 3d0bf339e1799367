"""Ideal fields give back the objects they were made from, whatever the objects' shapes and sizes.

What a method loses here, no network can bring back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.evaluation.evaluate import evaluate
from embedseg_large.methods.flows import flow_of
from embedseg_large.methods.protocol import FieldMethod, ObjectScale
from embedseg_large.methods.registry import FIELD_METHODS, field_method
from embedseg_large.methods.stardist import StarDist
from embedseg_large.methods.three_class import BOUNDARY_WEIGHT

Labels = NDArray[np.int32]

TOUCHING = tuple(sorted(FIELD_METHODS.keys() - {"two-class"}))
"""Methods that can separate objects that touch."""


def worm() -> Labels:
    """A bent tube, 5 voxels wide and some 330 long."""
    labels = np.zeros((150, 130), np.int32)
    labels[10:15, 10:120] = labels[10:140, 115:120] = labels[135:140, 25:120] = 1
    return labels


def large_and_small() -> Labels:
    """One object 96 voxels wide, and a sheet of objects 8 voxels wide, which touch."""
    labels = np.zeros((104, 184), np.int32)
    y, x = np.indices((96, 96)) - 47.5
    labels[4:100, 4:100][y**2 + x**2 < 48**2] = 1
    tiles = np.arange(2, 2 + 8 * 8).reshape(8, 8).astype(np.int32)
    labels[20:84, 110:174] = np.kron(tiles, np.ones((8, 8), np.int32))
    return labels


def decoded(method: FieldMethod, labels: Labels) -> Labels:
    raw = method.ideal(method.targets(labels))
    knobs = {knob.name: knob.default for knob in method.knobs}
    faces = ((False, False),) * labels.ndim
    return method.decode(method.stored(raw), faces, knobs).labels.astype(np.int32)


def test_flow_has_length_1_at_the_ends_of_a_long_object() -> None:
    labels = worm()
    length = np.sqrt((flow_of(labels) ** 2).sum(axis=0))
    assert np.count_nonzero(length[labels > 0] == 0) == 1  # the middle
    assert np.allclose(length[length > 0], 1, atol=1e-6)


def test_a_long_bent_object_keeps_its_ends_with_flows() -> None:
    labels = worm()
    found = decoded(field_method("flows", ObjectScale(ndim=2, extent=(130, 110))), labels)
    assert np.array_equal(found > 0, labels > 0)
    assert found.max() == 1


@pytest.mark.parametrize("name", TOUCHING)
def test_small_objects_beside_a_large_one_are_found(name: str) -> None:
    labels = large_and_small()
    scale = ObjectScale(ndim=2, extent=(96, 96), width=9.4)
    score = evaluate(decoded(field_method(name, scale), labels), labels, thresholds=(0.75,))[0]
    assert score.ap == 1


def test_lengths_that_a_network_learns_are_about_1_for_typical_objects() -> None:
    labels = large_and_small()
    method = StarDist(ObjectScale(ndim=2, extent=(96, 96), width=9.4))
    raw: NDArray[Any] = method.ideal(method.targets(labels))
    at_middles = raw[:-1, 24:84:8, 114:174:8]
    assert 0.5 < at_middles.mean() < 2
    assert method.reach == StarDist(ObjectScale(ndim=2, extent=(96, 96))).reach


def test_the_weight_of_the_boundary_in_the_loss_is_no_foreground() -> None:
    method = field_method("three-class", ObjectScale(ndim=2, extent=(9, 9)))
    learned = np.log([0.6, 0.3, BOUNDARY_WEIGHT * 0.1])  # what the weighted loss is smallest for
    foreground = method.stored(learned.reshape(3, 1, 1))[1]
    assert float(foreground.item()) == pytest.approx(np.log(0.4 / 0.6), abs=1e-3)
