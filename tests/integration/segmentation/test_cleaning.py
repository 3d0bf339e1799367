"""Clean masks do not depend on tiles, request, workers or failures either."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import embedseg_large as es
from embedseg_large.errors import RunError, UsageError
from embedseg_large.runs.progress import Progress
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.segment import begin, run_request
from embedseg_large.testing.objects import Flaws
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.testing.tiers import slowly
from tests.integration.segmentation.test_tiled_is_whole import ShuffledExecutor, untiled

Labels = NDArray[Any]
SHAPES = {2: (130, 140), 3: (44, 52, 50)}
BOTH = {"keep_largest_piece": True, "fill_holes": True}


def embryo(ndim: int) -> Labels:
    return synthetic_embryo(SHAPES[ndim], density=0.5, diameter=13, seed=ndim).astype(np.uint16)


def ragged(labels: Labels) -> OracleNetwork:
    """Predictions so noisy that masks have holes and lose crumbs."""
    return OracleNetwork.of(labels, flaws=Flaws(noise=2.5), tile=(24,) * labels.ndim)


def run(labels: Labels, network: Any, out: Path, **options: Any) -> es.SegmentResult:
    more = {"intensity_range": (0, 1)} | options
    return es.segment(labels, network, output=out, overwrite=True, **more)


def found(result: es.SegmentResult) -> Labels:
    return np.asarray(result.labels)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    "wanted", [BOTH, *slowly({"keep_largest_piece": True}, {"fill_holes": True})]
)
def test_clean_masks_are_those_of_the_whole(
    tmp_path: Path, ndim: int, wanted: dict[str, bool]
) -> None:
    labels = embryo(ndim)
    network = ragged(labels)
    rough = untiled(labels, network)
    off = {"keep_largest_piece": False, "fill_holes": False}
    expected = es.clean(rough, **(off | wanted))
    assert (expected != rough).any()
    for edge in ((17, 25, 23), (44, 18, 64)):
        cut = {"cluster_tile": edge[-ndim:], **wanted}
        result = run(labels, network, tmp_path / "out.zarr", **cut)
        assert result.seams.joined == 0
        np.testing.assert_array_equal(found(result), expected)
    told = result.summary["cleaning"]
    assert result.n_instances == rough.max() == expected.max()
    assert (told["pieces_dropped"] > 0) == ("keep_largest_piece" in wanted)
    assert (told["voxels_filled"] > 0) == ("fill_holes" in wanted)
    assert (
        told["voxels_filled"] - told["voxels_dropped"] == (expected > 0).sum() - (rough > 0).sum()
    )
    assert told["left"] == 0


@pytest.mark.slow
@given(data=st.data())
@hypothesis_settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_tiles_and_halo_and_margin(tmp_path: Path, data: Any) -> None:
    ndim = data.draw(st.sampled_from([2, 3]))
    labels, margin = embryo(ndim), data.draw(st.sampled_from([0.35, 0.5, 0.65]))
    network = ragged(labels)
    result = run(
        labels,
        network,
        tmp_path / "out.zarr",
        cluster_tile=tuple(data.draw(st.integers(12, 70)) for _ in range(ndim)),
        halo=(data.draw(st.integers(6, 16)),) * ndim,
        margin=margin,
        **BOTH,
    )
    if result.seams.joined == 0:
        np.testing.assert_array_equal(found(result), es.clean(untiled(labels, network, margin)))


def test_any_order_and_everything_twice(tmp_path: Path) -> None:
    labels = embryo(3)
    network = ragged(labels)
    options: dict[str, Any] = {"cluster_tile": (20, 26, 25), "intensity_range": (0, 1), **BOTH}
    request = prepare(
        labels, network, "nuclei", SegmentOptions(output=tmp_path / "out.zarr", **options)
    )
    with begin(request) as begun:
        executor = ShuffledExecutor(network, random.Random(3))
        result = run_request(request, begun, executor, Progress())
    np.testing.assert_array_equal(found(result), es.clean(untiled(labels, network)))
    assert result.summary["stages"]["clean"]["tiles"] == 2 * result.seams.tiles


@pytest.mark.slow
def test_workers_clean_alike(tmp_path: Path, client: Any) -> None:
    labels = embryo(3)
    network = ragged(labels)
    cut = {"cluster_tile": (44, 26, 25), "client": client, **BOTH}
    result = run(labels, network, tmp_path / "out.zarr", **cut)
    np.testing.assert_array_equal(found(result), es.clean(untiled(labels, network)))


def test_a_run_that_fails_while_it_cleans_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = embryo(3)
    network = ragged(labels)
    options: dict[str, Any] = {"cluster_tile": (20, 26, 25), "intensity_range": (0, 1), **BOTH}
    out = tmp_path / "out.zarr"
    with monkeypatch.context() as patched:
        calls = iter(range(1000))

        def failing(*arguments: Any) -> Any:
            if next(calls) > 2:
                raise RunError("no more")
            return apply_changes(*arguments)

        from embedseg_large.segmentation.stages.clean import apply_changes

        patched.setattr("embedseg_large.segmentation.stages.clean.apply_changes", failing)
        patched.setattr("embedseg_large.runs.tasks.PAUSE_SECONDS", 0)
        with pytest.raises(RunError, match="no more"):
            es.segment(labels, network, output=out, **options)
    with pytest.raises(UsageError, match=r"fill_holes true \(now false\)"):
        es.segment(labels, network, output=out, **options | {"fill_holes": False})
    result = es.segment(labels, network, output=out, **options)
    tiles = result.seams.tiles
    assert result.summary["resumed"]["clean"] == tiles + 3
    np.testing.assert_array_equal(found(result), es.clean(untiled(labels, network)))
    whole = run(labels, network, tmp_path / "other.zarr", **BOTH)
    assert result.summary["cleaning"] == whole.summary["cleaning"]


def test_an_instance_that_a_region_cuts_is_left_alone(tmp_path: Path) -> None:
    labels = embryo(2)
    network = ragged(labels)
    region = (slice(20, 90), slice(30, 110))
    cut = {"cluster_tile": (31, 37), "region": region, **BOTH}
    result = run(labels, network, tmp_path / "out.zarr", **cut)
    rough = untiled(labels, network)
    clean = es.clean(rough)
    seen = found(result)[region]
    inside = set(np.unique(rough)) - set(np.unique(rough[~_mask(rough.shape, region)]))
    inner = np.isin(rough[region], sorted(inside - {0})) | np.isin(
        clean[region], sorted(inside - {0})
    )
    assert (clean[region] != rough[region])[inner].any()
    np.testing.assert_array_equal((seen > 0)[inner], (clean[region] > 0)[inner])
    assert result.summary["cleaning"]["left"] > 0


def _mask(shape: tuple[int, ...], region: tuple[slice, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[region] = True
    return mask


def test_timepoints_are_cleaned_one_by_one_and_counted_together(tmp_path: Path) -> None:
    labels = embryo(2)
    network = ragged(labels)
    once = run(labels, network, tmp_path / "once.zarr", **BOTH)
    twice = run(np.stack([labels, labels]), network, tmp_path / "two.zarr", axes="tyx", **BOTH)
    np.testing.assert_array_equal(found(twice), np.stack([found(once)] * 2))
    sums = {name: 2 * count for name, count in once.summary["cleaning"].items()}
    assert twice.summary["cleaning"] == sums


def test_a_report_says_what_was_cleaned(tmp_path: Path) -> None:
    labels = embryo(2)
    result = run(labels, ragged(labels), tmp_path / "out.zarr", **BOTH)
    told = result.summary["cleaning"]
    es.report(result.path, out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"{told['pieces_dropped']:,} of {told['instances_with_pieces']:,} instances" in page
    assert (
        f"of {told['instances_with_holes']:,} instances, {told['voxels_filled']:,} voxels" in page
    )


def test_nothing_is_cleaned_unless_it_is_asked_for(tmp_path: Path) -> None:
    labels = embryo(2)
    result = run(labels, ragged(labels), tmp_path / "out.zarr")
    assert "cleaning" not in result.summary
    assert "clean" not in result.summary["stages"]


def rings(image: NDArray[np.float32]) -> NDArray[np.int32]:
    """The objects that are drawn: rings, and a crumb beside each."""
    return image.astype(np.int32)


def test_objects_of_another_segmenter_are_cleaned(tmp_path: Path) -> None:
    image = np.zeros((90, 90), np.uint16)
    for n, (y, x) in enumerate([(5, 5), (25, 30), (40, 60), (60, 20), (66, 66)], start=1):
        image[y : y + 9, x : x + 9] = n
        image[y + 2 : y + 5, x + 2 : x + 6] = 0
        image[y + 11, x : x + 3] = n
    segmenter = es.TileSegmenter(rings, name="rings", ndim=2, halo=(16, 16), intensity="raw")
    plain = run(image, segmenter, tmp_path / "plain.zarr", intensity_range=None)
    for tile in ((28, 33), (90, 90)):
        cut = {"cluster_tile": tile, "intensity_range": None, **BOTH}
        result = run(image, segmenter, tmp_path / "out.zarr", **cut)
        np.testing.assert_array_equal(found(result), es.clean(found(plain)))
        assert result.summary["cleaning"]["pieces_dropped"] == 5
        assert result.summary["cleaning"]["voxels_filled"] == 5 * 12


def test_a_loose_piece_in_a_hole_of_its_instance_counts_as_dropped_and_as_filled(
    tmp_path: Path,
) -> None:
    y, x = np.indices((40, 40)) - 20
    away = np.hypot(y, x)
    labels = ((away < 12) & ~((away < 7) & (away > 3))).astype(np.uint16)
    segmenter = es.TileSegmenter(rings, name="rings", ndim=2, halo=(16, 16), intensity="raw")
    result = run(
        labels, segmenter, tmp_path / "o.zarr", cluster_tile=(16, 16), intensity_range=None, **BOTH
    )
    cleaning = result.summary["cleaning"]
    grown = int((found(result) > 0).sum()) - int((labels > 0).sum())
    assert cleaning["voxels_dropped"] == (away <= 3).sum()
    assert cleaning["voxels_filled"] - cleaning["voxels_dropped"] == grown > 0
