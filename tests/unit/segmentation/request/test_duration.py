"""How long a run takes: from a rate of this machine, measured once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedseg_large as es
from embedseg_large.network.model import Model
from embedseg_large.segmentation.options import SegmentOptions
from embedseg_large.segmentation.request import duration
from embedseg_large.segmentation.request.duration import Rate, Rates, duration_of
from embedseg_large.segmentation.request.estimate import estimate_of
from embedseg_large.segmentation.request.prepare import prepare
from embedseg_large.segmentation.request.request import Request
from embedseg_large.testing.oracle import OracleNetwork

SHAPE = (40, 64, 72)
VOXELS = 40 * 64 * 72


def requested(tmp_path: Path, model: Any = None, **options: Any) -> Request:
    image = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    chosen = SegmentOptions(output=tmp_path / "out.zarr", **options)
    return prepare(image, model or es.load_model("nuclei-3d"), "nuclei", chosen)


@pytest.fixture
def rate(monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    """A probe that says two microseconds; the models that it was asked about."""
    asked: list[Model] = []

    def probe(model: Model) -> Rate:
        asked.append(model)
        return Rate(seconds=2e-6, source="a probe of 4 s")

    monkeypatch.setattr(duration, "probe", probe)
    return asked


@pytest.fixture(autouse=True)
def one_tile_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duration, "tiles_at_once", lambda _: 1)


@pytest.mark.usefixtures("rate")
def test_time_is_the_work_of_the_network_and_the_rest(tmp_path: Path) -> None:
    request = requested(tmp_path, es.load_model("nuclei-3d").to(lanes=4), tta=4)
    plan = estimate_of(request)
    found = duration_of(request, plan, cache=tmp_path)
    assert found is not None
    expected = plan.input_voxels * 4 * 2e-6 + VOXELS * duration.SECONDS_BESIDE
    assert found.process_seconds == pytest.approx(expected)
    assert found.seconds == found.process_seconds
    assert found.is_bound  # quiet tiles need one pass
    assert found.source == "a probe of 4 s"


@pytest.mark.usefixtures("rate")
def test_lanes_without_a_pass_are_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = es.load_model("nuclei-3d").to(lanes=4)
    request = requested(tmp_path, model, tta="none", tile=(24, 32, 40))
    plan = estimate_of(request)
    for tiles, busy in ((1, 1), (3, 3), (8, 4)):
        monkeypatch.setattr(duration, "tiles_at_once", lambda _, tiles=tiles: tiles)
        found = duration_of(request, plan, cache=tmp_path)
        assert found is not None
        beside = VOXELS * duration.SECONDS_BESIDE / busy
        assert found.seconds == pytest.approx(plan.input_voxels * 2e-6 * 4 / busy + beside)


def test_workers_share_the_work_but_no_more_than_there_are_tiles(
    tmp_path: Path, rate: list[Model]
) -> None:
    request = requested(tmp_path, tta="none", tile=(24, 32, 40))
    plan = estimate_of(request)
    assert plan.prediction_tiles == 8
    for processes, at_once in ((1, 1), (4, 4), (500, 8)):
        found = duration_of(request, plan, processes=processes, cache=tmp_path)
        assert found is not None
        assert found.seconds == pytest.approx(found.process_seconds / at_once)
        assert not found.is_bound
    assert [model.lanes for model in rate[1:]] == [1]  # each worker makes one pass at a time


@pytest.mark.usefixtures("rate")
def test_the_start_of_local_workers_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duration, "seconds_of_start", lambda: 5.0)
    request = requested(tmp_path, tta="none", tile=(24, 32, 40))
    shared = partial(duration_of, request, estimate_of(request), processes=2, cache=tmp_path)
    running, started = shared(), shared(starts_workers=True)
    assert running is not None
    assert started is not None
    assert started.seconds == pytest.approx(running.seconds + 5)
    assert started.process_seconds == running.process_seconds


def test_the_start_of_a_worker_is_that_of_a_new_process() -> None:
    assert duration.seconds_of_start() > 0.1  # an interpreter alone takes a tenth of that


def test_a_rate_is_measured_once_a_day(
    tmp_path: Path, rate: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = requested(tmp_path, tta="none")
    plan = estimate_of(request)
    sources = []
    for hours in (0, 1, 23, 25, 26, -1):
        now = 1.8e9 + 3600 * hours
        monkeypatch.setattr("time.time", partial(float, now))
        found = duration_of(request, plan, cache=tmp_path)
        assert found is not None
        sources.append(found.source)
    probe, known = "a probe of 4 s", "an earlier measurement"
    assert sources == [probe, known, known, probe, known, probe]
    assert len(rate) == 3


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": "b"}', "{" * 4000, '{"a": [-1.0, 1.0]}', '{"a": [1]}']
)
def test_a_damaged_file_of_rates_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "rates.json").write_text(text)
    model = es.load_model("nuclei-3d")
    rates = Rates(tmp_path)
    assert rates.of(model) is None
    rates.keep(model, Rate(seconds=1e-6, source=""))
    assert rates.of(model) == Rate(seconds=1e-6, source="an earlier measurement")


@pytest.mark.usefixtures("rate")
def test_a_rate_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    request = requested(tmp_path, tta="none")
    assert duration_of(request, estimate_of(request), cache=tmp_path / "file") is not None


def test_of_others_networks_nothing_is_said(tmp_path: Path, rate: list[Model]) -> None:
    labels = np.ones(SHAPE, np.uint16)
    request = requested(tmp_path, OracleNetwork.of(labels), tta="none")
    assert duration_of(request, estimate_of(request), cache=tmp_path) is None
    assert not rate


def test_a_probe_measures_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duration, "PROBED", {3: (8, 16, 16)})
    monkeypatch.setattr(duration, "ENOUGH_SECONDS", 0.01)
    found = duration.probe(es.load_model("nuclei-3d").to(lanes=1))
    assert 1e-9 < found.seconds < 1e-1
    assert "probe" in found.source


def test_a_rate_of_another_version_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rates = es.load_model("nuclei-3d"), Rates(tmp_path)
    rates.keep(model, Rate(seconds=1e-6, source=""))
    assert rates.of(model) is not None
    monkeypatch.setattr(duration, "version", lambda _: "99.0")
    assert rates.of(model) is None
