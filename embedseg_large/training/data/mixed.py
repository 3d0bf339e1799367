"""Sources of crops: sets of annotated images, synthetic volumes, or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embedseg_large.errors import UsageError
from embedseg_large.training.data.crops import find_centers
from embedseg_large.training.data.properties import Properties
from embedseg_large.training.data.sets import TrainingSet, shares_of
from embedseg_large.training.data.sources import Pair, find_pairs
from embedseg_large.training.data.supply import CACHE_BYTES, AnnotatedSource, CropSource, Mixture
from embedseg_large.training.data.synthetic import SyntheticSource
from embedseg_large.training.options import CenterMethod
from embedseg_large.training.recipe_options import SamplingOptions


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedSet:
    """Images with masks and their share of the crops."""

    name: str
    pairs: Sequence[Pair]
    share: float
    """Fraction of the crops from annotated images."""
    called: str = ""
    """Its name in messages; empty for the unnamed images."""


def open_annotated(
    images: Any, masks: Any, pairing: Mapping[str, Any], further: Sequence[TrainingSet]
) -> list[AnnotatedSet]:
    """Open the images of all sets, the unnamed one first."""
    if images is None:
        return []
    first, *others = shares_of(further)
    found = [AnnotatedSet("annotated", find_pairs(images, masks, **pairing), first)]
    ndim = found[0].pairs[0].ndim
    parts = zip(further, others, strict=True)
    return found + [
        AnnotatedSet(each.name, each.pairs(ndim), share, each.called) for each, share in parts
    ]


def hold_out(
    annotated: Sequence[AnnotatedSet], fraction: float, seed: int, *, named: bool
) -> tuple[list[AnnotatedSet], list[tuple[str, Pair]]]:
    """Draw validation images from each set, each with the name under which it is scored."""
    learnt, held = [], []
    for each in annotated:
        pairs, own = split(list(each.pairs), fraction, seed)
        learnt.append(replace(each, pairs=pairs))
        name = each.name if each is not annotated[0] else "held out" if named else ""
        held += [(name, pair) for pair in own]
    return learnt, held


def split(pairs: list[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Choose images to validate on; at least one if there are two or more."""
    if not 0 <= fraction < 1:
        raise UsageError(f"validation is {fraction}; pass a fraction from 0 to below 1")
    count = min(max(0, len(pairs) - 1), max(1, round(fraction * len(pairs)))) if fraction else 0
    chosen = set(np.random.default_rng(seed).permutation(len(pairs))[:count].tolist())
    held = [pair for i, pair in enumerate(pairs) if i in chosen]
    return [pair for i, pair in enumerate(pairs) if i not in chosen], held


@dataclass(frozen=True, slots=True, eq=False)
class MixedSources:
    """Annotated images, synthetic volumes, or both."""

    annotated: Sequence[AnnotatedSet]
    drawn: SyntheticSource | None
    share: float
    """Fraction of the crops from synthetic volumes, if there are both."""

    @property
    def pairs(self) -> list[Pair]:
        """All annotated images, set after set."""
        return [pair for each in self.annotated for pair in each.pairs]

    @property
    def kind(self) -> tuple[int, int]:
        """Number of spatial axes and of channels."""
        if self.drawn is not None:
            return self.drawn.settings.ndim, 1
        first = self.annotated[0].pairs[0]
        return first.ndim, first.channels

    @property
    def measured(self) -> list[Pair]:
        """Images from which properties are derived: annotated ones first."""
        return [*self.pairs, *(self.drawn.sample() if self.drawn is not None else ())]

    @property
    def shares(self) -> tuple[float, ...]:
        """Fraction of the crops from each source, the synthetic one last."""
        return self.shares_with(self.share)

    def shares_with(self, synthetic: float) -> tuple[float, ...]:
        """Return the shares if synthetic volumes have another share."""
        if self.drawn is None:
            return tuple(each.share for each in self.annotated)
        if not self.annotated:
            return (1.0,)
        return (*((1 - synthetic) * each.share for each in self.annotated), synthetic)

    def mixture(
        self, properties: Properties, center: CenterMethod | None, sampling: SamplingOptions
    ) -> Mixture:
        """Combine the sources, annotated images first; centres are found if a method is given."""
        sources: list[CropSource] = list(self._sources(properties, center, sampling))
        return Mixture((*sources, *(() if self.drawn is None else (self.drawn,))), self.shares)

    def _sources(
        self, properties: Properties, center: CenterMethod | None, sampling: SamplingOptions
    ) -> Iterator[AnnotatedSource]:
        """Divide the memory of the cache, and find the centres of the objects."""
        objects, first = properties.objects, 0
        memory = CACHE_BYTES if self.drawn is None else CACHE_BYTES // 2
        for each in self.annotated:
            numbers = range(first, first + len(each.pairs))
            own = slice(objects.rows_of(numbers[0]).start, objects.rows_of(numbers[-1]).stop)
            mine = objects.part(own).renumbered(first)
            unknown = np.full(mine.starts.shape, np.nan)
            yield AnnotatedSource(
                each.pairs,
                properties,
                unknown if center is None else find_centers(each.pairs, mine, center),
                cache_bytes=memory // len(self.annotated),
                hard_share=sampling.hard_share if first == 0 else 0.0,
                small_objects=sampling.small_objects,
                name=each.name,
                first=first,
            )
            first = numbers.stop
