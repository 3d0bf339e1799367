"""The pixel classifier: it trains in seconds, for any budget."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedseg_large.comparison.contender import Fitted, Say
from embedseg_large.comparison.division import Division
from embedseg_large.comparison.networks import Clock, fitted
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.forest import FOREST
from embedseg_large.network.settings import STRIDE
from embedseg_large.training.forest import fit_forest
from embedseg_large.training.tuning.knobs import with_tuned_knobs
from embedseg_large.training.validation import Example
from embedseg_large.volumes.intensity import intensity_ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestContender:
    """A random forest of filtered intensities."""

    name: str = FOREST
    is_random: bool = True

    def fit(self, division: Division, seed: int, folder: Path, say: Say) -> Fitted:
        """Train it, and tune its thresholds."""
        out = folder / f"{self.name}-{seed}.safetensors"
        clock = Clock.open(folder / f"{self.name}-{seed}.clock.json")
        if not out.exists():
            say(f"{self.name}, seed {seed}: training")
            began = time.perf_counter()
            model = fit_forest(division.train, seed)
            model.predict_raw(np.zeros((model.channels, *(STRIDE,) * model.ndim), np.float32))
            clock.seconds = time.perf_counter() - began  # with the trees, which the first use grows
            tuned = with_tuned_knobs(
                model,
                [Example.whole(pair, intensity_ranges(pair.image)) for pair in division.validation],
            )
            clock.tuning = time.perf_counter() - began - clock.seconds
            clock.save()
            tuned.save(out)
        return replace(fitted(load_model(out), out.name, clock), steps=None)
