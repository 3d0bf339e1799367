"""Plates, wells and converted files: which images they hold, and which of them are chosen."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from embedseg_large.cli.app import app
from embedseg_large.conversion.plan import write_image
from embedseg_large.errors import MetadataError, UsageError
from embedseg_large.storage.group import ZarrGroup
from embedseg_large.testing.plates import write_plate
from embedseg_large.volumes.containers import chosen_images, container_at

PLANE = np.arange(64, dtype=np.uint16).reshape(8, 8)


def plate(path: Path, version: str = "0.5") -> Path:
    images = {("B", "03", "0"): PLANE, ("B", "03", "1"): PLANE, ("C", "11", "0"): PLANE}
    write_plate(path, images, ngff_version=version)
    return path


def converted(path: Path, *, listed: bool) -> Path:
    ZarrGroup.at(path).write(2, {"bioformats2raw.layout": 3})
    for name in ("0", "1", "2"):
        write_image(path / name, PLANE, ngff_version="0.4")
    if listed:
        ZarrGroup.at(path / "OME").write(2, {"series": ["0", "2"]})
    return path


def names(path: Path, **choice: Any) -> list[str]:
    container = container_at(str(path))
    assert container is not None
    return [image.name for image in chosen_images(container, **choice)]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_images_of_a_plate_are_named_by_well_and_field(tmp_path: Path, version: str) -> None:
    assert names(plate(tmp_path / "p.zarr", version)) == ["B03_0", "B03_1", "C11_0"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"wells": ("B03",)}, ["B03_0", "B03_1"]),
        ({"wells": ("b3", "C*")}, ["B03_0", "B03_1", "C11_0"]),
        ({"wells": ("*11",)}, ["C11_0"]),
        ({"fields": ("1",)}, ["B03_1"]),
        ({"wells": ("B/03",), "fields": ("0",)}, ["B03_0"]),
    ],
)
def test_wells_and_fields_are_chosen_by_name(
    tmp_path: Path, choice: dict[str, Any], expected: list[str]
) -> None:
    assert names(plate(tmp_path / "p.zarr"), **choice) == expected


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"wells": ("D01",)}, "no well D01; there are B03, C11"),
        ({"fields": ("7",)}, "no field 7; there are 0, 1"),
        ({"series": 0}, "has fields, not series"),
    ],
)
def test_what_a_plate_does_not_have_is_refused(
    tmp_path: Path, choice: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        names(plate(tmp_path / "p.zarr"), **choice)


def test_a_well_that_the_plate_lists_and_that_is_not_there_is_told(tmp_path: Path) -> None:
    shutil.rmtree(plate(tmp_path / "p.zarr") / "C" / "11")
    container = container_at(str(tmp_path / "p.zarr"))
    assert container is not None
    assert [image.well for image in container.missing] == ["C11"]
    assert "well C/11, which is not there" in container.missing[0].missing


@pytest.mark.parametrize("part", ["", "B/03"])
def test_a_field_that_its_well_lists_and_that_is_not_there_is_told(
    tmp_path: Path, part: str
) -> None:
    shutil.rmtree(plate(tmp_path / "p.zarr") / "B" / "03" / "1")
    place = tmp_path / "p.zarr" / part
    container = container_at(str(place))
    assert container is not None
    assert [image.field for image in container.missing] == ["1"]
    assert re.search(r"lists the field 1, but .*03/1 is missing", container.missing[0].missing)
    assert {image.field for image in chosen_images(container, fields=["0"])} == {"0"}
    told = CliRunner().invoke(app, ["info", str(place), "--json"])
    assert json.loads(told.stdout)["n_images"] == len(container.images) - 1


def test_a_well_alone_is_a_container(tmp_path: Path) -> None:
    assert names(plate(tmp_path / "p.zarr") / "B" / "03") == ["0", "1"]


@pytest.mark.parametrize(("listed", "expected"), [(True, ["0", "2"]), (False, ["0", "1", "2"])])
def test_series_are_those_that_are_listed_or_else_all_by_number(
    tmp_path: Path, listed: bool, expected: list[str]
) -> None:
    path = converted(tmp_path / "c.zarr", listed=listed)
    assert names(path) == expected
    assert names(path, series=1) == [expected[1]]


def test_an_image_is_no_container(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", PLANE)
    assert container_at(str(tmp_path / "a.zarr")) is None
    assert container_at(str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize(
    "document",
    ["", "no JSON", "[]", '{"ome": 3}', '{"ome": "plate"}', '{"plate": []}', '{"well": 1}', "null"],
)
def test_metadata_that_make_no_sense_are_left_to_whoever_opens_the_image(
    tmp_path: Path, document: str
) -> None:
    ZarrGroup.at(tmp_path / "p.zarr").write(2, {})
    (tmp_path / "p.zarr" / ".zattrs").write_text(document)
    assert container_at(str(tmp_path / "p.zarr")) is None


@pytest.mark.parametrize("well", ["../secret", "/etc", ""])
def test_a_path_out_of_the_plate_is_refused(tmp_path: Path, well: str) -> None:
    about = {"rows": [{"name": "A"}], "columns": [{"name": "1"}]}
    ZarrGroup.at(tmp_path / "p.zarr").write(2, {"plate": about | {"wells": [{"path": well}]}})
    with pytest.raises(MetadataError, match="not a path inside"):
        container_at(str(tmp_path / "p.zarr"))


def test_names_of_rows_do_not_lead_out_of_the_folder_of_masks(tmp_path: Path) -> None:
    path = plate(tmp_path / "p.zarr", "0.4")
    about = json.loads((path / ".zattrs").read_text())
    about["plate"]["rows"] = [{"name": "../../B"}, {"name": "C\0/"}]
    (path / ".zattrs").write_text(json.dumps(about))
    assert names(path) == ["_.._B03_0", "_.._B03_1", "C__11_0"]


@pytest.mark.parametrize("wells", [None, "A/1", [3], {"path": "A/1"}])
def test_wells_that_are_no_list_are_refused(tmp_path: Path, wells: Any) -> None:
    about = {"rows": [], "columns": [], "wells": wells}
    ZarrGroup.at(tmp_path / "p.zarr").write(2, {"plate": about})
    with pytest.raises(MetadataError, match="wells is not a list"):
        container_at(str(tmp_path / "p.zarr"))


def test_info_lists_the_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.ome.zarr", PLANE)
    said = CliRunner().invoke(app, ["info", str(tmp_path)]).output
    assert "folder of images" in said
    assert "a.ome.zarr: yx 8 x 8, uint16" in said
    assert "b.ome.zarr" in said


def test_info_lists_the_images_of_a_plate(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["info", str(plate(tmp_path / "p.zarr"))]).output
    assert "plate" in said
    assert "yx 8 x 8, uint16" in said
    for name in ("B03_0", "B03_1", "C11_0"):
        assert name in said
