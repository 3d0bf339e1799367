"""How raw channels are stored: float16, finite, and as logits rather than probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST = np.finfo(np.float16).max


def as_float16(channels: NDArray[np.floating]) -> NDArray[np.float16]:
    """Round channels to float16, clipped to finite values; NaN is kept, and refused elsewhere."""
    rounded: NDArray[np.float16] = np.clip(channels, -_LARGEST, _LARGEST).astype(np.float16)
    return rounded


def probability(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the sigmoid of logits, float32, without overflow."""
    values = np.clip(np.asarray(logits, np.float32), -80, 80)
    one = np.float32(1)
    return one / (one + np.exp(-values))
