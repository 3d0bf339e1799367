"""Synthetic embryos are what they claim to be, and the oracle knows them exactly."""

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import cluster
from embedseg_large.embedding import dequantise
from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.scores import scores
from embedseg_large.geometry import Box
from embedseg_large.testing import (
    Flaws,
    OracleNetwork,
    embedding_of,
    lazy_embryo,
    render,
    synthetic_embryo,
)
from embedseg_large.testing.strategies import cuts, embryos, flaws
from embedseg_large.volumes.volume import open_volume


def ids_of(labels: NDArray[np.uint32]) -> list[int]:
    ids: list[int] = np.unique(labels[labels > 0]).tolist()
    return ids


def touching_pairs(labels: NDArray[np.uint32]) -> int:
    """Pairs of objects with a common wall across the last axis."""
    left, right = labels[..., :-1], labels[..., 1:]
    wall = (left != right) & (left > 0) & (right > 0)
    return len(np.unique(np.stack([left[wall], right[wall]]), axis=1).T)


def same_partition(a: NDArray[np.integer], b: NDArray[np.integer]) -> bool:
    """Whether two label arrays are equal up to renaming, background included."""
    table = Contingency.of(a, b)
    one_to_one = len(table.counts) == len(set(table.prediction_ids)) == len(set(table.truth_ids))
    return one_to_one and bool(((table.prediction_ids == 0) == (table.truth_ids == 0)).all())


def test_eight_hundred_cells_are_made_in_seconds() -> None:
    start = time.perf_counter()
    labels = synthetic_embryo((160, 160, 160), n_objects=800, diameter=18)
    assert time.perf_counter() - start < 3  # 0.3 s on an idle core
    assert ids_of(labels) == list(range(1, 801))
    assert 0.4 < np.count_nonzero(labels) / labels.size < 0.6


@pytest.mark.parametrize("shape", [(90, 110), (30, 50, 60)])
def test_cells_touch_when_centres_are_close_and_stand_alone_when_not(
    shape: tuple[int, ...],
) -> None:
    packed = synthetic_embryo(shape, diameter=12, spacing=0.7, density=1.0)
    loose = synthetic_embryo(shape, diameter=12, spacing=1.3, density=1.0)
    assert touching_pairs(packed) > ids_of(packed)[-1] / 2
    assert touching_pairs(loose) == 0


def test_a_seed_names_one_embryo() -> None:
    first, again, other = (synthetic_embryo((40, 40), seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_anisotropy_makes_cells_flat() -> None:
    labels = synthetic_embryo((40, 80, 80), diameter=16, spacing=1.4, anisotropy=4)
    z, y, x = OracleNetwork.of(labels).extent
    assert z < 8
    assert 14 < y < 20
    assert 14 < x < 20


def test_more_cells_than_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="of 1000 objects of diameter 16"):
        synthetic_embryo((32, 32, 32), n_objects=1000)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(100, 120), (40, 50, 60)])
def test_clustering_perfect_embeddings_gives_the_labels_back(
    shape: tuple[int, ...], seed: int
) -> None:
    labels = synthetic_embryo(shape, diameter=12, density=1, spacing=0.65, seed=seed)
    assert same_partition(cluster(embedding_of(labels), min_object_size=0), labels)


@settings(deadline=None, max_examples=50)
@given(embryos())
def test_all_voxels_of_an_object_point_at_one_voxel_of_their_own(
    labels: NDArray[np.uint32],
) -> None:
    offsets = embedding_of(labels).offsets
    points = np.indices(labels.shape) + offsets
    for k in ids_of(labels):
        target = points[:, labels == k]
        assert (target == target[:, :1]).all()
        assert labels[tuple(target[:, 0].astype(int))] == k


def test_seeds_tell_objects_from_background_and_peak_at_the_centre() -> None:
    labels = synthetic_embryo((40, 40, 40), diameter=12)
    embedding = embedding_of(labels)
    assert (embedding.seeds[labels == 0] == 0).all()
    assert embedding.seeds[labels > 0].min() > 0.5
    for k in ids_of(labels):
        at = np.argmax(np.where(labels == k, embedding.seeds, 0))
        assert (embedding.offsets.reshape(3, -1)[:, at] == 0).all()
        assert embedding.seeds.flat[at] > 0.99


def test_noise_moves_embeddings_by_no_more_than_it_says() -> None:
    labels = synthetic_embryo((60, 60), diameter=12)
    clean, noisy = embedding_of(labels), embedding_of(labels, noise=2.0)
    error = np.abs(noisy.offsets - clean.offsets)[:, labels > 0]
    assert 1.5 < error.max() < 2.01  # float16 rounds
    assert 0.9 < error.mean() < 1.1


@settings(deadline=None, max_examples=60)
@given(embryos(), flaws(), st.data())
def test_predictions_do_not_depend_on_how_the_volume_is_cut(
    labels: NDArray[np.uint32], wrong: Flaws, data: st.DataObject
) -> None:
    network = OracleNetwork.of(labels, flaws=wrong)
    image = labels.astype(np.float32)
    whole = network.predict_tile(image, Box.whole(labels.shape))
    for box in data.draw(cuts(labels.shape))[:20]:
        part = network.predict_tile(image[box.slices], box)
        assert np.array_equal(part, whole[(slice(None), *box.slices)])


def test_a_plateau_has_one_seed_value() -> None:
    labels = synthetic_embryo((50, 50))
    network = OracleNetwork.of(labels, flaws=Flaws(plateau=True))
    stored = network.predict_tile(labels.astype(np.float32), Box.whole(labels.shape))
    assert np.unique(dequantise(stored).seeds).size == 2


def test_the_asked_fraction_of_offsets_goes_astray() -> None:
    labels = synthetic_embryo((200, 200))
    network = OracleNetwork.of(labels, flaws=Flaws(stray=0.1, stray_length=80))
    stored = network.predict_tile(labels.astype(np.float32), Box.whole(labels.shape))
    astray = (stored[:2] != stored[:2].round()).any(axis=0)
    assert 0.08 < astray.sum() / np.count_nonzero(labels) < 0.12
    assert 60 < np.abs(stored[:2]).max() <= 80


def test_an_oracle_survives_pickling() -> None:
    labels = synthetic_embryo((30, 30, 30))
    network = OracleNetwork.of(labels, flaws=Flaws(noise=1))
    copy = pickle.loads(pickle.dumps(network))
    image, region = labels.astype(np.float32)[None], Box.whole(labels.shape)
    assert copy.fingerprint == network.fingerprint
    assert np.array_equal(copy.predict_tile(image, region), network.predict_tile(image, region))


def test_fingerprints_tell_oracles_apart() -> None:
    labels = synthetic_embryo((30, 30))
    networks = [
        OracleNetwork.of(labels),
        OracleNetwork.of(labels, flaws=Flaws(noise=1)),
        OracleNetwork.of(labels.T),
    ]
    assert len({network.fingerprint for network in networks}) == 3


def test_an_oracle_refuses_what_it_cannot_know() -> None:
    network = OracleNetwork.of(np.array([[0, 1], [2, 2]]))
    region = Box((0, 0), (1, 1))
    for value in (0.5, -1.0, 3.0):
        with pytest.raises(UsageError, match="not label ids below 3"):
            network.predict_tile(np.full((1, 1), value, np.float32), region)
    with pytest.raises(UsageError, match="shape"):
        network.predict_tile(np.zeros((2, 1), np.float32), region)
    with pytest.raises(UsageError, match="tta 8"):
        network.tta_mode(8)
    with pytest.raises(VolumeError, match="16777216"):
        OracleNetwork.of(np.array([2**24]))


def test_a_rendered_image_shows_every_object() -> None:
    labels = synthetic_embryo((60, 60, 60), diameter=14, spacing=0.8)
    image = render(labels)
    assert image.dtype == np.uint16
    assert image[labels > 0].mean() > 3 * image[labels == 0].mean()
    assert np.array_equal(image, render(labels))


@pytest.mark.parametrize("shape", [(150, 170), (70, 60, 90)])
def test_a_lazy_embryo_is_known_to_its_oracle(tmp_path: Path, shape: tuple[int, ...]) -> None:
    network = lazy_embryo(tmp_path / "e.ome.zarr", shape, diameter=11, period=(40,) * len(shape))
    volume = open_volume(tmp_path / "e.ome.zarr")
    labels = np.asarray(volume.data)
    assert labels.dtype == np.uint16
    assert volume.axes == "zyx"[-len(shape) :]
    assert ids_of(labels) == list(range(1, len(network.objects.centres)))
    stored = network.predict_tile(labels.astype(np.float32), Box.whole(shape))
    found = cluster(dequantise(stored), min_object_size=0)
    assert scores(Contingency.of(found, labels), [1.0])[0].ap == 1


def test_a_lazy_embryo_repeats_without_a_lattice_of_seams(tmp_path: Path) -> None:
    lazy_embryo(tmp_path / "e.zarr", (160, 160), diameter=11, period=(40, 40), density=1)
    group = zarr.open_group(tmp_path / "e.zarr", mode="r")
    labels = np.asarray(group["0"])
    inside = labels[39::40][:3], labels[40::40][:3]
    both = (inside[0] > 0) & (inside[1] > 0)
    assert (inside[0] == inside[1])[both].mean() > 0.8  # objects lie across
    assert np.array_equal(labels[40:80, 40:80] > 0, labels[80:120, 80:120] > 0)
    assert not np.intersect1d(labels[50:70, 50:70], labels[90:110, 90:110])[1:].size


def test_a_lazy_embryo_refuses_a_dtype_that_cannot_hold_its_ids(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not fit uint8"):
        lazy_embryo(tmp_path / "e.zarr", (400, 400), diameter=10, dtype="uint8")
    assert not (tmp_path / "e.zarr").exists()
