"""What a crop shows: its object, the whole truth around it, and nothing that is not there."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.symmetry import SignedPermutation
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.training.data.augment import View
from embedseg_large.training.data.centers import centers
from embedseg_large.training.data.crops import (
    AnnotatedImage,
    Cache,
    cut,
    emptiest,
    find_centers,
    place,
)
from embedseg_large.training.data.properties import Properties, measure
from embedseg_large.training.data.sources import Pair, find_pairs
from embedseg_large.training.data.targets import Sample
from embedseg_large.training.options import CenterMethod
from embedseg_large.volumes.volume import open_volume

PLAIN = {2: View.plain(2), 3: View.plain(3)}


def annotated(
    image: NDArray[Any], mask: NDArray[Any], method: CenterMethod = "medoid", **options: Any
) -> tuple[AnnotatedImage, Properties]:
    pairs = find_pairs([image], [mask], **options)
    properties = measure(pairs)
    found = find_centers(pairs, properties.objects, method)
    return AnnotatedImage(pairs[0], properties.ranges[0], properties.objects.ids, found), properties


@pytest.fixture
def embryo() -> NDArray[np.uint32]:
    return synthetic_embryo((40, 60, 50), diameter=11, density=0.8, seed=3)


@pytest.fixture
def image(embryo: NDArray[np.uint32], rng: np.random.Generator) -> NDArray[np.uint16]:
    return (100 + 50 * (embryo > 0) + rng.integers(0, 20, embryo.shape)).astype(np.uint16)


@pytest.mark.parametrize(
    ("target", "start"),
    [(((20, 30)), 21), ((0, 4), 0), ((2, 30), 12), ((46, 50), 42), ((0, 50), 21)],
)
def test_a_crop_surrounds_its_object_and_stays_in_the_image(
    target: tuple[int, int], start: int
) -> None:
    box = place(Box(target[:1], target[1:]), (8,), (50,))
    assert box == Box((start,), (start + 8,))


def test_a_crop_is_no_longer_than_the_image() -> None:
    assert place(Box((3, 3), (5, 5)), (16, 8), (10, 40)) == Box((0, 0), (10, 8))


def test_a_plain_crop_is_the_image_normalised_by_the_whole_image(
    image: NDArray[np.uint16], embryo: NDArray[np.uint32]
) -> None:
    source, properties = annotated(image, embryo)
    target = properties.objects.box(4)
    sample = cut(source, target, (16, 24, 24), PLAIN[3])
    box = place(target, (16, 24, 24), image.shape)
    low, high = np.percentile(image, (1, 99.8))
    np.testing.assert_allclose(
        sample.image[0], (image[box.slices] - low) / (high - low), rtol=1e-4, atol=1e-5
    )
    assert sample.image.dtype == np.float32
    assert sample.masks is None


def test_the_instances_of_a_crop_are_numbered_from_1_to_k_by_their_labels(
    image: NDArray[np.uint16], embryo: NDArray[np.uint32]
) -> None:
    source, properties = annotated(image, embryo.astype(np.int64) * 2**35)
    target = properties.objects.box(4)
    sample = cut(source, target, (16, 24, 24), PLAIN[3])
    truth = embryo[place(target, (16, 24, 24), image.shape).slices]
    ids = np.unique(truth[truth > 0])
    assert len(sample.centers) == len(ids) > 2
    np.testing.assert_array_equal(np.concatenate([[0], ids])[sample.labels], truth)
    assert sample.labels.dtype == np.int32


@pytest.mark.parametrize("method", ["medoid", "approximate-medoid", "centroid"])
def test_centres_are_those_of_whole_objects_and_unknown_outside_the_crop(
    image: NDArray[np.uint16], embryo: NDArray[np.uint32], method: CenterMethod
) -> None:
    source, properties = annotated(image, embryo, method)
    ids, whole = centers(embryo, method)
    box = place(properties.objects.box(4), (16, 24, 24), image.shape)
    sample = cut(source, properties.objects.box(4), (16, 24, 24), PLAIN[3])
    truth = embryo[box.slices]
    outside = 0
    for k, number in enumerate(np.unique(truth[truth > 0])):
        center = whole[np.searchsorted(ids, number)]
        known = embryo[tuple(center)] == number
        if known and box.contains(Box(tuple(center.tolist()), tuple((center + 1).tolist()))):
            assert (sample.centers[k] == center - box.start).all()
        else:
            assert np.isnan(sample.centers[k]).all()
            outside += 1
    assert 0 < outside < len(sample.centers)


def test_a_centroid_beside_its_object_is_unknown() -> None:
    ring = np.ones((16, 16), np.uint8)
    ring[2:14, 2:14] = 0
    source, _ = annotated(np.arange(256.0, dtype=np.float32).reshape(16, 16), ring, "centroid")
    assert np.isnan(source.centers).all()


def test_distances_are_measured_in_micrometres(
    image: NDArray[np.uint16], embryo: NDArray[np.uint32]
) -> None:
    pixels, _ = annotated(image, embryo)
    source, _ = annotated(image, embryo, voxel_size=(5, 1, 1))
    np.testing.assert_array_equal(source.centers, centers(embryo, spacing=(5, 1, 1))[1])
    assert (source.centers != pixels.centers).any()


def test_images_smaller_than_the_crop_are_padded_and_the_padding_ignored(
    image: NDArray[np.uint16], embryo: NDArray[np.uint32]
) -> None:
    source, properties = annotated(image[:13], embryo[:13])
    sample = cut(source, properties.objects.box(0), (16, 64, 56), PLAIN[3])
    assert sample.labels.shape == sample.image.shape[1:] == (16, 64, 56)
    assert (sample.labels[:13, :60, :50] >= 0).all()
    ignored = np.ones((16, 64, 56), bool)
    ignored[:13, :60, :50] = False
    assert (sample.labels[ignored] == -1).all()
    np.testing.assert_array_equal(sample.image[:, 13:], sample.image[:, 11:8:-1])


def test_voxels_that_are_not_annotated_are_ignored(
    image: NDArray[np.uint16], embryo: NDArray[np.uint32]
) -> None:
    mask = embryo.astype(np.int32)
    mask[:, :, 20:30] = -1
    source, properties = annotated(image, mask)
    sample = cut(source, properties.objects.box(0), (40, 56, 48), PLAIN[3])
    box = place(properties.objects.box(0), (40, 56, 48), image.shape)
    np.testing.assert_array_equal(sample.labels == -1, mask[box.slices] == -1)


def test_objects_of_a_stack_keep_their_overlap(rng: np.random.Generator) -> None:
    stack = np.zeros((4, 40, 40), np.int8)
    stack[0, 10:20, 10:20] = stack[1, 15:30, 15:20] = stack[3, 0:5, 0:5] = 1
    stack[2, 21, 21] = -1
    source, properties = annotated(rng.random((40, 40), np.float32), stack)
    sample = cut(source, properties.objects.box(1), (16, 16), PLAIN[2])
    box = place(properties.objects.box(1), (16, 16), (40, 40))
    assert sample.masks is not None
    np.testing.assert_array_equal(sample.masks, stack[(slice(0, 2), *box.slices)] > 0)
    assert sample.labels[21 - box.start[0], 21 - box.start[1]] == -1
    np.testing.assert_array_equal(sample.labels > 0, sample.masks.any(axis=0))


def test_all_channels_are_normalised_by_their_own_range(rng: np.random.Generator) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 4:9] = 1
    one = rng.random((16, 16), np.float32)
    source, _ = annotated(np.stack([one, 50 - 10 * one]), mask, axes="cyx", channel=None)
    sample = cut(source, Box((4, 4), (9, 9)), (16, 16), PLAIN[2])
    assert sample.image.shape == (2, 16, 16)
    for channel in sample.image:
        np.testing.assert_allclose(np.percentile(channel, (1, 99.8)), (0, 1), atol=1e-5)


@pytest.mark.parametrize("zoom", [(2.0, 2.0), (0.5, 0.5), (1.5, 0.75)])
def test_magnified_objects_are_larger_and_their_centres_still_theirs(
    zoom: tuple[float, float], rng: np.random.Generator
) -> None:
    mask = synthetic_embryo((200, 200), diameter=16, density=0.9, seed=1)
    source, properties = annotated(rng.random((200, 200), np.float32), mask)
    row = int(np.abs(properties.objects.starts - 92).sum(axis=1).argmin())
    target = properties.objects.box(row)
    sample = cut(source, target, (64, 64), View(SignedPermutation.identity(2), zoom))
    number = sample.labels[32, 32]
    grown = np.count_nonzero(sample.labels == number) / np.prod(zoom)
    assert grown == pytest.approx(properties.objects.sizes[row], rel=0.1)
    assert_centres_lie_in_their_instances(sample)
    assert not np.isnan(sample.centers[number - 1]).any()


def assert_centres_lie_in_their_instances(sample: Sample) -> None:
    for k, center in enumerate(sample.centers):
        if not np.isnan(center).any():
            assert sample.labels[tuple(center.astype(int))] == k + 1


def test_objects_that_magnification_loses_are_not_counted(rng: np.random.Generator) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 1
    mask[::2, 3] = 2  # every voxel of it is skipped by one of the two grids
    source, _ = annotated(rng.random((64, 64), np.float32), mask)
    sample = cut(source, Box((20, 20), (40, 40)), (16, 16), View(PLAIN[2].symmetry, (0.25, 0.25)))
    assert sample.labels.max() == len(sample.centers)


class Counted:
    """An array on a slow disk."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.reads = array, 0
        self.shape, self.dtype, self.ndim, self.chunks = array.shape, array.dtype, 3, (1, 8, 10)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        self.reads += 1
        return np.asarray(self.array[index])


@pytest.mark.parametrize(("spare", "reads"), [(0, 1), (-1, 3), (-960, 3)])
def test_a_cache_reads_once_what_fits_and_the_same_voxels_in_any_case(
    spare: int, reads: int
) -> None:
    array = np.arange(6 * 8 * 10, dtype=np.uint16).reshape(6, 8, 10)
    slow = Counted(array)
    volume, cache = open_volume(slow), Cache(array.nbytes + spare)
    for box in (Box((1, 2, 3), (4, 6, 7)), Box.whole((6, 8, 10)), Box((0, 0, 0), (1, 1, 1))):
        np.testing.assert_array_equal(cache.read(volume, box), array[box.slices])
    assert slow.reads == reads


def test_a_cache_travels_empty(tmp_path: Path) -> None:
    array = np.zeros((60, 80, 100), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, metadata={"axes": "ZYX"})
    cache = Cache(2**30)
    cache.read(open_volume(tmp_path / "a.tif"), Box.whole((1, 1, 1)))
    assert len(pickle.dumps(cache)) < 1000
    assert pickle.loads(pickle.dumps(cache)).total == 2**30


def test_centres_can_be_found_in_any_process(embryo: NDArray[np.uint32]) -> None:
    pairs = find_pairs([embryo.astype(np.float32)] * 2, [embryo, embryo[::-1]])
    objects = measure(pairs).objects
    seen: list[Pair] = []

    def through_pickle(function: Any, tasks: Any) -> Any:
        for task in tasks:
            seen.append(task[0])
            yield pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(task)))

    found = find_centers(pairs, objects, map=through_pickle)
    np.testing.assert_array_equal(found, find_centers(pairs, objects))
    assert len(seen) == 2


def test_the_emptiest_box_lies_in_the_image_and_holds_nothing_where_it_can(
    rng: np.random.Generator,
) -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[:, 40:] = 1
    labels[:3] = -1  # not annotated: what is there is not known
    source, _ = annotated(labels.astype(np.float32), labels)
    for _ in range(20):
        box = emptiest(source, (16, 24), rng, tries=200)
        assert box.shape == (16, 24)
        assert not labels[box.slices].any()
    assert emptiest(source, (64, 64), rng) == Box((0, 0), (40, 60))
