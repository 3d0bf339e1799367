"""Events of a training: its start, its batches, its epochs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from embedseg_large.network.settings import EMBEDSEG, ERFNET
from embedseg_large.training.data.properties import Properties
from embedseg_large.training.settings import TrainSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainStart:
    """The start of a training."""

    data: Properties
    """Values derived from the training data."""
    halo: tuple[int, ...]
    """Halo of the model's clustering tiles, in voxels."""
    validation: tuple[str, ...]
    """Names of the validation images."""
    settings: TrainSettings
    terms: tuple[str, ...]
    """Names of the terms of the loss, the total first."""
    crops: int
    """Number of crops per epoch."""
    epochs_done: int
    """0, or more if a training is resumed."""
    processes: int
    """Number of processes that train together."""
    device: str
    sources: Mapping[str, str] = field(default_factory=dict)
    """Descriptions of the sources of crops, by name; empty if there are only annotated images."""

    def facts(self) -> dict[str, str]:
        """Return the facts that a user should check before the first epoch."""
        data, s = self.data, self.settings
        step = s.batch * s.accumulate * self.processes
        held = f"{len(self.validation)} to validate on" if self.validation else "none to validate"
        counted = "measured" if self.sources else "to train on"
        return {
            **self._method(),
            **self.sources,
            "images": f"{data.n_images} {counted}, {held}{_names(self.validation)}",
            "objects": f"{data.n_objects:,}, about {data.object_diameter:.1f} voxels wide, "
            f"{data.mean_object_size:,.0f} voxels large",
            "instances": f"have more than {data.min_object_size:,} voxels",
            "largest object": f"{_product(data.extent_largest)} voxels, so the halo of tiles is "
            f"{_product(self.halo)}",
            "voxel size": "unknown"
            if data.voxel_size is None
            else f"{_product(data.voxel_size)} µm",
            "crop": f"{_product(data.crop)} voxels, {data.channels} channel"
            + "s" * (data.channels > 1),
            "pitch": _product(data.pitch),
            "foreground": f"counts {data.foreground_weight:.3g} times in the loss of seeds",
            "epochs": f"{s.n_epochs} of {self.crops:,} crops"
            + ("" if s.steps is None else f", {s.steps:,} steps")
            + (f", {self.epochs_done} done" if self.epochs_done else ""),
            "learning rate": f"{s.learning_rate:g}, {s.schedule}"
            + (f", after {s.warmup} steps of warm-up" if s.warmup else ""),
            **self._late(),
            **self._frozen(),
            "step": f"{step} crops: batches of {s.batch}, accumulated {s.accumulate} times"
            + (f", in {self.processes} processes" if self.processes > 1 else ""),
            "device": f"{self.device}, {s.dtype}",
        }

    def _method(self) -> dict[str, str]:
        """Name method and backbone, unless they are the paper's."""
        s = self.settings
        if (s.method, s.backbone) == (EMBEDSEG, ERFNET):
            return {}
        return {"method": f"{s.method}, backbone {s.backbone}"}

    def _late(self) -> dict[str, str]:
        s = self.settings
        if s.first_late == s.n_epochs:
            return {}
        crop = "" if s.late_crop is None else f"crops of {_product(s.late_crop)}, "
        return {"late": f"from epoch {s.first_late + 1} on {crop}ranges x {s.late_ranges:g}"}

    def _frozen(self) -> dict[str, str]:
        s = self.settings
        if s.first_frozen == s.n_epochs:
            return {}
        if s.frozen_share == 1:
            return {"batch norm": "frozen, with the statistics of the model to start from"}
        crops = min(s.statistics_crops, self.crops)
        return {
            "batch norm": f"frozen from epoch {s.first_frozen + 1} on, as measured on {crops} crops"
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One line of the log."""

    epoch: int
    """Counted from 1."""
    steps: int
    """Steps of the optimiser so far."""
    learning_rate: float
    """Learning rate of the last step."""
    loss: dict[str, float]
    """Mean of each term over the epoch."""
    iou: float
    """Mean IoU of an instance's mask and the voxels that its centre and sigma claim, as in the
    paper."""
    ap: dict[str, float] | None
    """Validation AP at each threshold; None if the epoch was not validated."""
    best: bool
    """Whether the model is the best so far."""
    sets: dict[str, dict[str, float]] = field(default_factory=dict)
    """Validation AP of each set of a panel, by name; `ap` is their mean."""
    pictures: tuple[str, ...] = ()
    """The sheets of pictures drawn after it, one per set of images."""

    def append_to(self, log: Path) -> None:
        """Write it as a line of JSON."""
        with log.open("a") as file:
            file.write(json.dumps(asdict(self)) + "\n")


class TrainWatcher:
    """Observer of a training: override the methods of interest."""

    def begin(self, start: TrainStart) -> None:
        """Called when the data are measured, before the first epoch."""

    def batch(self, epoch: int, done: int, of: int, loss: float) -> None:
        """Called after a batch; epochs and batches count from 1."""

    def epoch(self, record: EpochRecord) -> None:
        """Called after an epoch, when its results are on disk."""

    def end(self) -> None:
        """Called after the last epoch."""


class LogWatcher(TrainWatcher):
    """Logs everything except batches, at level INFO."""

    def begin(self, start: TrainStart) -> None:
        """Log the facts about the data."""
        for name, fact in start.facts().items():
            logger.info("%s: %s", name, fact)

    def epoch(self, record: EpochRecord) -> None:
        """Log the results of an epoch."""
        ap = "" if record.ap is None else "  AP " + " ".join(f"{v:.3f}" for v in record.ap.values())
        terms = "  ".join(f"{name} {value:.3f}" for name, value in record.loss.items())
        best = "  best" if record.best else ""
        at = f"epoch {record.epoch}, step {record.steps}"
        logger.info("%s  %s  IoU %.3f%s%s", at, terms, record.iou, ap, best)
        for name, values in record.sets.items():
            logger.info("    %s  AP %s", name, " ".join(f"{v:.3f}" for v in values.values()))


def _product(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _names(names: Sequence[str], most: int = 4) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f" ({', '.join(names[:most])}{more})"
