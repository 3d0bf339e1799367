"""Predictions that a run leaves in memory give its labels again, and those of other thresholds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.clustering.clean import CleanSettings
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.geometry import Box
from embedseg_large.napari.recording import Kept, Recording
from embedseg_large.napari.telling import CancelledError, ToldOfRun
from embedseg_large.runs.progress import Observer
from embedseg_large.segmentation.request import estimate
from embedseg_large.segmentation.segment import segment
from embedseg_large.segmentation.segmenters.protocol import Network
from embedseg_large.testing.objects import Flaws
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo
from embedseg_large.tiling.grid import Grid
from embedseg_large.tiling.resampling import Resampling
from embedseg_large.volumes.volume import open_volume

SHAPE = (40, 56, 48)
TILE = (16, 24, 16)
SETTINGS: dict[str, Any] = {"intensity_range": (0, 1), "cluster_tile": (32, 32, 32), "tta": "none"}


@pytest.fixture(scope="module")
def oracle() -> OracleNetwork:
    labels = synthetic_embryo(SHAPE, diameter=12, density=0.5, seed=3)
    return OracleNetwork.of(labels, flaws=Flaws(noise=1.5), tile=TILE)


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint32]:
    return synthetic_embryo(SHAPE, diameter=12, density=0.5, seed=3)


def recorded(oracle: OracleNetwork, most: int = 2**30) -> Recording:
    return Recording(oracle, Grid(SHAPE, TILE, oracle.context, padded=True), most)


def run(
    image: NDArray[np.uint32],
    network: Any,
    folder: Path,
    box: Box,
    watcher: Observer | None = None,
    **options: Any,
) -> NDArray[np.uint32]:
    result = segment(
        image,
        cast(Network, network),
        output=folder / "out.ome.zarr",
        region=box.slices,
        tile=TILE,
        watcher=watcher,
        overwrite=True,
        **SETTINGS,
        **options,
    )
    return cast(NDArray[np.uint32], open_volume(result.path).read(box))


def kept(recording: Recording, oracle: OracleNetwork, region: Box) -> Kept:
    predictions = recording.predictions(region)
    assert predictions is not None
    box, stored = predictions
    same = Resampling(SHAPE, SHAPE)
    return Kept(stored=stored, box=box, resampling=same, region=region, reach=oracle.reach)


def same_up_to_numbers(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


def test_the_thresholds_of_the_run_give_its_labels_to_the_last_number(
    image: NDArray[np.uint32], oracle: OracleNetwork, tmp_path: Path
) -> None:
    recording, whole = recorded(oracle), Box.whole(SHAPE)
    labels = run(image, recording, tmp_path, whole)
    assert labels.max() > 20
    settings = ClusteringSettings(seed=oracle.seed)
    assert np.array_equal(kept(recording, oracle, whole).labels(settings), labels)


def test_other_thresholds_give_what_another_run_gives(
    image: NDArray[np.uint32], oracle: OracleNetwork, tmp_path: Path
) -> None:
    region = Box((8, 10, 9), (30, 50, 40))
    recording = recorded(oracle)
    first = run(image, recording, tmp_path, region)
    predictions = kept(recording, oracle, region)
    again = predictions.labels(ClusteringSettings(seed=oracle.seed))
    assert same_up_to_numbers(again, first)
    other = run(image, oracle, tmp_path, region, foreground=0.8, min_object_size=600)
    strict = ClusteringSettings(seed=oracle.seed, foreground=0.8, min_object_size=600)
    assert 0 < len(np.unique(other)) < len(np.unique(first))
    assert same_up_to_numbers(predictions.labels(strict), other)
    assert np.array_equal(predictions.labels(ClusteringSettings(seed=oracle.seed)), again)


def test_another_margin_gives_what_another_run_gives(
    image: NDArray[np.uint32], oracle: OracleNetwork, tmp_path: Path
) -> None:
    recording, whole = recorded(oracle), Box.whole(SHAPE)
    first = run(image, recording, tmp_path, whole)
    tight = kept(recording, oracle, whole).labels(ClusteringSettings(seed=oracle.seed, margin=0.8))
    assert 0 < np.count_nonzero(tight) < np.count_nonzero(first)
    assert same_up_to_numbers(tight, run(image, oracle, tmp_path, whole, margin=0.8))


def test_clean_masks_are_those_of_another_run(tmp_path: Path) -> None:
    image = synthetic_embryo(SHAPE, density=0.5, diameter=11, seed=5)
    ragged = OracleNetwork.of(image, flaws=Flaws(noise=2.5), tile=(24, 24, 24))
    region = Box((8, 10, 9), (30, 50, 40))
    recording = recorded(ragged)
    both: dict[str, Any] = {"keep_largest_piece": True, "fill_holes": True}
    rough = run(image, recording, tmp_path, region)
    clean = run(image, ragged, tmp_path, region, **both)
    assert (rough != clean).any()
    predictions = replace(kept(recording, ragged, region), cleaning=CleanSettings(**both))
    assert same_up_to_numbers(predictions.labels(ClusteringSettings(seed=ragged.seed)), clean)


def test_an_object_that_stays_keeps_its_number(
    image: NDArray[np.uint32], oracle: OracleNetwork, tmp_path: Path
) -> None:
    recording, whole = recorded(oracle), Box.whole(SHAPE)
    run(image, recording, tmp_path, whole)
    predictions = kept(recording, oracle, whole)
    all_of_them = predictions.labels(ClusteringSettings(seed=oracle.seed))
    large = predictions.labels(ClusteringSettings(seed=oracle.seed, min_object_size=700))
    assert 0 < len(np.unique(large)) < len(np.unique(all_of_them))
    assert np.array_equal(large[large > 0], all_of_them[large > 0])


def test_more_predictions_than_memory_are_not_kept(
    image: NDArray[np.uint32], oracle: OracleNetwork, tmp_path: Path
) -> None:
    recording, whole = recorded(oracle, most=10**5), Box.whole(SHAPE)
    assert run(image, recording, tmp_path, whole).max() > 20
    assert recording.predictions(whole) is None


def test_a_run_that_is_cancelled_ends_at_its_next_tile(
    image: NDArray[np.uint32], oracle: OracleNetwork, tmp_path: Path
) -> None:
    asked: list[Box] = []
    told = ToldOfRun()

    class Impatient(Recording):
        def predict_tile(
            self, image: NDArray[np.float32], region: Box, tta: bool | int | str, **quiet: Any
        ) -> NDArray[np.float16]:
            asked.append(region)
            told.cancel()
            return super().predict_tile(image, region, tta, **quiet)

    network = Impatient(oracle, Grid(SHAPE, TILE, oracle.context, padded=True))
    with pytest.raises(CancelledError):
        run(image, network, tmp_path, Box.whole(SHAPE), told)
    assert len(asked) == 1


def test_a_run_tells_how_far_it_is(
    image: NDArray[np.uint32], oracle: OracleNetwork, tmp_path: Path
) -> None:
    told, seen = ToldOfRun(), []
    tell = told.say

    def say(text: str, fraction: float) -> None:
        seen.append((text, fraction))
        tell(text, fraction)

    told.say = say  # type: ignore[method-assign]
    run(image, oracle, tmp_path, Box.whole(SHAPE), told)
    assert any(text.startswith("predict 1/") for text, _ in seen)
    fractions = [fraction for _, fraction in seen]
    assert 0 < fractions[len(fractions) // 2] < 1
    assert fractions[-1] == 1


def test_tiles_side_by_side_are_kept_too(
    tmp_path: Path,
    oracle: OracleNetwork,
    image: NDArray[np.uint32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = []

    class Sharing:
        lanes = 3

        def sharing(self, lanes: object) -> OracleNetwork:
            shared.append(lanes)
            return oracle

        def __getattr__(self, name: str) -> Any:
            return getattr(oracle, name)

    monkeypatch.setattr(estimate, "cpu_count", lambda: 4)
    whole = Box.whole(SHAPE)
    alone, beside = recorded(oracle), recorded(cast(OracleNetwork, Sharing()))
    labels = [run(image, r, tmp_path / r.__class__.__name__, whole) for r in (alone, beside)]
    assert shared
    np.testing.assert_array_equal(labels[0], labels[1])
    found, expected = beside.predictions(whole), alone.predictions(whole)
    assert found is not None
    assert expected is not None
    np.testing.assert_array_equal(found[1], expected[1])
