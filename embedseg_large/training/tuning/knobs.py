"""The best knobs of a method for a model: a grid search on annotated images.

The criterion is that of `embedseg_large.training.tuning.thresholds`: mean AP over the IoU
thresholds 0.5 to 0.9, pooled over the objects of a set of images; of several sets the mean. Of
all values within its tolerance of the best, those nearest to the method's defaults are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from embedseg_large.geometry import Box
from embedseg_large.methods.protocol import FieldMethod
from embedseg_large.network.model import Model
from embedseg_large.training.decoding import MethodDecoder
from embedseg_large.training.tuning.thresholds import IOUS, TOLERANCE, ap_of, counts_of
from embedseg_large.training.validation import Example

Setting = tuple[float, ...]
"""A value of each knob."""


def with_tuned_knobs(model: Model, examples: Sequence[Example]) -> Model:
    """Return a model of another method than EmbedSeg with the best knobs for annotated images.

    Parameters
    ----------
    model
        The model.
    examples
        Images to score it on; each is predicted once, with the model's default augmentation.
    """
    decoder = MethodDecoder.of(model)
    method = decoder.method
    assert method is not None
    tried = list(product(*(knob.values for knob in method.knobs)))
    sets: dict[str, dict[Setting, NDArray[np.int64]]] = {}
    for example in examples:
        counts = sets.setdefault(
            example.set, {at: np.zeros((len(IOUS), 3), np.int64) for at in tried}
        )
        for at, found in _counts(decoder, model, example, tried).items():
            counts[at] += found
    means = {at: float(np.mean([ap_of(each[at]) for each in sets.values()])) for at in tried}
    best = _chosen(method, means)
    named = zip((knob.name for knob in method.knobs), best, strict=True)
    card = model.card | {"tuned": {"ap": round(means[best], 4), "images": len(examples)}}
    settings = replace(model.settings, knobs=tuple(named))
    return Model(model.weights, settings, card=card, device=model.device)


def _counts(
    decoder: MethodDecoder, model: Model, example: Example, tried: Sequence[Setting]
) -> dict[Setting, NDArray[np.int64]]:
    """Return true positives, false positives and false negatives at each IoU, by setting."""
    assert decoder.method is not None
    image, truth = example.image(), example.layers()
    grid = example.resampling(model)
    target, source = Box.whole(grid.target), Box.whole(grid.source)
    seen = image if grid.is_identity else grid.image(image, target)
    predictions = decoder.predictions(model, seen, tta=True)
    names = [knob.name for knob in decoder.method.knobs]
    found: dict[Setting, NDArray[np.int64]] = {}
    for at in tried:
        labels = decoder.with_knobs(predictions, dict(zip(names, at, strict=True)))
        found[at] = counts_of(grid.labels(labels, source), truth)
    return found


def _chosen(method: FieldMethod, means: dict[Setting, float]) -> Setting:
    """Return the setting nearest to the defaults among those within the tolerance."""
    enough = max(means.values()) - TOLERANCE

    def steps(at: Setting) -> int:
        pairs = zip(method.knobs, at, strict=True)
        return sum(abs(k.values.index(v) - k.values.index(k.default)) for k, v in pairs)

    good = [at for at, ap in means.items() if ap >= enough]
    return min(good, key=lambda at: (steps(at), -means[at], at))
