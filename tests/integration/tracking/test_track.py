"""A series of labels becomes tracks: in its table, as GEFF, as files of the challenge."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import UsageError, VolumeError
from embedseg_large.exporting import label_tiff
from embedseg_large.labels.target import label_target
from embedseg_large.volumes.volume import open_volume

SIZE = (2.0, 0.5, 0.5)
SHAPE = (12, 96, 96)
TIMES = 8


@dataclass(frozen=True)
class Cell:
    """A sphere that moves; µm."""

    track: int
    parent: int
    at: NDArray[np.float64]
    radius: float
    speed: NDArray[np.float64]

    def moved(self) -> Cell:
        return replace(self, at=self.at + self.speed)

    def daughters(self, first: int) -> tuple[Cell, Cell]:
        apart = np.array([0.0, 2.6, 1.5])
        speeds = (apart / 3, -apart / 3)
        ends = (self.at + apart, self.at - apart)
        return tuple(  # type: ignore[return-value]
            Cell(first + k, self.track, ends[k], self.radius * 0.75, speeds[k]) for k in (0, 1)
        )


def cells() -> Iterator[list[Cell]]:
    """The cells of each timepoint: nine that drift, of which three divide."""
    places = [
        np.array([z, y, x]) for z, y, x in zip((8, 14, 8) * 3, _grid(0), _grid(1), strict=True)
    ]
    speeds = np.random.default_rng(3).normal(0, 0.4, (9, 3)) * (0.5, 1, 1)
    now = [Cell(k + 1, 0, places[k], 3.2, speeds[k]) for k in range(9)]
    new = 10
    for t in range(TIMES):
        yield now
        later: list[Cell] = []
        for cell in now:
            if cell.track in (1, 5, 9) and t == 1 + cell.track // 4:
                later += cell.daughters(new)
                new += 2
            else:
                later.append(cell.moved())
        now = later


def _grid(axis: int) -> tuple[int, ...]:
    return tuple(int(n) for n in (9 + 14 * np.indices((3, 3))[axis]).ravel())


def drawn(cells: list[Cell], numbers: dict[int, int]) -> NDArray[np.uint32]:
    where = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) * SIZE
    labels = np.zeros(SHAPE, np.uint32)
    for cell in cells:
        inside = np.sum((where - cell.at) ** 2, axis=-1) < cell.radius**2
        labels[inside] = numbers[cell.track]
    return labels


@pytest.fixture(scope="module")
def truth() -> list[list[Cell]]:
    return list(cells())


@pytest.fixture(scope="module")
def series(truth: list[list[Cell]]) -> NDArray[np.uint32]:
    """Labels that start from 1 at each timepoint, in another order each time."""
    rng = np.random.default_rng(5)
    frames = []
    for now in truth:
        numbers = rng.permutation(len(now)) + 1
        frames.append(drawn(now, dict(zip([c.track for c in now], numbers.tolist(), strict=True))))
    return np.stack(frames)


def put(place: Path, series: NDArray[np.uint32], version: str = "0.5", **provenance: Any) -> Path:
    """A store with the series as its labels "nuclei"."""
    write_image(place, (series > 0).astype(np.uint8) * 200, "tzyx", SIZE, version)
    target = label_target(open_volume(place), "nuclei")
    pending = target.create(np.uint32)
    for t in range(len(series)):
        for level in range(pending.n_levels):
            for box in pending.regions(level):
                if level:
                    pending.downsample(level, box, t)
                else:
                    pending.write(level, box, series[t][box.slices], t)
    pending.publish(provenance)
    return place


@pytest.fixture
def store(tmp_path: Path, series: NDArray[np.uint32]) -> Path:
    return put(tmp_path / "embryo.ome.zarr", series, token="0")


def write_truth(folder: Path, truth: list[list[Cell]]) -> None:
    (folder / "TRA").mkdir(parents=True)
    (folder / "SEG").mkdir()
    seen: dict[int, list[int]] = {}
    for t, now in enumerate(truth):
        labels = drawn(now, {c.track: c.track for c in now}).astype(np.uint16)
        tifffile.imwrite(folder / "TRA" / f"man_track{t:03d}.tif", labels)
        tifffile.imwrite(folder / "SEG" / f"man_seg{t:03d}.tif", labels)
        for cell in now:
            seen.setdefault(cell.track, [t, t, cell.parent])[1] = t
    rows = [f"{track} {a} {b} {parent}" for track, (a, b, parent) in seen.items()]
    (folder / "TRA" / "man_track.txt").write_text("\n".join(rows) + "\n")


def test_divisions_are_found_and_the_challenge_gives_full_marks(
    tmp_path: Path, store: Path, truth: list[list[Cell]]
) -> None:
    metrics = pytest.importorskip("ctc_metrics")
    tracks = es.track(store, ctc=tmp_path / "RES")
    assert (tracks.n_tracks, tracks.n_divisions, tracks.n_gaps) == (15, 3, 0)
    write_truth(tmp_path / "GT", truth)
    names = ["Valid", "TRA", "DET", "SEG", "CT", "TF", "BC(0)"]
    scores = metrics.evaluate_sequence(
        str(tmp_path / "RES"), str(tmp_path / "GT"), metrics=list(names), threads=1
    )
    assert scores["Valid"] == 1
    assert {name: scores[name] for name in names[1:]} == pytest.approx(
        dict.fromkeys(names[1:], 1.0)
    )


def test_masks_of_tracks_do_not_depend_on_the_rows_that_are_read_at_a_time(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    es.track(store, ctc=tmp_path / "whole")
    monkeypatch.setattr(label_tiff, "_SLAB_BYTES", 1)
    monkeypatch.setattr(label_tiff, "_STRIP_BYTES", 300)
    es.track(store, ctc=tmp_path / "rows", overwrite=True)
    names = sorted(path.name for path in (tmp_path / "whole").glob("mask*.tif"))
    assert len(names) == TIMES
    for name in names:
        whole, rows = (tifffile.imread(tmp_path / kind / name) for kind in ("whole", "rows"))
        assert whole.any()
        with tifffile.TiffFile(tmp_path / "rows" / name) as file:
            assert len(file.pages[0].dataoffsets) > 1
        np.testing.assert_array_equal(rows, whole)


@pytest.mark.parametrize("version", ["0.4", "0.6"])
def test_tracks_lie_beside_the_labels_as_geff(
    tmp_path: Path, series: NDArray[np.uint32], version: str
) -> None:
    geff = pytest.importorskip("geff")
    place = put(tmp_path / "embryo.ome.zarr", series, version, token="0")
    tracks = es.track(place / "labels" / "nuclei")
    written = place / "tracks" / "nuclei.geff"
    assert str(written) in tracks.written
    graph, about = geff.read(written)
    assert about.related_objects[0].path == "../../labels/nuclei"
    assert (written / about.related_objects[0].path).resolve() == place / "labels" / "nuclei"
    assert about.track_node_props == {"tracklet": "track_id"}
    assert [axis.unit for axis in about.axes] == ["frame", *["micrometer"] * 3]
    assert sorted(graph.edges) == sorted(map(tuple, tracks.links.tolist()))
    row = 7
    node, table = graph.nodes[row], tracks.table
    assert (node["t"], node["label"]) == (table["timepoint"][row], table["label"][row])
    assert node["track_id"] == table["track_id"][row]
    assert (node["z"], node["x"]) == (table["z_um"][row], table["x_um"][row])
    assert [p.name for p in written.parent.glob(".*.geff*")] == []


def test_the_table_in_the_store_keeps_its_columns_and_gets_two(store: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    before = es.measure(store, into_store=True)
    es.track(store)
    stored = pq.read_table(store / "tables" / "nuclei" / "table.parquet")
    assert stored.column_names == [*before.columns, "track_id", "parent_track_id"]
    np.testing.assert_array_equal(stored["intensity_mean_0"], before["intensity_mean_0"])
    again = es.track(store, overwrite=True, max_distance=0.01, division_distance=0)
    assert list(again.table.columns) == stored.column_names
    assert again.n_tracks > 15


def test_voxels_are_not_read_if_a_table_of_these_labels_is_there(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    es.measure(store, into_store=True)
    monkeypatch.setattr("embedseg_large.volumes.volume.Volume.read", None)
    assert es.track(store).n_divisions == 3


def test_a_table_of_painted_labels_is_used_only_if_it_fits_them(
    tmp_path: Path, series: NDArray[np.uint32]
) -> None:
    pytest.importorskip("pyarrow")
    place = put(tmp_path / "embryo.ome.zarr", series)
    es.measure(place, into_store=True)
    assert "intensity_mean_0" in es.track(place).table.columns
    other = put(tmp_path / "other.ome.zarr", series[::-1].copy())
    (other / "tables").parent.mkdir(exist_ok=True)
    (place / "tables").rename(other / "tables")
    assert "intensity_mean_0" not in es.track(other, overwrite=True).table.columns


def test_a_table_that_lacks_timepoints_is_reported(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pyarrow")
    es.measure(store, into_store=True, timepoint=(0, 1))
    with caplog.at_level(logging.WARNING):
        assert len(es.track(store).table) == 18
    assert "the stored table has 2 of 8 timepoints" in caplog.text


def edited(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the columns of the stored table."""
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    file = store / "tables" / "nuclei" / "table.parquet"
    read = pq.read_table(file)
    columns = {name: read[name].to_numpy() for name in read.column_names}
    change(columns)
    pq.write_table(pa.table(columns), file)


def assigned(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(columns: dict[str, Any]) -> None:
        columns[name] = np.where(np.arange(len(columns[name])) == 3, value, columns[name])

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("y_um"), "it has no column y_um"),
        (lambda c: c.pop("label"), "it has no column label"),
        (lambda c: c.update(label=c["label"].astype(str)), "label does not hold whole numbers"),
        (assigned("x_um", np.nan), "x_um does not hold finite numbers"),
        (assigned("timepoint", 99), "timepoints are not all from 0 to 7"),
        (assigned("timepoint", -1), "timepoints are not all from 0 to 7"),
        (assigned("label", 0), "labels below 1"),
        (lambda c: [c.update({n: c[n][[0, *range(len(c[n]))]]}) for n in [*c]], "two rows for one"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_table_is_reported_and_the_labels_are_measured(
    store: Path, caplog: pytest.LogCaptureFixture, change: Any, said: str
) -> None:
    pytest.importorskip("pyarrow")
    es.measure(store, into_store=True)
    if change is None:
        (store / "tables" / "nuclei" / "table.parquet").write_bytes(b"PAR1 and no more")
    else:
        edited(store, change)
    with caplog.at_level(logging.WARNING):
        tracks = es.track(store)
    assert (tracks.n_tracks, tracks.n_divisions) == (15, 3)
    (line,) = [r.message for r in caplog.records if "measured anew" in r.message]
    assert said in line
    assert "\n" not in line


def test_another_voxel_size_keeps_the_columns_that_do_not_depend_on_it(store: Path) -> None:
    pytest.importorskip("pyarrow")
    before = es.measure(store, into_store=True)
    rows = np.arange(len(before)) != 5
    edited(store, lambda c: c.update({name: values[rows] for name, values in c.items()}))
    table = es.track(store, voxel_size=(4, 1, 1), overwrite=True).table
    assert list(table.columns) == [*before.columns, "track_id", "parent_track_id"]
    np.testing.assert_array_equal(table["label"], before["label"])
    np.testing.assert_allclose(table["x_um"], 2 * before["x_um"])
    kept = table["intensity_mean_0"]
    np.testing.assert_array_equal(kept[rows], before["intensity_mean_0"][rows])
    assert np.isnan(kept[5])


@pytest.mark.parametrize("reader", ["geff", "pyarrow"])
def test_tracks_in_a_table_alone_are_replaced_only_if_that_is_asked(
    store: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("embedseg_large.tracking.geff.find_spec", lambda _: None)
    if reader == "pyarrow":  # not installed: the table is a CSV file
        monkeypatch.setattr("embedseg_large.labels.tables.find_spec", lambda _: None)
    es.track(store)
    with pytest.raises(UsageError, match=r"tables/nuclei has tracks; replace .* --overwrite"):
        es.track(store)
    assert es.track(store, overwrite=True).n_tracks == 15


def test_without_pyarrow_a_parquet_table_is_not_replaced_unseen(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    es.measure(store, into_store=True)
    monkeypatch.setattr("embedseg_large.labels.tables.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"\[tables\].*replace it with --overwrite"):
        es.track(store)


def test_an_older_graph_does_not_stay_beside_a_newer_table(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("geff")
    es.track(store)
    monkeypatch.setattr("embedseg_large.tracking.geff.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"nuclei\.geff exists; replace it with --overwrite"):
        es.track(store)
    es.track(store, overwrite=True, max_distance=0.01)
    assert not (store / "tracks" / "nuclei.geff").exists()


def test_distances_are_micrometres_along_every_axis() -> None:
    """Two timepoints: a step of 2 planes is 8 µm, one of 6 pixels is 3 µm."""
    labels = np.zeros((2, 9, 40, 40), np.uint8)
    labels[0, 2, 10, 10] = labels[1, 4, 10, 10] = labels[1, 2, 10, 16] = 1
    labels[1, 2, 10, 16] = 2
    found = es.track(labels, axes="tzyx", voxel_size=(4, 0.5, 0.5), max_distance=5)
    assert found.links.tolist() == [[0, 2]]
    voxels = es.track(labels, axes="tzyx", max_distance=5)
    assert (voxels.links.tolist(), voxels.unit) == ([[0, 1]], "voxels")


def test_the_result_is_the_same_each_time_and_by_laptrack(series: NDArray[np.uint32]) -> None:
    one, other = (es.track(series, axes="tzyx", voxel_size=SIZE) for _ in range(2))
    np.testing.assert_array_equal(one.links, other.links)
    pytest.importorskip("laptrack")
    third = es.track(series, axes="tzyx", voxel_size=SIZE, tracker="laptrack")
    assert (third.n_tracks, third.n_divisions) == (15, 3)


def test_tracks_are_replaced_only_if_that_is_asked(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("geff")
    es.track(store, ctc=tmp_path / "RES")
    with pytest.raises(UsageError, match=r"nuclei\.geff exists; replace it with --overwrite"):
        es.track(store)
    es.track(store, overwrite=True)
    (tmp_path / "RES" / "mask_manual.tif").write_text("somebody's")
    (tmp_path / "RES" / "mask999.tif").write_text("of a longer series")
    es.track(store, overwrite=True, ctc=tmp_path / "RES")
    assert (tmp_path / "RES" / "mask_manual.tif").read_text() == "somebody's"
    assert not (tmp_path / "RES" / "mask999.tif").exists()
    with pytest.raises(UsageError, match="Cell Tracking Challenge; choose another folder"):
        es.track(np.ones((2, 8, 8), np.uint8), axes="tyx", max_distance=1, ctc=tmp_path / "RES")


def in_one_place() -> NDArray[np.uint8]:
    """A ring around a voxel: both have the same centroid."""
    labels = np.zeros((2, 8, 8), np.uint8)
    labels[:, 2:5, 2:5] = 1
    labels[:, 3, 3] = 2
    return labels


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (np.ones((4, 8, 8), np.uint8), {"axes": "zyx"}, "has one timepoint"),
        (np.ones((2, 8, 8), np.uint8), {}, "no timepoint has two instances.*--max-distance"),
        (in_one_place(), {}, "two instances in different places.*--max-distance"),
        (np.ones((2, 8, 8), np.uint8), {"max_distance": -1}, "pass a length in µm, above 0"),
        (np.ones((2, 8, 8), np.uint8), {"division_distance": -1}, "or 0 for no divisions"),
        (np.ones((2, 8, 8), np.uint8), {"max_gap": 5}, "use 0 to 1 timepoints"),
        (np.ones((2, 8, 8), np.uint8), {"tracker": "magic"}, "is not one of lap, laptrack"),
        (np.ones((2, 8, 8), np.uint8), {"labels": "a"}, "has no labels inside"),
    ],
)
def test_bad_input_is_one_line(labels: NDArray[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"^[^\n]*{message}[^\n]*$"):
        es.track(labels, **{"axes": "tyx"} | options)


def test_floats_are_no_labels() -> None:
    with pytest.raises(VolumeError, match="labels are integers"):
        es.track(np.ones((2, 8, 8), np.float32), axes="tyx")


def test_without_geff_the_table_has_the_tracks(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("embedseg_large.tracking.geff.find_spec", lambda _: None)
    with caplog.at_level(logging.WARNING):
        tracks = es.track(store)
    assert "track_id" in tracks.table.columns
    assert '[track]" (pip 26 or newer) writes them as GEFF, too' in caplog.text
    assert not (store / "tracks").exists()


def test_the_command_prints_what_it_found(store: Path, tmp_path: Path) -> None:
    words = ["track", str(store), "--max-distance", "5", "--out", str(tmp_path / "t.csv"), "--json"]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert (found["n_tracks"], found["n_divisions"], found["max_distance"]) == (15, 3, 5.0)
    assert (tmp_path / "t.csv").read_text().splitlines()[0].endswith("track_id,parent_track_id")
