"""`segment --model module:name` runs a function of the user's, here and on workers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.errors import UsageError
from embedseg_large.testing.synthetic import render, synthetic_embryo

TOOLS = """
import numpy as np
from scipy import ndimage
import embedseg_large as es

LEVEL = 1.0

def bright(image):
    return ndimage.label(ndimage.gaussian_filter(image, 1) > LEVEL)[0]

def wrong(image):
    return image

class Finder:
    pass

whole = es.TileSegmenter(
    bright, name="whole", ndim=2, halo=(12, 12), tile=(40, 40), intensity="otsu"
)
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with an image and modules of the user's."""
    known, path = set(sys.modules), list(sys.path)
    (tmp_path / "my_tools.py").write_text(TOOLS)
    (tmp_path / "broken.py").write_text("raise ValueError('two\\nlines')")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)")
    (tmp_path / "needy.py").write_text("import no_such_library")
    ids = synthetic_embryo((90, 100), density=0.4, diameter=12, spacing=1.3)
    np.save(tmp_path / "ids.npy", ids)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if name in ("my_tools", "broken", "leaves", "needy"):
            del sys.modules[name]


def image() -> Any:
    return render(np.load("ids.npy"))


def test_a_function_of_the_current_folder_segments(folder: Path) -> None:
    found = es.segment(image(), "my_tools:bright", output=folder / "a.zarr", object_diameter=12)
    assert found.summary["segmenter"] == "my_tools:bright"
    assert found.summary["settings"]["halo"] == [18, 18]
    wide = es.segment(image(), "my_tools:bright", output=folder / "b.zarr", halo=(30, 30))
    assert wide.summary["settings"]["halo"] == [30, 30]


def test_a_segmenter_of_a_module_is_used_as_it_is(folder: Path) -> None:
    found = es.segment(image(), "my_tools:whole", output=folder / "a.zarr")
    assert found.summary["segmenter"] == "whole"
    (score,) = es.evaluate(found.path, np.load("ids.npy"), thresholds=(0.5,))
    assert score.f1 > 0.8


def test_the_command_line_takes_it_for_one_image_and_for_many(folder: Path) -> None:
    import tifffile

    (folder / "images").mkdir()
    for name in "ab":
        tifffile.imwrite(folder / "images" / f"{name}.tif", image())
    for place, more in (("images/a.tif", ["--output", "a.zarr"]), ("images", ["--out", "masks"])):
        result = CliRunner().invoke(
            app, ["segment", place, "--model", "my_tools:whole", "--labels", "x", "--json", *more]
        )
        assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (folder / "masks").glob("*.tif")) == ["a.tif", "b.tif"]


@pytest.mark.slow
def test_workers_get_the_function_though_they_cannot_import_it(folder: Path, client: Any) -> None:
    """The workers were started elsewhere, before the module was there."""
    here = es.segment(image(), "my_tools:whole", output=folder / "a.zarr")
    there = es.segment(image(), "my_tools:whole", output=folder / "b.zarr", client=client)
    np.testing.assert_array_equal(np.asarray(here.labels), np.asarray(there.labels))


class Stops:
    """Stops the run when the first tile is segmented."""

    def begin(self, stage: str, tiles: int) -> None:
        """Of no interest."""

    def advance(self, stage: str) -> None:
        if stage == "cluster":
            raise KeyboardInterrupt


def test_an_unfinished_run_is_not_resumed_with_another_function(folder: Path) -> None:
    options: dict[str, Any] = {"output": folder / "a.zarr", "halo": (12, 12)}
    options |= {"cluster_tile": (40, 40)}
    with pytest.raises(KeyboardInterrupt):
        es.segment(image(), "my_tools:bright", watcher=Stops(), **options)
    with pytest.raises(UsageError, match="model"):
        es.segment(image(), "my_tools:wrong", **options)
    (folder / "my_tools.py").write_text(TOOLS.replace("LEVEL = 1.0", "LEVEL = 2.0"))
    del sys.modules["my_tools"]
    with pytest.raises(UsageError, match="model"):
        es.segment(image(), "my_tools:bright", **options)
    (folder / "my_tools.py").write_text(TOOLS)
    del sys.modules["my_tools"]
    assert es.segment(image(), "my_tools:bright", **options).n_instances > 0


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("no_tools:bright", "there is no module no_tools in this environment or in "),
        ("my_tools.deep:bright", "there is no module my_tools.deep"),
        ("needy:f", "needy needs the module no_such_library, which is not installed"),
        ("broken:f", "importing broken failed: ValueError: two lines"),
        ("leaves:f", "importing leaves failed: SystemExit: 3"),
        ("my_tools:dark", r"my_tools \(.*my_tools.py\) has no dark; it has bright, wrong, whole"),
        ("my_tools:number", "number is a value of type int; name a function"),
        ("my_tools:Finder", "Finder is a class; name a function"),
        ("my_tools:bright", r"must see whole objects; pass object_diameter .*--halo"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(folder: Path, model: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as it:
        es.segment(image(), model, output=folder / "out.zarr")
    assert "\n" not in str(it.value)
    assert not (folder / "out.zarr").exists()


def test_labels_that_are_none_name_the_function(folder: Path) -> None:
    with pytest.raises(UsageError, match="my_tools:wrong returned float32 values"):
        es.segment(image(), "my_tools:wrong", output=folder / "out.zarr", halo=(9, 9))


def test_a_file_of_that_name_is_a_model(folder: Path) -> None:
    (folder / "my_tools:bright").write_text("no model")
    with pytest.raises(es.errors.ModelError):
        es.segment(image(), "my_tools:bright", output=folder / "out.zarr")


@pytest.mark.usefixtures("folder")
def test_other_commands_import_nothing() -> None:
    assert CliRunner().invoke(app, ["info", "broken:f"]).exit_code == 2
    assert "broken" not in sys.modules
