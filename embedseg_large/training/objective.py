"""What a network is trained for: EmbedSeg's embedding, or the fields of another method.

::

    crops ── collate ──► a batch: images and targets
    raw channels ── loss ──► terms, their total, and overlaps with the objects
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from embedseg_large.errors import UsageError
from embedseg_large.methods.of_model import method_of, scale_of
from embedseg_large.methods.protocol import FieldMethod
from embedseg_large.methods.registry import field_method
from embedseg_large.network.model import Model
from embedseg_large.network.settings import EMBEDSEG, ModelSettings
from embedseg_large.training.data.properties import Properties
from embedseg_large.training.data.sources import Pair
from embedseg_large.training.data.targets import Batch, Sample, collate
from embedseg_large.training.loss.loss import embedding_loss
from embedseg_large.training.settings import TrainSettings


@dataclass(frozen=True, slots=True, eq=False)
class BatchLoss:
    """The loss of a batch."""

    terms: Mapping[str, Tensor]
    """Scalars by name; ``total`` is the one to differentiate."""
    overlaps: Tensor
    """``(K,)``, without gradient: intersection over union of prediction and annotation."""
    samples: Tensor
    """``(K,)``: sample of each overlap."""


class AnyBatch(Protocol):
    """What every batch provides."""

    @property
    def image(self) -> Tensor:
        """float32 ``(samples, channels, *spatial)``."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Any:
        """The batch on another device."""


class Objective(Protocol):
    """What a network is trained for."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss, the total first."""

    def collate(self, samples: Sequence[Sample]) -> AnyBatch:
        """Join crops of one shape into a batch."""

    def loss(self, raw: Tensor, batch: Any) -> BatchLoss:
        """Compare the raw channels ``(samples, channels, *spatial)`` of a batch with its crops."""


@dataclass(frozen=True, slots=True)
class EmbeddingObjective:
    """The objective of EmbedSeg, see `embedseg_large.training.loss.loss`."""

    pitch: tuple[float, ...]
    foreground_weight: float
    terms: tuple[str, ...] = ("total", "instance", "variance", "seed")

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Join crops into memberships."""
        return collate(samples)

    def loss(self, raw: Tensor, batch: Batch) -> BatchLoss:
        """Return the terms of the paper."""
        found = embedding_loss(
            raw, batch, pitch=self.pitch, foreground_weight=self.foreground_weight
        )
        terms = {name: getattr(found, name) for name in self.terms}
        return BatchLoss(terms, found.overlaps, batch.samples)


@dataclass(frozen=True, slots=True, eq=False)
class FieldBatch:
    """Crops of one shape, and their targets."""

    image: Tensor
    """float32 ``(samples, channels, *spatial)``."""
    labels: Tensor
    """int32 ``(samples, *spatial)``: -1 ignored, 0 background."""
    targets: Mapping[str, Tensor]
    """See `embedseg_large.methods.protocol.Targets`, stacked."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> FieldBatch:
        """The batch on another device."""
        return self._each(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> FieldBatch:
        """The batch in page-locked memory; DataLoaders call this."""
        return self._each(lambda t: t.pin_memory())

    def _each(self, change: Any) -> FieldBatch:
        targets = {name: change(t) for name, t in self.targets.items()}
        return FieldBatch(change(self.image), change(self.labels), targets)


@dataclass(frozen=True, slots=True)
class FieldObjective:
    """The objective of a method whose fields are learned voxel by voxel."""

    method: FieldMethod

    @property
    def terms(self) -> tuple[str, ...]:
        """The total, and one term for each field."""
        return "total", *self.method.terms

    def collate(self, samples: Sequence[Sample]) -> FieldBatch:
        """Join crops, and compute their targets."""
        each = [self.method.targets(sample.labels) for sample in samples]
        stacked = {name: torch.from_numpy(np.stack([t[name] for t in each])) for name in each[0]}
        return FieldBatch(
            image=torch.from_numpy(np.stack([s.image for s in samples], dtype=np.float32)),
            labels=torch.from_numpy(np.stack([sample.labels for sample in samples])),
            targets=stacked,
        )

    def loss(self, raw: Tensor, batch: FieldBatch) -> BatchLoss:
        """Return the method's terms, and the overlap of each crop's foreground."""
        with torch.autocast(raw.device.type, enabled=False):
            exact = raw.float()
            terms = self.method.loss(exact, batch.targets)
        known = batch.labels >= 0
        found = self.method.foreground(exact.detach()) & known
        wanted = batch.labels > 0
        both, either = (part.flatten(1).sum(1) for part in (found & wanted, found | wanted))
        overlaps = torch.where(either > 0, both / either.clamp(min=1), 1.0)
        total = torch.stack(list(terms.values())).sum()
        plain = {name: term.detach() for name, term in terms.items()}
        samples = torch.arange(len(raw), device=raw.device)
        return BatchLoss({"total": total} | plain, overlaps, samples)


def objective_of(settings: ModelSettings, properties: Properties) -> Objective:
    """Return the objective of a network with these settings."""
    method = method_of(settings)
    if method is None:
        return EmbeddingObjective(properties.pitch, properties.foreground_weight)
    return FieldObjective(method)


def model_settings(
    properties: Properties, settings: TrainSettings, start: Model | None
) -> ModelSettings:
    """Return the settings of a new model, or of one that is fine-tuned."""
    plain = properties.model_settings()
    if start is not None:
        return _fine_tuned(start.settings, plain)
    if settings.method == EMBEDSEG:
        return replace(plain, backbone=settings.backbone)
    plain = replace(plain, width=plain.object_diameter)
    method = field_method(settings.method, scale_of(plain))
    return replace(
        plain,
        method=settings.method,
        backbone=settings.backbone,
        fields=method.fields,
        halo=method.halo,
    )


def _fine_tuned(start: ModelSettings, new: ModelSettings) -> ModelSettings:
    """Return the settings to start from, with what was measured on the data.

    Sizes grow, but do not shrink: the model must still segment what it was first trained on. Other
    methods than EmbedSeg keep them, because their fields are in these units.
    """
    settings = replace(
        start,
        min_object_size=new.min_object_size,
        object_diameter=new.object_diameter,
        object_depth=new.object_depth,
    )
    if start.method != EMBEDSEG:
        return settings
    return replace(
        settings,
        voxel_size=new.voxel_size,
        extent=tuple(map(max, start.extent, new.extent)),
        halo=tuple(map(max, start.halo, new.halo)),
        reach=tuple(map(max, start.reach, new.reach)),
    )


def check_overlaps(settings: TrainSettings, pairs: Sequence[Pair]) -> None:
    """Refuse masks with overlapping objects for a method that cannot learn them."""
    stacked = next((pair for pair in pairs if pair.stacked), None)
    if settings.method != EMBEDSEG and stacked is not None:
        raise UsageError(
            f"{stacked.name}: its mask has objects that overlap, which the method "
            f"{settings.method} cannot learn; use embedseg, or masks with one label per voxel"
        )
