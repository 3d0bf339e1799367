"""Participants of a comparison: anything that can be fitted to annotated images, and segment.

::

    images to learn from ┐
    images to tune on    ┴── fit ── Fitted ── labels of an image, in memory
                                          └── what `segment` takes, for tiles
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedseg_large.comparison.division import Division
from embedseg_large.segmentation.request.prepare import AnyModel
from embedseg_large.training.data.sources import Pair

Say = Callable[[str], None]
"""Notified of progress, in words."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A fitted method, ready to use."""

    engine: AnyModel
    """Passed to `embedseg_large.segment` as the model."""
    find: Callable[[Pair], NDArray[np.integer]]
    """Labels of a whole image, 0 for background."""
    steps: int | None
    """Number of optimiser steps; None if not applicable."""
    seconds: float
    """Time to learn, without validation and tuning."""
    tuning: float
    """Time to choose thresholds on the tuning part."""
    knobs: dict[str, float]
    """Thresholds chosen on the tuning part."""
    predicts: bool
    """Whether predictions can be kept, and decoded separately."""
    bytes_per_voxel: float
    """Peak memory of a tile per voxel, estimated."""
    model: str | None = None
    """Name of the model's file in the folder of the comparison; None if there is none."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further settings needed to use it."""


class Contender(Protocol):
    """A method before it is fitted."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def is_random(self) -> bool:
        """Whether seeds make a difference."""

    def fit(self, division: Division, seed: int, folder: Path, say: Say) -> Fitted:
        """Fit it, resuming from the files of an interrupted call in the folder."""
