"""The pixel classifier: it trains in seconds, for any budget."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from embedseg_large.comparison.contender import Fitted, Say
from embedseg_large.comparison.division import Division
from embedseg_large.comparison.networks import Clock, fitted
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.forest import FOREST
from embedseg_large.training.train import train


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
            train(
                division.train,
                out=out,
                method=FOREST,
                validation_images=division.validation,
                seed=seed,
            )
            clock.seconds = time.perf_counter() - began
            clock.save()
        return replace(fitted(load_model(out), out.name, clock), steps=None)
