"""The best knobs of a method for a model: a grid search on annotated images.

The criterion is that of `embedseg_large.training.tuning.thresholds`: mean AP over the IoU
thresholds 0.5 to 0.9, pooled over the objects of a set of images; of several sets the mean. Of
all values within its tolerance of the best, those nearest to the method's defaults are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.clean import CleanSettings, clean
from embedseg_large.geometry import Box
from embedseg_large.methods.protocol import FieldMethod, Knob, value_of
from embedseg_large.network.model import Model
from embedseg_large.training.decoding import MethodDecoder
from embedseg_large.training.tuning.thresholds import IOUS, TOLERANCE, Tally, counts_of
from embedseg_large.training.validation import Example

NOTHING = CleanSettings()
"""Instances are scored as they are found."""

Setting = tuple[float, ...]
"""A value of each knob."""


@dataclass(frozen=True, slots=True)
class KnobSweep(Tally[Setting]):
    """Results of each setting of a method's knobs."""

    method: FieldMethod

    @property
    def best(self) -> Setting:
        """The setting nearest to the defaults among those within the tolerance of the best."""
        means = {at: self.score(at) for at in self.sets[0]}
        enough = max(means.values()) - TOLERANCE
        good = [at for at, ap in means.items() if ap >= enough]
        return min(good, key=lambda at: (self._steps(at), -means[at], at))

    def _steps(self, at: Setting) -> float:
        """Return the distance from the defaults, in steps of the values to try."""
        pairs = zip(self.method.knobs, at, strict=True)
        return sum(abs(_place(knob, value) - _place(knob, knob.default)) for knob, value in pairs)


def with_tuned_knobs(model: Model, examples: Sequence[Example]) -> Model:
    """Return a model of another method than EmbedSeg with the best knobs for annotated images.

    Parameters
    ----------
    model
        The model.
    examples
        Images to score it on; each is predicted once, with the model's default augmentation.
    """
    sets: dict[str, list[Example]] = {}
    for example in examples:
        sets.setdefault(example.set, []).append(example)
    swept = sweep_knobs(model, list(sets.values()))
    ap = round(swept.score(swept.best), 4)
    card = model.card | {"tuned": {"ap": ap, "images": len(examples)}}
    settings = replace(model.settings, knobs=named(swept.method, swept.best))
    return Model(model.weights, settings, card=card, device=model.device)


def sweep_knobs(
    model: Model,
    sets: Sequence[Iterable[Example]],
    tta: bool | str = True,
    cleaning: CleanSettings = NOTHING,
) -> KnobSweep:
    """Try settings of the knobs of a model's method on annotated images.

    Parameters
    ----------
    model
        A model of another method than EmbedSeg.
    sets
        Images to score it on; each is predicted once.
    tta
        Test-time augmentation; True: the model's default.
    cleaning
        What is cleaned before it is scored.

    Returns
    -------
    Results of the product of the knobs' values, and of the model's own setting.
    """
    decoder = MethodDecoder.of(model)
    method = decoder.method
    assert method is not None
    grid = product(*(knob.values for knob in method.knobs))
    tried = list(dict.fromkeys([*grid, own_setting(model, method)]))
    found = []
    for examples in sets:
        total = {at: np.zeros((len(IOUS), 3), np.int64) for at in tried}
        for example in examples:
            for at, counts in _counts(decoder, model, example, tried, tta, cleaning):
                total[at] += counts
        found.append(total)
    return KnobSweep(tuple(found), method)


def _counts(
    decoder: MethodDecoder,
    model: Model,
    example: Example,
    tried: Sequence[Setting],
    tta: bool | str,
    cleaning: CleanSettings,
) -> Iterator[tuple[Setting, NDArray[np.int64]]]:
    """Yield true positives, false positives and false negatives at each IoU, by setting."""
    assert decoder.method is not None
    image, truth = example.image(), example.layers()
    grid = example.resampling(model)
    target, source = Box.whole(grid.target), Box.whole(grid.source)
    seen = image if grid.is_identity else grid.image(image, target)
    predictions = decoder.predictions(model, seen, tta=tta)
    for at in tried:
        labels = decoder.with_knobs(predictions, dict(named(decoder.method, at)))
        if cleaning:
            labels = clean(labels, cleaning.keep_largest_piece, cleaning.fill_holes)
        yield at, counts_of(grid.labels(labels, source), truth)


def named(method: FieldMethod, at: Setting) -> tuple[tuple[str, float], ...]:
    """Return a setting as model files hold it."""
    return tuple(zip((knob.name for knob in method.knobs), at, strict=True))


def own_setting(model: Model, method: FieldMethod) -> Setting:
    """Return the setting of a model, with the method's defaults where it has none."""
    return tuple(value_of(knob, dict(model.settings.knobs)) for knob in method.knobs)


def _place(knob: Knob, value: float) -> float:
    """Return where a value lies among those to try, counted from 0."""
    return float(np.interp(value, knob.values, np.arange(len(knob.values))))
