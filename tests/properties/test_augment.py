"""However a crop is turned and magnified, it has its shape and its truth stays true."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embedseg_large.geometry import Box
from embedseg_large.symmetry import SignedPermutation, group
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.training.data.augment import (
    AugmentSettings,
    View,
    draw_view,
    source_shape,
    turn_points,
    unturned_shape,
)
from embedseg_large.training.data.crops import AnnotatedImage, cut, find_centers, place
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import find_pairs

elements = st.sampled_from(group(48, 3))
zooms = st.tuples(*[st.floats(0.4, 2.5)] * 3)
seeds = st.integers(0, 2**32 - 1)


def embryo() -> tuple[AnnotatedImage, list[Box]]:
    """Return an embryo whose image is its labels, and the boxes of its objects."""
    labels = synthetic_embryo((36, 44, 40), diameter=9, density=0.8, seed=2)
    pairs = find_pairs([labels.astype(np.float32)], [labels])
    found = measure(pairs)
    objects = found.objects
    source = AnnotatedImage(pairs[0], found.ranges[0], objects.ids, find_centers(pairs, objects))
    return source, [objects.box(row) for row in range(len(objects))]


SOURCE, BOXES = embryo()


@given(p=elements, shape=st.tuples(*[st.integers(1, 5)] * 3), data=st.data())
def test_points_turn_with_the_voxels(
    p: SignedPermutation, shape: tuple[int, ...], data: st.DataObject
) -> None:
    point = np.array([[data.draw(st.integers(0, n - 1)) for n in shape]])
    marked = np.zeros(shape, bool)
    marked[tuple(point[0])] = True
    turned = turn_points(point.astype(np.float64), p, shape)
    np.testing.assert_array_equal(np.argwhere(p.apply(marked)), turned)


@given(p=elements, zoom=zooms)
def test_a_crop_is_turned_into_its_shape(
    p: SignedPermutation, zoom: tuple[float, float, float]
) -> None:
    view = View(p, zoom)
    before = unturned_shape((8, 16, 24), view)
    assert p.apply(np.zeros(before)).shape == (8, 16, 24)
    assert source_shape((8, 16, 24), View(p, (1.0, 1.0, 1.0))) == before


@settings(deadline=None, max_examples=60)
@given(p=elements, zoom=zooms, row=st.integers(0, len(BOXES) - 1))
def test_every_view_has_the_crops_shape_and_centres_in_their_instances(
    p: SignedPermutation, zoom: tuple[float, float, float], row: int
) -> None:
    sample = cut(SOURCE, BOXES[row], (16, 24, 24), View(p, zoom))
    assert sample.image.shape == (1, 16, 24, 24)
    assert sample.labels.shape == (16, 24, 24)
    assert set(np.unique(sample.labels)) - {-1, 0} == set(range(1, len(sample.centers) + 1))
    for k in np.flatnonzero(~np.isnan(sample.centers).any(axis=1)):
        assert sample.labels[tuple(sample.centers[k].astype(int))] == k + 1


@settings(deadline=None, max_examples=30)
@given(p=elements, row=st.integers(0, len(BOXES) - 1))
def test_image_and_labels_turn_together(p: SignedPermutation, row: int) -> None:
    view = View(p, (1.0, 1.0, 1.0))
    sample = cut(SOURCE, BOXES[row], (16, 24, 24), view)
    box = place(BOXES[row], unturned_shape((16, 24, 24), view), SOURCE.pair.shape)
    truth = p.apply(SOURCE.pair.mask.read(box))
    low, high = SOURCE.ranges[0].low, SOURCE.ranges[0].high
    np.testing.assert_allclose(sample.image[0] * (high - low) + low, truth, atol=1e-3)
    ids = np.unique(truth[truth > 0])
    np.testing.assert_array_equal(np.concatenate([[0], ids])[sample.labels], truth)


@given(low=st.floats(0.1, 1), high=st.floats(1, 10), stretch=st.floats(1, 2), seed=seeds)
def test_magnifications_stay_in_their_ranges(
    low: float, high: float, stretch: float, seed: int
) -> None:
    drawn = AugmentSettings(scale=(low, high), stretch=stretch)
    zoom = np.array(draw_view(drawn, group("16", 3), np.random.default_rng(seed)).zoom)
    assert (zoom >= low / stretch * (1 - 1e-9)).all()
    assert (zoom <= high * stretch * (1 + 1e-9)).all()
