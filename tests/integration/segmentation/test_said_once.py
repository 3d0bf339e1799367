"""What a user said of an image is remembered with its labels; one plane is 2D; places agree."""

from __future__ import annotations

import json
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
from embedseg_large.labels.tables import table_warning
from embedseg_large.reporting.options import ReportOptions
from embedseg_large.reporting.subject import find_subject
from embedseg_large.training.data.sources import find_pairs
from embedseg_large.viewing.scene import open_scene
from embedseg_large.volumes.volume import open_volume


def bright(image: NDArray[np.float32]) -> NDArray[Any]:
    from scipy import ndimage

    labels: NDArray[Any] = ndimage.label(image > 0.5)[0]
    return labels


def segmenter(ndim: int = 3, tile: int = 24) -> es.TileSegmenter:
    return es.TileSegmenter(
        bright, name="bright", ndim=ndim, tile=(tile,) * ndim, halo=(8,) * ndim, min_object_size=5
    )


@pytest.fixture
def image() -> NDArray[np.uint16]:
    """Four balls of other brightness than the background."""
    at = np.indices((16, 32, 32))
    image = np.random.default_rng(0).normal(200, 5, at.shape[1:])
    for y, x in ((8, 8), (8, 24), (24, 8), (24, 24)):
        inside = (at[0] - 8) ** 2 + (at[1] - y) ** 2 + (at[2] - x) ** 2 < 30
        image[inside] += 500 + y + x
    return image.astype(np.uint16)


def run(*arguments: Any) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_axes_said_to_segment_need_not_be_said_again(
    tmp_path: Path, image: NDArray[np.uint16]
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(image, 0, 2), photometric="minisblack")
    size = (2.0, 0.5, 0.5)
    out = tmp_path / "out.zarr"
    es.segment(tmp_path / "a.tif", segmenter(), labels="n", axes="yxz", voxel_size=size, output=out)
    table = es.measure(out)
    plain = es.measure(out / "labels" / "n")
    assert "intensity_mean_0" in table.columns
    assert "intensity_mean_0" not in plain.columns
    assert table["z"].max() < 16
    subject = find_subject(out, None, ReportOptions())
    assert subject.image[0].shape == image.shape
    for asked in ((str(out), None), (str(tmp_path / "a.tif"), str(out / "labels" / "n"))):
        scene = open_scene(*asked)
        assert scene.image.finest.shape == image.shape
        assert [layer.name for layer in scene.labels] == ["n"]


def test_channels_go_by_name_everywhere(tmp_path: Path, image: NDArray[np.uint16]) -> None:
    both = np.stack([np.zeros_like(image) + 7, image])
    write_image(tmp_path / "a.zarr", both, "czyx", channel_names=["GFP", "DAPI"])
    result = es.segment(tmp_path / "a.zarr", segmenter(), labels="n", channel="DAPI")
    assert result.summary["volume"]["channel"] == 1
    table = es.measure(tmp_path / "a.zarr", channel="dapi")
    assert [c for c in table.columns if c.startswith("intensity_mean")] == ["intensity_mean_1"]
    told = run("measure", tmp_path / "a.zarr", "--channel", "GFP,DAPI")
    assert {"intensity_mean_0", "intensity_mean_1"} <= set(told["columns"])
    assert find_subject(tmp_path / "a.zarr", None, ReportOptions(channel="GFP")).channel == 0
    with pytest.raises(UsageError, match="no channel 'RFP'; names are GFP, DAPI"):
        es.measure(tmp_path / "a.zarr", channel="RFP")
    html = tmp_path / "r.html"
    run("report", tmp_path / "a.zarr", "--channel", "GFP", "--out", html)
    assert html.exists()


def test_planes_that_were_saved_as_timepoints_are_told(
    tmp_path: Path, image: NDArray[np.uint16]
) -> None:
    stack = tmp_path / "a.tif"
    tifffile.imwrite(
        stack,
        image,
        imagej=True,
        resolution=(2, 2),
        metadata={"axes": "TYX", "spacing": 3.0, "unit": "um"},
    )
    assert "--axes zyx" in run("info", stack)["look out"]
    said = open_volume(stack, axes="zyx")
    assert (said.axes, said.voxel_size) == ("zyx", (3.0, 0.5, 0.5))
    assert said.time_or_depth() is None
    result = es.segment(stack, segmenter(ndim=2), output=tmp_path / "o.zarr", timepoint=[8])
    assert any("--axes zyx" in text for text in result.summary["warnings"])
    with pytest.raises(UsageError, match=r"16 timepoints; choose one; .*--axes zyx"):
        find_pairs(stack, image)
    found = bright(np.asarray(image / 400 - 0.5, np.float32)).astype(np.uint16)
    for axes in ("TYX", "CYX"):
        tifffile.imwrite(tmp_path / "n.tif", found, imagej=True, metadata={"axes": axes})
        with pytest.raises(VolumeError, match=r"16 (timepoints|channels) .*--axes zyx"):
            es.evaluate(tmp_path / "n.tif", found)
        assert es.evaluate(tmp_path / "n.tif", found, axes="zyx")[4].ap == 1
    assert "--axes zyx" in run("info", tmp_path / "n.tif")["look out"]
    timed = tmp_path / "t.tif"
    tifffile.imwrite(timed, image, imagej=True, metadata={"axes": "TYX", "finterval": 30.0})
    assert open_volume(timed).time_or_depth() is None


def test_one_plane_is_a_2d_image_and_its_labels_keep_the_plane(
    tmp_path: Path, image: NDArray[np.uint16]
) -> None:
    place = tmp_path / "a.zarr"
    write_image(place, image[8:9], "zyx", (2.0, 0.5, 0.5))
    result = es.segment(place, segmenter(ndim=2), labels="n")
    stored = open_volume(place / "labels" / "n")
    assert (stored.axes, stored.shape, stored.voxel_size) == ("zyx", (1, 32, 32), (2.0, 0.5, 0.5))
    assert result.n_instances == 4
    plane = stored.data.compute()[0]
    assert es.evaluate(place / "labels" / "n", plane, [0.99])[0].ap == 1
    table = es.measure(place)
    assert {"pixels", "area_um2", "intensity_mean_0"} <= set(table.columns)
    assert not table["touches_border"].any()
    (pair,) = find_pairs([place], labels="n")
    assert (pair.ndim, pair.mask.ndim) == (2, 2)
    run("report", place, "--out", tmp_path / "r.html")
    deep = es.segment(place, segmenter(), labels="three")
    assert deep.summary["volume"]["shape"] == [1, 32, 32]


def test_a_mask_and_a_coarse_level_of_one_plane_fit(
    tmp_path: Path, image: NDArray[np.uint16]
) -> None:
    place = tmp_path / "a.zarr"
    write_image(place, image[8:9], "zyx")
    mask = np.zeros((1, 32, 32), np.uint8)
    mask[:, :16] = 1
    result = es.segment(place, segmenter(ndim=2), labels="n", mask=mask)
    assert result.n_instances == 2


def test_a_boolean_image_can_be_looked_at(tmp_path: Path, image: NDArray[np.uint16]) -> None:
    place = tmp_path / "a.zarr"
    write_image(place, image > 400, "zyx")
    assert es.segment(place, segmenter(), labels="n").summary["warnings"] == []
    run("report", place, "--out", tmp_path / "r.html")
    assert open_scene(str(place)).contrast[0][1] <= 1


def test_places_are_those_of_ngff_everywhere(tmp_path: Path, image: NDArray[np.uint16]) -> None:
    place = tmp_path / "a.zarr"
    write_image(place, image, "zyx", (2.0, 0.5, 0.5))
    document = json.loads((place / "zarr.json").read_text())
    for dataset in document["attributes"]["ome"]["multiscales"][0]["datasets"]:
        dataset["coordinateTransformations"].append(
            {"type": "translation", "translation": [10.0, 20.0, 30.0]}
        )
    (place / "zarr.json").write_text(json.dumps(document))
    es.segment(place, segmenter(), labels="n")
    table = es.measure(place)
    np.testing.assert_allclose(table["z_um"], 10 + 2.0 * table["z"])
    np.testing.assert_allclose(table["x_um"], 30 + 0.5 * table["x"])
    np.testing.assert_allclose(table["y_start_um"], 20 + 0.5 * (table["y_start"] - 0.5))
    assert open_volume(place / "labels" / "n").origin == (10.0, 20.0, 30.0)
    labels = place / "labels" / "n"
    es.evaluate(labels, labels, [0.5], errors=tmp_path / "errors.csv")
    head, first = (tmp_path / "errors.csv").read_text().splitlines()[:2]
    row = dict(zip(head.split(","), first.split(","), strict=True))
    assert float(row["z_um"]) == pytest.approx(10 + 2 * float(row["z"]))


def test_a_table_of_labels_that_were_replaced_is_told(
    tmp_path: Path, image: NDArray[np.uint16]
) -> None:
    place = tmp_path / "a.zarr"
    write_image(place, image, "zyx")
    es.segment(place, segmenter(), labels="n")
    es.measure(place, into_store=True)
    assert run("info", place)["look out"] == []
    other = es.TileSegmenter(
        bright, name="other", ndim=3, tile=(24,) * 3, halo=(8,) * 3, min_object_size=50
    )
    again = es.segment(place, other, labels="n", overwrite=True)
    assert any("tables/n is of other labels" in text for text in again.summary["warnings"])
    assert "measure again" in run("info", place)["look out"][0]
    es.measure(place, into_store=True)
    assert run("info", place)["look out"] == []
    assert table_warning(str(place), "nothing", None) is None


def test_zeros_for_what_is_missing_are_asked_for_and_recorded(
    tmp_path: Path, image: NDArray[np.uint16]
) -> None:
    names = ["set_T0.ome.tif", "set_T1.ome.tif"]
    data = "".join(
        f'<TiffData FirstT="{t}" FirstZ="{z}" FirstC="0" IFD="{z}" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{t:08d}-0000-0000-0000-000000000000</UUID></TiffData>'
        for t, name in enumerate(names)
        for z in range(16)
    )
    description = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:00000000-0000-0000-0000-000000000000"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZTC" Type="uint16" SizeX="32" SizeY="32" '
        f'SizeZ="16" SizeC="1" SizeT="2">{data}</Pixels></Image></OME>'
    )
    place = tmp_path / names[0]
    tifffile.imwrite(place, image, description=description, metadata=None)
    with pytest.raises(VolumeError, match=r"incomplete: .*set_T1.ome.tif.*--allow-missing"):
        es.segment(place, segmenter(), output=tmp_path / "o.zarr")
    result = es.segment(place, segmenter(), output=tmp_path / "o.zarr", allow_missing=True)
    assert result.summary["volume"]["opening"] == {"allow_missing": True}
    assert result.summary["timepoints"] == {0: 4, 1: 0}
    assert run("info", place, "--allow-missing")["shape"] == [2, 16, 32, 32]
    assert "intensity_mean_0" in es.measure(tmp_path / "o.zarr").columns


def test_holes_that_hold_no_data_are_not_filled(tmp_path: Path) -> None:
    at = np.indices((48, 48, 48))
    radius = np.sqrt(((at - 24) ** 2).sum(0))
    image = np.where((radius < 20) & (radius > 8), 1000, 100).astype(np.float32)
    image[radius < 4] = np.nan
    found = es.segment(
        image, segmenter(tile=48), output=tmp_path / "o.zarr", fill_holes=True, nodata="nan"
    )
    labels = np.asarray(found.labels)
    assert not labels[radius < 4].any()
    assert labels[(radius > 5) & (radius < 19)].all()
