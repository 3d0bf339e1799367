"""Labels for other programs: independent readers find in the files what was in the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import tifffile
import trimesh
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from scipy import ndimage
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import (
    CorruptChunkError,
    UsageError,
    VolumeError,
    VolumeNotFoundError,
)
from embedseg_large.exporting import boxes, export_labels, label_tiff, meshes
from embedseg_large.exporting.boxes import Boxes, boxes_of
from embedseg_large.geometry import Box
from embedseg_large.testing.synthetic import synthetic_embryo

Labels = NDArray[Any]
SIZE = (2.0, 0.5, 0.25)


@pytest.fixture(scope="module")
def embryo() -> Labels:
    return synthetic_embryo((16, 40, 44), density=0.4, diameter=10, seed=1).astype(np.uint32)


def exported(labels: Any, out: Path, **options: Any) -> Labels:
    es.export_labels(labels, out, **options)
    return np.asarray(tifffile.imread(out))


def read_rois(path: Path) -> list[Any]:
    rois: Any = roifile.roiread(path)
    return list(rois)


# TIFF -------------------------------------------------------------------------------------------


def test_a_tiff_holds_the_labels_and_the_voxel_size(tmp_path: Path, embryo: Labels) -> None:
    found = exported(embryo, tmp_path / "a.tif", voxel_size=SIZE)
    np.testing.assert_array_equal(found, embryo)
    assert found.dtype == np.uint16
    assert es.open_volume(tmp_path / "a.tif").voxel_size == SIZE


@pytest.mark.parametrize(
    ("largest", "dtype"), [(65_535, np.uint16), (65_536, np.uint32), (2**32 - 1, np.uint32)]
)
def test_a_tiff_is_as_wide_as_its_largest_label_needs(
    tmp_path: Path, largest: int, dtype: type
) -> None:
    labels = np.zeros((8, 8), np.uint64)
    labels[3, 3] = largest
    found = exported(labels, tmp_path / "a.tif")
    assert found.dtype == dtype
    assert found.max() == largest


def test_labels_of_64_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs 64 bits"):
        es.export_labels(np.full((8, 8), 2**32, np.uint64), tmp_path / "a.tif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [1, 4_000, 1 << 28])
def test_labels_are_read_in_pieces_that_leave_no_trace(
    tmp_path: Path, embryo: Labels, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    write_image(tmp_path / "a.ome.zarr", embryo, chunks=(8, 16, 16))
    whole = exported(embryo, tmp_path / "whole.tif", draw="outlines")
    monkeypatch.setattr(label_tiff, "_SLAB_BYTES", limit)
    monkeypatch.setattr(label_tiff, "_STRIP_BYTES", 700)
    np.testing.assert_array_equal(exported(tmp_path / "a.ome.zarr", tmp_path / "a.tif"), embryo)
    drawn = exported(tmp_path / "a.ome.zarr", tmp_path / "b.tif", draw="outlines")
    np.testing.assert_array_equal(drawn, whole)


def test_a_file_that_may_grow_too_large_is_a_bigtiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_tiff, "_BIG", 100)
    es.export_labels(np.ones((20, 20), np.uint8), tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff


def test_voxels_that_nobody_annotated_are_background(tmp_path: Path) -> None:
    labels = np.array([[-1, -1, 0], [5, 5, -1]], np.int16)
    np.testing.assert_array_equal(exported(labels, tmp_path / "a.tif"), np.maximum(labels, 0))


def test_outlines_are_where_an_instance_touches_something_else_in_its_plane(tmp_path: Path) -> None:
    labels = np.zeros((7, 9), np.uint8)
    labels[:, :3], labels[2:5, 3:8] = 1, 2
    expected = np.zeros((7, 9), bool)
    expected[:, 2] = True  # beside 2 and the background; the border of the image is no outline
    expected[2:5, 3:8] = True
    expected[3, 4:7] = False
    found = exported(labels, tmp_path / "a.tif", draw="outlines")
    np.testing.assert_array_equal(found, expected.astype(np.uint8) * 255)


def test_chosen_instances_keep_their_labels(tmp_path: Path, embryo: Labels) -> None:
    found = exported(embryo, tmp_path / "a.tif", instances=[2, 5])
    np.testing.assert_array_equal(found, np.where(np.isin(embryo, [2, 5]), embryo, 0))
    mask = exported(embryo, tmp_path / "b.tif", instances=[5], draw="mask")
    np.testing.assert_array_equal(mask, (embryo == 5).astype(np.uint8) * 255)


def test_a_series_is_one_file_or_one_per_timepoint(tmp_path: Path, embryo: Labels) -> None:
    series = np.stack([embryo, embryo[::-1]])
    write_image(tmp_path / "a.ome.zarr", series, "tzyx")
    np.testing.assert_array_equal(exported(tmp_path / "a.ome.zarr", tmp_path / "all.tif"), series)
    written = es.export_labels(tmp_path / "a.ome.zarr", tmp_path / "t{t:02d}.tif")
    assert [Path(f).name for f in written.files] == ["t00.tif", "t01.tif"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "t01.tif"), series[1])
    last = exported(tmp_path / "a.ome.zarr", tmp_path / "last.tif", timepoint=1)
    np.testing.assert_array_equal(last, series[1])
    places = tmp_path / "a.ome.zarr", tmp_path / "dup_{t}.tif"
    assert len(es.export_labels(*places, timepoint=[0, 0]).files) == 1
    both = exported(places[0], tmp_path / "both.tif", timepoint=[1, 0, 1])
    np.testing.assert_array_equal(both, series)


# ROIs -------------------------------------------------------------------------------------------


def pixels(roi: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels that ImageJ counts: those whose centre an odd number of outlines encloses."""
    y, x = np.indices(shape)
    centres = np.stack([x.ravel(), y.ravel()], axis=1) + 0.5
    parts = roi.coordinates(multi=True)
    inside = [Outline(part).contains_points(centres) for part in parts]
    odd: NDArray[np.bool_] = (np.sum(inside, axis=0) % 2 == 1).reshape(shape)
    return odd


def test_a_roi_holds_exactly_the_pixels_of_an_instance_in_a_plane(
    tmp_path: Path, embryo: Labels
) -> None:
    written = es.export_labels(embryo, tmp_path / "a.zip")
    rois = read_rois(tmp_path / "a.zip")
    found = np.zeros_like(embryo)
    for roi in rois:
        z = roi.position - 1
        label = int(roi.name.partition("-")[0])
        assert roi.name == f"{label:05d}-z{z:04d}"
        found[z][pixels(roi, embryo.shape[1:])] = label
    np.testing.assert_array_equal(found, embryo)
    assert written.count == len(rois)


def test_rois_do_not_depend_on_the_planes_that_are_read_at_a_time(
    tmp_path: Path, embryo: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.ome.zarr", embryo, chunks=(8, 16, 16))
    found = []
    for limit in (1, 1 << 28):
        monkeypatch.setattr(label_tiff, "_SLAB_BYTES", limit)
        es.export_labels(tmp_path / "a.ome.zarr", tmp_path / "a.zip", overwrite=True)
        found.append([roi.tobytes() for roi in read_rois(tmp_path / "a.zip")])
    assert found[0] == found[1]
    assert found[0]


def test_holes_and_pieces_are_one_composite_roi(tmp_path: Path) -> None:
    labels = np.zeros((12, 14), np.uint16)
    labels[1:8, 1:8], labels[3:5, 3:6], labels[9:11, 9:13] = 7, 0, 7
    es.export_labels(labels, tmp_path / "a.zip")
    roi = read_rois(tmp_path / "a.zip")[0]
    assert roi.name == "00007"
    np.testing.assert_array_equal(pixels(roi, labels.shape), labels == 7)


def test_rois_of_a_series_are_at_their_frame(tmp_path: Path) -> None:
    write_image(tmp_path / "a.ome.zarr", np.ones((2, 6, 6), np.uint16), "tyx")
    es.export_labels(tmp_path / "a.ome.zarr", tmp_path / "a.zip")
    rois = read_rois(tmp_path / "a.zip")
    assert [roi.t_position for roi in rois] == [1, 2]


# Meshes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["obj", "stl"])
def test_a_mesh_is_closed_and_as_large_as_its_instance(
    tmp_path: Path, embryo: Labels, ending: str
) -> None:
    out = tmp_path / f"{{label}}.{ending}"
    written = es.export_labels(embryo, out, voxel_size=SIZE, instances=[1, 4])
    assert written.count == 2
    mesh = trimesh.load_mesh(tmp_path / f"4.{ending}")
    volume = np.count_nonzero(embryo == 4) * np.prod(SIZE)
    assert mesh.is_watertight
    assert 0.75 * volume < mesh.volume < volume  # it cuts corners; positive: normals point out
    centre = [np.mean(at) * size for at, size in zip(np.nonzero(embryo == 4), SIZE, strict=True)]
    np.testing.assert_allclose(mesh.center_mass, centre[::-1], atol=0.2)


def test_an_obj_names_every_instance(tmp_path: Path, embryo: Labels) -> None:
    written = es.export_labels(embryo, tmp_path / "all.obj")
    names = [
        w[1] for w in map(str.split, (tmp_path / "all.obj").read_text().splitlines()) if w[0] == "o"
    ]
    assert names == [f"label_{label}" for label in np.unique(embryo)[1:]]
    assert written.unit == "voxels"


def test_the_surface_of_a_voxel_is_as_exact_far_from_the_origin(tmp_path: Path) -> None:
    labels = np.zeros((3, 3, 150_003), np.uint8)
    labels[1, 1, [1, 150_000]] = 1, 2
    es.export_labels(labels, tmp_path / "{label}.obj", voxel_size=(1.0, 0.1, 0.1))
    near, far = (trimesh.load_mesh(tmp_path / f"{label}.obj") for label in (1, 2))
    assert near.is_watertight
    assert far.is_watertight
    assert far.volume == pytest.approx(near.volume)
    moved = far.vertices - near.vertices - (149_999 * 0.1, 0, 0)
    np.testing.assert_allclose(moved, 0, atol=1e-4)


@pytest.mark.parametrize("keep", [None, [4, 7, 12], [99_999]])
def test_boxes_of_instances_do_not_depend_on_the_pieces_that_are_read(
    embryo: Labels, monkeypatch: pytest.MonkeyPatch, keep: list[int] | None
) -> None:
    monkeypatch.setattr(boxes, "box_shape", lambda *_: (5, 9, 13))
    monkeypatch.setattr(boxes, "_MERGED", 3)
    chosen = None if keep is None else np.array(keep, np.uint64)
    found = boxes_of(es.open_volume(embryo), None, chosen)
    places = ndimage.find_objects(embryo)
    there = range(1, len(places) + 1) if keep is None else [k for k in keep if k <= len(places)]
    assert [(label, box.slices) for label, box in found] == [(k, places[k - 1]) for k in there]


def test_labels_of_64_bits_and_of_voxels_that_nobody_annotated_have_their_boxes() -> None:
    large = np.array([[[2**64 - 1, 2**64 - 2], [0, 2**64 - 1]]], np.uint64)
    found = list(boxes_of(es.open_volume(large, axes="zyx"), None))
    assert found == [(2**64 - 2, Box((0, 0, 1), (1, 1, 2))), (2**64 - 1, Box.whole((1, 2, 2)))]
    unknown = np.array([[[-1, -1], [3, -1]]], np.int16)
    only = boxes_of(es.open_volume(unknown, axes="zyx"), None)
    assert list(only) == [(3, Box((0, 1, 0), (1, 2, 1)))]


def test_a_box_takes_20_bytes_and_instances_that_are_not_written_take_none() -> None:
    labels = np.arange(1, 20_001, dtype=np.uint32).reshape(20, 20, 50)
    found = boxes_of(es.open_volume(labels, axes="zyx"), None)
    sizes = (found.labels.nbytes, found.low.nbytes, found.high.nbytes)
    assert sum(sizes) <= 20 * len(found) == 20 * labels.size
    five = boxes_of(es.open_volume(labels, axes="zyx"), None, np.arange(1, 6, dtype=np.uint64))
    assert len(five) == 5


def test_a_box_that_exceeds_the_memory_is_refused_before_a_mesh_is_written(
    tmp_path: Path, embryo: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = embryo.copy()
    wide[0, 0, 0] = wide[-1, -1, -1] = 77_777
    monkeypatch.setattr(meshes, "_BYTES", 1 << 40)
    with pytest.raises(UsageError, match=r"instance 77777 .* 16 x 40 x 44 voxels.*coarser --level"):
        es.export_labels(wide, tmp_path / "{label}.obj")
    assert not list(tmp_path.iterdir())


def test_the_largest_box_is_that_with_the_most_voxels() -> None:
    low = np.zeros((3, 3), np.uint8)
    high = np.array([[1, 1, 9], [200, 200, 2], [5, 5, 5]], np.uint8)
    found = Boxes(np.array([1, 2, 3], np.uint64), low, high)
    assert found.largest() == (2, Box.whole((200, 200, 2)))


def test_more_facets_than_an_stl_can_count_are_refused(
    tmp_path: Path, embryo: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.stl").write_text("precious")
    monkeypatch.setattr(meshes, "_MOST_FACETS", 2_000)
    with pytest.raises(UsageError, match=r"at most 2,000 facets; .*\{label\}.*--instances"):
        es.export_labels(embryo, tmp_path / "a.stl", overwrite=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]
    es.export_labels(embryo, tmp_path / "{label}.stl", instances=[1, 4])


def test_smoothing_takes_the_steps_away(tmp_path: Path) -> None:
    ball = (np.sum((np.indices((25, 25, 25)) - 12) ** 2, axis=0) < 81).astype(np.uint8)
    areas = []
    for smooth in (0, 1.5):
        es.export_labels(ball, tmp_path / "a.stl", smooth=smooth, overwrite=True)
        areas.append(trimesh.load_mesh(tmp_path / "a.stl").area)
    assert areas[1] < 0.97 * areas[0]
    assert areas[1] == pytest.approx(4 * np.pi * 81, rel=0.1)


@pytest.mark.parametrize("radius", [2.5, 9])
def test_smoothing_keeps_the_volume(radius: float, tmp_path: Path) -> None:
    ball = np.sum((np.indices((25, 25, 25)) - 12) ** 2, axis=0) < radius**2
    es.export_labels(ball.astype(np.uint8), tmp_path / "a.stl", smooth=2)
    assert trimesh.load_mesh(tmp_path / "a.stl").volume == pytest.approx(ball.sum(), rel=0.15)


def test_meshes_of_all_levels_lie_where_measure_has_the_instance(tmp_path: Path) -> None:
    labels = np.zeros((300, 70, 70), np.uint8)
    labels[100:120, 20:40, 32:48] = 1
    write_image(tmp_path / "i.ome.zarr", labels, voxel_size=(2.0, 1.0, 1.0), labels=False)
    place = str(tmp_path / "i.ome.zarr")
    for level in (0, 1):
        es.export_labels(place, tmp_path / f"{level}.stl", level=level)
        centre = trimesh.load_mesh(tmp_path / f"{level}.stl").center_mass
        np.testing.assert_allclose(centre, (39.5, 29.5, 219), atol=0.1)


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "options", "said"),
    [
        ("a.png", {}, "labels are written as .tif"),
        ("a_{z}.tif", {}, "may have {t}"),
        ("a_{t.__class__}.tif", {}, "may have {t}"),
        ("a_{.tif", {}, "may have {t}"),
        ("a.tif", {"draw": "edges"}, "use labels, mask, outlines"),
        ("a.zip", {"draw": "mask"}, "--draw applies only to TIFFs"),
        ("a.tif", {"smooth": 1.0}, "--smooth applies only to meshes"),
        ("a.stl", {"smooth": -1.0}, "use 0 to 10"),
        ("a.tif", {"instances": [1, 99_999]}, "no instance 99999"),
        ("a.tif", {"instances": [0]}, "1 or more"),
        ("a.tif", {"timepoint": 3}, "no timepoint 3; there are 1, from 0"),
        ("a.tif", {"timepoint": ()}, "no timepoint is chosen"),
        ("nowhere/a.tif", {}, "create it first"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, embryo: Labels, out: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        es.export_labels(embryo, tmp_path / out, **options)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(
    tmp_path: Path, embryo: Labels
) -> None:
    (tmp_path / "a.tif").write_text("precious")
    with pytest.raises(UsageError, match="--overwrite"):
        es.export_labels(embryo, tmp_path / "a.tif")
    assert (tmp_path / "a.tif").read_text() == "precious"
    np.testing.assert_array_equal(exported(embryo, tmp_path / "a.tif", overwrite=True), embryo)


def test_files_of_instances_are_checked_before_the_first_is_written(
    tmp_path: Path, embryo: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / f"cell{embryo.max()}.obj"
    last.write_text("precious")
    with pytest.raises(UsageError, match=rf"{last.name} exists.*--overwrite"):
        es.export_labels(embryo, tmp_path / "cell{label}.obj")
    assert list(tmp_path.iterdir()) == [last]
    monkeypatch.delattr(export_labels, "boxes_of")  # no voxel is read
    with pytest.raises(UsageError, match="cells; create it first"):
        es.export_labels(embryo, tmp_path / "cells" / "{label:05d}.obj")


def test_labels_that_cannot_be_read_are_no_fault_of_the_file_to_write(tmp_path: Path) -> None:
    write_image(tmp_path / "a.ome.zarr", np.ones((8, 8), np.uint16), labels=True)
    (tmp_path / "a.ome.zarr" / "0" / "c" / "0" / "0").write_bytes(b"damaged")
    with pytest.raises(CorruptChunkError, match="chunk cannot be decoded"):
        es.export_labels(tmp_path / "a.ome.zarr", tmp_path / "a.tif")
    assert not (tmp_path / "a.tif").exists()


def test_meshes_of_a_plane_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"2D; meshes need 3D labels: write ROIs \(a\.zip\)"):
        es.export_labels(np.ones((8, 8), np.uint8), tmp_path / "a.stl")


def test_an_image_is_no_label_volume(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="labels are integers"):
        es.export_labels(np.ones((8, 8), np.float32), tmp_path / "a.tif")


def test_the_command_names_labels_that_are_there(tmp_path: Path) -> None:
    write_image(tmp_path / "a.ome.zarr", np.ones((8, 8), np.uint16))
    with pytest.raises(VolumeNotFoundError, match="cells"):
        es.export_labels(tmp_path / "a.ome.zarr" / "labels" / "cells", tmp_path / "a.tif")


def test_of_several_labels_one_is_named_by_its_path(tmp_path: Path) -> None:
    store = tmp_path / "a.ome.zarr"
    write_image(store, np.ones((8, 8), np.uint16))
    for name in ("cells", "nuclei"):
        write_image(store / "labels" / name, np.ones((8, 8), np.uint16), labels=True)
    (store / "labels" / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", '
        '"attributes": {"ome": {"version": "0.5", "labels": ["cells", "nuclei"]}}}'
    )
    told = r"several labels; pass one of them, such as .*/a\.ome\.zarr/labels/NAME: cells, nuclei"
    with pytest.raises(UsageError, match=told):
        es.export_labels(store, tmp_path / "a.tif")


def test_the_command_says_what_it_wrote(tmp_path: Path, embryo: Labels) -> None:
    tifffile.imwrite(tmp_path / "in.tif", embryo, metadata={"axes": "ZYX"})
    words = ["export-labels", str(tmp_path / "in.tif"), str(tmp_path / "out.zip")]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    assert f"{len(read_rois(tmp_path / 'out.zip')):,}" in run.stdout
