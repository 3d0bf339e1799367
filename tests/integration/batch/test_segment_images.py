"""Folders and plates: every image gets its mask, once, whatever happens to the others."""

from __future__ import annotations

import csv
import gc
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
from imagecodecs import png_encode
from numpy.typing import NDArray
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.batch import sheet as sheet_module
from embedseg_large.batch.ledger import BatchLedger
from embedseg_large.batch.place import SHEET, TABLE
from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import LabelsExistError, UsageError, VolumeError
from embedseg_large.testing.plates import write_plate
from embedseg_large.testing.synthetic import synthetic_embryo

Labels = NDArray[Any]
SIZE = (0.5, 0.25)
"""Of a pixel, in µm."""


def cells(seed: int, shape: tuple[int, ...] = (60, 70)) -> Labels:
    """An image whose voxels are label ids."""
    return synthetic_embryo(shape, density=0.4, diameter=10, seed=seed).astype(np.uint16)


def ids(image: NDArray[np.float32]) -> Labels:
    """A perfect segmenter of such an image."""
    return image.astype(np.int64)


def own(ndim: int = 2, function: Any = ids, **more: Any) -> es.TileSegmenter:
    return es.TileSegmenter(
        function,
        name="ids",
        ndim=ndim,
        tile=(40,) * ndim,
        halo=(12,) * ndim,
        intensity="raw",
        **more,
    )


def write_tiff(path: Path, labels: Labels, axes: str = "YX") -> None:
    metadata = {"axes": axes, "PhysicalSizeX": SIZE[1], "PhysicalSizeXUnit": "µm"}
    metadata |= {"PhysicalSizeY": SIZE[0], "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, labels, ome=True, metadata=metadata)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of three formats."""
    images = tmp_path / "images"
    images.mkdir()
    write_tiff(images / "a.ome.tif", cells(1))
    (images / "b.png").write_bytes(png_encode(cells(2)))
    write_image(images / "c.ome.zarr", cells(3))
    (images / "notes.txt").write_text("not an image")
    return images


def statuses(result: es.BatchResult) -> dict[str, str]:
    return {image.name: image.status for image in result.images}


def same_objects(found: Labels, expected: Labels) -> bool:
    """Whether two labellings are the same up to their numbers."""
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]).astype(np.int64), axis=1)
    return all(np.unique(side).size == side.size for side in pairs)


def test_a_folder_becomes_masks_a_table_and_a_contact_sheet(folder: Path, tmp_path: Path) -> None:
    result = es.segment_images(folder, own(), out=tmp_path / "masks")
    assert statuses(result) == dict.fromkeys("abc", "done")
    for seed, name in enumerate("abc", 1):
        mask = tifffile.imread(tmp_path / "masks" / f"{name}.tif")
        assert mask.dtype == np.uint16
        assert same_objects(mask, cells(seed))
    rows = list(csv.DictReader((tmp_path / "masks" / TABLE).read_text().splitlines()))
    counts = [np.unique(cells(seed)).size - 1 for seed in (1, 2, 3)]
    assert [int(row["instances"]) for row in rows] == counts
    assert result.as_dict()["n_instances"] == sum(counts)
    assert (tmp_path / "masks" / SHEET).read_bytes()[:2] == b"\xff\xd8"
    assert not (tmp_path / "masks" / ".embedseg-large" / "work").exists()


def test_a_mask_has_the_voxel_size_of_its_image_and_is_compressed(
    folder: Path, tmp_path: Path
) -> None:
    es.segment_images(folder, own(), out=tmp_path / "masks", pattern="a.*")
    assert es.open_volume(tmp_path / "masks" / "a.tif").voxel_size == SIZE
    with tifffile.TiffFile(tmp_path / "masks" / "a.tif") as file:
        page = file.pages.first
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        numerator, denominator = page.tags["XResolution"].value
        assert 1e4 * denominator / numerator == pytest.approx(SIZE[1])


def test_masks_as_ome_zarr_are_labels(folder: Path, tmp_path: Path) -> None:
    es.segment_images(folder, own(), out=tmp_path / "masks", mask_format="ome-zarr")
    found = es.open_volume(tmp_path / "masks" / "b.ome.zarr")
    assert found.is_labels
    assert same_objects(found.data.compute(), cells(2))


@pytest.mark.parametrize("mask_format", ["tiff", "ome-zarr"])
def test_evaluate_takes_the_folder_of_masks(folder: Path, tmp_path: Path, mask_format: Any) -> None:
    (tmp_path / "truth").mkdir()
    for seed, name in enumerate("abc", 1):
        write_tiff(tmp_path / "truth" / f"{name}.tif", cells(seed))
    es.segment_images(folder, own(), out=tmp_path / "masks", mask_format=mask_format)
    scores = es.evaluate(tmp_path / "masks", tmp_path / "truth", (0.9,))
    assert scores[0].ap == 1


def test_a_second_call_does_only_what_is_not_done(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    es.segment_images(folder, own(), out=out)
    (out / "b.tif").unlink()
    write_tiff(folder / "d.tif", cells(4))
    expected = {"a": "finished before", "b": "done", "c": "finished before", "d": "done"}
    again = es.segment_images(folder, own(), out=out)
    assert statuses(again) == expected
    assert again.images[0].n_instances == np.unique(cells(1)).size - 1


class Interrupting:
    """Ends the batch when its second image begins."""

    def begins(self, name: str, number: int, count: int) -> None:
        assert (name, count) == ("abc"[number - 1], 3)
        if number == 2:
            raise KeyboardInterrupt

    def ended(self, image: es.ImageResult, number: int, count: int) -> None:
        assert (image.name, count) == ("abc"[number - 1], 3)


def test_a_batch_that_was_interrupted_is_resumed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    with pytest.raises(KeyboardInterrupt):
        es.segment_images(folder, own(), out=out, watcher=Interrupting())
    assert [row["name"] for row in csv.DictReader((out / TABLE).read_text().splitlines())] == ["a"]
    result = es.segment_images(folder, own(), out=out)
    assert statuses(result) == {"a": "finished before", "b": "done", "c": "done"}


def test_an_image_that_changed_is_made_again_only_with_overwrite(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    es.segment_images(folder, own(), out=out)
    (folder / "b.png").write_bytes(png_encode(cells(5)))
    before = (out / "b.tif").read_bytes()
    with pytest.raises(UsageError, match=r"1 of 3 masks were made differently .*b\.tif had image"):
        es.segment_images(folder, own(), out=out)
    assert (out / "b.tif").read_bytes() == before
    again = es.segment_images(folder, own(), out=out, overwrite=True)
    assert statuses(again) == {"a": "finished before", "b": "done", "c": "finished before"}
    assert same_objects(tifffile.imread(out / "b.tif"), cells(5))


def test_other_settings_are_named_and_refused(folder: Path, tmp_path: Path) -> None:
    es.segment_images(folder, own(), out=tmp_path / "masks")
    with pytest.raises(UsageError, match="min_object_size"):
        es.segment_images(folder, own(), out=tmp_path / "masks", min_object_size=20)


def test_a_mask_that_somebody_else_wrote_is_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    es.segment_images(folder, own(), out=out)
    write_tiff(out / "a.tif", cells(9))  # corrected by hand
    painted = (out / "a.tif").read_bytes()
    with pytest.raises(UsageError, match=r"a\.tif: already exists, and was not written by this"):
        es.segment_images(folder, own(), out=out)
    es.segment_images(folder, own(), out=out, overwrite=True)
    assert (out / "a.tif.bak").read_bytes() == painted
    assert same_objects(tifffile.imread(out / "a.tif"), cells(1))


def test_an_image_that_fails_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    result = es.segment_images(folder, own(), out=tmp_path / "masks")
    assert statuses(result) == {"a": "done", "b": "failed", "c": "done"}
    assert "b.png" in result.failed[0].error
    rows = list(csv.DictReader((tmp_path / "masks" / TABLE).read_text().splitlines()))
    assert "b.png" in rows[1]["error"]


def test_an_image_that_fails_half_way_is_told_and_the_others_are_done(
    folder: Path, tmp_path: Path
) -> None:
    def fragile(image: NDArray[np.float32]) -> Labels:
        if image.max() > 1000:
            raise ValueError("odd image")
        return ids(image)

    (folder / "b.png").write_bytes(png_encode(cells(2) * 1000))
    result = es.segment_images(folder, own(function=fragile), out=tmp_path / "masks")
    assert statuses(result) == {"a": "done", "b": "failed", "c": "done"}
    assert "odd image" in result.failed[0].error


def test_wrong_use_is_told_once_and_not_of_every_image(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="halo"):
        es.segment_images(folder, own(), out=tmp_path / "masks", halo=(1, 2, 3))


def test_a_folder_of_which_nothing_can_be_opened_is_refused_in_one_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", cells(1, (12, 20, 20)))
    with pytest.raises(VolumeError, match=r"none of the 2 images .*--axes zyx"):
        es.segment_images(tmp_path / "images", own(3), out=tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_volumes_and_planes_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    write_image(folder / "deep.ome.zarr", cells(1, (12, 20, 20)))
    with pytest.raises(UsageError, match=r"different axes \(yx: a, b, c; zyx: deep\)"):
        es.segment_images(folder, own(), out=tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_volumes_are_segmented_as_well(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    labels = cells(1, (20, 40, 44))
    write_tiff(tmp_path / "images" / "deep.tif", labels, "ZYX")
    result = es.segment_images(tmp_path / "images", own(3), out=tmp_path / "masks")
    assert result.images[0].shape == labels.shape
    assert same_objects(tifffile.imread(tmp_path / "masks" / "deep.tif"), labels)


@pytest.mark.parametrize(
    ("name", "said"), [("a.png", "same stem"), ("A.tif", "the same name; rename")]
)
def test_names_that_collide_are_refused(folder: Path, tmp_path: Path, name: str, said: str) -> None:
    shutil.copy(folder / "b.png", folder / name)
    with pytest.raises(UsageError, match=said):
        es.segment_images(folder, own(), out=tmp_path / "masks")


def test_wells_of_a_folder_without_a_plate_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no plate among the images"):
        es.segment_images(folder, own(), out=tmp_path / "masks", wells=["B03"])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match="no images in this folder"):
        es.segment_images(tmp_path / "images", own(), out=tmp_path / "masks")


def test_masks_do_not_replace_the_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    write_tiff(tmp_path / "images" / "a.tif", cells(1))
    with pytest.raises(UsageError, match="masks would replace the images"):
        es.segment_images(tmp_path / "images", own(), out=tmp_path / "images")


def test_the_name_of_an_image_is_no_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an image"):
        es.segment_images(folder, own(), out=tmp_path / "masks.tif")


def test_formats_that_hold_no_labels_need_a_folder(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"with --out"):
        es.segment_images(folder, own())


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_a_plate_gets_its_labels_inside_and_is_resumed(tmp_path: Path, version: str) -> None:
    path = tmp_path / "p.ome.zarr"
    images = {("B", "03", "0"): cells(1), ("B", "03", "1"): cells(2), ("C", "4", "0"): cells(3)}
    write_plate(path, images, ngff_version=version)
    some = es.segment_images(path, own(), wells=["B3"])
    assert statuses(some) == {"B03_0": "done", "B03_1": "done"}
    found = es.open_volume(path / "B" / "03" / "1" / "labels" / "nuclei")
    assert same_objects(found.data.compute(), cells(2))
    assert found.ngff_version == version
    again = es.segment_images(path, own())
    assert statuses(again) == {
        "B03_0": "finished before",
        "B03_1": "finished before",
        "C4_0": "done",
    }
    assert again.out == str(tmp_path / "p-nuclei")
    assert len(list(csv.DictReader(Path(again.table).read_text().splitlines()))) == 3


def test_images_of_one_plane_and_of_several_are_segmented_as_they_are_alone(
    tmp_path: Path,
) -> None:
    path, images = tmp_path / "p.ome.zarr", {"0": cells(1)[None], "1": cells(2, (9, 60, 70))}
    write_plate(path, {("B", "3", field): image for field, image in images.items()}, axes="zyx")
    es.segment_images(path, tta=False)
    for field, image in images.items():
        write_image(tmp_path / f"{field}.ome.zarr", image)
        alone = es.segment(tmp_path / f"{field}.ome.zarr", tta=False)
        found = es.open_volume(path / "B" / "3" / field / "labels" / "nuclei")
        np.testing.assert_array_equal(found.data, alone.labels)


def test_defaults_that_are_stated_are_no_other_settings(folder: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"out": tmp_path / "masks", "object_diameter": 10}
    es.segment_images(folder, "classical", **given)
    again = es.segment_images(folder, "classical", channel="0", separation=0.25, **given)
    assert set(statuses(again).values()) == {"finished before"}


def test_labels_of_a_plate_that_are_there_are_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "p.ome.zarr"
    write_plate(path, {("B", "03", "0"): cells(1)})
    es.segment(path / "B" / "03" / "0", own())
    with pytest.raises((UsageError, LabelsExistError), match="not written by this command"):
        es.segment_images(path, own())


def test_a_missing_well_is_told_and_the_others_are_done(tmp_path: Path) -> None:
    path = tmp_path / "p.ome.zarr"
    write_plate(path, {("B", "03", "0"): cells(1), ("C", "04", "0"): cells(2)})
    shutil.rmtree(path / "C" / "04")
    result = es.segment_images(path, own(), out=tmp_path / "masks")
    assert statuses(result) == {"B03_0": "done", "C04": "failed"}
    assert "well C/04, which is not there" in result.failed[0].error


def test_the_command_line_says_what_failed_and_with_its_exit_code(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "b.png").write_bytes(b"no image at all")
    options = ["--model", "classical", "--object-diameter", "10", "--out", str(tmp_path / "masks")]
    run = CliRunner().invoke(app, ["segment", str(folder), *options])
    assert run.exit_code == 1
    assert "2 done, 1 failed" in run.stdout
    errors = [line for line in run.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "b.png" in errors[0]


def test_options_of_folders_are_refused_of_one_image(folder: Path) -> None:
    run = CliRunner().invoke(app, ["segment", str(folder / "c.ome.zarr"), "--wells", "B03"])
    assert run.exit_code == 2
    assert "is one image; leave out --wells" in run.stderr


def rows(out: Path) -> dict[str, str]:
    """State of each image in the table."""
    table = (out / TABLE).read_text().splitlines()
    return {row["name"]: row["status"] for row in csv.DictReader(table)}


def test_images_are_not_kept_open(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for seed in range(4):
        write_tiff(tmp_path / "images" / f"{seed}.tif", cells(seed, (24, 24)))
    still_open: list[str] = []

    class Watcher:
        def begins(self, *_: object) -> None: ...

        def ended(self, *_: object) -> None:
            gc.collect()  # what nobody refers to any more may be in a circle
            paths = [Path(file.path) for file in psutil.Process().open_files()]
            still_open.extend(p.name for p in paths if p.parent == tmp_path / "images")

    es.segment_images(tmp_path / "images", own(), out=tmp_path / "masks", watcher=Watcher())
    assert still_open == []


def test_an_image_that_was_finished_and_cannot_be_read_any_more_does_not_stop_the_others(
    folder: Path, tmp_path: Path
) -> None:
    es.segment_images(folder, own(), out=tmp_path / "masks", pattern="[ab].*")
    (folder / "b.png").write_bytes(b"no image at all")
    result = es.segment_images(folder, own(), out=tmp_path / "masks")
    assert statuses(result) == {"a": "finished before", "b": "failed", "c": "done"}
    assert (tmp_path / "masks" / "b.tif").exists()


def set_of_files(folder: Path, voxels: Labels) -> list[Path]:
    """An OME-TIFF of one file per plane."""
    names = [f"set_Z{z}.ome.tif" for z in range(len(voxels))]
    data = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{z:08d}-0000-0000-0000-000000000000</UUID></TiffData>'
        for z, name in enumerate(names)
    )
    for z, name in enumerate(names):
        description = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{z:08d}-0000-0000-0000-000000000000"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYZTC" Type="uint16" '
            f'SizeX="{voxels.shape[2]}" SizeY="{voxels.shape[1]}" SizeZ="{len(voxels)}" '
            f'SizeC="1" SizeT="1">{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(folder / name, voxels[z], description=description, metadata=None)
    return [folder / name for name in names]


def test_an_image_of_several_files_is_segmented_once(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    labels = cells(1, (6, 40, 44))
    set_of_files(tmp_path / "images", labels)
    write_tiff(tmp_path / "images" / "other.tif", labels, "ZYX")
    result = es.segment_images(tmp_path / "images", own(3), out=tmp_path / "masks")
    assert statuses(result) == {"other": "done", "set_Z0": "done"}
    assert same_objects(tifffile.imread(tmp_path / "masks" / "set_Z0.tif"), labels)


def test_names_with_two_dollars_are_written_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    write_tiff(tmp_path / "images" / "a$_{b$.tif", cells(1))
    result = es.segment_images(tmp_path / "images", own(), out=tmp_path / "masks")
    assert statuses(result) == {"a$_{b$": "done"}
    assert (tmp_path / "masks" / SHEET).exists()


def test_missing_planes_are_read_as_zeros_in_many_images_too(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    labels = cells(1, (6, 40, 44))
    set_of_files(tmp_path / "images", labels)[3].unlink()
    with pytest.raises(VolumeError, match="--allow-missing"):
        es.segment_images(tmp_path / "images", own(3), out=tmp_path / "masks")
    result = es.segment_images(
        tmp_path / "images", own(3), out=tmp_path / "masks", allow_missing=True
    )
    assert statuses(result) == {"set_Z0": "done"}
    assert not tifffile.imread(tmp_path / "masks" / "set_Z0.tif")[3].any()


@pytest.mark.parametrize("inside", ["", "masks"])
def test_masks_are_not_written_into_a_store(folder: Path, inside: str) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(UsageError, match=r"is inside the zarr store .*c\.ome\.zarr; choose a"):
        es.segment_images(folder, own(), out=folder / "c.ome.zarr" / inside)
    assert sorted(folder.rglob("*")) == before


def test_the_table_of_a_well_is_not_written_into_the_plate(tmp_path: Path) -> None:
    path = tmp_path / "p.ome.zarr"
    write_plate(path, {("B", "03", "0"): cells(1)})
    with pytest.raises(UsageError, match="pass the plate and choose --wells"):
        es.segment_images(path / "B" / "03", own())
    assert not (path / "B" / "03-nuclei").exists()


def test_a_folder_without_a_name_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="has no name; choose one with --out"):
        es.segment_images(folder, own(), out="")


@pytest.mark.parametrize("name", [TABLE, SHEET])
def test_a_table_that_somebody_else_wrote_is_kept(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / name).write_text("mine")
    with pytest.raises(UsageError, match=f"{name} exists, and was not written by this command"):
        es.segment_images(folder, own(), out=tmp_path / "masks", overwrite=True)
    assert [p.name for p in (tmp_path / "masks").iterdir()] == [name]
    assert (tmp_path / "masks" / name).read_text() == "mine"


def test_the_table_has_the_images_of_earlier_selections(folder: Path, tmp_path: Path) -> None:
    es.segment_images(folder, own(), out=tmp_path / "masks", pattern="[ab].*")
    result = es.segment_images(folder, own(), out=tmp_path / "masks", pattern="c.*")
    assert statuses(result) == {"c": "done"}
    earlier = dict.fromkeys("ab", "finished before")
    assert rows(tmp_path / "masks") == {"c": "done"} | earlier
    (tmp_path / "masks" / "a.tif").unlink()
    es.segment_images(folder, own(), out=tmp_path / "masks", pattern="c.*")
    assert rows(tmp_path / "masks") == dict.fromkeys("bc", "finished before")


def test_only_the_pictures_that_are_shown_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def picture(_: BatchLedger, name: str) -> NDArray[np.uint8]:
        read.append(name)
        return np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr(BatchLedger, "picture", picture)
    monkeypatch.setattr(sheet_module, "MOST", 2)
    es.segment_images(folder, own(), out=tmp_path / "masks")
    assert read == ["a", "c"]
