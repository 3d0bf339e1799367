"""What a validation says: AP, and the seediness to ask of a seed."""

from __future__ import annotations

import pytest

from embedseg_large.training.tuning.thresholds import IOUS
from embedseg_large.training.validation import Validation


def validation(first: dict[float, float]) -> Validation:
    return Validation({s: dict.fromkeys(IOUS, ap / 2) | {0.5: ap} for s, ap in first.items()})


@pytest.mark.parametrize(
    ("first", "seed"),
    [
        ({0.5: 0.566, 0.7: 0.601, 0.8: 0.639, 0.9: 0.638}, 0.8),
        ({0.5: 0.2, 0.8: 0.691, 0.9: 0.697}, 0.8),  # hardly below the best
        ({0.5: 0.2, 0.8: 0.6, 0.9: 0.7}, 0.9),
        ({0.5: 0.0, 0.9: 0.0}, 0.5),
    ],
)
def test_the_lowest_seediness_that_costs_nothing(first: dict[float, float], seed: float) -> None:
    found = validation(first)
    assert found.seed == seed
    assert found.ap[0.5] == first[seed]
    assert found.score == pytest.approx((first[seed] + 4 * first[seed] / 2) / 5)
