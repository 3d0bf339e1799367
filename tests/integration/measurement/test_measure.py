"""`measure`: from stores, files and arrays to a table, here or on workers, and into the store."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from typer.testing import CliRunner
from yaozarrs import validate_zarr_store

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import UsageError, VolumeError, VolumeNotFoundError
from embedseg_large.evaluation import compare
from embedseg_large.labels.tables import PROPERTIES_MOST, write_label_table
from embedseg_large.labels.target import label_target
from embedseg_large.measurement import measure as engine
from embedseg_large.measurement import within
from embedseg_large.runs.boxes import EDGE, box_shape
from embedseg_large.storage.group import ZarrGroup, ngff_content
from embedseg_large.testing.synthetic import synthetic_embryo

SHAPE = (30, 40, 44)
SIZE = (2.0, 0.5, 0.5)
SEAMS = {
    "repaired_objects": [{"label": 2, "seed": [0, 0, 0]}],
    "joined_objects": [{"label": 5, "seed": [0, 0, 0]}],
}


@pytest.fixture
def labels() -> NDArray[np.uint16]:
    return synthetic_embryo(SHAPE, n_objects=30, diameter=9, seed=2).astype(np.uint16)


@pytest.fixture
def image(labels: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.uint16]:
    """Two channels; the second is the label."""
    noise = rng.integers(0, 1000, SHAPE).astype(np.uint16)
    return np.stack([noise, labels])


@pytest.fixture(params=["0.4", "0.5"])
def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    labels: NDArray[np.uint16],
    image: NDArray[np.uint16],
) -> Path:
    """An image of two channels with labels that a run has written."""
    path = tmp_path / "embryo.ome.zarr"
    write_image(path, image, "czyx", SIZE, ngff_version=request.param, chunks=(16, 20, 20))
    put_labels(path, labels)
    return path


def put_labels(store: Path, labels: NDArray[Any], seams: Any = SEAMS) -> None:
    """Write and publish labels as a run does."""
    pending = label_target(es.open_volume(store), "nuclei").create(labels.dtype)
    frames = labels if "t" in pending.target.axes else labels[np.newaxis]
    for t, frame in enumerate(frames):
        for box in pending.regions(0):
            pending.write(0, box, frame[box.slices], timepoint=t)
        for level in range(1, pending.n_levels):
            for box in pending.regions(level):
                pending.downsample(level, box, timepoint=t)
    pending.publish({"seams": seams, "token": "abc"})


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["measure", *(str(a) for a in arguments)])


def fails(*arguments: object) -> str:
    """The one line that a mistake is told in."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    (line,) = result.stderr.strip().splitlines()
    return str(line)


def same(one: es.Table, other: es.Table) -> bool:
    assert list(one.columns) == list(other.columns)
    return all(np.array_equal(column, other[name]) for name, column in one.columns.items())


def test_labels_in_a_store_are_measured_with_its_image(
    store: Path, labels: NDArray[np.uint16]
) -> None:
    table = es.measure(store, labels="nuclei")
    ids = np.unique(labels[labels > 0])
    assert table["label"].tolist() == ids.tolist()
    assert len(table) == ids.size
    assert table["voxels"].tolist() == [np.count_nonzero(labels == n) for n in ids]
    assert table["volume_um3"].tolist() == (table["voxels"] * 0.5).tolist()
    for name in ("min", "max", "mean"):
        assert table[f"intensity_{name}_1"].tolist() == ids.tolist()
    assert not table["intensity_std_1"].any()
    assert table["z_um"].tolist() == (table["z"] * 2).tolist()
    assert set(table["timepoint"]) == {0}
    assert "30 rows" in repr(table)


def test_unannotated_voxels_are_in_no_parent() -> None:
    cells = np.zeros((8, 8), np.int32)
    cells[2:6, 2:6], cells[0] = 1, -1
    tissue = np.full((8, 8), 7, np.int16)
    tissue[:, :3] = -1
    table = es.measure(cells, within=tissue)
    assert table["label"].tolist() == [1]
    assert table["parent"].tolist() == [7]
    assert table["parent_overlap"].tolist() == [0.75]


def test_the_seam_report_is_a_column(store: Path) -> None:
    table = es.measure(store, labels="nuclei")
    told = dict(zip(table["label"].tolist(), table["seam"].tolist(), strict=True))
    assert (told.pop(2), told.pop(5)) == ("repaired", "joined")
    assert set(told.values()) == {""}


def test_boxes_and_workers_leave_no_trace(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = es.measure(store, labels="nuclei")
    monkeypatch.setattr(engine, "box_shape", lambda *_: (13, 17, 20))
    assert same(es.measure(store, labels="nuclei"), whole)
    assert same(es.measure(store, labels="nuclei", client=client), whole)


@pytest.mark.parametrize("command", ["measure", "within", "evaluate"])
def test_boxes_follow_the_chunks_of_all_volumes(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (
        zarr.create_array(tmp_path / str(k), shape=(12, 24, 24), chunks=chunks, dtype="u2")
        for k, chunks in enumerate([(1, 24, 24), (4, 8, 8)])
    )
    one[:, 4:9], other[:, 4:8] = 3, 5
    seen: list[tuple[int, ...]] = []

    def noted(*about: Any) -> tuple[int, ...]:
        seen.append(box_shape(*about))
        return seen[-1]

    for module in (engine, within, compare):
        monkeypatch.setattr(module, "box_shape", noted)
    monkeypatch.setitem(EDGE, 3, 16)
    if command == "evaluate":
        es.evaluate(one, other)
    else:
        options: dict[str, Any] = {"image" if command == "measure" else command: other}
        es.measure(one, **options)
    assert seen[-1] == (4, 24, 24)


@pytest.mark.parametrize("kind", ["array", "tiff"])
def test_labels_and_images_of_other_kinds_give_the_same(
    store: Path,
    tmp_path: Path,
    labels: NDArray[np.uint16],
    image: NDArray[np.uint16],
    kind: str,
) -> None:
    sources: list[Any] = [labels, image]
    if kind == "tiff":
        sources = [tmp_path / "labels.tif", tmp_path / "image.tif"]
        tifffile.imwrite(sources[0], labels)
        tifffile.imwrite(sources[1], image)
    table = es.measure(sources[0], image=sources[1], axes="zyx", image_axes="czyx", voxel_size=SIZE)
    expected = es.measure(store, labels="nuclei")
    assert all(np.array_equal(expected[name], table[name]) for name in table.columns)
    assert set(expected.columns) - set(table.columns) == {"seam"}


def test_without_an_image_there_are_shapes_only(store: Path) -> None:
    shapes = es.measure(store / "labels" / "nuclei")
    whole = es.measure(store, labels="nuclei")
    assert not [name for name in shapes.columns if name.startswith("intensity")]
    assert all(np.array_equal(shapes[name], whole[name]) for name in shapes.columns)


def test_one_channel_and_another_level_can_be_chosen(tmp_path: Path) -> None:
    labels = synthetic_embryo((8, 20, 300), n_objects=20, diameter=9, seed=1).astype(np.uint16)
    store = tmp_path / "long.ome.zarr"
    write_image(store, np.stack([labels, labels]), "czyx", SIZE)
    put_labels(store, labels)
    table = es.measure(store, labels="nuclei", channel=1, level=1)
    coarse = es.open_volume(store / "labels" / "nuclei", level=1)
    assert table["voxels"].sum() == np.count_nonzero(coarse.data.compute())
    assert [n for n in table.columns if n.startswith("intensity_mean")] == ["intensity_mean_1"]
    assert coarse.voxel_size is not None
    assert coarse.voxel_size > SIZE
    assert table["volume_um3"].sum() == table["voxels"].sum() * np.prod(coarse.voxel_size)
    with pytest.raises(VolumeNotFoundError, match="no level 9"):
        es.measure(labels, level=9)


def test_a_series_has_rows_of_each_timepoint(tmp_path: Path) -> None:
    frames = np.stack(
        [synthetic_embryo((20, 24, 24), n_objects=4 + n, diameter=8, seed=n) for n in range(3)]
    ).astype(np.uint32)
    store = tmp_path / "series.ome.zarr"
    write_image(store, frames.astype(np.uint16), "tzyx", SIZE)
    joined = [{"label": 1, "seed": [0, 0, 0], "timepoint": 1}]
    put_labels(store, frames, {"repaired_objects": [], "joined_objects": joined})
    table = es.measure(store, labels="nuclei")
    counts = [int(frame.max()) for frame in frames]
    assert table["timepoint"].tolist() == np.repeat(range(3), counts).tolist()
    assert table["intensity_max_0"].tolist() == table["label"].tolist()
    (row,) = np.flatnonzero(table["seam"] == "joined")
    assert (table["label"][row], table["timepoint"][row]) == (1, 1)
    chosen = es.measure(store, labels="nuclei", timepoint=(2, 0, 2))
    assert chosen["timepoint"].tolist() == np.repeat([0, 2], [counts[0], counts[2]]).tolist()
    with pytest.raises(UsageError, match="no timepoint 3; there are 3, from 0"):
        es.measure(store, labels="nuclei", timepoint=3)


def test_the_command_prints_and_writes(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    printed = json.loads(run(store, "--labels", "nuclei", "--out", out, "--json").stdout)
    table = es.measure(store, labels="nuclei")
    assert printed["n_instances"] == 30
    assert printed["seams"] == {"repaired": 1, "joined": 1}
    assert printed["columns"] == list(table.columns)
    assert printed["quantiles"]["volume_um3"]["median"] == np.median(table["volume_um3"])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["voxels"]) for row in rows] == table["voxels"].tolist()
    assert [row["sphericity"] for row in rows] == [f"{s:.7g}" for s in table["sphericity"]]
    assert max(len(cell) for row in rows for cell in row.values()) <= len("-1.234567e+89")
    shown = run(store, "--labels", "nuclei").stdout
    assert "instances" in shown
    assert "sphericity" in shown


def test_parquet_and_pandas_hold_the_same(store: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("pandas")
    table = es.measure(store, labels="nuclei")
    table.to_parquet(tmp_path / "table.parquet")
    frame = table.to_pandas()
    read = parquet.read_table(tmp_path / "table.parquet")
    assert read.column_names == list(table.columns) == list(frame.columns)
    for name, column in table.columns.items():
        assert read[name].to_pylist() == column.tolist() == frame[name].tolist()
    with pytest.raises(UsageError, match=r"must end in \.csv"):
        table.to_csv(tmp_path / "table.parquet")


def test_empty_labels_give_an_empty_table_with_all_columns(store: Path, tmp_path: Path) -> None:
    full = list(es.measure(store, labels="nuclei").columns)
    nothing = np.zeros(SHAPE, np.uint16)
    pending = label_target(es.open_volume(store), "nothing").create(nothing.dtype)
    pending.publish({"seams": SEAMS})
    out = tmp_path / "table.csv"
    result = run(store, "--labels", "nothing", "--out", out, "--into-store")
    assert result.exit_code == 0, result.output
    assert "none" in result.stdout
    assert out.read_text().splitlines() == [",".join(full)]


def test_a_store_gets_its_table_and_stays_valid(store: Path) -> None:
    pytest.importorskip("pyarrow")
    for _ in range(2):  # a second time replaces the first
        table = es.measure(store, labels="nuclei", into_store=True)
    validate_zarr_store(store)
    validate_zarr_store(store / "labels" / "nuclei")
    assert ZarrGroup.at(store / "tables").attributes()["tables"] == ["nuclei"]
    about = ZarrGroup.at(store / "tables" / "nuclei").attributes()
    assert about["type"] == "feature_table"
    assert about["region"] == {"path": "../labels/nuclei"}
    assert about["embedseg_large"] == {"token": "abc"}
    stored = store / "tables" / "nuclei" / f"table.{about['backend']}"
    assert stored.is_file()
    attributes = ZarrGroup.at(store / "labels" / "nuclei").attributes()
    properties = ngff_content(attributes)["image-label"]["properties"]
    assert [row["label-value"] for row in properties] == table["label"].tolist()
    assert [row["voxels"] for row in properties] == table["voxels"].tolist()
    assert properties[1]["seam"] == "repaired"
    assert attributes["embedseg_large"]["token"] == "abc"
    assert same(es.measure(store, labels="nuclei"), table)


def test_what_others_wrote_into_a_store_stays(store: Path) -> None:
    group = store / "labels" / "nuclei"
    attributes = ZarrGroup.at(group).attributes()
    others = [{"label-value": n, "roi": n + 70} for n in (1, 999)]
    ngff_content(attributes)["image-label"]["properties"] = others
    ZarrGroup.at(group).write(3 if "ome" in attributes else 2, attributes)
    es.measure(store, labels="nuclei", into_store=True)
    rows = ngff_content(ZarrGroup.at(group).attributes())["image-label"]["properties"]
    told = {row["label-value"]: row for row in rows}
    assert len(told) == len(rows) == 31
    assert told[999] == {"label-value": 999, "roi": 1069}
    assert (told[1]["roi"], "voxels" in told[1]) == (71, True)


def test_a_table_of_another_program_is_not_replaced(store: Path) -> None:
    root = zarr.open_group(store, mode="r+")
    root.create_group("tables/nuclei", attributes={"type": "feature_table"})
    assert "belongs to another program" in fails(store, "--labels", "nuclei", "--into-store")
    assert not list((store / "tables" / "nuclei").glob("table.*"))


def test_a_read_only_store_stays_as_it_is_even_for_root(store: Path) -> None:
    before = sorted(store.rglob("*"))
    mode = store.stat().st_mode
    store.chmod(mode & ~0o222)
    said = fails(store, "--labels", "nuclei", "--into-store")
    store.chmod(mode)
    assert "read-only; write the table with --out" in said
    assert sorted(store.rglob("*")) == before


def test_without_pyarrow_the_store_gets_a_csv(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedseg_large.labels.tables.find_spec", lambda _: None)
    table = es.measure(store, labels="nuclei", into_store=True)
    rows = (store / "tables" / "nuclei" / "table.csv").read_text().splitlines()
    assert len(rows) == 1 + len(table)


def test_properties_are_for_few_instances(store: Path) -> None:
    count = PROPERTIES_MOST + 1
    columns = {"label": np.arange(1, count + 1), "timepoint": np.zeros(count, np.int64)}
    written = write_label_table(str(store), "nuclei", columns, ["label"])
    assert Path(written).is_file()
    attributes = ZarrGroup.at(store / "labels" / "nuclei").attributes()
    assert "properties" not in ngff_content(attributes)["image-label"]


def test_a_series_has_no_properties_not_even_of_one_timepoint(tmp_path: Path) -> None:
    store, frames = tmp_path / "series.ome.zarr", np.zeros((2, 8, 16, 16), np.uint32)
    frames[0, :4, :4, :4], frames[1, :2, :2, :2] = 1, 1
    write_image(store, frames, "tzyx", SIZE)
    put_labels(store, frames)
    es.measure(store, into_store=True, timepoint=1)
    attributes = ZarrGroup.at(store / "labels" / "nuclei").attributes()
    assert "properties" not in ngff_content(attributes)["image-label"]


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("tables", None, "attribute tables is not a list"),
        ("tables", "x", "attribute tables is not a list"),
        ("image-label", None, "image-label is not a JSON object"),
        ("properties", None, "image-label.properties is not a list of JSON objects"),
        ("properties", ["x"], "image-label.properties is not a list of JSON objects"),
    ],
)
def test_a_store_that_nothing_can_be_added_to_is_told_before_any_work(
    store: Path, monkeypatch: pytest.MonkeyPatch, where: str, value: Any, said: str
) -> None:
    labels = ZarrGroup.at(store / "labels" / "nuclei")
    group = ZarrGroup.at(store / "tables") if where == "tables" else labels
    attributes = group.attributes()
    content = attributes.get("ome", attributes)
    (content["image-label"] if where == "properties" else content)[where] = value
    group.write(labels.zarr_format() or 0, attributes)
    monkeypatch.setattr(engine, "sum_regions", None)
    assert said in fails(store, "--labels", "nuclei", "--into-store")


def test_properties_that_name_no_instance_stay(store: Path) -> None:
    group = ZarrGroup.at(store / "labels" / "nuclei")
    attributes = group.attributes()
    theirs: list[Any] = [{"class": "a"}, {"class": "b"}, {"label-value": [1]}]
    ngff_content(attributes)["image-label"]["properties"] = theirs
    group.write(group.zarr_format() or 0, attributes)
    table = es.measure(store, labels="nuclei", into_store=True)
    rows = ngff_content(group.attributes())["image-label"]["properties"]
    assert rows[:3] == theirs
    assert [row["label-value"] for row in rows[3:]] == table["label"].tolist()


@pytest.mark.parametrize("shape", [(), None, (2, 2, 2)])
def test_a_damaged_table_of_instances_is_told_before_any_work(
    store: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...] | None
) -> None:
    group = ZarrGroup.at(store / "labels" / "nuclei")
    attributes = group.attributes()
    attributes["embedseg_large"]["instances"] = {"path": "instances", "columns": ["seediness"]}
    group.write(group.zarr_format() or 0, attributes)
    if shape is not None:
        place = store / "labels" / "nuclei" / "instances" / "seediness"
        zarr_format: Any = group.zarr_format()
        zarr.create_array(place, shape=shape, dtype="f4", zarr_format=zarr_format)
    monkeypatch.setattr(engine, "sum_regions", None)
    said = "missing, although" if shape is None else "a shape of"
    assert said in fails(store, "--labels", "nuclei")


def test_the_only_labels_need_no_name(store: Path) -> None:
    assert same(es.measure(store), es.measure(store, labels="nuclei"))
    assert es.measure(store, into_store=True).stored == str(stored_table(store))
    assert stored_table(store).is_file()


def test_the_command_says_where_in_the_store_the_table_is(store: Path) -> None:
    told = run(store, "--into-store")
    assert f"table in the store   {stored_table(store)}" in told.stdout
    assert json.loads(run(store, "--json").stdout)["stored"] is None


def stored_table(store: Path) -> Path:
    return store / "tables" / "nuclei" / f"table.{'parquet' if find_spec('pyarrow') else 'csv'}"


def test_labels_must_be_there_and_be_named_where_there_are_several(store: Path) -> None:
    assert "existing labels: nuclei" in fails(store, "--labels", "cells")
    label_target(es.open_volume(store), "cells").create(np.uint8).publish({})
    assert "choose with labels= (--labels): cells, nuclei" in fails(store)
    with pytest.raises(VolumeNotFoundError):
        es.measure(store.with_name("nowhere"), labels="nuclei")
    with pytest.raises(UsageError, match="an array has no labels inside"):
        es.measure(np.ones((2, 2), int), labels="nuclei")


def test_labels_without_their_image_are_refused(
    store: Path, tmp_path: Path, labels: NDArray[np.uint16]
) -> None:
    output = tmp_path / "output.zarr"
    pending = label_target(es.open_volume(store), "nuclei", output=output).create(labels.dtype)
    pending.publish({})
    said = fails(output, "--labels", "nuclei")
    assert "holds labels but no readable image" in said
    assert "--image" in said
    assert run(output, "--labels", "nuclei", "--image", store).exit_code == 0
    assert run(output / "labels" / "nuclei").exit_code == 0
    pending = label_target(es.open_volume(store), "lost", output=output).create(labels.dtype)
    pending.publish({"volume": {"path": str(tmp_path / "gone.zarr")}})
    assert "gone.zarr cannot be opened" in fails(output, "--labels", "lost")
    assert "no image to take a channel from" in fails(output / "labels" / "nuclei", "--channel", 0)


def test_the_image_that_a_run_recorded_is_measured(
    store: Path, tmp_path: Path, labels: NDArray[np.uint16]
) -> None:
    output = tmp_path / "output.zarr"
    pending = label_target(es.open_volume(store), "nuclei", output=output).create(labels.dtype)
    for box in pending.regions(0):
        pending.write(0, box, labels[box.slices])
    pending.publish({"volume": {"path": str(store)}, "seams": SEAMS})
    assert same(es.measure(output), es.measure(store))


def test_an_image_of_another_shape_scale_or_length_is_refused(
    store: Path, tmp_path: Path, image: NDArray[np.uint16]
) -> None:
    place = store / "labels" / "nuclei"
    other = tmp_path / "other.ome.zarr"
    write_image(other, image[:, 1:], "czyx", SIZE)
    said = fails(place, "--image", other)
    assert str(SHAPE) in said
    assert "(29, 40, 44)" in said
    wide = tmp_path / "wide.ome.zarr"
    write_image(wide, image, "czyx", (2, 0.5, 0.6))
    assert "choose with voxel_size= (--voxel-size)" in fails(place, "--image", wide)
    assert run(place, "--image", wide, "--voxel-size", "2,.5,.6").exit_code == 0
    series = tmp_path / "series.ome.zarr"
    write_image(series, image, "tzyx", SIZE)
    assert "1 timepoints, and the image" in fails(place, "--image", series)
    assert "no channel 2" in fails(store, "--labels", "nuclei", "--channel", 2)


def test_what_is_no_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.ones((4, 5, 6), np.float32), photometric="minisblack")
    assert "voxels are float32; labels are integers" in fails(path, "--axes", "zyx")
    with pytest.raises(VolumeError, match=r"2 channels .* like a coloured picture"):
        es.measure(np.ones((2, 4, 5), int), axes="cyx")


def test_places_that_cannot_be_written_are_refused_before_the_work(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "sum_regions", lambda *_: pytest.fail("measured"))
    named = (store, "--labels", "nuclei")
    assert "use one of these suffixes" in fails(*named, "--out", tmp_path / "table.xlsx")
    assert "there is no folder" in fails(*named, "--out", tmp_path / "nowhere" / "table.csv")
    assert "level 1 would be mistaken" in fails(*named, "--into-store", "--level", 1)
    assert "name the labels" in fails(store / "labels" / "nuclei", "--into-store")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    said = fails(*named, "--out", tmp_path / "table.parquet")
    assert 'pip install "embedseg-large[tables]"' in said


def test_arrays_in_memory_are_not_for_workers(client: Any) -> None:
    with pytest.raises(UsageError, match="in this process's memory"):
        es.measure(np.ones((4, 4, 4), np.uint8), client=client)


def test_positions_come_from_the_image_if_the_labels_have_no_voxel_size(tmp_path: Path) -> None:
    labels = np.zeros((6, 20, 20), np.uint16)
    labels[1:3, 2:9, 3:8] = 5
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    write_image(tmp_path / "i.ome.zarr", np.ones_like(labels), voxel_size=(2.0, 0.4, 0.3))
    document = tmp_path / "i.ome.zarr" / "zarr.json"
    content = json.loads(document.read_text())
    for level in content["attributes"]["ome"]["multiscales"][0]["datasets"]:
        moved = {"type": "translation", "translation": [10.0, 20.0, 30.0]}
        level["coordinateTransformations"].append(moved)
    document.write_text(json.dumps(content))
    table = es.measure(tmp_path / "labels.tif", image=tmp_path / "i.ome.zarr", axes="zyx").columns
    assert [table[f"{axis}_um"][0] for axis in "zyx"] == pytest.approx([13.0, 22.0, 31.5])
