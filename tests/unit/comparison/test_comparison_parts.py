"""Parts of a comparison: who learns from what, at what cost, and what is said about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from embedseg_large.comparison import contenders, networks, page
from embedseg_large.comparison.contender import Fitted
from embedseg_large.comparison.contenders import EVERY, choose
from embedseg_large.comparison.division import divide, middle_of, truth_of
from embedseg_large.comparison.networks import Clock, EnoughError, NetworkContender, Probe
from embedseg_large.comparison.options import CompareOptions, seconds_of
from embedseg_large.comparison.place import ComparisonPlace
from embedseg_large.comparison.result import Comparison, Cut, Standing, TileCheck, Trial
from embedseg_large.comparison.scoring import judge
from embedseg_large.errors import UsageError
from embedseg_large.training.data.sources import Pair, find_pairs
from embedseg_large.training.options import FindOptions


def pairs(count: int, shape: tuple[int, ...] = (10, 30)) -> list[Pair]:
    """Images in which every row is an object with a number of its own."""
    mask = np.arange(1, shape[0] + 1, dtype=np.int32)[:, np.newaxis] * np.ones(shape, np.int32)
    images = [np.full(shape, n, np.float32) for n in range(count)]
    return find_pairs(images, [mask] * count)


def trial(**changed: Any) -> Trial:
    scores = [
        {"threshold": t, "ap": 1 - t, "pq": 0.5, "tp": 5.0, "fp": 1.0, "fn": 1.0}
        for t in (0.5, 0.6, 0.7, 0.8, 0.9)
    ]
    values: dict[str, Any] = {
        "method": "flows",
        "seed": 0,
        "steps": 10,
        "fit_seconds": 1.0,
        "tune_seconds": 0.5,
        "knobs": {"foreground": 0.5},
        "scores": scores,
        "boundary": {"ap": 0.5},
        "errors": {"true_positive": 5, "miss": 1},
        "seconds": 1.0,
        "voxels": 100,
        "bytes_per_voxel": 10.0,
    }
    return Trial(**values | changed)


def check(*same: int, extra: int = 0, objects: int = 9) -> TileCheck:
    return TileCheck(
        image="a",
        shape=(40, 40),
        halo=(4, 4),
        promise="exact",
        objects=objects,
        cuts=tuple(
            Cut(tile=(20, 20), tiles=4, same=n, extra=extra, repaired=0, joined=0) for n in same
        ),
        predict_rate=None,
        decode_rate=1.0,
    )


@pytest.mark.parametrize("count", [3, 5, 20])
def test_every_image_is_in_one_part(count: int) -> None:
    opened = pairs(count)
    division = divide(opened, seed=1)
    names = [pair.name for part in division.parts.values() for pair in part]
    assert sorted(names) == sorted(pair.name for pair in opened)
    assert division.whole == division.held_out
    assert len(division.held_out) == len(division.validation) == max(1, round(count / 5))
    assert division.facts() == divide(opened, seed=1).facts()


def test_other_seeds_choose_other_images() -> None:
    assert len({tuple(divide(pairs(20), seed).facts()["held out"]) for seed in range(4)}) > 1


def test_one_image_is_cut_along_its_longest_axis() -> None:
    (pair,) = pairs(1)
    division = divide([pair])
    assert division.whole == [pair]
    assert [part[0].shape for part in division.parts.values()] == [(10, 18), (10, 6), (10, 6)]
    parts = [truth_of(part[0]) for part in division.parts.values()]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), truth_of(pair))
    assert division.held_out[0].name == "image 0 [0:10,24:30]"


def test_objects_that_overlap_stay_whole_where_an_image_is_cut_and_scored() -> None:
    masks = np.zeros((3, 10, 30), np.uint8)
    masks[0, 2:6, 2:28] = masks[1, 4:8, 20:29] = 255
    (pair,) = find_pairs([masks[0].astype(np.float32)], [masks])
    division = divide([pair])
    held = division.held_out[0]
    np.testing.assert_array_equal(truth_of(held) > 0, masks[:2, :, 24:] > 0)
    judged = judge(fitted_by(lambda part: part.flat_labels()), division.held_out)
    matched = judged.scores[-1]["mean_matched_iou"]
    assert (judged.scores[0]["tp"], judged.errors["true_positive"]) == (2, 2)
    assert matched == 1  # of the second object, which is on top; the first one is covered
    assert judged.scores[-1]["fn"] == 1


def fitted_by(find: Callable[[Pair], Any]) -> Fitted:
    return Fitted(
        engine=cast(Any, None),
        find=find,
        steps=None,
        seconds=0.0,
        tuning=0.0,
        knobs={},
        predicts=False,
        bytes_per_voxel=1.0,
    )


def test_a_part_without_objects_is_refused() -> None:
    mask = np.zeros((4, 30), np.int32)
    mask[:, :10] = 1
    with pytest.raises(UsageError, match=r"the validation part .* has no object; pass more"):
        divide(find_pairs([np.ones((4, 30), np.float32)], [mask]))


def test_the_middle_of_a_large_image_is_cut_out() -> None:
    (pair,) = pairs(1)
    assert middle_of(pair, 75).shape == (5, 15)
    assert middle_of(pair, 10**6).shape == pair.shape


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), (30, 30), (" 2 min", 120)]
)
def test_a_budget_has_a_unit(text: float | str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-3m", "0", "5 weeks", ""])
def test_another_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="pass a time such as 90s, 20m or 1h"):
        CompareOptions(budget=text)


def test_steps_are_counted_instead_of_a_budget() -> None:
    assert CompareOptions(steps=7, budget="20m").deciding()["budget"] is None
    with pytest.raises(UsageError, match="seeds is 0; it must be at least 1"):
        CompareOptions(seeds=0)


def test_the_time_of_a_step_is_that_after_the_first_ones() -> None:
    times = iter([0, 50, 90, *(90.0 + 2 * n for n in range(1, 20))])
    probe = Probe(times.__next__)
    for number in range(networks.WARM + networks.MEASURED - 1):
        probe.batch(1, number, 100, 0.0)
    with pytest.raises(EnoughError):
        probe.batch(1, 11, 100, 0.0)
    assert probe.step_seconds == 2


def test_the_time_of_a_resumed_training_adds_up(tmp_path: Path) -> None:
    times = iter([20.0, 22.5])
    first = Clock(tmp_path / "clock.json", times.__next__, steps=5, seconds=3.5)
    first.end()
    first.stop()
    again = Clock.open(tmp_path / "clock.json")
    assert (again.steps, again.seconds, again.tuning) == (5, 3.5, 2.5)
    assert Clock.open(tmp_path / "none.json").steps == 0


def test_the_time_of_a_step_is_measured_once_for_all_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([40, 50])
    learnt: list[tuple[int, int]] = []

    def train(*of: Any) -> None:
        _, _, seed, _, clock = of
        learnt.append((seed, clock.steps))

    monkeypatch.setattr(NetworkContender, "_steps", lambda *_: next(measured))
    monkeypatch.setattr(NetworkContender, "_train", train)
    monkeypatch.setattr(networks, "load_model", lambda *_: None)
    monkeypatch.setattr(networks, "fitted", lambda *_, **__: None)
    contender = NetworkContender(name="flows", options=CompareOptions(device="cpu"))
    for seed in range(3):
        contender.fit(divide(pairs(5)), seed, tmp_path, lambda _: None)
    assert learnt == [(0, 40), (1, 40), (2, 40)]


def test_the_recipe_is_the_robust_one_where_that_suits_short_trainings() -> None:
    assert networks.RECIPE == {
        "accumulate": 1,
        "schedule": "cosine",
        "warmup": 300,
        "clip": 5.0,
        "average_steps": 1000,
        "pictures_every": 0,
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": (30, 32)}, r"crop is \(30, 32\); pass 2 multiples of 8"),
        ({"crop": (32, 32, 32)}, "pass 2 multiples of 8"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"backbone": "resnet"}, "backbone is 'resnet'"),
        ({"device": "tpu"}, "cpu, cuda or mps"),
    ],
)
@pytest.mark.parametrize("methods", ["all", "classical"])
def test_what_no_network_can_use_is_refused_and_no_reason_to_leave_all_of_them_out(
    wrong: dict[str, Any], message: str, methods: str
) -> None:
    with pytest.raises(UsageError, match=message):
        choose(CompareOptions(methods=methods, **wrong), pairs(3))


def test_all_methods_take_part_or_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UsageError("the classical method needs scikit-image")

    monkeypatch.setattr(contenders, "check_installed", missing)
    found, skipped = choose(CompareOptions(), pairs(3))
    assert [one.name for one in found] == [name for name in EVERY if name != "classical"]
    assert skipped == {"classical": "the classical method needs scikit-image"}
    with pytest.raises(UsageError, match="needs scikit-image"):
        choose(CompareOptions(methods="classical,flows"), pairs(3))


def test_a_method_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="method is 'cellpose'; use embedseg, three-class"):
        choose(CompareOptions(methods=["flows", "cellpose"]), pairs(3))


def test_methods_without_objects_share_a_note() -> None:
    none = [{"threshold": 0.5, "tp": 0.0, "fp": 0.0}]
    trials = [trial(), trial(method="stardist", scores=none, steps=1500)]
    trials += [trial(method=name, scores=none, steps=n) for name, n in (("flows", 3), ("a", 60))]
    (note,) = page._without_objects(trials)
    assert note.startswith("No object was found by stardist, flows, a: 3 to 1,500 steps are")
    (note,) = page._without_objects([trial(method="forest", scores=none, steps=None)])
    assert note.startswith("No object was found by forest; compare")
    assert page._without_objects([trial()]) == []


def test_no_method_is_best_if_none_finds_anything() -> None:
    none = [{"threshold": t, "ap": 0.0} for t in (0.5, 0.6, 0.7, 0.8, 0.9)]
    some = compared(Standing(method="flows", trials=(trial(),)))
    nothing = compared(Standing(method="flows", trials=(trial(scores=none),)))
    assert page._verdict(some).startswith("flows has the highest mean AP, 0.300")
    assert "a failed: the training diverged." in page._warnings(some)
    assert page._verdict(nothing).startswith("No method found an object")


def compared(*standings: Standing) -> Comparison:
    return Comparison(
        path="page.html",
        standings=standings,
        skipped={},
        failed={"a": "the training diverged"},
        division={},
        settings={},
        folder="x",
    )


def test_methods_that_did_not_get_the_same_time_are_named() -> None:
    standings = [
        Standing(method=name, trials=(trial(method=name, fit_seconds=time, steps=steps),))
        for name, time, steps in (("a", 19.0, 50), ("b", 9.6, 68), ("classical", 0.1, None))
    ]
    timed = replace(compared(*standings), settings={"steps": None, "budget": 20.0})
    counted = replace(timed, settings={"steps": 50, "budget": None})
    [text] = page._unequal_times(timed)
    assert "trained for b 9.6 s instead of 20 s" in text
    assert page._unequal_times(counted) == []


def test_the_command_to_train_for_longer_opens_the_same_data() -> None:
    options = CompareOptions(axes="zyx", channel="all", voxel_size=(2, 0.5, 0.5), ignore=9)
    standing = Standing(method="flows", trials=(trial(),))
    command = page._command(standing, options, ("my images", "masks"))
    assert "--images 'my images' \\\n    --masks masks" in command
    assert "--axes zyx --voxel-size 2,0.5,0.5 --ignore-label 9" in command
    assert "--channel all" in command
    options = CompareOptions(timepoint=3, level=1, nodata=float("nan"), allow_missing=True)
    command = page._command(standing, options, ("my images", "masks"))
    assert "--timepoint 3 --level 1 --nodata nan --allow-missing " in command


def test_another_channel_is_another_comparison() -> None:
    usual = CompareOptions().deciding()
    assert "channel" not in usual
    assert CompareOptions(channel=1).deciding() == usual | {"channel": 1}
    nodata = CompareOptions(nodata=float("nan")).deciding()
    assert nodata == json.loads(json.dumps(usual | {"nodata": "nan"}))


def test_images_are_opened_as_stated() -> None:
    usual = CompareOptions().pairing()
    assert usual == vars(FindOptions())
    options = CompareOptions(channel="all", level=2, nodata=0, ignore=7)
    assert options.pairing() == usual | {"channel": None, "level": 2, "nodata": 0, "ignore": 7}


def test_a_result_survives_json() -> None:
    one = trial(tiles=check(9, 8))
    assert Trial.from_dict(json.loads(json.dumps(one.as_dict()))) == one


def test_methods_are_ranked_by_the_mean_over_seeds() -> None:
    standing = Standing(method="flows", trials=(trial(), trial(seed=1, steps=20)))
    assert standing.ap == pytest.approx(0.3)
    assert standing.spread == pytest.approx(0)
    assert Standing(method="flows", trials=(trial(),)).spread is None


def test_labels_depend_on_tiles_if_any_object_differs() -> None:
    assert check(9, 9).is_equal
    assert not check(9, 8).is_equal
    assert check(9, 8, 5).changed == 4
    assert not check(9, 9, extra=1).is_equal
    assert not check(9).sees_all


def test_another_comparison_in_the_same_place_is_refused(tmp_path: Path) -> None:
    place = ComparisonPlace(tmp_path / "page.html")
    place.begin({"steps": 5, "backbone": "erfnet"}, overwrite=False)
    place.begin({"steps": 5, "backbone": "erfnet"}, overwrite=False)
    with pytest.raises(UsageError, match=r"with steps 5 \(now 6\); resume it") as refused:
        place.begin({"steps": 6, "backbone": "erfnet"}, overwrite=False)
    assert "\n" not in str(refused.value)
    place.keep(trial(), np.zeros((2, 2), np.uint32))
    place.begin({"steps": 6, "backbone": "erfnet"}, overwrite=True)
    assert place.trial("flows", 0) is None


def test_a_folder_that_is_no_comparison_is_left_alone(tmp_path: Path) -> None:
    place = ComparisonPlace(tmp_path / "page.html")
    place.folder.mkdir()
    (place.folder / "thesis.txt").touch()
    with pytest.raises(UsageError, match="exists and is not a comparison"):
        place.begin({}, overwrite=True)
    assert (place.folder / "thesis.txt").exists()


def test_a_page_is_html(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the page is an HTML file"):
        ComparisonPlace(tmp_path / "page.pdf").check()
