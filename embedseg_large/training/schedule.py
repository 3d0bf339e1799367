"""The learning rate over the steps of a training.

::

    polynomial   peak * (1 - e/E) ** 0.9, one value per epoch e: the paper's
    cosine       peak * (1 + cos(pi x)) / 2, x from 0 to 1 over the steps after warm-up

Either is multiplied by a ramp from 0 to 1 over the steps of the warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

SCHEDULES = ("polynomial", "cosine")
POWER = 0.9

MOST_WARMUP = 0.1
"""Maximum share of warm-up, so that short trainings learn too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate of each step."""

    shape: str
    """One of `SCHEDULES`."""
    peak: float
    """The maximum rate."""
    steps: int
    """Steps of the whole training."""
    epoch_steps: int
    """Steps of an epoch, over which a polynomial is constant."""
    warmup: int = 0
    """Steps over which the rate grows linearly to its value; at most a tenth of all steps."""

    def rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        warmup = min(self.warmup, int(MOST_WARMUP * self.steps))
        ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if self.shape == "polynomial":
            done = step // self.epoch_steps * self.epoch_steps / self.steps
            return self.peak * ramp * float((1 - done) ** POWER)
        done = max(0, step - warmup) / (self.steps - warmup)
        return self.peak * ramp * 0.5 * (1 + cos(pi * done))
