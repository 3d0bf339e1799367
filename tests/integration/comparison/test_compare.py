"""`compare`: the same images for every method, scores that no one could learn, one page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import embedseg_large as es
from embedseg_large.cli.app import app
from embedseg_large.comparison.classical import ClassicalContender
from embedseg_large.comparison.contender import Fitted
from embedseg_large.comparison.networks import Clock, fitted
from embedseg_large.comparison.tiles import check_tiles
from embedseg_large.errors import RunError, UsageError
from embedseg_large.testing.synthetic import render, synthetic_embryo
from embedseg_large.training.data.sources import find_pairs

compare_module = import_module("embedseg_large.comparison.compare")
SHORT: dict[str, Any] = {"steps": 1, "crop": (32, 32), "threads": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("data")
    for seed in range(4):
        labels = synthetic_embryo((64, 64), diameter=12, density=0.3, spacing=1.1, seed=seed)
        for kind, array in (("images", render(labels, seed=seed)), ("masks", labels)):
            (root / kind).mkdir(exist_ok=True)
            tifffile.imwrite(root / kind / f"{seed}.tif", array.astype(np.uint16))
    return root / "images", root / "masks"


class Text(HTMLParser):
    """The words of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.feed(path.read_text())

    def handle_data(self, data: str) -> None:
        self.words += data.split()


@pytest.mark.slow
def test_a_comparison_is_interrupted_resumed_and_extended(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "page.html"

    def interrupt(text: str) -> None:
        if "scoring" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        es.compare(*data, out=out, methods="three-class", watcher=interrupt, **SHORT)
    model = tmp_path / "page.comparison" / "three-class-0.safetensors"
    assert es.load_model(model).settings.method == "three-class"
    assert not out.exists()
    written = model.stat().st_mtime_ns

    first = es.compare(*data, out=out, methods="three-class", **SHORT)
    assert model.stat().st_mtime_ns == written
    assert first.winner.best.steps == 1
    assert first.winner.best.fit_seconds > 0

    said: list[str] = []
    more = es.compare(
        *data, out=out, methods=["classical", "three-class"], watcher=said.append, **SHORT
    )
    assert not [text for text in said if "three-class" in text]
    assert more.winner.method == "classical"
    assert more.winner.ap > 0.3
    tiles = more.winner.tiles
    assert tiles is not None
    assert tiles.objects > 5
    assert tiles.is_equal
    assert [cut.tiles for cut in tiles.cuts] == [4, 9, 16]

    values = json.loads(out.with_suffix(".json").read_text())
    assert values == json.loads(json.dumps(more.as_dict()))
    rows = out.with_suffix(".csv").read_text().splitlines()
    assert rows[0].startswith("method,seed,steps,")
    assert [row.split(",")[0] for row in rows[1:]] == ["classical", "three-class"]
    words = Text(out).words
    assert {"classical", "three-class", "Scores", "tiles?"} <= set(words)
    assert "src=" not in out.read_text().replace('src="data:', "")

    with pytest.raises(UsageError, match=r"with steps 1 \(now 9\); resume it with the same"):
        es.compare(*data, out=out, methods="classical", **SHORT | {"steps": 9})


def test_the_command_prints_a_row_per_method(data: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = map(str, data)
    page = str(tmp_path / "page.html")
    asked = ["compare", "--images", images, "--masks", masks, "--out", page]
    run = CliRunner().invoke(app, [*asked, "--methods", "classical"])
    assert run.exit_code == 0, run.output
    assert "classical" in run.output
    wrong = CliRunner().invoke(app, [*asked, "--methods", "classical", "--budget", "soon"])
    assert wrong.exit_code == 2
    assert "budget is 'soon'" in wrong.output


@dataclass(frozen=True)
class Failing:
    """A method whose training fails."""

    name: str = "flows"
    is_random: bool = True

    def fit(self, *_: object) -> Fitted:
        raise RunError("the training diverged")


def test_a_method_that_fails_does_not_end_the_comparison(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [ClassicalContender()]
    monkeypatch.setattr(compare_module, "choose", lambda *_: ([Failing(), *others], {}))
    found = es.compare(*data, out=tmp_path / "page.html")
    assert found.failed == {"flows": "the training diverged"}
    assert [standing.method for standing in found.standings] == ["classical"]
    assert json.loads((tmp_path / "page.json").read_text())["failed"] == found.failed
    others.clear()
    with pytest.raises(RunError, match="flows: the training diverged"):
        es.compare(*data, out=tmp_path / "page.html")


def test_a_wrong_crop_does_not_block_the_right_one(data: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pass 2 multiples of 8"):
        es.compare(*data, out=tmp_path / "page.html", methods="classical", crop=(30, 32))
    assert not list(tmp_path.iterdir())


def test_results_of_masks_that_were_corrected_since_are_refused(tmp_path: Path) -> None:
    folders = tmp_path / "images", tmp_path / "masks"
    for seed in range(3):
        labels = synthetic_embryo((48, 48), diameter=12, density=0.3, spacing=1.1, seed=seed)
        for folder, array in ((folders[0], render(labels, seed=seed)), (folders[1], labels)):
            folder.mkdir(exist_ok=True)
            tifffile.imwrite(folder / f"{seed}.tif", array.astype(np.uint16))
    options: dict[str, Any] = {"out": tmp_path / "page.html", "methods": "classical"}
    first = es.compare(*folders, **options)
    assert es.compare(*folders, **options).winner.ap == first.winner.ap
    tifffile.imwrite(folders[1] / "1.tif", labels.T.astype(np.uint16))
    with pytest.raises(UsageError, match=r"content 1 \[.*\] \(now .*\); resume it with the same"):
        es.compare(*folders, **options)
    arrays = [[tifffile.imread(f) for f in sorted(folder.iterdir())] for folder in folders]
    options["out"] = tmp_path / "arrays.html"
    es.compare(*arrays, **options)
    arrays[1][0][:24] = 0
    with pytest.raises(UsageError, match="content image 0"):
        es.compare(*arrays, **options)


def test_the_cost_of_learning_is_told_apart_from_that_of_tuning(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    found = es.compare(*data, out=page, methods="forest,classical")
    for standing in found.standings:
        assert standing.best.fit_seconds > 0
        assert standing.best.tune_seconds > 0
    header = page.with_suffix(".csv").read_text().splitlines()[0]
    assert "fit_seconds,tune_seconds" in header
    model = es.load_model(tmp_path / "page.comparison" / "forest-0.safetensors")
    assert model.card["tuned"]["images"] == 1


def test_tiles_are_checked_on_the_device_and_in_the_format_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def segment(*_: object, **options: Any) -> None:
        assert (options["device"], options["dtype"]) == ("cpu", "bfloat16")
        raise KeyboardInterrupt

    monkeypatch.setattr("embedseg_large.comparison.tiles.segment", segment)
    monkeypatch.setattr("embedseg_large.network.device.default_device", lambda: "cuda")
    model = es.load_model("nuclei-2d").to(dtype="bfloat16")
    (pair,) = find_pairs([np.zeros((16, 16), np.float32)], [np.zeros((16, 16), np.uint8)])
    with pytest.raises(KeyboardInterrupt):
        check_tiles(fitted(model, "m", Clock(tmp_path / "clock.json")), pair, tmp_path)


def test_masks_that_overlap_leave_out_methods_that_cannot_learn_them(tmp_path: Path) -> None:
    stack = np.zeros((2, 40, 40), np.uint16)
    stack[0, 5:20, 5:35] = stack[1, 15:30, 5:35] = 1
    image = np.random.default_rng(0).random((40, 40), np.float32)
    with pytest.raises(UsageError, match="objects that overlap, which the method flows cannot"):
        es.compare([image], [stack], out=tmp_path / "page.html", methods="flows", **SHORT)
    assert not list(tmp_path.iterdir())
