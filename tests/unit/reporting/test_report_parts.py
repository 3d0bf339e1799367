"""Parts of a report: charts, galleries, the command to do it again, times from a log."""

from __future__ import annotations

import json
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.cli.app import app
from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.network.checkpoint import load_model
from embedseg_large.pictures import Panel, round_length
from embedseg_large.reporting import facts
from embedseg_large.reporting.again import command
from embedseg_large.reporting.card import card_of
from embedseg_large.reporting.charts import HEIGHT, WIDTH, heat_map, histogram, tile_lattice
from embedseg_large.reporting.drawing import Inks, overlay
from embedseg_large.reporting.facts import Fact
from embedseg_large.reporting.gallery import find_groups
from embedseg_large.reporting.overview import closeup, first_seen, middle, overview
from embedseg_large.reporting.subject import ReportSubject
from embedseg_large.reporting.tasktimes import read_times
from embedseg_large.storage.tables import Table
from embedseg_large.viewing.scene import Layer
from embedseg_large.volumes.volume import open_volume

SEAMS: dict[str, Any] = {
    "faces": 4,
    "voxels": 1000,
    "rounds": 1,
    "tiles_raised": 0,
    "tiles": 4,
    "tiles_exact": 3,
    "certified": 7,
    "agreed": 1,
    "repaired": 1,
    "joined": 1,
    "repaired_objects": [{"label": 2, "seed": [1, 2, 3]}],
    "joined_objects": [{"label": 5, "seed": [4, 5, 6]}],
}
MADE: dict[str, Any] = {
    "labels": "/out.zarr/labels/my nuclei",
    "model": "abc",
    "segmenter": None,
    "seams": SEAMS,
    "settings": {
        "tta": "none",
        "device": "cpu",
        "dtype": "float32",
        "tile": [64, 72, 72],
        "context": [24, 24, 24],
        "cluster_tile": [128, 128, 128],
        "halo": [25, 30, 31],
        "max_halo": [100, 120, 124],
        "strict": True,
        "min_object_size": 32,
        "foreground": 0.5,
        "seed": 0.8,
        "margin": 0.4,
        "reach": [37.5, 45.0, 46.5],
    },
    "volume": {
        "path": "/embryo.ome.zarr",
        "channel": 1,
        "level": 0,
        "timepoint": 0,
        "shape": [100, 100, 100],
        "grid": [50, 50, 50],
    },
    "scale": {"model_diameter": 30.5},
    "region": {"start": [0, 10, 20], "stop": [50, 60, 70]},
    "intensity": [{"low": 10.0, "high": 500.0, "percentiles": None, "sampled": None}],
    "foreground": {"mask": None, "dark_below": 150},
    "token": "xyz",
}


def table(sizes: list[int], **more: Any) -> Table:
    n = len(sizes)
    columns: dict[str, NDArray[Any]] = {
        "label": np.arange(1, n + 1, dtype=np.uint64),
        "voxels": np.array(sizes),
        "touches_border": np.zeros(n, bool),
        "seam": np.full(n, "", dtype="<U8"),
    }
    return Table(columns | more)


def test_every_value_is_in_a_bar_of_the_histogram() -> None:
    values = np.array([1.0, 1.0, 2.0, 50.0, 1000.0, np.nan])
    for logarithmic in (False, True):
        chart = histogram(values, "Size", "µm³", logarithmic=logarithmic, marks=[(50.0, "here")])
        assert chart is not None
        counted = [int(bar.tip.split()[0]) for bar in chart.bars]
        assert sum(counted) == 5
        assert chart.bars[0].x == pytest.approx(0)
        assert chart.bars[-1].x + chart.bars[-1].width == pytest.approx(WIDTH)
        assert max(bar.height for bar in chart.bars) <= HEIGHT
        assert all(0 <= tick.at <= WIDTH for tick in chart.ticks)
        assert [mark.text for mark in chart.marks] == ["here"]
        assert "median 2 µm³" in chart.alt


def test_a_histogram_of_equal_values_has_one_bar_and_of_none_is_none() -> None:
    chart = histogram(np.full(9, 7.0), "Size", logarithmic=True)
    assert chart is not None
    assert sum(bar.height > 0 for bar in chart.bars) == 1
    assert histogram(np.array([np.nan]), "Size") is None


def test_a_heat_map_has_a_cell_a_tile_and_of_very_many_several_in_one() -> None:
    y, x = tile_lattice((10, 100, 70), (64, 32, 32))
    assert y.tolist() == [0, 32, 64, 96, 100]
    assert x.tolist() == [0, 32, 64, 70]
    assert len(tile_lattice((10_000, 10), (10, 10))[0]) == 41
    chart = heat_map(np.arange(12.0).reshape(4, 3), (y, x), "Instances", "instances", (2.0, 1.0))
    assert len(chart.cells) == 12
    assert chart.cells[-1].share == 1
    assert chart.cells[-1].tip == "11 instances: y 96 to 100, x 64 to 70"
    assert chart.height / chart.width == pytest.approx(200 / 70)


def test_galleries_have_the_doubtful_ones_and_at_most_48() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(900, 1100, 500).tolist()
    sizes[3], sizes[7] = 9000, 50
    many = table(
        sizes,
        touches_border=np.arange(500) % 2 == 1,
        seam=np.where(np.arange(500) < 60, "joined", "repaired").astype("<U8"),
        seediness=np.linspace(1, 0.5, 500),
    )
    groups = {group.key: group for group in find_groups(many)}
    assert sum(group.rows.size for group in groups.values()) <= 48
    assert groups["large"].rows.tolist() == [3]
    assert "small" not in groups, "it is cut, so it is no wonder that it is small"
    assert groups["joined"].total == 60
    assert groups["seediness"].rows.tolist() == [499, 498, 497, 496, 495, 494]
    assert find_groups(many)[0].rows.tolist() == groups["random"].rows.tolist()
    alike = find_groups(table([10] * 20))
    assert [group.key for group in alike] == ["random"]


def test_without_seams_and_seediness_there_are_no_groups_of_them() -> None:
    columns = dict(table([10, 12, 11]).columns)
    del columns["seam"]
    assert [group.key for group in find_groups(Table(columns))] == ["random"]


def test_the_command_says_all_that_was_asked_for() -> None:
    text = command(MADE, "nuclei-3d")
    given = shlex.split(text.replace("\\\n", " "))
    assert given[:3] == ["embedseg-large", "segment", "/embryo.ome.zarr"]
    options = dict(zip(given[3:-1:2], given[4:-1:2], strict=True))
    assert options["--model"] == "nuclei-3d"
    assert options["--labels"] == "my nuclei"
    assert options["--output"] == "/out.zarr"
    assert options["--region"] == "0:50,10:60,20:70"
    assert options["--intensity-range"] == "10,500"
    assert options["--object-diameter"] == "30.5"
    assert options["--dark-below"] == "150"
    assert options["--max-halo"] == "100,120,124"
    assert options["--timepoint"] == "0"
    assert given[-1] == "--strict"


def options_of(made: dict[str, Any], method: str | None = None) -> list[str]:
    return shlex.split(command(made, "m", method).replace("\\\n", " "))[3:]


@pytest.mark.parametrize("by", ["record", "card"])
def test_the_command_of_another_method_has_no_thresholds_of_embedseg(by: str) -> None:
    method = "three-class"
    given = options_of(MADE | {"method": method}) if by == "record" else options_of(MADE, method)
    assert not {"--seed", "--margin", "--foreground"} & set(given)
    assert {"--seed", "--margin", "--foreground"} <= set(options_of(MADE, "embedseg"))


def test_the_command_states_what_was_stated_about_the_image() -> None:
    said = {"axes": "tzyx", "voxel_size": [2, 0.123456789, 0.5], "series": 1, "allow_missing": True}
    volume = MADE["volume"] | {"opening": said, "nodata": "-32768"}
    text = " ".join(options_of(MADE | {"volume": volume}))
    assert "--axes tzyx --series 1 --voxel-size 2,0.123456789,0.5 --allow-missing" in text
    assert "--nodata=-32768" in text
    assert "--timepoint 0" in text


@pytest.mark.parametrize(
    ("grid", "least", "wanted"),
    [([100, 100, 100], 32, "32"), ([50, 50, 50], 5, "40"), ([200, 200, 200], 80, "10")],
)
def test_the_smallest_object_is_in_voxels_of_the_image(
    grid: list[int], least: int, wanted: str
) -> None:
    made = MADE | {
        "volume": MADE["volume"] | {"grid": grid},
        "settings": MADE["settings"] | {"min_object_size": least},
    }
    given = options_of(made)
    assert given[given.index("--min-object-size") + 1] == wanted


def test_a_size_that_only_the_model_can_have_is_left_to_it() -> None:
    made = MADE | {"volume": MADE["volume"] | {"grid": [200, 200, 200]}}
    made["settings"] = MADE["settings"] | {"min_object_size": 33}
    assert "--min-object-size" not in options_of(made)


def test_a_scale_that_was_found_is_stated() -> None:
    found = {"chosen": 12.345678, "depth": None, "model_diameter": 20.0}
    given = options_of(MADE | {"object_diameter": found})
    assert given[given.index("--object-diameter") + 1] == "12.345678"


def test_of_all_channels_there_is_no_command() -> None:
    assert command(MADE | {"volume": MADE["volume"] | {"channel": None}}, "m") == ""


def test_the_command_has_options_that_segment_has() -> None:
    import typer

    segment: Any = typer.main.get_command(app)
    known = {o for p in segment.commands["segment"].params for o in p.opts}
    series = MADE | {"intensity": [[{}]], "volume": MADE["volume"] | {"timepoints": [0, 2]}}
    for made in (MADE, series):
        given = shlex.split(command(made, "m").replace("\\\n", " "))
        assert {word for word in given if word.startswith("--")} <= known


def test_of_a_function_of_the_users_own_there_is_no_command() -> None:
    assert command(MADE | {"segmenter": "watershed"}, "watershed") == ""
    assert command({}, "...") == ""


def test_the_seam_report_in_words() -> None:
    seams = facts.seams_of(MADE, 0)
    assert seams is not None
    assert not seams.is_clean
    assert "1 instance was joined" in seams.verdict
    assert [(o.label, o.kind, o.seed) for o in seams.objects] == [
        (5, "joined", "z 4 y 5 x 6"),
        (2, "repaired", "z 1 y 2 x 3"),
    ]
    clean = facts.seams_of({"seams": SEAMS | {"joined": 0, "joined_objects": []}}, 0)
    assert clean is not None
    assert clean.is_clean
    assert clean.verdict.startswith("Tiles left no trace: 1,000 voxels")
    single = facts.seams_of({"seams": SEAMS | {"joined": 0, "faces": 0}}, 0)
    assert single is not None
    assert "no seams" in single.verdict
    assert facts.seams_of({}, 0) is None


def test_the_time_of_tiles_is_read_from_the_lines_of_that_run(tmp_path: Path) -> None:
    done = {"event": "task done", "stage": "predict", "run": "b", "seconds": 2.0}
    lines: list[dict[str, Any]] = [
        {"event": "run begins", "run": "a", "token": "other"},
        done | {"run": "a", "tile": [0, 0, 0]},
        {"event": "run begins", "run": "b", "token": "xyz"},
        done | {"tile": [0, 0, 1]},
        done | {"tile": [1, 0, 1], "seconds": 3.0},
        done | {"tile": [0, 1, 1], "section": "t00001"},
        done | {"tile": [0, 1, 1], "stage": "cluster"},
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)) + '\n{"event": "task do')
    assert read_times(log, MADE, 0) == {(0, 1): 5.0}
    assert read_times(log, MADE, 1) == {(0, 1): 5.0, (1, 1): 2.0}
    with pytest.raises(UsageError, match="does not contain the run"):
        read_times(log, {"token": "none"}, 0)
    with pytest.raises(UsageError, match="the log cannot be read"):
        read_times(tmp_path, MADE, 0)


def test_a_projection_shows_the_first_label_of_each_line() -> None:
    labels = np.zeros((3, 1, 2), np.uint32)
    labels[1, 0, 0], labels[2, 0, 0] = 4, 9
    assert first_seen(labels, 0).tolist() == [[4, 0]]


def test_the_middle_of_a_volume_is_no_larger_than_asked_for() -> None:
    assert middle((10, 10), 100) == Box((0, 0), (10, 10))
    part = middle((100, 100, 100), 1000)
    assert part.size <= 1000
    assert part == Box((45, 45, 45), (55, 55, 55))


def subject_of(image: NDArray[Any], labels: NDArray[Any]) -> ReportSubject:
    """Labels and an image of one level, in memory."""
    return ReportSubject(
        name="nuclei",
        labels=Layer(name="nuclei", levels=(open_volume(labels),)),
        image=(open_volume(image),),
        contrast=(0.0, 1.0),
        channel=0,
        timepoint=0,
        voxel_size=None,
        made={},
    )


def test_a_close_up_of_large_instances_shows_the_middle_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = np.ones((40, 40, 40), np.uint8)
    monkeypatch.setattr("embedseg_large.reporting.overview.MOST_VOXELS", 1000)
    subject, inks = subject_of(labels, labels), Inks.of(np.array([1], np.uint64))
    found = closeup(subject, inks, 10.0, np.array([[20.0, 20.0, 20.0]]))
    assert found is not None
    assert found.where == "z 15:25, y 15:25, x 15:25"


def test_an_image_with_nan_is_projected_without_warnings() -> None:
    image = np.full((6, 30, 30), np.nan, np.float32)
    image[2, :20] = 1
    labels = (np.nan_to_num(image) > 0).astype(np.uint8)
    subject, inks = subject_of(image, labels), Inks.of(np.array([1], np.uint64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert overview(subject, inks, 10.0) is not None


@pytest.mark.parametrize(("most", "length"), [(4.9, 2.0), (5.0, 5.0), (123.0, 100.0), (0.3, 0.2)])
def test_scale_bars_are_round(most: float, length: float) -> None:
    assert round_length(most) == pytest.approx(length)


def test_outlines_are_in_the_colour_of_the_instance_and_a_chosen_one_is_bold() -> None:
    inks = Inks.of(np.array([3, 70], np.uint64))
    plane = np.zeros((40, 40), np.uint32)
    plane[5:35, 5:18], plane[5:35, 22:35] = 3, 70
    panel = Panel(0, 0, 40, 40)
    drawn = overlay(plane, panel, inks)
    assert drawn[5, 10, :3].tolist() == np.rint(255 * inks.colours[1]).tolist()
    assert drawn[5, 30, :3].tolist() == np.rint(255 * inks.colours[2]).tolist()
    assert drawn[20, 10, 3] == 0, "inside"
    bold = overlay(plane, panel, inks, 3)
    assert np.count_nonzero(bold[:, :20, 3]) > np.count_nonzero(drawn[:, :20, 3])
    assert bold[5, 30, 3] < bold[5, 10, 3]
    assert inks.numbers(np.array([[0, 3, 50, 70, 99]])).tolist() == [[0, 1, 0, 2, 0]]


def test_the_card_of_a_model_names_its_method() -> None:
    made = {"model": load_model("nuclei-2d").fingerprint}
    assert Fact(name="method", value="embedseg") in card_of(made).facts
