"""What is proven is so: hostile predictions in tiles, against the rule read plainly on the whole.

Set EMBEDSEG_PROMISE_RUNS to try more than the usual number of random runs, and
EMBEDSEG_PROMISE_FIRST to try others; `scripts/promise.py` tries thousands and prints figures.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import cluster
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.embedding import background, dequantise
from embedseg_large.errors import ModelError, UsageError
from embedseg_large.geometry import Box
from embedseg_large.runs.progress import Progress
from embedseg_large.runs.runner import SerialExecutor, TaskRunner
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.pipeline import PredictThenCluster, find_instances
from embedseg_large.segmentation.report import SeamReport
from embedseg_large.segmentation.request.request import Timepoint
from embedseg_large.segmentation.scratch.scratch import Scratch
from embedseg_large.segmentation.scratch.versions import EMPTY
from embedseg_large.segmentation.segmenters.network_segmenter import NetworkSegmenter
from embedseg_large.segmentation.stages.job import Job
from embedseg_large.segmentation.stages.predict import Predicted
from embedseg_large.testing.hostile import Stored, StoredNetwork, hostile
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.intensity import IntensityRange
from embedseg_large.volumes.volume import open_volume

RUNS = int(os.environ.get("EMBEDSEG_PROMISE_RUNS", "600"))
FIRST = int(os.environ.get("EMBEDSEG_PROMISE_FIRST", "0"))

Names = NDArray[np.int64]


def by_the_rule(network: StoredNetwork, foreground: float) -> Names:
    """Names of the whole volume, by the rule as it is written: the seed's raveled index plus one.

    All that it shares with the program is the order of the operations on float64.
    """
    stored, reach, ndim = network.stored.astype(np.float64), network.reach, network.ndim
    flat = stored.reshape(2 * ndim + 1, -1)
    with np.errstate(over="ignore"):
        seediness = (1 / (1 + np.exp(-flat[-1]))).astype(np.float32)
    radius = sqrt(2 * -log(network.margin))
    sigma = np.exp(np.clip(flat[ndim:-1], -87, 88)).astype(np.float32)
    sigma = np.minimum(sigma, np.array([r / 2 / radius for r in reach], np.float32)[:, None])
    is_foreground = (seediness > np.float32(foreground)) & (
        np.abs(flat[:ndim]) <= np.array(reach)[:, None]
    ).all(axis=0)
    at = np.flatnonzero(is_foreground)
    points = np.indices(network.shape).reshape(ndim, -1)[:, at] + flat[:ndim, at]
    sigma, seediness = sigma[:, at].astype(np.float64), seediness[at]
    claimed = np.zeros(at.size, bool)
    names = np.zeros(at.size, np.int64)
    for seed in np.lexsort((at, -seediness.astype(np.float64))).tolist():
        if seediness[seed] < np.float32(network.seed):
            break
        if claimed[seed]:
            continue
        claimed[seed] = True
        difference = points - points[:, seed : seed + 1]
        exponent = np.zeros(at.size)
        for along, width in zip(difference, sigma[:, seed], strict=True):
            exponent += along * along * (0.5 / (width * width))
        proposal = exponent < -log(network.margin)
        size, fresh = int(proposal.sum()), int((proposal & ~claimed).sum())
        claimed |= proposal
        if size > network.min_object_size and 2 * fresh > size:
            names[proposal] = at[seed] + 1
    whole = np.zeros(is_foreground.size, np.int64)
    whole[at] = names
    return whole.reshape(network.shape)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the tiles gave."""

    names: Names
    certified: Names
    """Names of the instances that are."""
    proven: list[Box]
    """Cores of the tiles that are."""
    seams: SeamReport


def job_of(network: StoredNetwork, scratch: Path, region: Box | None = None, **options: Any) -> Job:
    return Job(
        volume=open_volume(np.broadcast_to(np.uint8(1), network.shape)),
        timepoint=None,
        intensity=(IntensityRange(0.0, 1.0),),
        resampling=Resampling(network.shape, network.shape),
        settings=NetworkSegmenter(network).settings(
            network.shape, "cpu", SegmentOptions(**options)
        ),
        scratch=Scratch.at(str(scratch)),
        region=region,
        in_memory=True,
    )


def in_tiles(
    network: StoredNetwork, scratch: Path, region: Box | None = None, **options: Any
) -> Outcome:
    """PREDICT, CLUSTER and CHECK; names of the voxels as FINISH would see them."""
    job = job_of(network, scratch, region, **options)
    runner = TaskRunner(SerialExecutor(network), None, Progress())
    at = Timepoint(number=None, volume=job.volume, scratch=job.scratch)
    found = find_instances(job, at, runner)
    grid, names = job.clustering(), np.zeros(network.shape, np.uint64)
    for index in grid:
        (view,) = job.scratch.read_results([found.state.results[index]])
        core = grid.tile(index).core
        labels, known = view.core(core.shape)
        names[core.slices] = found.state.joins.apply(known)[labels]
    proven = [grid.tile(index).core for index in grid if found.state.proven[index]]
    disputed = np.array([*found.state.repaired, *found.state.joined], np.uint64)
    certified = []
    for layer, version in enumerate(found.state.layers.tolist()):
        if version:
            roster = job.scratch.read_layer(layer, version)
            certified += roster.ids[roster.sure & ~np.isin(roster.ids, disputed)].tolist()
    assert len(certified) == found.seams.certified
    assert len(proven) == found.seams.tiles_exact
    known_names = np.array(certified, np.int64)
    return Outcome(
        names=names.astype(np.int64), certified=known_names, proven=proven, seams=found.seams
    )


def same_partition(found: Names, wanted: Names) -> bool:
    pairs = np.unique(np.stack([found.ravel(), wanted.ravel()]), axis=1)
    one_to_one = len(set(pairs[0])) == pairs.shape[1] == len(set(pairs[1]))
    return one_to_one and bool(((found > 0) == (wanted > 0)).all())


def situation(seed: int) -> tuple[str, StoredNetwork, dict[str, Any], Box | None]:
    """A network, ways to cut its volume, and now and then a region of it."""
    rng = np.random.default_rng(seed)
    ndim = int(rng.integers(2, 4))
    most = 40 if ndim == 2 else 16
    shape = tuple(int(n) for n in rng.integers(4, most, ndim))
    kind, stored = hostile(rng, shape)
    extent = rng.integers(2, 9, ndim)
    reach = 1.5 * extent if rng.random() < 0.6 else rng.uniform(1, 14, ndim)
    halo = tuple(int(n) for n in rng.integers(2, 9, ndim))
    network = StoredNetwork(
        stored=stored,
        reach=tuple(float(r) for r in reach),
        halo=halo,
        tile=tuple(int(8 * n) for n in rng.integers(1, 6, ndim)),
        min_object_size=int(rng.choice([0, 0, 1, 3, 10])),
        seed=float(rng.choice([0.9, 0.9, 0.5, 0.99])),
        margin=float(rng.choice([0.5, 0.5, 0.05, 0.3, 0.8, 0.999])),
    )
    step = [max(4, n // int(rng.integers(1, 4))) for n in shape]
    options: dict[str, Any] = {
        "cluster_tile": tuple(step),
        "strict": bool(rng.random() < 0.4),
        "foreground": float(rng.choice([0.5, 0.5, 0.05, 0.8])),
    }
    freedom = rng.random()
    if freedom < 0.5:
        options["max_halo"] = tuple(map(max, halo, shape))
    elif freedom < 0.7:
        options["max_halo"] = halo
    region = None
    if rng.random() < 0.25:
        start = tuple(int(rng.integers(0, max(1, n // 2))) for n in shape)
        stop = tuple(int(rng.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True))
        region = Box(start, stop)
        region = None if region == Box.whole(shape) else region
    return kind, network, options, region


WRONG = (
    "certified instances wrong",
    "proven tiles wrong",
    "fully proven, but differ",
    "strict runs that differ without a warning",
    "previews that differ without a warning",
)
"""What must never be."""


def judged(seed: int, scratch: Path) -> Counter[str]:
    """Run one situation, and compare what is said about its labels with the rule."""
    _, network, options, region = situation(seed)
    truth = by_the_rule(network, options["foreground"])
    result = in_tiles(network, scratch, region, **options)
    wanted = Box.whole(network.shape) if region is None else region
    found, right, seams = result.names[wanted.slices], truth[wanted.slices], result.seams
    differs = not np.array_equal(found, right)
    is_silent = differs and not seams.joined and not seams.warnings()
    return Counter(
        {
            f"{network.ndim}D": 1,
            "previews": region is not None,
            "strict": options["strict"],
            "joined": bool(seams.joined),
            "tiles": seams.tiles,
            "proven tiles": len(result.proven),
            "proven tiles wrong": sum(
                not np.array_equal(result.names[core.slices], truth[core.slices])
                for core in result.proven
            ),
            "certified instances": len(result.certified),
            "certified instances wrong": sum(
                not np.array_equal(found == name, right == name)
                for name in result.certified.tolist()
            ),
            "differ with nothing joined": differs and not seams.joined,
            "fully proven, but differ": differs and seams.tiles_exact == seams.tiles,
            "strict runs that differ without a warning": is_silent and options["strict"],
            "previews that differ without a warning": is_silent
            and region is not None
            and not differs_in_whole(network, scratch, region, found, **options),
        }
    )


def differs_in_whole(
    network: StoredNetwork, scratch: Path, region: Box, preview: Names, **options: Any
) -> bool:
    """Whether the run of the whole volume makes the mistake of a preview, or joins objects."""
    whole = in_tiles(network, scratch, **options)
    return bool(whole.seams.joined) or np.array_equal(whole.names[region.slices], preview)


def check(seed: int, scratch: Path) -> Counter[str]:
    """Run one situation; what is proven must be right."""
    counted = judged(seed, scratch)
    assert not any(counted[kind] for kind in WRONG), (seed, counted)
    return counted


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_what_is_proven_is_what_the_rule_gives(part: int, tmp_path: Path) -> None:
    total: Counter[str] = Counter()
    for number in range(part, RUNS, 4):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        total.update(check(FIRST + number, scratch))
    if RUNS >= 100:  # a few may happen to prove nothing
        assert total["certified instances"] > 0
        assert total["proven tiles"] > 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**63))
def test_what_is_proven_is_so_in_any_situation(number: int) -> None:
    """The same for situations that Hypothesis chooses; `make search` tries new ones."""
    with TemporaryDirectory() as scratch:
        check(number, Path(scratch))


def put(
    stored: Stored, voxel: tuple[int, int], e: tuple[float, float], logit: float, log_sigma: float
) -> None:
    """Let a voxel of a plane point to an embedding."""
    stored[(slice(None), *voxel)] = [e[0] - voxel[0], e[1] - voxel[1], log_sigma, log_sigma, logit]


def test_an_instance_is_certified_only_if_all_tiles_that_hold_it_are_certain(
    tmp_path: Path,
) -> None:
    """Three tiles. The third loses a voxel of the second's instance, and gives it another one."""
    network = swapped()
    result = in_tiles(network, tmp_path, cluster_tile=(4, 16))
    truth, name = by_the_rule(network, 0.5), 20 + 1
    assert not np.array_equal(result.names == name, truth == name)
    assert (result.names == name).sum() == (truth == name).sum(), "the account is right"
    assert name not in result.certified.tolist()
    proven = in_tiles(network, tmp_path, cluster_tile=(4, 16), strict=True)
    np.testing.assert_array_equal(proven.names, truth)
    assert name in proven.certified.tolist()


def swapped() -> StoredNetwork:
    stored = background((4, 48))

    def at(y: int, x: int, e: float, logit: float, cover: float) -> None:
        put(stored, (y, x), (1.5, e), logit, log(cover / sqrt(2 * log(2))))

    at(0, 20, 23.5, 9, 1)  # the instance's seed, in the second tile
    for y, x in ((1, 20), (2, 20), (3, 20), (0, 21)):
        at(y, x, 23.5, 1, 0.3)
    at(0, 34, 24.25, 1, 0.3)  # belongs to it, and the third tile gives it to q
    at(1, 34, 22.75, 1, 0.3)  # belongs to r, and the third tile gives it to it
    at(0, 10, 21.25, 6, 1.6)  # r, which the third tile does not see
    for y, x in ((1, 10), (2, 10), (3, 10)):
        at(y, x, 21.25, 1, 0.3)
    at(0, 17, 25.75, 8, 0.1)  # claims q and is rejected; the third tile does not see it
    at(0, 35, 25.75, 5, 1.6)  # q
    for y, x in ((1, 35), (2, 35), (3, 35)):
        at(y, x, 26.25, 1, 0.3)
    return StoredNetwork(stored=stored, reach=(12, 12), halo=(14, 14), tile=(8, 8))


@pytest.mark.parametrize("strict", [False, True])
def test_a_sigma_whose_cap_was_rounded_up_is_no_false_proof(tmp_path: Path, strict: bool) -> None:
    """A seed claims at its bandwidth and 2⁻²⁴ voxels more, in a tile that does not see it."""
    stored = background((4, 160))
    for k, (y, x) in enumerate([(1, 57), (1, 58), (1, 59), (1, 60), (2, 57), (2, 58)]):
        put(stored, (y, x), (1, 60), 1 if k else 10, -3)
    put(stored, (1, 43), (1, 73), 8, 20)
    for y in range(3):
        put(stored, (y, 88), (1, 88), 4 if y == 1 else 1, 0)
        stored[1, y, 88] = 2.0**-24
    network = StoredNetwork(stored=stored, reach=(30, 30), halo=(20, 20), tile=(8, 8))
    truth = by_the_rule(network, 0.5)
    assert len(np.unique(truth)) == 2
    result = in_tiles(network, tmp_path, cluster_tile=(64, 64), strict=strict)
    for core in result.proven:
        np.testing.assert_array_equal(result.names[core.slices], truth[core.slices])
    for name in result.certified.tolist():
        np.testing.assert_array_equal(result.names == name, truth == name)
    if strict:
        np.testing.assert_array_equal(result.names, truth)


@given(
    st.floats(0.01, 3000.0),
    st.one_of(st.floats(1e-6, 0.999999), st.sampled_from([0.5, 5e-324, 1 - 2**-53])),
    st.integers(-3, 3),
)
def test_nothing_is_claimed_beyond_what_counts_as_farthest(
    reach: float, margin: float, steps: int
) -> None:
    """Reaches and distances at the edges of float16 and float32, in the kernel's own arithmetic."""
    reach = float(np.float16(reach)) if steps % 2 else reach
    settings = ClusteringSettings(reach=(reach,), margin=margin)
    assert settings.largest_sigma is not None
    assert settings.farthest is not None
    weight = 0.5 / float(settings.largest_sigma[0]) ** 2
    least = 2.0**-24  # embeddings are multiples of it
    near = np.round(settings.radius * float(settings.largest_sigma[0]) / least)
    for distance in (near + np.arange(-4, 5) + steps) * least:
        if distance >= 0 and distance * distance * weight < settings.exponent:
            assert reach + distance <= settings.farthest[0]
    offset = float(np.float16(reach))
    if offset <= reach:
        assert offset + settings.radius * float(settings.largest_sigma[0]) <= settings.farthest[0]


def test_strict_that_is_not_reached_has_a_warning(tmp_path: Path) -> None:
    """A chain runs through all tiles, which see no more than their halo."""
    place = np.arange(60)
    stored = background((6, 60))
    stored[-1] = 3 + (60 - place) / 3
    stored[2:4] = 0.4
    network = StoredNetwork(stored=stored, reach=(6, 6), halo=(4, 4), tile=(8, 8))
    options: dict[str, Any] = {"cluster_tile": (6, 15), "strict": True}
    few = in_tiles(network, tmp_path, max_halo=(4, 4), **options).seams
    assert few.strict is not None
    assert few.strict.reached == few.tiles_exact < few.strict.aim == few.tiles == 4
    assert few.as_dict()["strict"] == {"aim": 4, "reached": few.tiles_exact}
    assert any(text.startswith("strict: ") for text in few.warnings())
    all_ = in_tiles(network, tmp_path, max_halo=(60, 60), **options).seams
    assert all_.strict is not None
    assert all_.strict.is_reached
    assert not all_.warnings()


def test_more_tiles_of_the_network_than_65535_are_waited_for(tmp_path: Path) -> None:
    stored = background((2056, 2056))
    network = StoredNetwork(stored=stored, reach=(8, 8), halo=(4, 4), tile=(8, 8))
    job = job_of(network, tmp_path, tile=(8, 8), cluster_tile=(2056, 2056))
    tiles, predicted = PredictThenCluster(job), 0
    while (task := tiles.next()) is not None and task.stage == "predict":
        tiles.done(task, Predicted(EMPTY, 0))
        predicted += 1
    assert predicted == 257 * 257 > 2**16
    assert task is not None
    assert task.stage == "cluster"


@pytest.mark.parametrize("channel", [0, 2, 4], ids=["offset", "sigma", "seed"])
def test_a_prediction_that_is_not_a_number_is_refused(tmp_path: Path, channel: int) -> None:
    stored = background((16, 20))
    stored[:, 9, 11] = [0, 0, 0, 0, 4]
    stored[channel, 9, 11] = np.nan
    network = StoredNetwork(stored=stored, reach=(8, 8), halo=(4, 4), tile=(8, 8))
    with pytest.raises(ModelError, match=r"NaN .*voxel \(9, 11\), in tile \[8:16, 8:16\]"):
        in_tiles(network, tmp_path)
    with pytest.raises(UsageError, match=r"NaN .* at voxel \(9, 11\)"):
        cluster(dequantise(stored))


def test_infinities_mean_the_same_in_tiles_and_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    stored = np.zeros((5, 12, 14), np.float16)
    stored[-1] = rng.choice([1, 4, np.inf, -np.inf], (12, 14))
    stored[:4, rng.random((12, 14)) < 0.2] = np.inf
    stored[:4, rng.random((12, 14)) < 0.2] = -np.inf
    network = StoredNetwork(stored=stored, reach=(8, 8), halo=(4, 4), tile=(8, 8))
    found = in_tiles(network, tmp_path, cluster_tile=(12, 7), max_halo=(14, 14)).names
    np.testing.assert_array_equal(found, by_the_rule(network, 0.5))
    assert same_partition(found, cluster(dequantise(stored), 0).astype(np.int64))
