"""Networks: the time per step is measured; all train for the same time or number of steps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.comparison.contender import Fitted, Say
from embedseg_large.comparison.division import Division
from embedseg_large.comparison.options import CompareOptions
from embedseg_large.documents import parse_json
from embedseg_large.files import whole
from embedseg_large.geometry import Box
from embedseg_large.methods.embedseg import EmbedSeg
from embedseg_large.methods.of_model import method_of, scale_of
from embedseg_large.methods.protocol import Knobs, Method
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.device import default_device
from embedseg_large.network.model import Model
from embedseg_large.training.data.sources import Pair
from embedseg_large.training.record import EpochRecord, TrainStart, TrainWatcher
from embedseg_large.training.settings import RECIPES
from embedseg_large.training.train import is_resumable, train
from embedseg_large.training.whole import whole_raw
from embedseg_large.volumes.intensity import intensity_ranges

ROUNDS = 5
"""Number of validations during a training; the best state is kept."""
WARM, MEASURED = 3, 8
"""Steps before the time per step is measured, and measured steps."""
FEWEST = 10
"""Minimum number of steps of a training, for any budget."""
LEARNING: dict[str, Any] = {
    name: RECIPES["robust"][name]
    for name in ("accumulate", "schedule", "warmup", "clip", "average_steps")
}
"""Settings of the robust recipe that suit short trainings."""
RECIPE = LEARNING | {"pictures_every": 0}
"""Settings of the trainings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkContender:
    """A method whose fields a network predicts."""

    name: str
    options: CompareOptions
    method: str | None = None
    """The method, if the name is another."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Further options of `embedseg_large.train`, which replace those of `RECIPE`."""
    tta: bool = True
    """Whether to predict with the model's default test-time augmentation."""
    timer: Callable[[], float] = time.perf_counter
    """Measures the time that training costs, in seconds."""
    is_random: bool = True

    def fit(self, division: Division, seed: int, folder: Path, say: Say) -> Fitted:
        """Train, or resume a training; thresholds are tuned at its end."""
        out = folder / f"{self.name}-{seed}.safetensors"
        clock = self._clock(folder, seed)
        if clock.steps == 0:  # measured for the first seed alone: all seeds learn equally long
            clock.steps = self._clock(folder, 0).steps or self._steps(division, say)
            clock.save()
        if not out.exists():
            say(f"{self.name}, seed {seed}: training, {clock.steps:,} steps")
            self._train(division, seed, out, clock)
            clock.stop()
        model = load_model(out, self.options.device or default_device())
        return fitted(model, out.name, clock, tta=self.tta)

    def _clock(self, folder: Path, seed: int) -> Clock:
        return Clock.open(folder / f"{self.name}-{seed}.clock.json", self.timer)

    def _steps(self, division: Division, say: Say) -> int:
        """Return the number of steps that the budget allows."""
        if self.options.steps is not None:
            return self.options.steps
        say(f"{self.name}: measuring the time of a step")
        probe = Probe(self.timer)
        with TemporaryDirectory() as folder, suppress(EnoughError):
            self._run(division, 0, Path(folder, "probe"), probe, WARM + MEASURED, 0.0)
        return max(FEWEST, int(self.options.seconds / probe.step_seconds))

    def _train(self, division: Division, seed: int, out: Path, clock: Clock) -> None:
        more = {
            "validation_images": division.validation,
            "tune_thresholds": True,
            "resume": is_resumable(out),
        }
        self._run(division, seed, out, clock, clock.steps, None, **more)

    def _run(
        self,
        division: Division,
        seed: int,
        out: Path,
        watcher: TrainWatcher,
        steps: int,
        validation: float | None,
        **more: Any,
    ) -> None:
        own = self.options
        train(
            division.train,
            out=out,
            validation=validation,
            method=self.method or self.name,
            backbone=own.backbone,
            steps=steps,
            epoch_steps=ceil(steps / ROUNDS) if more else steps,
            batch=own.batch,
            learning_rate=own.learning_rate,
            crop=own.crop,
            device=own.device,
            threads=own.threads,
            seed=seed,
            watcher=watcher,
            **RECIPE | dict(self.recipe) | more,
        )


class EnoughError(Exception):
    """Ends a training that only measures speed."""


class Probe(TrainWatcher):
    """Measures the time of a step, and ends the training."""

    def __init__(self, timer: Callable[[], float] = time.perf_counter) -> None:
        self._timer = timer
        self._times: list[float] = []

    @property
    def step_seconds(self) -> float:
        """Median time of a step."""
        return float(np.median(np.diff(self._times[WARM - 1 :])))

    def batch(self, epoch: int, done: int, of: int, loss: float) -> None:  # noqa: ARG002
        """Record the time."""
        self._times.append(self._timer())
        if len(self._times) >= WARM + MEASURED:
            raise EnoughError


class Clock(TrainWatcher):
    """Adds up the time of the steps of a training, also of one that was resumed.

    Then measures the time in which thresholds are chosen, until it is stopped.
    """

    def __init__(
        self,
        path: Path,
        timer: Callable[[], float] = time.perf_counter,
        *,
        steps: int = 0,
        seconds: float = 0.0,
        tuning: float = 0.0,
    ) -> None:
        self.path, self.steps, self.seconds, self.tuning = path, steps, seconds, tuning
        self._timer, self._last = timer, 0.0

    @classmethod
    def open(cls, path: Path, timer: Callable[[], float] = time.perf_counter) -> Clock:
        """Read the stored clock."""
        known = parse_json(path.read_bytes()) if path.exists() else {}
        return cls(path, timer, **known)

    def save(self) -> None:
        """Store the number of steps, and the time so far."""
        values = {"steps": self.steps, "seconds": self.seconds, "tuning": self.tuning}
        with whole(self.path) as begun:
            begun.write_text(json.dumps(values))

    def begin(self, start: TrainStart) -> None:  # noqa: ARG002
        """Start measuring."""
        self._last = self._timer()

    def batch(self, epoch: int, done: int, of: int, loss: float) -> None:  # noqa: ARG002
        """Add the time of a step."""
        now = self._timer()
        self.seconds += now - self._last
        self._last = now

    def epoch(self, record: EpochRecord) -> None:  # noqa: ARG002
        """Store the time, without validation."""
        self.save()
        self._last = self._timer()

    def end(self) -> None:
        """Start measuring the time after the last step."""
        self._last = self._timer()

    def stop(self) -> None:
        """Store that time."""
        self.tuning = self._timer() - self._last
        self.save()


def fitted(model: Model, name: str, clock: Clock, *, tta: bool = True) -> Fitted:
    """Return a trained model as a fitted method."""
    return Fitted(
        engine=model,
        find=partial(labels_of, model, tta=tta),
        steps=clock.steps,
        seconds=clock.seconds,
        tuning=clock.tuning,
        knobs=dict(decoder_of(model, tta=tta)[1]),
        predicts=True,
        bytes_per_voxel=model.bytes_per_voxel,
        model=name,
    )


def decoder_of(model: Model, *, tta: bool = True) -> tuple[Method, Knobs]:
    """Return the method of a model, and the thresholds for its default augmentation or none."""
    method = method_of(model.settings)
    if method is not None:
        return method, dict(model.settings.knobs)
    seed, margin = model.thresholds_of(model.tta_mode(tta))
    own = EmbedSeg(scale_of(model.settings), model.pitch, model.reach)
    return own, {"seed": seed, "margin": margin}


def labels_of(model: Model, pair: Pair, *, tta: bool = True) -> NDArray[np.uint32]:
    """Segment an image in memory, as `segment` does with a single tile."""
    method, knobs = decoder_of(model, tta=tta)
    image = normalised(pair, intensity_ranges)
    stored = method.stored(whole_raw(model, image, tta))
    nothing_beyond = ((False, False),) * 3
    return method.decode(stored, nothing_beyond, knobs).labels


def normalised(pair: Pair, ranges: Callable[..., Any]) -> NDArray[np.float32]:
    """Read an image, normalised by its own range."""
    box = Box.whole(pair.shape)
    return pair.normalised(box, pair.image.read(box), ranges(pair.image))
