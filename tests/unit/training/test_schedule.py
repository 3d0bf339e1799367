"""The learning rate over the steps of a training, and the settings of a recipe."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from math import inf, nan
from typing import Any

import pytest

from embedseg_large.errors import UsageError
from embedseg_large.training.schedule import Schedule
from embedseg_large.training.settings import TrainSettings


def schedule(shape: str, **values: Any) -> Schedule:
    return Schedule(shape=shape, peak=2.0, **{"steps": 1000, "epoch_steps": 100} | values)


def test_the_papers_rate_falls_after_each_epoch() -> None:
    rates = [schedule("polynomial").rate(step) for step in range(1000)]
    assert rates[:100] == [2.0] * 100
    assert rates[100:200] == [2.0 * 0.9**0.9] * 100
    assert rates[-1] == pytest.approx(2.0 * 0.1**0.9)


def test_a_cosine_ends_at_nothing_after_a_linear_warm_up() -> None:
    rates = [schedule("cosine", warmup=50).rate(step) for step in range(1000)]
    assert rates[0] == 2.0 / 50
    assert rates[24] == 2.0 / 2
    assert rates[49] == rates[50] == 2.0
    assert rates[525] == pytest.approx(1.0)
    assert rates[-1] < 1e-4
    assert all(a >= b for a, b in pairwise(rates[50:]))


def test_a_warm_up_is_at_most_a_tenth_of_a_training() -> None:
    short = schedule("cosine", steps=20, epoch_steps=20, warmup=300)
    assert max(short.rate(step) for step in range(20)) == 2.0
    assert schedule("polynomial", steps=3, epoch_steps=3, warmup=300).rate(0) == 2.0


def test_what_is_given_takes_the_place_of_what_a_recipe_says() -> None:
    robust = TrainSettings.of_recipe("robust", warmup=10)
    assert (robust.steps, robust.schedule, robust.warmup) == (10_000, "cosine", 10)
    assert (robust.n_epochs, robust.first_late) == (20, 16)
    by_epochs = TrainSettings.of_recipe("robust", epochs=7)
    assert (by_epochs.steps, by_epochs.n_epochs, by_epochs.first_late) == (None, 7, 6)
    assert TrainSettings.of_recipe("paper") == TrainSettings()
    assert TrainSettings().first_late == TrainSettings().n_epochs == 200


def test_statistics_are_frozen_in_the_last_part_of_a_training_of_the_robust_recipe() -> None:
    robust = TrainSettings.of_recipe("robust")
    assert (robust.batch_norm, robust.n_epochs, robust.first_frozen) == ("frozen", 20, 10)
    assert TrainSettings.of_recipe("robust", batch_norm="batch").first_frozen == 20
    assert TrainSettings.of_recipe("paper").first_frozen == 200
    frozen = partial(TrainSettings, batch_norm="frozen")
    assert frozen(epochs=4, frozen_share=0.25).first_frozen == 3
    assert frozen(epochs=4, frozen_share=1).first_frozen == 0
    assert frozen(epochs=1, frozen_share=0.9).first_frozen == 1  # random weights have none


def test_a_state_without_the_setting_is_that_of_batch_statistics() -> None:
    names = {"batch_norm", "frozen_share", "statistics_crops"}
    assert not names & TrainSettings().deciding().keys()
    assert names <= TrainSettings.of_recipe("robust").deciding().keys()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 3, "steps": 5}, "epochs and steps are both given"),
        ({"steps": 5, "epoch_crops": 3}, "steps and epoch_crops"),
        ({"schedule": "linear"}, "use polynomial or cosine"),
        ({"dtype": "float8"}, "use auto, float32, bfloat16 or float16"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"clip": nan}, "clip is nan"),
        ({"learning_rate": nan}, "learning_rate is nan"),
        ({"learning_rate": inf}, "learning_rate is inf"),
        ({"weight_decay": inf}, "weight_decay is inf"),
        ({"weight_decay": nan}, "weight_decay is nan"),
        ({"small_objects": inf}, "small_objects is inf"),
        ({"hard_share": nan}, "hard_share is nan"),
        ({"late_share": 1.5}, "late_share is 1.5; it must be from 0 to 1"),
        ({"late_crop": (12, 8)}, "late_crop is"),
        ({"late_crop": (8, 8)}, "late_share is 0"),
        ({"warm_up": 3}, "did you mean 'warmup'"),
        ({"threads": 0}, "threads is 0"),
        ({"batch_norm": "group"}, "batch_norm is 'group'; use batch or frozen"),
        ({"batch_norm": "frozen", "frozen_share": 0}, "frozen_share is 0; it must be above 0"),
        ({"batch_norm": "frozen", "frozen_share": 1.1}, "frozen_share is 1.1; it must be"),
        ({"frozen_share": 0.5}, "batch_norm is batch; pass batch_norm frozen"),
        ({"statistics_crops": 0}, "statistics_crops is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        TrainSettings.of_recipe("paper", **values)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="use paper or robust"):
        TrainSettings.of_recipe("sturdy")
