"""What a run knows of its instances is in the store, whole, and `measure` tells it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from yaozarrs import validate_zarr_store

import embedseg_large as es
from embedseg_large.clustering.cluster import cluster_points, points_of_stored
from embedseg_large.clustering.settings import ClusteringSettings
from embedseg_large.conversion.plan import write_image
from embedseg_large.embedding import seeds_of
from embedseg_large.errors import MetadataError
from embedseg_large.geometry import Box
from embedseg_large.labels import instances
from embedseg_large.labels.target import label_target
from embedseg_large.segmentation import report
from embedseg_large.testing.objects import Flaws
from embedseg_large.testing.oracle import OracleNetwork
from embedseg_large.testing.synthetic import synthetic_embryo

SHAPE = (52, 60, 58)
TILES: dict[str, Any] = {"cluster_tile": (24, 30, 30), "intensity_range": (0, 1)}

Labels = NDArray[Any]
CheckNGFF = Callable[[Path, str], None]


def embryo(seed: int = 3) -> Labels:
    return synthetic_embryo(SHAPE, density=0.5, diameter=11, seed=seed).astype(np.uint16)


def oracle(labels: Labels) -> OracleNetwork:
    return OracleNetwork.of(labels, flaws=Flaws(noise=1.0), tile=(24, 24, 24))


def put(
    path: Path, image: Labels, axes: str = "zyx", version: Literal["0.4", "0.5", "0.6"] = "0.5"
) -> Path:
    write_image(path, image, axes, (1.0, 1.0, 1.0), ngff_version=version)
    return path


def seediness_of(labels: Labels, network: OracleNetwork) -> list[float]:
    """Of the seeds of the whole volume, untiled, in raster request."""
    stored = network.predict_tile(labels.astype(np.float32), Box.whole(labels.shape), "none")
    rule = ClusteringSettings(reach=network.reach)
    result = cluster_points(points_of_stored(stored, rule), rule, ((False, False),) * 3)
    alive = np.unique(result.labels)
    seeds = np.sort(result.seeds[alive[alive > 0] - 1])
    found: list[float] = seeds_of(stored[-1].reshape(-1)[seeds]).tolist()
    return found


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_table_of_a_run_is_that_of_the_untiled_volume(
    tmp_path: Path, version: Literal["0.4", "0.5"]
) -> None:
    truth = embryo()
    store = put(tmp_path / "embryo.ome.zarr", truth, version=version)
    result = es.segment(store, oracle(truth), halo=(6, 6, 6), **TILES)
    assert result.seams.repaired
    assert result.seams.certified
    table = es.measure(store, labels="nuclei")
    assert table["seediness"].dtype == np.float32
    assert table["seediness"].tolist() == seediness_of(truth, oracle(truth))
    assert np.unique(table["seediness"]).size > 20
    assert np.count_nonzero(table["certified"]) == result.seams.certified
    assert not (table["certified"] & (table["seam"] != "")).any()


def test_the_seam_report_lists_a_few_and_the_table_tells_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LISTED_MOST", 2)
    truth = embryo()
    series = put(tmp_path / "embryo.ome.zarr", np.stack([truth, truth]), "tzyx")
    seams = es.segment(series, oracle(truth), halo=(6, 6, 6), **TILES).seams
    assert len(seams.repaired_objects) == 2 < seams.repaired
    table = es.measure(series, labels="nuclei")
    for kind in ("repaired", "joined"):
        assert np.count_nonzero(table["seam"] == kind) == getattr(seams, kind)


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_validators_accept_a_store_with_it(
    tmp_path: Path, version: Literal["0.4", "0.5", "0.6"], check_ngff: CheckNGFF
) -> None:
    truth = embryo()
    store = put(tmp_path / "embryo.ome.zarr", truth, version=version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3 has no word for consolidated metadata yet
        zarr.consolidate_metadata(store)
    es.segment(store, oracle(truth), **TILES)
    es.measure(store, labels="nuclei", into_store=True)
    check_ngff(store, version)
    told = zarr.open_consolidated(store)["labels/nuclei/instances/seediness"]
    assert isinstance(told, zarr.Array)
    assert told.shape == (es.measure(store, labels="nuclei")["label"].max(),)


def test_a_series_has_a_row_for_each_timepoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "_ROWS", 7)  # pieces that end within layers
    few = embryo()
    few[:, 30:] = 0
    frames = np.stack([few, embryo(), embryo()])
    store = put(tmp_path / "series.ome.zarr", frames, "tzyx")
    network = oracle(embryo())
    es.segment(store, network, timepoint=[0, 2], **TILES)
    table = es.measure(store, labels="nuclei")
    counts = []
    for t in (0, 2):
        found = table["seediness"][table["timepoint"] == t]
        counts.append(found.size)
        assert found.tolist() == seediness_of(frames[t], network)
    assert counts[0] < counts[1]
    group: Any = zarr.open_group(store / "labels" / "nuclei" / "instances", mode="r")
    assert group["seediness"].shape == (3, counts[1])
    assert np.isnan(group["seediness"][1]).all(), "it was not processed"
    assert np.isnan(group["seediness"][0, counts[0] :]).all()


def test_tiles_leave_no_trace_but_in_what_they_could_prove(tmp_path: Path) -> None:
    truth = embryo()
    small = tables(es.segment(truth, oracle(truth), output=tmp_path / "small.zarr", **TILES))
    assert len(small) == 6
    one_tile = TILES | {"cluster_tile": (64, 64, 64)}
    whole = tables(es.segment(truth, oracle(truth), output=tmp_path / "whole.zarr", **one_tile))
    assert {name for name in small if whole[name] != small[name]} == {"certified/c/0"}


def tables(result: es.SegmentResult) -> dict[str, bytes]:
    folder = Path(result.path, "instances")
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_object_that_was_joined_is_not_certified(tmp_path: Path) -> None:
    truth = np.zeros((24, 24, 160), np.uint16)
    truth[10:14, 10:14, 8:148] = 1
    truth[4:8, 4:8, 4:10] = 2
    store = put(tmp_path / "rod.ome.zarr", truth)
    small: dict[str, Any] = {"cluster_tile": (48,) * 3, "halo": (12,) * 3, "max_halo": (24,) * 3}
    result = es.segment(store, OracleNetwork.of(truth), intensity_range=(0, 1), **small)
    assert result.seams.joined == 1
    table = es.measure(store, labels="nuclei")
    (rod,) = np.flatnonzero(table["seam"] == "joined")
    assert not table["certified"][rod]
    assert np.count_nonzero(table["certified"]) == result.seams.certified


def blobs(image: NDArray[np.float32]) -> Labels:
    found: Labels = ndimage.label(image > 0)[0]
    return found


def test_another_segmenter_tells_no_seediness(tmp_path: Path) -> None:
    truth = (embryo() % 5 == 1).astype(np.uint16)
    store = put(tmp_path / "embryo.ome.zarr", truth)
    segmenter = es.TileSegmenter(blobs, name="blobs", halo=(12, 12, 12), tile=(24, 30, 30))
    es.segment(store, segmenter, intensity_range=(0, 1))
    table = es.measure(store, labels="nuclei")
    assert "seediness" not in table.columns
    assert len(table)
    assert not table["certified"].any()


def test_nothing_is_known_of_labels_that_somebody_added(tmp_path: Path) -> None:
    truth = embryo()
    store = put(tmp_path / "embryo.ome.zarr", truth)
    result = es.segment(store, oracle(truth), **TILES)
    stored = zarr.open_array(store / "labels" / "nuclei" / "0", mode="r+")
    stored[:3, :3, :3] = result.n_instances + 5
    table = es.measure(store, labels="nuclei")
    assert table["label"][-1] == result.n_instances + 5
    assert np.isnan(table["seediness"][-1])
    assert not table["certified"][-1]
    assert not np.isnan(table["seediness"][:-1]).any()


def test_a_volume_of_nothing_has_an_empty_table(tmp_path: Path) -> None:
    store = put(tmp_path / "empty.ome.zarr", np.zeros(SHAPE, np.uint16))
    es.segment(store, oracle(embryo()), **TILES)
    table = es.measure(store, labels="nuclei")
    assert table["seediness"].shape == (0,)
    validate_zarr_store(store)


def test_labels_that_were_copied_in_part_are_named(tmp_path: Path) -> None:
    truth = embryo()
    store = put(tmp_path / "embryo.ome.zarr", truth)
    es.segment(store, oracle(truth), **TILES)
    shutil.rmtree(store / "labels" / "nuclei" / "instances" / "seediness")
    with pytest.raises(MetadataError, match=r"instances/seediness: missing"):
        es.measure(store, labels="nuclei")


def test_labels_of_other_programs_have_no_such_columns(tmp_path: Path) -> None:
    store = put(tmp_path / "embryo.ome.zarr", embryo())
    label_target(es.open_volume(store), "nuclei").create(np.uint32).publish({"seams": None})
    group = store / "labels" / "nuclei" / "zarr.json"
    document = json.loads(group.read_text())
    del document["attributes"]["embedseg_large"]
    group.write_text(json.dumps(document))
    table = es.measure(store, labels="nuclei")
    assert not {"seediness", "certified", "seam"} & set(table.columns)
