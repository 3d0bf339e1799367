"""The promise: labels do not depend on how the work was cut up, ordered, or distributed.

The OracleNetwork predicts every voxel from its label alone, so that any difference between two
runs is the engine's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.clustering.cluster import cluster_points, points_of_embedding, points_of_stored
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.embedding import Embedding
from embedseg_large.geometry import Box
from embedseg_large.runs.progress import Progress
from embedseg_large.runs.tasks import Task, TaskQueue, perform
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.segment import begin, run_request
from embedseg_large.stitching.tile_result import Frame, make_result
from embedseg_large.testing.objects import Flaws
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.testing.tiers import slowly

Labels = NDArray[Any]
SHAPES = {2: (150, 170), 3: (52, 60, 58)}
FLAWS = {
    "noise": Flaws(noise=1.0),
    "plateau": Flaws(noise=1.0, plateau=True),
    "stray": Flaws(noise=0.5, stray=0.03, stray_length=40.0),
}


def embryo(ndim: int) -> Labels:
    return synthetic_embryo(SHAPES[ndim], density=0.5, diameter=11, seed=ndim).astype(np.uint16)


def untiled(labels: Labels, network: OracleNetwork, margin: float = 0.5) -> Labels:
    """What the whole volume gives at once, numbered by the raster order of seeds."""
    stored = network.predict_tile(labels.astype(np.float32), Box.whole(labels.shape), "none")
    rule = ClusteringSettings(
        min_object_size=network.min_object_size, reach=network.reach, margin=margin
    )
    result = cluster_points(points_of_stored(stored, rule), rule, ((False, False),) * 3)
    found = result.labels.reshape(labels.shape)
    alive = np.flatnonzero(np.bincount(found.reshape(-1), minlength=result.seeds.size + 1)[1:])
    numbers = np.zeros(result.seeds.size + 1, np.uint32)
    numbers[alive[np.argsort(result.seeds[alive])] + 1] = np.arange(1, alive.size + 1)
    return numbers[found]


def run(labels: Any, network: OracleNetwork, out: Path, **options: Any) -> es.SegmentResult:
    return es.segment(
        labels, network, output=out, overwrite=True, intensity_range=(0, 1), **options
    )


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_any_clustering_tile_gives_the_untiled_labels(tmp_path: Path, ndim: int, flaw: str) -> None:
    labels = embryo(ndim)
    network = OracleNetwork.of(labels, flaws=FLAWS[flaw], tile=(24,) * ndim, min_object_size=4)
    expected = untiled(labels, network)
    assert expected.max() > 20
    for edge in ((23, 31, 29), (40, 18, 64), (500, 25, 500)):
        result = run(labels, network, tmp_path / "out.zarr", cluster_tile=edge[-ndim:])
        assert result.seams.joined == 0
        np.testing.assert_array_equal(np.asarray(result.labels), expected)


@pytest.mark.parametrize("margin", [0.2, 0.8, *slowly(0.35, 0.65)])
def test_any_margin_gives_the_untiled_labels(tmp_path: Path, margin: float) -> None:
    ndim = 2 if margin in (0.2, 0.65) else 3
    labels = embryo(ndim)
    network = OracleNetwork.of(labels, flaws=Flaws(noise=2.0), tile=(24,) * ndim, min_object_size=4)
    expected = untiled(labels, network, margin)
    assert (expected != untiled(labels, network)).any()
    for edge in ((23, 31, 29), (40, 18, 64)):
        cut = {"cluster_tile": edge[-ndim:], "margin": margin}
        result = run(labels, network, tmp_path / "out.zarr", **cut)
        assert result.seams.joined == 0
        np.testing.assert_array_equal(np.asarray(result.labels), expected)
    assert result.summary["settings"]["margin"] == margin


@pytest.mark.slow
@given(data=st.data())
@hypothesis_settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_tiles_and_halo_that_end_with_nothing_joined(tmp_path: Path, data: Any) -> None:
    ndim = data.draw(st.sampled_from([2, 3]))
    labels = embryo(ndim)
    flaws = FLAWS[data.draw(st.sampled_from(sorted(FLAWS)))]
    network = OracleNetwork.of(labels, flaws=flaws, min_object_size=4)
    edges = st.integers(14, 70)
    halo = data.draw(st.integers(6, 16))
    margin = data.draw(st.sampled_from([0.2, 0.35, 0.5, 0.65, 0.8]))
    result = run(
        labels,
        network,
        tmp_path / "out.zarr",
        tile=tuple(8 * data.draw(st.integers(2, 8)) for _ in range(ndim)),
        cluster_tile=tuple(data.draw(edges) for _ in range(ndim)),
        halo=(halo,) * ndim,
        margin=margin,
    )
    if result.seams.joined == 0:
        np.testing.assert_array_equal(np.asarray(result.labels), untiled(labels, network, margin))


@dataclass
class ShuffledExecutor:
    """Runs whatever may run in a random order, and everything twice, as after a lost worker."""

    network: OracleNetwork
    order: random.Random

    def run(self, work: TaskQueue) -> None:
        waiting: list[Task] = []
        while True:
            while (task := work.next()) is not None:
                waiting.append(task)
            if not waiting:
                return
            task = waiting.pop(self.order.randrange(len(waiting)))
            perform(task.call, lambda: self.network)
            work.finished(task, perform(task.call, lambda: self.network))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_gives_the_same_bytes(tmp_path: Path, seed: int) -> None:
    labels = embryo(3)
    network = OracleNetwork.of(labels, flaws=FLAWS["noise"], tile=(24, 24, 24))
    request = prepare(
        labels,
        network,
        "nuclei",
        SegmentOptions(
            output=tmp_path / "out.zarr",
            intensity_range=(0, 1),
            cluster_tile=(24, 30, 30),
            halo=(6, 6, 6),
        ),
    )
    executor = ShuffledExecutor(network, random.Random(seed))
    with begin(request) as begun:
        result = run_request(request, begun, executor, Progress())
    assert result.seams.rounds > 0
    np.testing.assert_array_equal(np.asarray(result.labels), untiled(labels, network))


@pytest.mark.parametrize("ndim", [3, *slowly(2)])
def test_worker_processes_give_the_same_bytes(tmp_path: Path, ndim: int, client: Any) -> None:
    labels = embryo(ndim)
    network = OracleNetwork.of(labels, flaws=FLAWS["noise"], tile=(24,) * ndim)
    result = run(
        labels,
        network,
        tmp_path / "out.zarr",
        cluster_tile=(30,) * ndim,
        halo=(5,) * ndim,
        client=client,
    )
    assert result.seams.rounds > 0
    np.testing.assert_array_equal(np.asarray(result.labels), untiled(labels, network))


def files_of(folder: str) -> dict[str, bytes]:
    """All voxels, and the seediness of instances; what could be *proven* depends on the tiles."""
    root = Path(folder)
    chunks = (p for p in root.rglob("*") if p.is_file() and "c" in p.parent.relative_to(root).parts)
    names = {str(p.relative_to(root)): p for p in chunks}
    return {name: p.read_bytes() for name, p in names.items() if "/certified/" not in name}


def test_the_files_are_the_same_byte_for_byte(tmp_path: Path, client: Any) -> None:
    labels = embryo(3)
    network = OracleNetwork.of(labels, flaws=FLAWS["noise"], tile=(24, 24, 24))
    one = run(labels, network, tmp_path / "one.zarr", cluster_tile=(30, 30, 30))
    two = run(labels, network, tmp_path / "two.zarr", cluster_tile=(22, 41, 35), client=client)
    assert files_of(one.path)
    assert files_of(one.path) == files_of(two.path)


def test_a_halo_that_is_too_small_is_repaired(tmp_path: Path) -> None:
    labels = embryo(3)
    network = OracleNetwork.of(labels, flaws=FLAWS["noise"])
    options: dict[str, Any] = {"cluster_tile": (26, 26, 26), "halo": (4, 4, 4)}
    repaired = run(labels, network, tmp_path / "a.zarr", **options)
    assert repaired.seams.repaired > 0
    assert repaired.seams.rounds > 0
    np.testing.assert_array_equal(np.asarray(repaired.labels), untiled(labels, network))
    left_alone = run(labels, network, tmp_path / "b.zarr", max_halo=(4, 4, 4), **options)
    assert left_alone.seams.joined > 0


def rod(length: int) -> Labels:
    """One long object, and a few small ones."""
    labels = np.zeros((24, 24, length + 20), np.uint16)
    labels[10:14, 10:14, 10 : 10 + length] = 1
    labels[4:8, 4:8, 20:24] = 2
    labels[18:22, 16:20, length - 10 : length - 6] = 3
    return labels


def test_an_object_larger_than_every_halo_is_joined_and_reported(tmp_path: Path) -> None:
    labels = rod(120)
    seeds_everywhere = Flaws(plateau=True)
    network = OracleNetwork.of(labels, min_object_size=4, flaws=seeds_everywhere)
    result = run(
        labels,
        network,
        tmp_path / "out.zarr",
        cluster_tile=(24, 24, 24),
        halo=(4, 4, 4),
        max_halo=(8, 8, 8),
    )
    found = np.asarray(result.labels)
    assert len(np.unique(found[labels == 1])) == 1, "the rod is one object"
    assert result.n_instances == 3
    joined = result.seams.joined_objects
    assert [labels[o.seed] for o in joined] == [1]
    assert found[joined[0].seed] == joined[0].label


def test_an_object_whose_far_parts_have_no_seed_is_reported_where_it_is_cut(
    tmp_path: Path,
) -> None:
    """Tiles that see no seed of the rod cannot name it; that is said, never silent."""
    labels = rod(120)
    result = run(
        labels,
        OracleNetwork.of(labels, min_object_size=4),
        tmp_path / "out.zarr",
        cluster_tile=(24, 24, 24),
        halo=(4, 4, 4),
        max_halo=(8, 8, 8),
    )
    assert [labels[o.seed] for o in result.seams.joined_objects] == [1]
    assert (np.asarray(result.labels)[labels == 1] == 0).any()


def test_an_object_larger_than_the_default_halo_is_repaired_with_a_larger_one(
    tmp_path: Path,
) -> None:
    labels = rod(60)
    network = OracleNetwork.of(labels, min_object_size=4)
    result = run(labels, network, tmp_path / "out.zarr", cluster_tile=(24, 24, 24), halo=(4, 4, 16))
    assert (result.seams.joined, result.n_instances) == (0, 3)
    assert [labels[o.seed] for o in result.seams.repaired_objects] == [1]
    np.testing.assert_array_equal(np.asarray(result.labels), untiled(labels, network))


def test_strict_runs_end_with_more_certified(tmp_path: Path) -> None:
    labels = embryo(2)
    network = OracleNetwork.of(labels, flaws=FLAWS["noise"])
    options: dict[str, Any] = {"cluster_tile": (50, 50), "halo": (14, 14), "max_halo": (56, 56)}
    plain = run(labels, network, tmp_path / "a.zarr", **options)
    strict = run(labels, network, tmp_path / "b.zarr", strict=True, **options)
    assert strict.seams.certified > plain.seams.certified
    np.testing.assert_array_equal(np.asarray(strict.labels), np.asarray(plain.labels))


def test_every_instance_is_counted_once_in_the_report(tmp_path: Path) -> None:
    labels = embryo(3)
    network = OracleNetwork.of(labels, flaws=FLAWS["stray"])
    result = run(labels, network, tmp_path / "out.zarr", cluster_tile=(26, 26, 26), halo=(6, 6, 6))
    seams = result.seams
    parts = (seams.certified, seams.agreed, seams.repaired, seams.joined)
    assert min(parts) >= 0
    assert sum(parts) == result.n_instances == int(np.asarray(result.labels).max())


def test_the_summary_counts_every_voxel_of_every_stage(tmp_path: Path) -> None:
    labels = embryo(3)
    network = OracleNetwork.of(labels, tile=(24, 24, 24))
    seen: dict[str, int] = {}

    class Watcher:
        def begin(self, stage: str, tiles: int) -> None:
            seen[stage] = seen.get(stage, 0) + tiles

        def advance(self, stage: str) -> None:
            seen[stage] -= 1

    result = run(labels, network, tmp_path / "out.zarr", watcher=Watcher())
    assert set(result.summary["stages"]) >= {"predict", "cluster", "check", "finish"}
    assert all(left == 0 for left in seen.values())
    assert result.summary["stages"]["predict"]["tiles"] == 3 * 3 * 3


def test_a_chosen_timepoint_is_written_to_its_place(tmp_path: Path, client: Any) -> None:
    frame = embryo(3)
    series = np.stack([np.zeros_like(frame), np.zeros_like(frame), frame])
    volume = es.open_volume(series, axes="tzyx", timepoint=2)
    network = OracleNetwork.of(frame)
    for name, options in (("serial", {}), ("dask", {"client": client})):
        result = run(volume, network, tmp_path / f"{name}.zarr", **options)
        found = result.labels.compute()
        assert found.shape == series.shape
        assert not found[:2].any()
        np.testing.assert_array_equal(found[2], untiled(frame, network))


def test_a_volume_of_nothing_has_no_instances(tmp_path: Path) -> None:
    labels = embryo(3)
    result = run(np.zeros_like(labels), OracleNetwork.of(labels), tmp_path / "out.zarr")
    assert result.n_instances == 0
    assert not result.labels.compute().any()


def pointing_far() -> tuple[Embedding, ClusteringSettings]:
    """One object whose seed lies two tiles away from where its voxels are."""
    offsets = np.zeros((2, 4, 40), np.float32)
    seeds = np.zeros((4, 40), np.float32)
    offsets[1, :, 20:26] = 23 - np.arange(20, 26)
    seeds[:, 20:26] = 0.8
    offsets[1, 0, 14], seeds[0, 14] = 9, 0.99
    sigmas = np.full((2, 4, 40), 1.0, np.float32)
    return Embedding(offsets, sigmas, seeds), ClusteringSettings(
        min_object_size=20, reach=(9.0, 9.0)
    )


def test_a_tile_that_might_be_wrong_is_not_proven_exact() -> None:
    """Not even where it names no instance at all."""
    embedding, rule = pointing_far()
    core = Box((0, 12), (4, 18))
    region = Box((0, 6), (4, 24))
    part = Embedding(
        embedding.offsets[(slice(None), *region.slices)],
        embedding.sigmas[(slice(None), *region.slices)],
        embedding.seeds[region.slices],
    )
    faces = ((False, False), (False, False), (True, True))
    result = cluster_points(points_of_embedding(part, rule), rule, faces)
    view = make_result(
        result.labels.reshape(region.shape),
        result.seeds,
        result.certain,
        result.doubtful,
        result.seediness,
        frame=Frame(region=region, core=core, seams=[], volume_shape=(4, 40)),
    )
    assert view.ids.size == 0
    assert not view.exact


@pytest.mark.parametrize("ndim", [2, 3])
def test_strict_runs_prove_every_core_where_halos_may_grow(tmp_path: Path, ndim: int) -> None:
    labels = embryo(ndim)
    network = OracleNetwork.of(labels, flaws=FLAWS["noise"])
    result = run(
        labels,
        network,
        tmp_path / "out.zarr",
        cluster_tile=(40,) * ndim,
        halo=(12,) * ndim,
        max_halo=(96,) * ndim,
        strict=True,
    )
    assert result.seams.tiles_exact == result.seams.tiles > 1
    np.testing.assert_array_equal(np.asarray(result.labels), untiled(labels, network))
