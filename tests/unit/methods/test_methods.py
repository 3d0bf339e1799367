"""Every method learns what it decodes, and decodes what it learnt, wherever a tile begins."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from embedseg_large.clustering.cluster import Clustering
from embedseg_large.embedding import quantise
from embedseg_large.errors import UsageError
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.scores import scores
from embedseg_large.geometry import Box
from embedseg_large.methods.embedseg import EmbedSeg
from embedseg_large.methods.flood import settled
from embedseg_large.methods.protocol import FieldMethod, Method, ObjectScale, Promise
from embedseg_large.methods.registry import FIELD_METHODS, NAMES, check_usable, field_method
from embedseg_large.testing.synthetic import synthetic_embryo

EXTENT = 13
SEPARATING = [name for name in FIELD_METHODS if name != "two-class"]


def method_of(name: str, ndim: int, least: int = 10) -> FieldMethod:
    scale = ObjectScale(ndim=ndim, extent=(EXTENT,) * ndim, min_object_size=least)
    return field_method(name, scale)


def embryo(shape: tuple[int, ...], *, touching: bool = True, seed: int = 0) -> NDArray[np.int32]:
    spacing, density = (0.8, 0.6) if touching else (1.3, 0.3)
    labels = synthetic_embryo(shape, diameter=10, spacing=spacing, density=density, seed=seed)
    return labels.astype(np.int32)


def whole(method: Method, stored: NDArray[np.float16]) -> Clustering:
    return method.decode(stored, ((False, False),) * (stored.ndim - 1), {})


def ideal(method: FieldMethod, labels: NDArray[np.int32]) -> NDArray[np.float16]:
    return method.stored(method.ideal(method.targets(labels)))


def noisy(method: FieldMethod, labels: NDArray[np.int32], seed: int) -> NDArray[np.float16]:
    """Ideal fields with smooth errors."""
    raw = method.ideal(method.targets(labels))
    noise = np.random.default_rng(seed).normal(size=raw.shape)
    smooth = ndimage.gaussian_filter(noise, (0,) + (1.5,) * labels.ndim)
    smooth *= 0.15 * np.abs(raw).max(axis=tuple(range(1, raw.ndim)), keepdims=True) / smooth.std()
    return method.stored((raw + smooth).astype(np.float32))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FIELD_METHODS)
def test_ideal_fields_give_objects_back(name: str, ndim: int) -> None:
    labels = embryo((96, 96) if ndim == 2 else (40, 40, 40), touching=name != "two-class")
    method = method_of(name, ndim, least=0)
    found = whole(method, ideal(method, labels))
    # a star-convex shape between few rays is not the object's to the last voxel
    iou = 0.6 if name == "stardist" else 0.9
    assert len(found.seeds) == labels.max()
    assert scores(Contingency.of(found.labels, labels), (iou,))[0].ap == 1
    assert (found.labels.reshape(-1)[found.seeds] == np.arange(1, labels.max() + 1)).all()


@pytest.mark.parametrize("name", ["three-class", "two-class", "affinities", "harmonic"])
def test_ideal_fields_of_objects_apart_give_every_voxel_back(name: str) -> None:
    labels = embryo((40, 40, 40), touching=False)
    method = method_of(name, 3, least=0)
    found = whole(method, ideal(method, labels))
    pairs = np.unique(np.stack([found.labels.reshape(-1), labels.reshape(-1)]), axis=1)
    assert pairs.shape[1] == labels.max() + 1


def test_touching_objects_of_two_classes_are_one() -> None:
    labels = np.zeros((8, 12), np.int32)
    labels[2:6, 2:6], labels[2:6, 6:10] = 1, 2
    method = method_of("two-class", 2)
    assert len(whole(method, ideal(method, labels)).seeds) == 1


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", FIELD_METHODS)
def test_what_is_certain_is_as_in_the_whole(name: str, seed: int) -> None:
    labels = embryo((56, 56, 56), touching=name != "two-class", seed=seed)
    method = method_of(name, 3)
    stored = noisy(method, labels, seed)
    names = named(whole(method, stored), Box.whole(labels.shape), labels.shape)
    region = Box((0, 6, 8), (48, 50, 56))
    tile = method.decode(
        np.ascontiguousarray(stored[(slice(None), *region.slices)]),
        tuple((a > 0, b < 56) for a, b in zip(region.start, region.stop, strict=True)),
        {},
    )
    found, there = named(tile, region, labels.shape), names[region.slices]
    sure = np.ones(found.size, np.bool_)
    sure[tile.doubtful] = False
    np.testing.assert_array_equal(found.reshape(-1)[sure], there.reshape(-1)[sure])
    for number in np.flatnonzero(tile.certain) + 1:
        own = tile.labels == number
        name_of_it = found[own][0]
        assert (names == name_of_it).sum() == own.sum()
        assert (there[own] == name_of_it).all()
    if method.promise is not Promise.EXACT and name != "two-class":
        assert not tile.certain.any()
    if name in ("three-class", "two-class"):
        assert tile.certain.any()


@pytest.mark.parametrize("name", FIELD_METHODS)
def test_objects_of_a_core_do_not_depend_on_the_tile(name: str) -> None:
    labels = embryo((64, 64, 64), touching=name != "two-class", seed=3)
    method = method_of(name, 3)
    stored = noisy(method, labels, 3)
    names = named(whole(method, stored), Box.whole(labels.shape), labels.shape)
    core = Box((16, 16, 0), (48, 48, 32))
    region = core.grow((16, 16, 16)).clip(labels.shape)
    tile = method.decode(
        np.ascontiguousarray(stored[(slice(None), *region.slices)]),
        tuple((a > 0, b < 64) for a, b in zip(region.start, region.stop, strict=True)),
        {},
    )
    found = named(tile, region, labels.shape)[core.slices_in(region)]
    np.testing.assert_array_equal(found, names[core.slices])


def named(found: Clustering, region: Box, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Voxels with the names of their instances: 1 more than a global index."""
    at = np.unravel_index(found.seeds, region.shape)
    moved = tuple(a + start for a, start in zip(at, region.start, strict=True))
    names = np.concatenate([[0], np.ravel_multi_index(moved, shape) + 1])
    return names[found.labels]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", FIELD_METHODS)
def test_the_loss_is_least_for_ideal_fields_and_passes_over_what_is_ignored(
    name: str, ndim: int
) -> None:
    labels = embryo((32, 32) if ndim == 2 else (20, 20, 20))
    labels[..., 12:] = -1
    method = method_of(name, ndim)
    targets = method.targets(labels)
    stacked = {k: torch.from_numpy(np.stack([v, v])) for k, v in targets.items()}
    perfect = torch.from_numpy(method.ideal(targets))

    def loss(raw: torch.Tensor) -> float:
        return float(sum(method.loss(torch.stack([raw, raw]), stacked).values()))

    assert loss(perfect) < 0.5 * loss(torch.zeros_like(perfect))
    disturbed = perfect.clone()
    disturbed[..., 12:] += 3
    assert loss(disturbed) == pytest.approx(loss(perfect))


@pytest.mark.parametrize("name", FIELD_METHODS)
def test_nothing_annotated_costs_nothing(name: str) -> None:
    method = method_of(name, 2)
    targets = method.targets(np.full((16, 16), -1, np.int32))
    raw = torch.zeros(1, sum(f.channels for f in method.fields), 16, 16, requires_grad=True)
    terms = method.loss(raw, {k: torch.from_numpy(v[None]) for k, v in targets.items()})
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert raw.grad is not None
    assert not raw.grad.any()


@pytest.mark.parametrize("name", FIELD_METHODS)
def test_an_empty_region_has_no_instances(name: str) -> None:
    method = method_of(name, 3)
    stored = ideal(method, np.zeros((8, 8, 8), np.int32))
    found = method.decode(stored, ((True, True),) * 3, {})
    assert found.seeds.size == found.certain.size == 0
    assert not found.labels.any()


@pytest.mark.parametrize("name", SEPARATING)
def test_stricter_knobs_find_less(name: str) -> None:
    labels = embryo((64, 64))
    method = method_of(name, 2)
    stored = noisy(method, labels, 0)
    first = method.knobs[0]
    counts = [
        int(np.count_nonzero(method.decode(stored, ((False, False),) * 2, {first.name: v}).labels))
        for v in (first.values[0], first.values[-1])
    ]
    assert counts[0] >= counts[1] > 0
    assert all(knob.default in knob.values for knob in method.knobs)


def test_embedseg_as_a_method_is_embedseg() -> None:
    raw = np.random.default_rng(0).normal(size=(5, 24, 24)).astype(np.float32) * 0.1
    raw[-1] += 3
    method = EmbedSeg(ObjectScale(ndim=2, extent=(9, 9)), pitch=(0.05, 0.05), reach=(12, 12))
    stored = method.stored(raw)
    np.testing.assert_array_equal(stored, quantise(raw, (0.05, 0.05)))
    found = whole(method, stored)
    assert found.labels.shape == (24, 24)
    assert found.labels.reshape(-1)[found.seeds].all()


def test_a_method_that_does_not_exist_is_refused() -> None:
    for refuse in (
        check_usable,
        lambda name: field_method(name, ObjectScale(ndim=2, extent=(9, 9))),
    ):
        with pytest.raises(UsageError, match="method is 'magic'; use embedseg, three-class"):
            refuse("magic")


def test_affinities_without_their_library_name_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bioimage_cpp.segmentation", None)
    with pytest.raises(UsageError, match=r'pip install "embedseg-large\[affinities\]"'):
        check_usable("affinities")


def test_all_methods_are_listed() -> None:
    assert NAMES[0] == "embedseg"
    for name in NAMES[1:]:
        assert method_of(name, 2).name == name
        check_usable(name)


def test_a_small_instance_is_dropped_unless_it_may_go_on_beyond_a_face() -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[0, 0] = 1  # at a face beyond which the volume goes on
    labels[4, 4] = 2
    labels[6, 2:8] = 3
    everywhere = np.ones(labels.shape, np.bool_)
    found = settled(
        labels,
        np.array([0, 40, 56]),
        everywhere,
        np.ones(labels.shape, np.float32),
        3,
        ((True, False), (False, False)),
    )
    assert found.seeds.tolist() == [0, 56]
    assert not found.certain.any()
    assert found.doubtful.size == labels.size
