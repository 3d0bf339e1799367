"""What labels record is used as far as a run would have written it, and no further."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from embedseg_large.labels.provenance import usable

SEAMS: dict[str, Any] = {
    **dict.fromkeys(("faces", "voxels", "rounds", "tiles", "tiles_exact"), 1),
    **dict.fromkeys(("certified", "agreed", "repaired", "joined"), 0),
    "repaired_objects": [],
    "joined_objects": [{"label": 3, "seed": [1, 2, 3]}],
}


def test_what_a_run_writes_is_kept_as_it_is() -> None:
    made = {"token": "a", "seams": SEAMS, "region": {"start": [0, 0], "stop": [4, 4]}}
    assert usable(made, "labels") == made


def test_parts_that_are_not_known_are_kept() -> None:
    assert usable({"from a later version": [1]}, "labels") == {"from a later version": [1]}


@pytest.mark.parametrize("made", [None, [], "text", 3])
def test_what_is_no_object_says_nothing(made: Any) -> None:
    assert usable(made, "labels") == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seams", None),
        ("seams", {**SEAMS, "joined": "3"}),
        ("seams", {**SEAMS, "joined_objects": [{"label": -1, "seed": [1, 2, 3]}]}),
        ("seams", {n: v for n, v in SEAMS.items() if n != "joined_objects"}),
        ("region", {"start": [4, 4], "stop": [0, 0]}),
        ("region", {"start": [0, 0], "stop": [4, 4, 4]}),
        ("instances", {"path": "../../other.zarr", "columns": []}),
        ("instances", {"path": "instances", "columns": 3}),
        ("intensity", []),
        ("intensity", [{"low": float("nan"), "high": 1.0}]),
        ("intensity_field", {"mode": "depth", "channels": [{"gain": [[1.0], [1.0, 2.0]]}]}),
        ("settings", {"tile": [8]}),
        ("stages", {"predict": {"tiles": 1, "seconds": "long", "voxels_per_second": 0.0}}),
        ("volume", {"channel": "DAPI\ud800"}),
        ("warnings", 5),
    ],
)
def test_a_part_that_no_run_writes_is_left_out_with_a_warning(
    name: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert usable({name: value, "token": "a"}, "labels") == {"token": "a"}
    assert f"labels: ignoring what these labels record of {name}" in caplog.text
    assert caplog.text.count("\n") == 1
