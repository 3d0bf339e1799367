"""A network that learns: batches, gradients, steps.

::

    epoch e    where batch normalisation changes over: its statistics are measured, then frozen
      batch   crops ── network ── loss / accumulate ── gradients add up
              every `accumulate` batches, and at the end of an epoch: one step of Adam, whose
              learning rate is that of `embedseg_large.training.schedule`

Random numbers come from the seed and the epoch (crops) or from torch's generator, whose state is
saved with every epoch: a run that is killed and resumed ends with the same bits on the CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from math import ceil, isfinite
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from embedseg_large.errors import RunError
from embedseg_large.network.backbones import new_network
from embedseg_large.network.model import Model
from embedseg_large.training.average import averaged
from embedseg_large.training.data.dataset import CropDataset, EpochSampler, Key
from embedseg_large.training.normalisation import freeze, recalibrate
from embedseg_large.training.objective import AnyBatch, BatchLoss, model_settings, objective_of
from embedseg_large.training.processes import Processes
from embedseg_large.training.schedule import Schedule
from embedseg_large.training.settings import TrainSettings

logger = logging.getLogger(__name__)

FORGET = 0.7
"""Weight of an image's earlier error that remains after each of its crops."""

LEAST_DEPTH = 24
"""Fewest planes of a crop for bfloat16 on CPUs: 3 at the lowest resolution."""

Tell = Callable[[int, int, float], None]
"""Called after a batch with its number from 1, the number of batches, and its loss."""


@dataclass(frozen=True, slots=True)
class EpochMeans:
    """Result of an epoch, over the crops of all processes."""

    loss: dict[str, float]
    """Mean of each term over the batches."""
    iou: float
    """Mean IoU over the instances."""


class Learner:
    """The network and its optimiser, in one of the processes that train it.

    Parameters
    ----------
    crops
        The training data.
    settings
        Settings; the dtype is a number format, not ``auto``.
    start
        A model to start from; None: from scratch.
    processes
        The processes that train together.

    Raises
    ------
    UsageError
        If an epoch has fewer crops than there are processes.
    """

    network: nn.Module
    """The weights, and running statistics of what this process saw."""
    threads: int
    """Threads of torch on the CPU."""
    rate: float
    """Learning rate of the last step."""

    def __init__(
        self,
        crops: CropDataset,
        settings: TrainSettings,
        start: Model | None,
        processes: Processes,
    ) -> None:
        self._crops, self._settings, self._processes = crops, settings, processes
        self._device, self._kind = processes.device, processes.device_type
        self._order = EpochSampler(len(crops), rank=processes.rank, world=processes.world)
        self._dtype = self._format()
        self._step_crops = settings.batch * settings.accumulate
        epoch_steps = ceil(len(self._order) / self._step_crops)
        self._schedule = Schedule(
            shape=settings.schedule,
            peak=settings.learning_rate,
            steps=settings.steps or settings.epochs * epoch_steps,
            epoch_steps=epoch_steps,
            warmup=settings.warmup,
        )
        self.rate = self._schedule.rate(0)
        # channels last: an eighth faster on CPUs, and suits tensor cores
        flat = crops.properties.ndim == 2
        self._layout = torch.channels_last if flat else torch.channels_last_3d
        properties = crops.properties
        self._objective = objective_of(model_settings(properties, settings, start), properties)
        torch.manual_seed(settings.seed)
        network = processes.adapted(self._new_network(start))
        self.network = network.to(  # type: ignore[call-overload]  # torch's stubs lack the format
            device=self._device, memory_format=self._layout
        )
        learned = (p for p in self.network.parameters() if p.requires_grad)
        self._optimiser = torch.optim.Adam(
            learned, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self._average = self._new_average()
        self._scaler = torch.amp.GradScaler(self._kind, enabled=settings.dtype == "float16")
        self._averaging = processes.averaging(self.network)
        self.threads = settings.threads or processes.cores
        if not processes.first:  # so that every process drops out different channels
            torch.manual_seed(settings.seed + processes.rank)

    def _format(self) -> torch.dtype:
        """Return the number format of convolutions.

        On CPUs, torch's bfloat16 gradients of convolutions along z differ from run to run, and are
        sometimes NaN, where 2 planes or fewer are left of a crop.
        """
        wanted: torch.dtype = getattr(torch, self._settings.dtype)
        shapes = (self._crops.properties.crop, self._settings.late_crop)
        depth = min(shape[0] for shape in shapes if shape is not None)
        is_3d = self._crops.properties.ndim == 3
        if wanted == torch.bfloat16 and self._kind == "cpu" and is_3d and depth < LEAST_DEPTH:
            logger.info("crops of %d planes: convolutions in float32, not bfloat16", depth)
            return torch.float32
        return wanted

    def _new_network(self, start: Model | None) -> nn.Module:
        properties = self._crops.properties
        known = model_settings(properties, self._settings, start)
        network = new_network(known)
        if start is not None:
            network.load_state_dict(start.weights)
        still = list(network.encoder.parameters()) if self._settings.freeze_encoder else []
        if not self._processes.alone:  # unused, see `Processes.averaging`
            still += network.unused_parameters()
        for parameter in still:
            parameter.requires_grad_(False)
        return network

    def _new_average(self) -> AveragedModel | None:
        steps = self._settings.average_steps
        return averaged(self.network, steps) if steps else None

    @property
    def _encoder(self) -> nn.Module:
        return self.network.get_submodule("encoder")

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss, the total first."""
        return self._objective.terms

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to use: the last ones, or their running mean."""
        return (self.network if self._average is None else self._average.module).state_dict()

    @property
    def random(self) -> Tensor:
        """State of the generator that dropout draws from, uint8 on the CPU."""
        return self._generator.get_state()

    @property
    def _generator(self) -> torch.Generator:
        if self._kind == "cpu":
            return torch.default_generator
        index = torch.device(self._device).index or 0
        return torch.cuda.default_generators[index]

    def steps_done(self, epochs: int) -> int:
        """Return the number of steps in a number of epochs."""
        return min(epochs * self._schedule.epoch_steps, self._schedule.steps)

    def state(self) -> dict[str, Any]:
        """Return what else determines how training continues, as fields of a `TrainState`."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": {} if self._average is None else self._average.state_dict(),
            "threads": self.threads,
            "errors": self._errors(),
        }

    def restore(self, state: Mapping[str, Any], random: Tensor) -> None:
        """Restore the results of `state` and `random`."""
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self.threads = self._settings.threads or state["threads"]
        if len(state["errors"]):
            self._crops.errors = state["errors"].numpy()
        self._generator.set_state(random)

    def _errors(self) -> Tensor:
        """Current errors of the annotated images, if they affect sampling."""
        errors = self._crops.errors if self._settings.hard_share else None
        return torch.zeros(0) if errors is None else torch.from_numpy(errors.copy())

    def learn(self, epoch: int, tell: Tell | None = None) -> EpochMeans:
        """Go once through the crops of an epoch, counted from 0.

        Raises
        ------
        RunError
            If the loss or the weights are not finite any more.
        """
        torch.set_num_threads(self.threads)  # in case other code in this process changed it
        frozen = self._settings.first_frozen
        if epoch == frozen and self._settings.frozen_share != 1:
            self._recalibrate(epoch)
        self.network.train()
        if epoch >= frozen:
            freeze(self.network)
        if self._settings.freeze_encoder:  # its weights alone would not keep what it computes
            self._encoder.eval()
        loader = self._loader(epoch)
        step = epoch * self._schedule.epoch_steps
        names = self._objective.terms
        sums = torch.zeros(len(names) + 2, dtype=torch.float64, device=self._device)
        watched = _Watched.of(self._crops) if self._settings.hard_share else None
        keys = iter(self._order)
        # numpy's BLAS, used for crops, keeps its threads spinning on the cores torch needs next
        with threadpool_limits(1, user_api="blas"):
            for done, batch in enumerate(loader, start=1):
                last = done % self._settings.accumulate == 0 or done == len(loader)
                found = self._accumulate(batch.to(self._device, non_blocking=True), last)
                if last:
                    self._step(step)
                    step += 1
                sums += _numbers(found, names)
                if watched is not None:
                    watched.add(list(islice(keys, self._settings.batch)), found)
                if tell is not None:
                    tell(done, len(loader), float(found.terms["total"].detach()))
        if watched is not None:
            self._crops.errors = watched.errors(self._processes)
        *totals, overlap, instances = self._processes.summed(sums).tolist()
        batches = len(loader) * self._processes.world
        loss = {name: total / batches for name, total in zip(names, totals, strict=True)}
        if not all(map(isfinite, loss.values())) or not self._is_finite:
            raise diverged(epoch + 1, self.rate)
        return EpochMeans(loss, overlap / max(1, instances))

    def _recalibrate(self, epoch: int) -> None:
        """Measure the statistics of batch normalisation on the first crops of an epoch.

        The mean of the weights starts over: what it covers must have been learned with these
        statistics.
        """
        crops = min(self._settings.statistics_crops, len(self._crops))
        loader = self._loader(epoch, ceil(crops / self._processes.world))
        logger.info("measuring the statistics of batch normalisation on %d crops", crops)
        with threadpool_limits(1, user_api="blas"), self._autocast():
            images = (self._image(batch.to(self._device)) for batch in loader)
            still = self._encoder if self._settings.freeze_encoder else None
            recalibrate(self.network, images, self._processes, still=still)
        self._average = self._new_average()

    @property
    def _is_finite(self) -> bool:
        """Whether no weight is infinite or NaN, which the last step may have made it."""
        return all(bool(torch.isfinite(p).all()) for p in self.network.parameters())

    def _loader(self, epoch: int, crops: int | None = None) -> DataLoader[AnyBatch]:
        """Load the crops of an epoch in this process, or the first ones."""
        self._order.epoch, self._order.stop = epoch, crops
        steps = self._settings.steps
        if steps is not None and crops is None:  # the last epoch may be shorter
            self._order.stop = (steps - epoch * self._schedule.epoch_steps) * self._step_crops
        return DataLoader(
            self._crops,  # type: ignore[arg-type]  # samples go in, batches come out
            batch_size=self._settings.batch,
            sampler=self._order,
            collate_fn=self._objective.collate,
            num_workers=self._settings.workers,
            pin_memory=self._kind != "cpu",
            generator=torch.Generator(),  # else it would draw from dropout's generator
        )

    def _accumulate(self, batch: AnyBatch, last: bool) -> BatchLoss:
        """Add the gradients of one batch; the processes average them after the last of a step."""
        with self._averaged_only_if(last):
            with self._autocast():
                raw = self._averaging(self._image(batch))
            found = self._objective.loss(raw, batch)
            share = self._scaler.scale(found.terms["total"] / self._settings.accumulate)
            share.backward()  # type: ignore[no-untyped-call]
        return found

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._kind, self._dtype, self._dtype != torch.float32)

    def _image(self, batch: AnyBatch) -> Tensor:
        return batch.image.contiguous(memory_format=self._layout)

    def _averaged_only_if(self, last: bool) -> AbstractContextManager[None]:
        module = self._averaging
        if last or not isinstance(module, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return cast(AbstractContextManager[None], module.no_sync())

    def _step(self, number: int) -> None:
        """Make a step of the optimiser, counted from 0."""
        self.rate = self._schedule.rate(number)
        for group in self._optimiser.param_groups:
            group["lr"] = self.rate
        if self._settings.clip is not None:
            self._scaler.unscale_(self._optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), self._settings.clip)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update_parameters(self.network)


def diverged(epoch: int, rate: float) -> RunError:
    """Return the error of a training whose loss, weights or predictions are not finite."""
    return RunError(
        f"the training diverged in epoch {epoch}, at a learning rate of {rate:g}: loss or weights "
        "are infinite or NaN; train again with a lower --learning-rate, or with --clip 5"
    )


class _Watched:
    """Overlap of the instances of each annotated image in an epoch.

    Parameters
    ----------
    crops
        The training data, with the errors so far.
    """

    def __init__(self, crops: CropDataset, before: NDArray[np.float64]) -> None:
        self._crops, self._before = crops, before
        self._sums = torch.zeros((2, len(before)), dtype=torch.float64)

    @classmethod
    def of(cls, crops: CropDataset) -> _Watched | None:
        """Watch the annotated images; None if there are none."""
        return None if crops.errors is None else cls(crops, crops.errors)

    def add(self, keys: Sequence[Key], found: BatchLoss) -> None:
        """Count the crops of a batch that hold instances."""
        overlaps, samples = found.overlaps.detach().cpu(), found.samples.cpu()
        for i, key in enumerate(keys):
            source, image = self._crops.origin(key)
            mine = overlaps[samples == i]
            if source == 0 and len(mine):
                self._sums[:, image] += torch.tensor([1 - float(mine.mean()), 1.0])

    def errors(self, processes: Processes) -> NDArray[np.float64]:
        """Return the errors after the epoch; with more crops, the earlier error counts less."""
        total, count = processes.summed(self._sums).numpy()
        share = 1 - FORGET**count
        mean = total / np.maximum(count, 1)
        return np.asarray(self._before + share * (mean - self._before))


def _numbers(found: BatchLoss, names: Sequence[str]) -> Tensor:
    """Return the terms, and sum and number of the overlaps, float64 on their device."""
    overlaps = found.overlaps
    values = [found.terms[name].detach() for name in names]
    count = overlaps.new_tensor(len(overlaps))
    return torch.stack([*values, overlaps.sum(), count]).double()
