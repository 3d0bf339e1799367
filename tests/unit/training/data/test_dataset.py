"""The same crops in the same order, whoever cuts them and whatever was cut before."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from embedseg_large.errors import UsageError
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.training.data.augment import AugmentSettings
from embedseg_large.training.data.crops import find_centers
from embedseg_large.training.data.dataset import CropDataset, EpochSampler, Late
from embedseg_large.training.data.properties import measure
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.training.data.supply import EMPTY, AnnotatedSource, Mixture, drawn_rows
from embedseg_large.training.data.targets import Batch, Sample, collate
from embedseg_large.training.learner import _Watched
from embedseg_large.training.objective import BatchLoss
from embedseg_large.training.processes import Processes

ROBUST = AugmentSettings.robust()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two embryos as TIFFs that are compressed plane by plane."""
    root = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    for name, seed in (("a", 1), ("b", 2)):
        labels = synthetic_embryo((24, 50, 60), diameter=10, density=0.6, seed=seed)
        image = (100 + 80 * (labels > 0) + rng.integers(0, 30, labels.shape)).astype(np.uint16)
        for kind, array in (("images", image), ("masks", labels.astype(np.uint16))):
            (root / kind).mkdir(exist_ok=True)
            tifffile.imwrite(
                root / kind / f"{name}.tif", array, metadata={"axes": "ZYX"}, compression="zlib"
            )
    return root


def dataset(folder: Path, **options: Any) -> CropDataset:
    pairs = find_pairs(folder / "images", folder / "masks")
    properties = measure(pairs, crop=(16, 24, 24))
    centers = find_centers(pairs, properties.objects)
    cache_bytes = options.pop("cache_bytes", 2**30)
    weighing = {n: options.pop(n) for n in ("hard_share", "small_objects") if n in options}
    source = AnnotatedSource(pairs, properties, centers, cache_bytes=cache_bytes, **weighing)
    values: dict[str, Any] = {"augment": ROBUST, "seed": 3} | options
    return CropDataset(Mixture((source,)), properties, **values)


def rows(data: CropDataset, epoch: int) -> list[int]:
    """The objects of an epoch, as rows of the table of all."""
    firsts = np.searchsorted(data.properties.objects.images, [0, 1])
    return [int(firsts[volume] + row) for _, volume, row in data._order_of(epoch)]


def same(a: Sample, b: Sample) -> bool:
    arrays = ((a.image, b.image), (a.labels, b.labels), (a.centers, b.centers))
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in arrays)


def test_a_sample_depends_on_its_key_and_the_seed_alone(folder: Path) -> None:
    data, later = dataset(folder), dataset(folder, cache_bytes=0)
    for key in ((0, 3), (5, 1), (0, 0)):
        later[key]  # another history
    for key in ((0, 0), (0, 1), (5, 1)):
        assert same(data[key], later[key])
        assert same(data[key], pickle.loads(pickle.dumps(data))[key])
        assert not same(data[key], dataset(folder, seed=4)[key])


def test_every_object_is_cut_around_once_an_epoch(folder: Path) -> None:
    data = dataset(folder, augment=None)
    cut = [data[1, i].image.tobytes() for i in range(len(data))]
    assert len(data) == data.properties.n_objects > 20
    # two objects near one corner of an image may share a crop
    in_order = {data[0, i].image.tobytes() for i in range(len(data))}
    assert set(cut) == in_order
    assert len(in_order) > len(data) / 2


def test_epochs_differ_in_order_and_in_what_happens(folder: Path) -> None:
    data = dataset(folder)
    first = [data[0, i] for i in range(8)]
    second = [data[1, i] for i in range(8)]
    assert not any(same(a, b) for a in first for b in second)


def test_without_augmentation_crops_are_as_in_the_image(folder: Path) -> None:
    data = dataset(folder, augment=None)
    image = data[0, 0].image
    assert image.shape == (1, 16, 24, 24)
    assert 0 < np.count_nonzero(image > 0.5) < image.size


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork, Python 3.12 on
@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_workers_cut_what_the_process_itself_would_cut(folder: Path, cache_bytes: int) -> None:
    data = dataset(folder, cache_bytes=cache_bytes)
    order = EpochSampler(len(data))
    alone = [collate([data[0, i], data[0, i + 1]]) for i in range(0, 12, 2)]
    loader: DataLoader[Sample] = DataLoader(
        data,
        batch_size=2,
        sampler=order,
        collate_fn=collate,
        num_workers=2,
        multiprocessing_context="fork",  # shares open files, which must do no harm
        persistent_workers=True,
    )
    found: list[Batch] = list(loader)
    for a, b in zip(alone, found, strict=False):
        assert (a.image == b.image).all()
        assert (a.voxels == b.voxels).all()
    order.epoch = 1
    again: Batch = next(iter(loader))
    assert (again.image == collate([data[1, 0], data[1, 1]]).image).all()


def test_an_epoch_of_few_crops_draws_other_objects_each_time_and_none_twice(folder: Path) -> None:
    data = dataset(folder, augment=None, epoch_crops=12)
    assert len(data) == 12
    epochs = [[data[e, i].image.tobytes() for i in range(12)] for e in range(2)]
    drawn = [rows(data, e) for e in range(3)]
    assert epochs[0] != epochs[1]
    assert all(len(set(epoch)) == 12 for epoch in drawn)
    assert len(set(map(tuple, drawn))) == 3
    assert drawn[0] == rows(dataset(folder, epoch_crops=12), 0)
    assert drawn[0] != rows(dataset(folder, epoch_crops=12, seed=4), 0)


@pytest.mark.parametrize("epoch_crops", [None, 10_000])
def test_an_epoch_of_more_crops_than_objects_has_every_object_once(
    folder: Path, epoch_crops: int | None
) -> None:
    data = dataset(folder, epoch_crops=epoch_crops)
    assert sorted(rows(data, 3)) == list(range(data.properties.n_objects))


def test_the_share_of_an_image_grows_with_the_square_root_of_its_objects() -> None:
    images = np.repeat([0, 1], [100, 10_000])
    rng = np.random.default_rng(5)
    drawn = np.concatenate([images[drawn_rows(images, 22, rng)] for _ in range(500)])
    large, small = np.count_nonzero(drawn), np.count_nonzero(drawn == 0)
    # 10 times as often; slightly less often for the small image, of which more is used up
    assert 9 < large / small < 12


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_drawn_rows_are_rows_and_none_comes_twice(
    counts: list[int], share: float, seed: int
) -> None:
    images = np.repeat(np.arange(len(counts)), counts)
    count = round(share * len(images))
    found = drawn_rows(images, count, np.random.default_rng(seed))
    assert len(found) == len(set(found.tolist())) == count
    assert all(0 <= row < len(images) for row in found)
    assert (found == drawn_rows(images, count, np.random.default_rng(seed))).all()


def test_centres_of_other_objects_are_refused(folder: Path) -> None:
    data = dataset(folder)
    pairs = find_pairs(folder / "images", folder / "masks")
    with pytest.raises(UsageError, match="find them again"):
        AnnotatedSource(pairs, data.properties, np.zeros((3, 3)))


def test_symmetries_that_the_data_do_not_allow_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="exchanges z and y"):
        dataset(folder, augment=AugmentSettings(symmetries="48"))


def test_the_processes_share_an_epoch_evenly() -> None:
    samplers = [EpochSampler(11, rank=rank, world=3) for rank in range(3)]
    keys = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [3, 3, 3]
    assert sorted(i for part in keys for _, i in part) == list(range(9))


def test_an_epoch_can_end_early() -> None:
    sampler = EpochSampler(10)
    sampler.epoch = 4
    whole = list(sampler)
    sampler.stop = 6
    assert list(sampler) == whole[:6] == [(4, i) for i in range(6)]
    assert len(sampler) == 6


@pytest.mark.parametrize(("length", "rank", "world"), [(2, 0, 3), (5, 3, 3), (0, 0, 1)])
def test_epochs_too_short_for_the_processes_are_refused(length: int, rank: int, world: int) -> None:
    with pytest.raises(UsageError, match="samples per epoch"):
        EpochSampler(length, rank=rank, world=world)


def test_without_objects_are_as_many_crops_as_stated(folder: Path) -> None:
    data = dataset(folder, augment=None, epoch_crops=20, empty_share=0.25)
    order = data._order_of(0)
    assert np.count_nonzero(order[:, 2] == EMPTY) == 5
    crops = [data[0, i] for i in range(20)]
    filled = np.array([np.mean(crop.labels > 0) for crop in crops])
    empty = order[:, 2] == EMPTY
    assert filled[empty].mean() < 0.9 * filled[~empty].mean()  # a dense embryo has few gaps


def test_late_crops_are_larger_and_vary_less(folder: Path) -> None:
    late = Late(epoch=2, crop=(16, 32, 32), ranges=0.5)
    data, whole = dataset(folder, late=late), dataset(folder)
    assert [data[e, 0].image.shape[1:] for e in range(4)] == [(16, 24, 24)] * 2 + [(16, 32, 32)] * 2
    assert same(data[1, 3], whole[1, 3])
    assert data._augment_of(0, 1) == ROBUST
    assert data._augment_of(0, 2) == ROBUST.narrowed(0.5)


def test_hard_images_come_more_often(folder: Path) -> None:
    options = {"epoch_crops": 400, "repeat": True, "augment": None}
    usual = dataset(folder, **options)
    hard = dataset(folder, hard_share=0.5, **options)
    hard.errors = np.array([0.1, 0.9])
    shares = [np.mean(data._order_of(0)[:, 1] == 1) for data in (usual, hard)]
    assert shares[1] == pytest.approx(0.5 + shares[0] / 2, abs=0.07)


def test_small_objects_come_twice_as_often_if_it_is_said_so() -> None:
    labels = np.zeros((64, 64), np.int32)
    for number, edge in enumerate((10, 10, 10, 10, 4, 4)):
        at = 1 + number // 3 * 20, 1 + number % 3 * 20
        labels[at[0] : at[0] + edge, at[1] : at[1] + edge] = number + 1
    pairs = find_pairs([labels.astype(np.float32)], [labels])
    properties = measure(pairs, crop=(16, 16))
    centers = find_centers(pairs, properties.objects)
    source = AnnotatedSource(pairs, properties, centers, small_objects=2.0)
    drawn = source.draw(6000, np.random.default_rng(1))[:, 1]
    counts = np.bincount(drawn, minlength=6)
    assert counts == pytest.approx([750] * 4 + [1500] * 2, rel=0.1)


def test_errors_are_forgotten_crop_by_crop() -> None:
    class Crops:
        errors = np.array([1.0, 1.0])

        def origin(self, key: tuple[int, int]) -> tuple[int, int]:
            return key[0], 1

    crops: Any = Crops()
    watched = _Watched.of(crops)
    assert watched is not None
    overlaps, samples = torch.tensor([0.5, 0.7, 1.0]), torch.tensor([0, 0, 1])
    watched.add([(0, 0), (0, 1)], BatchLoss({}, overlaps, samples))  # errors .4 and 0
    assert watched.errors(Processes()) == pytest.approx([1.0, 1 + (1 - 0.7**2) * (0.2 - 1)])
