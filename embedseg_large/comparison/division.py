"""Annotated images in three parts: for training, tuning and scoring.

::

    three images or more     whole images go to one part each, drawn by the seed
    one or two images        each is cut along its longest axis

                             |  learn from  60 %  |  tune on  20 %  |  score on  20 %  |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from embedseg_large.errors import UsageError
from embedseg_large.geometry import Box
from embedseg_large.training.data.sources import Pair
from embedseg_large.volumes.content import content_of
from embedseg_large.volumes.volume import Volume, open_volume

SHARE = 0.2
"""Fractions of the images for tuning and for scoring."""
FEWEST = 3
"""Fewer images than this are cut."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Division:
    """Annotated images by purpose."""

    train: list[Pair]
    """Training images."""
    validation: list[Pair]
    """Images for choosing the best state of a training, and for tuning thresholds."""
    held_out: list[Pair]
    """Images for scoring; no method has seen them before."""
    whole: list[Pair]
    """The original of each held-out image: itself, or the image it was cut from."""

    @property
    def parts(self) -> dict[str, list[Pair]]:
        """The parts by name."""
        return {
            "train": self.train,
            "validation": self.validation,
            "held out": self.held_out,
        }

    def facts(self) -> dict[str, Any]:
        """Names and shapes of the images of each part, as values that JSON can hold."""
        return {
            name: [f"{pair.name} {'x'.join(map(str, pair.shape))}" for pair in pairs]
            for name, pairs in self.parts.items()
        }


def divide(pairs: Sequence[Pair], seed: int = 0) -> Division:
    """Divide annotated images.

    Parameters
    ----------
    pairs
        At least one.
    seed
        Chooses the images of each part.

    Raises
    ------
    UsageError
        If a part has no objects.
    """
    division = _dealt(list(pairs), seed) if len(pairs) >= FEWEST else _cut(pairs)
    for name, several in division.parts.items():
        if name != "train" and not any(_has_objects(pair) for pair in several):
            raise UsageError(
                f"the {name} part ({', '.join(pair.name for pair in several[:4])}) has no object; "
                "pass more annotated images, or another split_seed"
            )
    return division


def _dealt(pairs: list[Pair], seed: int) -> Division:
    """Give whole images to parts."""
    count = max(1, round(SHARE * len(pairs)))
    order = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    held, tuned, learnt = order[:count], order[count : 2 * count], order[2 * count :]
    parts = [[pairs[i] for i in sorted(chosen)] for chosen in (learnt, tuned, held)]
    return Division(train=parts[0], validation=parts[1], held_out=parts[2], whole=parts[2])


def _cut(pairs: Sequence[Pair]) -> Division:
    """Cut every image into parts."""
    rows = [[part_of(pair, box) for box in _boxes(pair.shape)] for pair in pairs]
    learnt, tuned, held = (list(part) for part in zip(*rows, strict=True))
    return Division(train=learnt, validation=tuned, held_out=held, whole=list(pairs))


def _boxes(shape: tuple[int, ...]) -> Iterator[Box]:
    """Cut a shape in three along its longest axis."""
    axis = int(np.argmax(shape))
    length = shape[axis]
    ends = [0, round((1 - 2 * SHARE) * length), round((1 - SHARE) * length), length]
    for low, high in pairwise(ends):
        start, stop = [0] * len(shape), list(shape)
        start[axis], stop[axis] = low, high
        yield Box(tuple(start), tuple(stop))


def part_of(pair: Pair, box: Box) -> Pair:
    """Read a part of an image and its mask into memory."""
    spatial = "zyx"[-pair.ndim :]
    axes = spatial if pair.image.channel is not None else f"c{spatial}"
    image: Volume = open_volume(
        pair.image.read(box),
        channel=0 if pair.image.channel is not None else None,
        axes=axes,
        voxel_size=pair.image.voxel_size,
        nodata=pair.image.nodata,
    )
    where = ",".join(f"{a}:{b}" for a, b in zip(box.start, box.stop, strict=True))
    name = pair.name if box == Box.whole(pair.shape) else f"{pair.name} [{where}]"
    axes_of_mask = f"z{spatial}" if pair.stacked else spatial
    return Pair(
        name=name,
        image=image,
        mask=open_volume(truth_of(pair, box), channel=None, axes=axes_of_mask),
    )


def middle_of(pair: Pair, most: int) -> Pair:
    """Read the centre of an image, with at most about `most` voxels."""
    factor = min(1.0, (most / prod(pair.shape)) ** (1 / pair.ndim))
    lengths = [max(1, int(n * factor)) for n in pair.shape]
    start = tuple((n - m) // 2 for n, m in zip(pair.shape, lengths, strict=True))
    stop = tuple(a + m for a, m in zip(start, lengths, strict=True))
    return part_of(pair, Box(start, stop))


def truth_of(pair: Pair, box: Box | None = None) -> Any:
    """Read the labels of an image, or of a box: -1 where nothing is annotated, 0 background.

    Of objects that overlap it is a stack of masks, ``(objects, *spatial)``.
    """
    layers = pair.layers(box)
    if not pair.stacked:
        return layers[0]
    return np.stack([layer for layer in layers if (layer > 0).any()] or layers[:1])


def contents(pairs: Sequence[Pair]) -> dict[str, list[int | str]]:
    """Return what changes with images and masks, by name, as values that JSON can hold."""
    found: dict[str, list[int | str]] = {}
    for pair in pairs:  # of images listed one by one, several may have the same name
        found.setdefault(pair.name, []).extend((content_of(pair.image), content_of(pair.mask)))
    return found


def _has_objects(pair: Pair) -> bool:
    return any((layer > 0).any() for layer in pair.layers())
