"""`report`: one file about labels, whoever made them, and clear words where there is nothing."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
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
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.labels.target import label_target
from embedseg_large.reporting import gallery, overview
from embedseg_large.reporting import report as page_writer
from embedseg_large.reporting.drawing import Inks
from embedseg_large.reporting.options import ReportOptions
from embedseg_large.reporting.subject import find_subject
from embedseg_large.testing.synthetic import synthetic_embryo

SHAPE = (24, 48, 52)
SIZE = (2.0, 0.5, 0.5)
SEAMS = {
    **{"faces": 4, "voxels": 99, "rounds": 0, "tiles": 4, "tiles_exact": 2, "certified": 3},
    **{"agreed": 2, "repaired": 1, "joined": 1, "tiles_raised": 1},
    "repaired_objects": [{"label": 2, "seed": [3, 4, 5]}],
    "joined_objects": [{"label": 5, "seed": [6, 7, 8]}],
}


class Page(HTMLParser):
    """What of a page matters here."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.ids = "", [], set[str]()
        self.html = path.read_text()
        self.feed(self.html)
        self.close()

    tags: list[tuple[str, dict[str, str | None]]]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids |= {value for name, value in attrs if name == "id" and value}

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def embryo(shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint16]:
    return synthetic_embryo(shape, n_objects=20, diameter=9, seed=2).astype(np.uint16)


def put_labels(store: Path, name: str, labels: NDArray[Any], made: dict[str, Any]) -> None:
    """Write and publish labels as a run does."""
    pending = label_target(es.open_volume(store), name).create(labels.dtype)
    frames = labels if "t" in pending.target.axes else labels[np.newaxis]
    for t, frame in enumerate(frames):
        for box in pending.regions(0):
            pending.write(0, box, frame[box.slices], timepoint=t)
        for level in range(1, pending.n_levels):
            for box in pending.regions(level):
                pending.downsample(level, box, timepoint=t)
    pending.publish(made)


@pytest.fixture(scope="module", autouse=True)
def _small_pictures() -> Iterator[None]:
    """Pictures that are drawn in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overview, "SIDE", 200)
        patch.setattr(gallery, "PANEL", 40)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An image with labels that say no more than what their seams were like."""
    return make_store(tmp_path / "embryo.ome.zarr")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Page]:
    """A report of such a store."""
    folder = tmp_path_factory.mktemp("written")
    return made(folder, make_store(folder / "embryo.ome.zarr"))


def make_store(path: Path) -> Path:
    labels = embryo()
    image = np.stack([labels % 7 * 100, labels * 0 + np.arange(52, dtype=np.uint16)])
    write_image(path, image, "czyx", SIZE, chunks=(16, 20, 20))
    put_labels(path, "nuclei", labels, {"seams": SEAMS})
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["report", *(str(a) for a in arguments)])


def made(tmp_path: Path, *arguments: object) -> tuple[dict[str, Any], Page]:
    """Write a report; what it says of itself, and the page."""
    out = tmp_path / "r.html"
    result = run(*arguments, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["bytes"] == out.stat().st_size
    return found, Page(out)


def fails(*arguments: object) -> str:
    """The one line that a mistake is told in."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return str(line)


Written = tuple[dict[str, Any], Page]


def test_the_page_needs_nothing_but_itself(written: Written) -> None:
    _, page = written
    sources = [image["src"] or "" for image in page.all("img")]
    assert len(sources) > 20
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert not re.search(r"(src|href)=\"(?!data:|#)", page.html)
    assert not page.all("script")
    assert "url(" not in page.html
    assert "@import" not in page.html
    links = [a["href"] or "" for a in page.all("a")]
    assert all(link.removeprefix("#") in page.ids for link in links)


def test_pictures_have_words_for_who_does_not_see_them(written: Written) -> None:
    _, page = written
    images = page.all("img")
    assert all((i["alt"] == "") == (i.get("class") == "lines") for i in images)
    charts = [svg for svg in page.all("svg") if "chart" in (svg.get("class") or "")]
    assert len(charts) >= 3
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in charts)


def test_it_shows_what_is_doubtful_with_coordinates(written: Written, store: Path) -> None:
    found, page = written
    assert found["joined"] == 1
    assert found["n_instances"] == 20
    assert found["gallery"]["joined"] == [5]
    assert found["gallery"]["repaired"] == [2]
    assert "1 instance was joined at a seam" in page.text
    assert "z 6 y 7 x 8" in page.text
    table = es.measure(store, "nuclei")
    touching = set(table["label"][table["touches_border"]].tolist())
    assert set(found["gallery"].get("border", [])) <= touching


def test_labels_of_another_program_get_what_can_be_shown(tmp_path: Path) -> None:
    labels, image = tmp_path / "labels.tif", tmp_path / "image.tif"
    tifffile.imwrite(labels, embryo(), ome=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(image, embryo() * 10, ome=True, metadata={"axes": "ZYX"})
    found, page = made(tmp_path, labels, "--image", image)
    assert found["joined"] is None
    assert found["overview_level"] == 0
    assert "voxel size unknown" in page.text
    assert "Seam report" not in page.text
    assert "The run" not in page.text


def test_files_that_do_not_name_their_axes_are_reported_when_they_are_told(tmp_path: Path) -> None:
    labels, image = tmp_path / "labels.tif", tmp_path / "image.tif"
    tifffile.imwrite(labels, embryo()[np.newaxis])
    tifffile.imwrite(image, np.stack([embryo() * 0, embryo() * 10]))
    assert "--axes" in fails(labels, "--image", image)
    told = ("--axes", "czyx", "--image", image, "--image-axes", "czyx", "--channel", 1)
    found, page = made(tmp_path, labels, *told)
    assert (found["n_instances"], found["has_image"]) == (20, True)
    assert "channel 1" in page.text


def test_a_place_that_cannot_be_written_is_refused_in_one_line_before_the_work(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    monkeypatch.setattr(page_writer, "find_subject", lambda *_, **__: pytest.fail("it worked"))
    said = fails(store, "--out", tmp_path / "r.html")
    assert f"r.html: {tmp_path} is read-only; name another place" in said


def test_a_2d_image(tmp_path: Path) -> None:
    path = tmp_path / "cells.ome.zarr"
    labels = embryo((90, 80))
    write_image(path, labels * 10, "yx", (0.5, 0.5))
    put_labels(path, "cells", labels, {})
    found, page = made(tmp_path, path)
    assert found["n_instances"] == 20
    assert "Circularity" in page.text
    assert "Maximum projections" not in page.text


def test_a_series_is_shown_at_a_timepoint(tmp_path: Path) -> None:
    path = tmp_path / "series.ome.zarr"
    first, second = embryo(), embryo()
    second[second > 4] = 0
    write_image(path, np.stack([first, second]), "tzyx", SIZE)
    made_by = {"volume": {"timepoints": [1]}, "seams": SEAMS}
    put_labels(path, "nuclei", np.stack([first, second]), made_by)
    assert made(tmp_path, path)[0]["n_instances"] == 4
    found, page = made(tmp_path, path, "--timepoint", 0)
    assert (found["timepoint"], found["n_instances"]) == (0, 20)
    assert "timepoint 0 of 2" in page.text
    assert "no timepoint 2, there are 2" in fails(path, "--timepoint", 2)


def test_without_an_image_there_are_numbers_and_it_is_said(tmp_path: Path, store: Path) -> None:
    alone = tmp_path / "alone.zarr"
    alone.mkdir()
    (store / "labels").rename(alone / "labels")
    found, page = made(tmp_path, alone / "labels" / "nuclei")
    assert not found["has_image"]
    assert found["gallery"]["joined"] == [5]
    assert not page.all("img")
    assert "No image." in page.text
    assert "Histogram of size" in page.html
    with_image, page = made(tmp_path, alone, "--image", store, "--channel", 1)
    assert with_image["has_image"]
    assert "channel 1" in page.text


def test_the_image_that_a_run_recorded_is_found(tmp_path: Path, store: Path) -> None:
    alone = tmp_path / "out.zarr"
    volume = es.open_volume(store)
    pending = label_target(volume, "nuclei", output=alone).create(np.uint16)
    labels = embryo()
    for box in pending.regions(0):
        pending.write(0, box, labels[box.slices])
    for level in range(1, pending.n_levels):
        for box in pending.regions(level):
            pending.downsample(level, box)
    pending.publish({"volume": {"path": str(store), "channel": 1}})
    found, page = made(tmp_path, alone)
    assert found["has_image"]
    assert "channel 1" in page.text


def test_a_real_run_with_its_model_its_command_and_the_time_of_tiles(tmp_path: Path) -> None:
    path, log = tmp_path / "a.ome.zarr", tmp_path / "log.jsonl"
    rng = np.random.default_rng(0)
    labels = synthetic_embryo((96, 96), n_objects=12, diameter=20, seed=1)
    image = (labels > 0) * 900 + rng.integers(0, 100, labels.shape)
    write_image(path, image.astype(np.uint16), "yx", (0.5, 0.5))
    es.segment(path, tta="none", tile=(48, 48), device="cpu", log=log)
    _, page = made(tmp_path, path, "--log", log)
    for words in (
        "--model nuclei-2d",
        "--tile 48,48",
        "BBBC038",
        "numba",
        "Network",
        "fingerprint",
    ):
        assert words in page.text
    assert "Network seconds by tile" in page.text
    assert "Instances by tile" in page.text
    assert "nuclei-3d is not the model" in fails(path, "--model", "nuclei-3d")


def test_names_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "<b>&.ome.zarr"
    write_image(path, embryo() * 10, "zyx", SIZE)
    warning = "<script>alert(1)</script>"
    put_labels(path, "nuclei", embryo(), {"warnings": [warning]})
    _, page = made(tmp_path, path)
    assert not page.all("script")
    assert not page.all("b<")
    assert warning in page.text
    assert "<b>&.ome.zarr" in page.text


def test_never_is_a_level_loaded_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.ome.zarr"
    labels = np.concatenate([embryo((24, 60, 40))] * 5, axis=1)
    write_image(path, labels * 10, "zyx", SIZE, chunks=(8, 32, 32))
    put_labels(path, "nuclei", labels, {})
    read: list[int] = []
    volume_read = es.Volume.read

    def counted(self: es.Volume, box: Box, timepoint: int | None = None) -> NDArray[Any]:
        read.append(box.size)
        return volume_read(self, box, timepoint)

    monkeypatch.setattr(es.Volume, "read", counted)
    monkeypatch.setattr(overview, "MOST_VOXELS", 24 * 150 * 40)
    subject = find_subject(path, None, ReportOptions())
    read.clear()
    coarse = overview.overview(subject, Inks.of(np.unique(labels)[1:].astype(np.uint64)), 9.0)
    assert coarse is not None
    assert (coarse.level, coarse.shape, coarse.is_part) == (1, (24, 150, 40), False)
    monkeypatch.setattr(overview, "MOST_VOXELS", 1000)
    part = overview.overview(subject, Inks.of(np.unique(labels)[1:].astype(np.uint64)), 9.0)
    assert part is not None
    assert part.is_part
    assert max(read) <= 24 * 150 * 40


def test_mistakes_are_told_in_one_line(store: Path, tmp_path: Path) -> None:
    assert "no such file" in fails(tmp_path / "nowhere")
    assert "no labels 'x', there are nuclei" in fails(store, "--labels", "x")
    put_labels(store, "cells", embryo(), {})
    assert "choose with labels= (--labels): cells, nuclei" in fails(store)
    put_labels(store, "none", embryo() * 0, {})
    assert "no instance" in fails(store, "--labels", "none")
    assert "no channel 5" in fails(store, "--labels", "cells", "--channel", 5)
    assert "there is no folder" in fails(store, "--labels", "cells", "--out", "/nowhere/r.html")
    bare = tmp_path / "bare.ome.zarr"
    write_image(bare, embryo(), "zyx", SIZE)
    assert "no labels inside; segment it first" in fails(bare)
    other = tmp_path / "other.ome.zarr"
    write_image(other, np.zeros((5, 6, 7), np.uint16), "zyx", SIZE)
    assert "has shape (24, 48, 52)" in fails(store, "--labels", "cells", "--image", other)
    assert not (tmp_path / "report.html").exists()


def test_the_terminal_says_where_it_is(store: Path, tmp_path: Path) -> None:
    result = run(store, "--out", tmp_path / "r.html")
    assert result.exit_code == 0
    assert str(tmp_path / "r.html") in result.stdout
    assert "20" in result.stdout


def test_nothing_but_an_html_file_is_written(tmp_path: Path) -> None:
    image = tmp_path / "embryo.tif"
    image.write_bytes(b"raw data")
    with pytest.raises(UsageError, match=r"embryo.tif: a report is an HTML file"):
        es.report(tmp_path / "store", out=image)
    assert image.read_bytes() == b"raw data"
