"""How a model in training turns an image into instances, for each of several thresholds.

Predictions are computed once; only the decoding is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.cluster import cluster
from embedseg_large.embedding import Embedding, dequantise
from embedseg_large.methods.embedseg import SEED_KNOB
from embedseg_large.methods.of_model import method_of
from embedseg_large.methods.protocol import FieldMethod, Knob
from embedseg_large.methods.storing import probability
from embedseg_large.network.model import Model
from embedseg_large.network.settings import ModelSettings
from embedseg_large.training.whole import whole_raw, whole_stored


@dataclass(frozen=True, slots=True)
class MethodDecoder:
    """Decodes a model's predictions into instances."""

    settings: ModelSettings
    method: FieldMethod | None
    """The method; None for EmbedSeg."""

    @classmethod
    def of(cls, model: Model) -> MethodDecoder:
        """Return the decoder of a model."""
        return cls(model.settings, method_of(model.settings))

    @property
    def _first(self) -> Knob:
        return SEED_KNOB if self.method is None else self.method.knobs[0]

    @property
    def values(self) -> tuple[float, ...]:
        """Values of the first knob to try, ascending."""
        return self._first.values

    @property
    def drawn(self) -> float:
        """The value whose instances are drawn: the method's default."""
        return self._first.default

    def predictions(
        self, model: Model, image: NDArray[np.float32], tta: bool | int | str = False
    ) -> Any:
        """Return predictions for `labels`, rounded as in a segmentation."""
        if self.method is None:
            return dequantise(whole_stored(model, image, tta))
        return self.method.stored(whole_raw(model, image, tta))

    def of_raw(self, raw: NDArray[np.float32]) -> Any:
        """Convert raw channels to predictions; those of EmbedSeg are not rounded."""
        if self.method is None:
            return Embedding.from_raw(raw, self.settings.pitch)
        return self.method.stored(raw)

    def labels(self, predictions: Any, value: float | None = None) -> NDArray[np.uint32]:
        """Find instances, with a value of the first knob; None: the default."""
        if self.method is None:
            least, margin = self.settings.min_object_size, self.settings.margin
            if value is None:
                return cluster(predictions, least, margin=margin)
            return cluster(predictions, least, seed=value, margin=margin)
        return self.with_knobs(predictions, {} if value is None else self._knobs(value))

    def with_knobs(
        self, predictions: NDArray[np.float16], knobs: Mapping[str, float]
    ) -> NDArray[np.uint32]:
        """Find instances with a method other than EmbedSeg."""
        assert self.method is not None
        nothing_beyond = ((False, False),) * self.settings.ndim
        return self.method.decode(predictions, nothing_beyond, knobs).labels

    def seediness(self, predictions: Any) -> NDArray[np.float32]:
        """Return the part of predictions to draw: seediness, or the probability of foreground."""
        if self.method is None:
            seeds: NDArray[np.float32] = predictions.seeds
            return seeds
        return probability(predictions[-1])

    def settled(self, value: float) -> ModelSettings:
        """Return the model's settings with this value of the first knob.

        Seeds of test-time augmentations were chosen relative to that of one pass: the mean of
        many passes is less certain by some factor. They keep this factor.
        """
        if self.method is not None:
            return replace(self.settings, knobs=tuple(self._knobs(value).items()))
        factor = value / self.settings.seed
        scaled = (
            own._replace(seed=min(1.0, round(factor * own.seed, 4)))
            for own in self.settings.thresholds
        )
        return replace(self.settings, seed=value, thresholds=tuple(scaled))

    def _knobs(self, value: float) -> dict[str, float]:
        """Return the model's knobs with this value of the first one."""
        return dict(self.settings.knobs) | {self._first.name: value}
