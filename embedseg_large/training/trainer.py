"""A training run: epochs, validation, pictures, the best model, the state to resume from.

::

    every process   learn an epoch ── gather states ───────────────────────── agree whether to
    continue the first                                      └ validate, draw, write ┘
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from embedseg_large.errors import ModelError, foreign
from embedseg_large.methods.of_model import method_of
from embedseg_large.network.checkpoint import load_model
from embedseg_large.network.model import Model
from embedseg_large.network.settings import EMBEDSEG
from embedseg_large.training.data.dataset import CropDataset
from embedseg_large.training.decoding import MethodDecoder
from embedseg_large.training.learner import EpochMeans, Learner, Tell, diverged
from embedseg_large.training.objective import model_settings
from embedseg_large.training.options import CenterMethod
from embedseg_large.training.processes import Processes
from embedseg_large.training.record import EpochRecord, TrainStart, TrainWatcher
from embedseg_large.training.settings import TrainSettings
from embedseg_large.training.sheet import ROWS, SheetRow, draw_sheet
from embedseg_large.training.state import STATE, TrainState, load_state, save_state
from embedseg_large.training.validation import (
    Example,
    Segmented,
    Validation,
    segment_example,
    validate,
)

BEST = "best.safetensors"
"""File name of the best model so far, in the folder of a training."""

logger = logging.getLogger(__name__)


class Trainer:
    """One training run, in one of the processes that share it.

    Parameters
    ----------
    crops
        The training data.
    validation
        Examples to score the model on after epochs; without them the last model is the best.
    settings
        How to train.
    folder
        Folder for the state, the log, the pictures and the best model.
    center
        How the centres of objects were chosen.
    start
        A model to start from; None: from scratch.
    pictured
        Examples to draw if there is no validation.
    processes
        The processes that train together; their group is initialised.
    watchers
        Notified of events, in the first process.
    """

    def __init__(
        self,
        crops: CropDataset,
        validation: Sequence[Example],
        settings: TrainSettings,
        folder: Path,
        *,
        center: CenterMethod = "medoid",
        start: Model | None = None,
        pictured: Sequence[Example] = (),
        processes: Processes | None = None,
        watchers: Sequence[TrainWatcher] = (),
    ) -> None:
        self.settings = settings
        self.folder = folder
        self._crops, self._validation = crops, validation
        self._pictured = _first_of_each(validation or pictured)
        self._processes = processes or Processes()
        self._watchers = watchers if self._processes.first else ()
        self.learner = Learner(crops, settings, start, self._processes)
        self._start = start
        self._epoch, self._best, self._waiting = 0, -1.0, 0
        self._facts = _facts(crops, center, validation, settings, start)

    @property
    def best_path(self) -> Path:
        """The best model so far."""
        return self.folder / BEST

    def resume(self) -> None:
        """Resume an earlier run with the same data, settings and number of processes.

        Raises
        ------
        ModelError
            If there is none.
        """
        us = self._processes
        state = load_state(self.folder / STATE, self._facts, us.world)
        self._epoch, self._best, self._waiting = state.epoch, state.best, state.waiting
        fields = {name: getattr(state, name) for name in self.learner.state()}
        todo = "resume with the model it was started from, or train another out"
        with foreign(self.folder / STATE, "does not fit", todo=todo, kind=ModelError):
            self.learner.restore(fields, state.random_of(us.rank))

    def run(self) -> Model:
        """Train to the end, and return the best model.

        Raises
        ------
        RunError
            If the training diverges; the state is that of the epoch before.
        """
        self._begin()
        patience = self.settings.patience
        while self._epoch < self.settings.n_epochs:
            if patience is not None and self._waiting >= patience:
                logger.info("no better model for %d validations; stopping", self._waiting)
                break
            self._run_epoch()
        for watcher in self._watchers:
            watcher.end()
        return load_model(self.best_path, self._processes.device)

    def _begin(self) -> None:
        start = TrainStart(
            data=self._crops.properties,
            halo=model_settings(self._crops.properties, self.settings, self._start).halo,
            sources=self._crops.mixture.described(),
            validation=tuple(example.pair.name for example in self._validation),
            settings=self.settings,
            terms=self.learner.terms,
            crops=len(self._crops),
            epochs_done=self._epoch,
            processes=self._processes.world,
            device=self._processes.device,
        )
        for watcher in self._watchers:
            watcher.begin(start)

    def _run_epoch(self) -> None:
        means = self.learner.learn(self._epoch, self._tell())
        random = self._processes.gathered(self.learner.random)
        self._epoch += 1
        if self._processes.first:
            self._conclude(means, random)
        self._waiting = self._processes.agreed(self._waiting)  # the other processes wait here

    def _tell(self) -> Tell | None:
        if not self._watchers:
            return None

        def tell(done: int, of: int, loss: float) -> None:
            for watcher in self._watchers:
                watcher.batch(self._epoch + 1, done, of, loss)

        return tell

    def _conclude(self, means: EpochMeans, random: Tensor) -> None:
        """Validate the network, and write the results."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            found, pictures = self._look()
        except ModelError as error:  # the weights are finite, but too large for predictions
            raise diverged(self._epoch, self.learner.rate) from error
        record = EpochRecord(
            epoch=self._epoch,
            steps=self.learner.steps_done(self._epoch),
            learning_rate=self.learner.rate,
            loss=means.loss,
            iou=means.iou,
            ap=None if found is None else _by_threshold(found),
            best=self._judge(found),
            sets={} if found is None else _sets(found),
            pictures=tuple(map(str, pictures)),
        )
        # the log first: after a kill a line may occur twice, but none is missing
        record.append_to(self.folder / "log.jsonl")
        self._save_state(random)
        for watcher in self._watchers:
            watcher.epoch(record)

    def _look(self) -> tuple[Validation | None, tuple[Path, ...]]:
        """Validate and draw, if due."""
        rows: dict[str, list[SheetRow]] = {}
        drawn = bool(self._pictured) and self._due(self.settings.pictures_every)

        def seen(segmented: Segmented) -> None:
            sheet = rows.setdefault(segmented.example.set, [])
            if drawn and len(sheet) < ROWS:
                sheet.append(SheetRow.of(segmented))

        found = None
        if self._validation and self._due(self.settings.validate_every):
            found = validate(self._model(), self._validation, seen=seen)
        elif drawn:
            model = self._model()
            for example in self._pictured:
                seen(segment_example(model, example))
        if not drawn:
            return found, ()
        return found, tuple(self._draw(name, rows[name], found) for name in rows)

    def _draw(self, name: str, rows: Sequence[SheetRow], found: Validation | None) -> Path:
        """Draw the sheet of a set of images."""
        ending = f"_{_file_name(name)}" if name else ""
        path = self.folder / "pictures" / f"epoch_{self._epoch:04d}{ending}.png"
        draw_sheet(rows, _title(self._epoch, name, found), path)
        return path

    def _due(self, every: int) -> bool:
        """Whether something is due after this epoch."""
        return every > 0 and (self._epoch % every == 0 or self._epoch == self.settings.n_epochs)

    def _judge(self, found: Validation | None) -> bool:
        """Keep the model if it is the best; without validation, the last one is the best."""
        if found is not None and found.score <= self._best:
            self._waiting += 1
            return False
        if found is None and self._validation:
            return False
        if found is not None:
            self._best, self._waiting = found.score, 0
        self._model(found).save(self.best_path)
        return True

    def _model(self, found: Validation | None = None) -> Model:
        settings = model_settings(self._crops.properties, self.settings, self._start)
        card: dict[str, Any] = {
            "training": self.settings.as_dict() | {"epoch": self._epoch},
            "data": self._crops.properties.as_dict() | self._crops.mixture.facts(),
        }
        if found is not None:
            images = [example.pair.name for example in self._validation]
            card["validation"] = {"images": images, "ap": _by_threshold(found)}
            if sets := _sets(found):
                card["validation"]["sets"] = sets
            settings = MethodDecoder(settings, method_of(settings)).settled(found.seed)
        return Model(
            self.learner.weights,
            settings,
            card=card,
            device=self._processes.device,
        )

    def _save_state(self, random: Tensor) -> None:
        state = TrainState(
            **self.learner.state(),
            epoch=self._epoch,
            best=self._best,
            waiting=self._waiting,
            random=random.flatten(),
            facts=self._facts,
            processes=self._processes.world,
        )
        save_state(self.folder / STATE, state)


def _by_threshold(found: Validation) -> dict[str, float]:
    return {f"{threshold:g}": ap for threshold, ap in found.ap.items()}


def _sets(found: Validation) -> dict[str, dict[str, float]]:
    """AP of each set that has a name."""
    return {
        name: {f"{threshold:g}": value for threshold, value in ap.items()}
        for name, ap in found.sets.items()
        if name
    }


def _first_of_each(examples: Sequence[Example]) -> list[Example]:
    """Return as many examples of each set as there are rows on a sheet."""
    sets: dict[str, list[Example]] = {}
    for example in examples:
        sets.setdefault(example.set, []).append(example)
    return [example for several in sets.values() for example in several[:ROWS]]


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def _title(epoch: int, name: str, found: Validation | None) -> str:
    about = f"Epoch {epoch}" + (f", {name}" if name else "")
    if found is None:
        return about
    ap = found.sets.get(name, found.ap)
    scores = "   ".join(f"{t:g}: {value:.2f}" for t, value in ap.items())
    return f"{about}    AP at IoU {scores}"


def _facts(
    crops: CropDataset,
    center: CenterMethod,
    validation: Sequence[Example],
    settings: TrainSettings,
    start: Model | None,
) -> str:
    """Return what determines the course of the training and its best model, as JSON."""
    facts: dict[str, Any] = {
        "center": center,
        "validation": [example.described() for example in validation],
        "settings": settings.deciding(),
        "data": crops.properties.as_dict(),
        "sources": crops.mixture.facts(),
        "augment": repr(crops.augment),
        "start": None if start is None else start.fingerprint,
    }
    if start is None and settings.method != EMBEDSEG:  # the unit of what is learned
        facts["width"] = model_settings(crops.properties, settings, None).width
    return json.dumps(facts, sort_keys=True)
