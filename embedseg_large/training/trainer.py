"""The loop: batches, gradients, steps, validation, checkpoints.

::

    epoch e   learning rate (1 - e/E) ** 0.9
      batch   crops ── network ── loss / accumulate ── gradients add up
              every `accumulate` batches, and at the end of an epoch: one step of Adam
      then    validation, the best model, the state to resume from

What is random is drawn from the seed and the epoch (crops) or from torch's generator, whose state
is saved with every epoch: a run that is killed and resumed ends with the same bits on the CPU.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader

from embedseg_large.network.device import available_cores
from embedseg_large.network.erfnet import BranchedERFNet
from embedseg_large.network.model import Model
from embedseg_large.training.dataset import CropDataset, EpochSampler
from embedseg_large.training.loss import LossTerms, embedding_loss
from embedseg_large.training.properties import Properties
from embedseg_large.training.settings import TrainSettings
from embedseg_large.training.sources import Pair
from embedseg_large.training.state import TrainState, load_state, save_state
from embedseg_large.training.targets import Batch, collate
from embedseg_large.training.validation import Validation, validate

logger = logging.getLogger(__name__)

POWER = 0.9
TERMS = ("total", "instance", "variance", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One line of the log."""

    epoch: int
    """Counted from 1."""
    learning_rate: float
    loss: dict[str, float]
    """Mean of each term over the epoch."""
    iou: float
    """Mean IoU of an instance's mask and what its own centre and sigma claim: the paper's."""
    ap: dict[str, float] | None
    """Validation AP at each threshold; None where the epoch was not validated."""
    best: bool
    """Whether the model is the best so far."""


class TrainWatcher(Protocol):
    """Somebody who looks at a training."""

    def batch(self, epoch: int, done: int, of: int, loss: float) -> None:
        """A batch is done."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is done."""


class Trainer:
    """One training run.

    Parameters
    ----------
    crops
        The training data.
    validation, ranges
        Whole images to validate on, and the intensity range of each image and channel.
    settings
        How to train.
    folder
        For the state, the log and the best model.
    start
        A model to begin with; None: from scratch.
    device
        ``cpu`` or ``cuda``.
    """

    def __init__(
        self,
        crops: CropDataset,
        validation: Sequence[Pair],
        ranges: Sequence[Sequence[Any]],
        settings: TrainSettings,
        folder: Path,
        *,
        start: Model | None = None,
        device: str = "cpu",
        watcher: TrainWatcher | None = None,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self._crops = crops
        self._validation, self._ranges = validation, ranges
        self._device = device
        self._watcher = watcher
        torch.manual_seed(settings.seed)
        self._network = _network(crops.properties, start, settings).to(device)
        learned = (p for p in self._network.parameters() if p.requires_grad)
        self._optimiser = torch.optim.Adam(
            learned, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._scaler = torch.amp.GradScaler(device, enabled=settings.dtype == "float16")
        self._epoch, self._best, self._waiting = 0, -1.0, 0
        self._threads = available_cores()
        self._fingerprint = _fingerprint(crops, settings, start)

    @property
    def best_path(self) -> Path:
        """The best model so far."""
        return self.folder / "best.safetensors"

    @property
    def _state_path(self) -> Path:
        return self.folder / "last.pt"

    def resume(self) -> None:
        """Go on where an earlier run of the same data and settings was."""
        state = load_state(self._state_path, self._fingerprint)
        self._network.load_state_dict(state.network)
        self._optimiser.load_state_dict(state.optimiser)
        self._epoch, self._best, self._waiting = state.epoch, state.best, state.waiting
        self._threads = state.threads
        torch.set_rng_state(state.random)

    def run(self) -> Model:
        """Train to the end, and give the best model."""
        self.folder.mkdir(parents=True, exist_ok=True)
        patience = self.settings.patience
        while self._epoch < self.settings.epochs:
            self._run_epoch()
            if patience is not None and self._waiting >= patience:
                logger.info("no better model for %d validations; stopping", self._waiting)
                break
        from embedseg_large.network.checkpoint import load_model

        return load_model(self.best_path)

    def _run_epoch(self) -> None:
        torch.set_num_threads(self._threads)  # whatever others in this process made of it
        rate = self.settings.learning_rate * (1 - self._epoch / self.settings.epochs) ** POWER
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        means, iou = self._learn()
        self._epoch += 1
        due = self._epoch % self.settings.validate_every == 0
        found = self._validated() if due or self._epoch == self.settings.epochs else None
        best = self._judge(found)
        record = EpochRecord(
            epoch=self._epoch,
            learning_rate=rate,
            loss=means,
            iou=iou,
            ap=None if found is None else {f"{t:g}": ap for t, ap in found.ap.items()},
            best=best,
        )
        self._keep(record)
        if self._watcher is not None:
            self._watcher.epoch(record)

    def _learn(self) -> tuple[dict[str, float], float]:
        """One pass over the crops; the mean of each term, and the mean IoU."""
        self._network.train()
        loader = self._loader()
        sums = dict.fromkeys(TERMS, 0.0)
        overlap, instances = 0.0, 0
        for number, batch in enumerate(loader, start=1):
            terms = self._accumulate(batch.to(self._device, non_blocking=True))
            if number % self.settings.accumulate == 0 or number == len(loader):
                self._step()
            for name in TERMS:
                sums[name] += float(getattr(terms, name).detach())
            overlap += float(terms.overlaps.sum())
            instances += len(terms.overlaps)
            if self._watcher is not None:
                loss = float(terms.total.detach())
                self._watcher.batch(self._epoch + 1, number, len(loader), loss)
        means = {name: total / len(loader) for name, total in sums.items()}
        return means, overlap / max(1, instances)

    def _loader(self) -> DataLoader[Batch]:
        sampler = EpochSampler(len(self._crops))
        sampler.epoch = self._epoch
        return DataLoader(
            self._crops,  # type: ignore[arg-type]  # samples go in, batches come out
            batch_size=self.settings.batch,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.settings.workers,
            pin_memory=self._device != "cpu",
            generator=torch.Generator(),  # or it would draw from the one that dropout uses
        )

    def _accumulate(self, batch: Batch) -> LossTerms:
        """Add the gradients of one batch."""
        properties = self._crops.properties
        number_format = getattr(torch, self.settings.dtype)
        with torch.autocast(self._device, number_format, self.settings.dtype != "float32"):
            raw = self._network(batch.image)
        terms = embedding_loss(
            raw, batch, pitch=properties.pitch, foreground_weight=properties.foreground_weight
        )
        share = self._scaler.scale(terms.total / self.settings.accumulate)
        share.backward()  # type: ignore[no-untyped-call]
        return terms

    def _step(self) -> None:
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)

    def _model(self) -> Model:
        return Model(
            self._network.state_dict(),
            self._crops.properties.model_settings(),
            card={"training": self.settings.as_dict(), "data": self._crops.properties.as_dict()},
            device=self._device,
        )

    def _validated(self) -> Validation | None:
        if not self._validation:
            return None
        return validate(self._model(), self._validation, self._ranges)

    def _judge(self, found: Validation | None) -> bool:
        """Keep the model if it is the best; without validation the last one is."""
        if found is not None and found.score <= self._best:
            self._waiting += 1
            return False
        if found is None and self._validation:
            return False
        if found is not None:
            self._best, self._waiting = found.score, 0
        self._model().save(self.best_path)
        return True

    def _keep(self, record: EpochRecord) -> None:
        """Write the log, then the state: a line may come twice after a kill, never be missing."""
        line = {name: getattr(record, name) for name in EpochRecord.__slots__}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        save_state(
            self._state_path,
            TrainState(
                network=self._network.state_dict(),
                optimiser=self._optimiser.state_dict(),
                epoch=self._epoch,
                best=self._best,
                waiting=self._waiting,
                threads=self._threads,
                random=torch.get_rng_state(),
                fingerprint=self._fingerprint,
            ),
        )


def _network(properties: Properties, start: Model | None, settings: TrainSettings) -> nn.Module:
    network = BranchedERFNet(properties.ndim, properties.channels)
    if start is not None:
        network.load_state_dict(start.weights)
    for parameter in network.encoder.parameters() if settings.freeze_encoder else ():
        parameter.requires_grad_(False)
    return network


def _fingerprint(crops: CropDataset, settings: TrainSettings, start: Model | None) -> str:
    """Hash of what decides how training goes; not of how many processes cut crops."""
    values = settings.as_dict() | {"workers": 0}
    facts = {
        "settings": values,
        "data": crops.properties.as_dict(),
        "augment": repr(crops.augment),
        "start": None if start is None else start.fingerprint,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
