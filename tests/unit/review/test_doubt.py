"""The order of the queue, and the reasons that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.review.doubt import WEIGHTS, queue_of


def columns(changed: Mapping[str, Mapping[int, Any]] | None = None) -> dict[str, NDArray[Any]]:
    """Instances 1..20, much alike, but for some values by label."""
    n = 20
    found: dict[str, NDArray[Any]] = {
        "label": np.arange(1, n + 1),
        "voxels": 1000 + 10 * (np.arange(n) % 5),
        "roundness": 0.9 + 0.001 * (np.arange(n) % 5),
        "touches_border": np.zeros(n, bool),
        "seediness": np.full(n, 0.95, np.float32),
        "certified": np.ones(n, bool),
        "joined": np.zeros(n, bool),
    }
    for axis in "zyx":
        found |= {axis: np.arange(n) + 4.5, f"{axis}_start": np.arange(n)}
        found[f"{axis}_stop"] = np.arange(n) + 10
    for name, values in (changed or {}).items():
        column = found[name].astype(np.asarray(list(values.values())).dtype)
        column[[label - 1 for label in values]] = list(values.values())
        found[name] = column
    return found


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("voxels", 100_000, "large"),
        ("voxels", 20, "small"),
        ("roundness", 0.2, "irregular"),
        ("seediness", 0.55, "low seediness"),
        ("certified", False, "not certified"),
        ("joined", True, "joined"),
        ("touches_border", True, "border"),
    ],
)
def test_each_reason_brings_its_instance_to_the_front(column: str, value: Any, reason: str) -> None:
    queue = queue_of(columns({column: {7: value}}))
    first = queue[0]
    assert (first.label, first.reasons) == (7, (reason,))
    assert first.doubt == pytest.approx(WEIGHTS[reason])
    assert queue[1].doubt < first.doubt
    assert first.box == Box((6,) * 3, (16,) * 3)
    assert first.center == (10.5,) * 3


def test_several_reasons_add_up_and_ties_are_broken_by_label() -> None:
    queue = queue_of(
        columns(
            {
                "touches_border": {3: True, 9: True, 12: True},
                "joined": {9: True},
                "certified": {9: False},
            }
        )
    )
    assert [queue[i].label for i in range(3)] == [9, 3, 12]
    assert queue[0].reasons == ("joined", "not certified", "border")
    assert queue[0].doubt == pytest.approx(1.75)
    assert sorted(queue[i].label for i in range(len(queue))) == list(range(1, 21))


def test_the_order_does_not_depend_on_that_of_the_table() -> None:
    one = columns({"voxels": {4: 5000, 8: 9000}, "seediness": {5: 0.7}})
    order = np.random.default_rng(0).permutation(20)
    other = {name: column[order] for name, column in one.items()}
    queues = [queue_of(table) for table in (one, other)]
    assert [queues[0][i].label for i in range(20)] == [queues[1][i].label for i in range(20)]


def test_labels_of_other_programs_have_fewer_reasons() -> None:
    table = columns({"voxels": {2: 1}})
    for name in ("seediness", "certified", "joined"):
        del table[name]
    assert queue_of(table)[0].reasons == ("small",)


def test_unknown_values_are_no_reason() -> None:
    table = columns()
    table["seediness"] = np.full(20, np.nan)
    table["roundness"] = np.full(20, np.nan)
    assert queue_of(table)[0].doubt < 0.5


def test_no_instances_make_an_empty_queue() -> None:
    table = {name: column[:0] for name, column in columns().items()}
    assert len(queue_of(table)) == 0


def test_of_two_dimensions_places_have_two() -> None:
    table = columns()
    for name in ("z", "z_start", "z_stop"):
        del table[name]
    assert len(queue_of(table)[0].center) == 2
