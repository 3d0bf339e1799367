"""Scores of a model on whole images, by the instances it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.scores import Score, scores
from embedseg_large.geometry import Box
from embedseg_large.network.model import Model
from embedseg_large.tiling.resampling import ObjectSize, Resampling
from embedseg_large.training.data.properties import Properties
from embedseg_large.training.data.sources import Labels, Pair, flat
from embedseg_large.training.decoding import MethodDecoder
from embedseg_large.training.tuning.thresholds import IOUS, ap_of
from embedseg_large.volumes.intensity import IntensityRange

SEED_TOLERANCE = 0.01
"""Loss of AP at IoU 0.5 that is accepted for a lower threshold."""

EXCERPT = {2: (512, 512), 3: (32, 256, 256)}
"""Largest part of a training image that is segmented for a picture."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """An annotated image, or part of one, for validating a model.

    Parameters
    ----------
    pair
        Image and mask.
    ranges
        Intensities that become 0 and 1, one range per channel.
    box
        The part to use, (z,) y, x.
    set
        Name of its set of images.
    diameter
        Width of its objects in voxels, if it is to be resampled to the model's scale; None: not
        resampled.
    """

    pair: Pair
    ranges: Sequence[IntensityRange]
    box: Box
    set: str = ""
    diameter: float | None = None

    @classmethod
    def whole(
        cls,
        pair: Pair,
        ranges: Sequence[IntensityRange],
        *,
        set: str = "",
        diameter: float | None = None,
    ) -> Example:
        """The whole image."""
        return cls(pair, ranges, Box.whole(pair.shape), set, diameter)

    def described(self) -> str:
        """Name the image, its set, its shape and the stated diameter."""
        about = [self.set, self.pair.name, "x".join(map(str, self.box.shape))]
        if self.diameter is not None:
            about.append(f"diameter {self.diameter:g}")
        return " ".join(filter(None, about))

    def resampling(self, model: Model) -> Resampling:
        """Return the grid on which a model segments the image."""
        if self.diameter is None or model.object_diameter is None:
            return Resampling(self.box.shape, self.box.shape)
        known = ObjectSize(model.object_diameter, model.object_depth, model.voxel_size)
        stated = ObjectSize(self.diameter, None, self.pair.image.voxel_size)
        return Resampling.by(self.box.shape, stated.zoom_to(known, len(self.box.shape)))

    @classmethod
    def excerpt(cls, pairs: Sequence[Pair], properties: Properties, i: int) -> Example:
        """Return a part of training image `i`, of size `EXCERPT`, at the middle of its objects."""
        objects, pair = properties.objects, pairs[i]
        rows = objects.rows_of(i)
        middle = (objects.starts[rows] + objects.stops[rows]).mean(axis=0) / 2
        size = np.minimum(EXCERPT[pair.ndim], pair.shape)
        start = np.clip(middle.astype(int) - size // 2, 0, pair.shape - size)
        box = Box(tuple(start.tolist()), tuple((start + size).tolist()))
        return cls(pair, properties.ranges[i], box)

    def image(self, part: Box | None = None) -> NDArray[np.float32]:
        """Read the image or a part of it, normalised: ``(channels, *spatial)``."""
        box = self.box if part is None else part.shift(self.box.start)
        return self.pair.normalised(box, self.pair.image.read(box), self.ranges)

    def truth(self) -> Labels:
        """Read the mask: ``(*spatial)``, -1 unannotated; of overlapping objects, the last wins."""
        return self.pair.flat_labels(self.box)

    def layers(self) -> list[Labels]:
        """Read the mask: the same without overlaps, or one array for each object."""
        return self.pair.layers(self.box)


@dataclass(frozen=True, slots=True, eq=False)
class Segmented:
    """The result of a model for an example.

    Parameters
    ----------
    example
        The segmented example.
    image
        float32 ``(channels, *spatial)``, normalised.
    truth
        int ``(*spatial)``: -1 not annotated, 0 background.
    seeds
        float32 ``(*spatial)``: seediness, 0 to 1.
    labels
        uint32 ``(*spatial)``: the instances found, see `MethodDecoder.drawn`.
    """

    example: Example
    image: NDArray[np.float32]
    truth: Labels
    seeds: NDArray[np.float32]
    labels: NDArray[np.uint32]
    scores: dict[float, list[Score]]
    """Scores at each of `IOUS`, for each of `MethodDecoder.values`; the truth must be
    known."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Average precision, AP = TP / (TP + FP + FN), pooled over the objects of a set of images.

    It is 1 for a set with neither objects nor instances.
    """

    by_seed: dict[float, dict[float, float]]
    """AP at each IoU threshold, for each threshold of seediness; the mean of several sets."""
    by_set: Mapping[str, dict[float, dict[float, float]]] = field(default_factory=dict)
    """The same for each set of images, by its name."""

    @classmethod
    def of_sets(cls, by_set: Mapping[str, dict[float, dict[float, float]]]) -> Validation:
        """Return the mean over sets with equal weight."""
        mean = {
            seed: {iou: float(np.mean([s[seed][iou] for s in by_set.values()])) for iou in IOUS}
            for seed in next(iter(by_set.values()))
        }
        return cls(mean, by_set)

    @property
    def sets(self) -> dict[str, dict[float, float]]:
        """AP of each set at each IoU threshold, with that `seed`."""
        return {name: by_seed[self.seed] for name, by_seed in self.by_set.items()}

    @property
    def seed(self) -> float:
        """The best minimum seediness of a seed.

        The lowest value with an AP at IoU 0.5 hardly below the best: on images unlike the training
        data a network is less certain, and a high threshold loses objects that it does find.
        """
        first = {seed: ap[IOUS[0]] for seed, ap in self.by_seed.items()}
        best = max(first.values())
        return min(seed for seed, ap in first.items() if ap >= best - SEED_TOLERANCE)

    @property
    def ap(self) -> dict[float, float]:
        """AP at each IoU threshold, with that `seed`."""
        return self.by_seed[self.seed]

    @property
    def score(self) -> float:
        """Mean of `ap` over the IoU thresholds 0.5 to 0.9: the criterion for the best model."""
        return float(np.mean(list(self.ap.values())))


def segment_example(model: Model, example: Example, *, tta: bool = False) -> Segmented:
    """Predict and cluster an example, in memory."""
    image, layers = example.image(), example.layers()
    grid = example.resampling(model)
    target, source = Box.whole(grid.target), Box.whole(grid.source)
    decoder = MethodDecoder.of(model)
    seen = image if grid.is_identity else grid.image(image, target)
    predictions = decoder.predictions(model, seen, tta)
    found = {v: grid.labels(decoder.labels(predictions, v), source) for v in decoder.values}
    seeds = grid.back.image(decoder.seediness(predictions)[np.newaxis], source)[0]
    scored = {
        seed: scores(Contingency.of_annotated(labels, layers), IOUS)
        for seed, labels in found.items()
    }
    shown = found[decoder.drawn]
    return Segmented(example, image, flat(layers), seeds, shown, scored)


def validate(
    model: Model,
    examples: Sequence[Example],
    *,
    tta: bool = False,
    seen: Callable[[Segmented], None] | None = None,
) -> Validation:
    """Segment images with a model and score the instances.

    Parameters
    ----------
    model
        The model.
    examples
        Examples to score it on.
    tta
        Whether to predict with test-time augmentation.
    seen
        Called with the result of each example, in order.
    """
    found: dict[str, list[dict[float, list[Score]]]] = {}
    for example in examples:
        segmented = segment_example(model, example, tta=tta)
        found.setdefault(example.set, []).append(segmented.scores)
        if seen is not None:
            seen(segmented)
    return Validation.of_sets(
        {
            name: {seed: _pooled_ap([image[seed] for image in images]) for seed in images[0]}
            for name, images in found.items()
        }
    )


def _pooled_ap(images: Sequence[list[Score]]) -> dict[float, float]:
    """AP at each IoU threshold, from the scores of each image."""
    counts = np.sum([[(s.tp, s.fp, s.fn) for s in image] for image in images], axis=0)
    return dict(zip(IOUS, ap_of(counts).tolist(), strict=True))
