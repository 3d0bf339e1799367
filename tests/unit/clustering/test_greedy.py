"""The cell list: every point is in its cell, and more than 32 bits can count are refused."""

from __future__ import annotations

import numpy as np
import pytest

from embedseg_large.clustering import greedy
from embedseg_large.clustering.greedy import build_cells
from embedseg_large.errors import UsageError


def test_points_are_grouped_and_found_again(rng: np.random.Generator) -> None:
    points = rng.uniform(-2, 22, (500, 3))
    cells = build_cells(points, (20, 20, 20), np.array([4.0, 5.0, 5.0]))
    assert np.array_equal(cells.points[cells.place], points)
    assert np.array_equal(points[cells.origin], cells.points)
    assert np.all(np.diff(cells.number) >= 0)
    assert cells.first[-1] == 500


def test_more_points_than_their_numbers_can_count_are_refused(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(greedy, "MOST", 499)
    with pytest.raises(UsageError, match=r"500 foreground voxels .* tiles"):
        build_cells(rng.uniform(0, 20, (500, 3)), (20, 20, 20), np.array([4.0, 5.0, 5.0]))
