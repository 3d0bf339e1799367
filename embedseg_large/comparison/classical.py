"""The classical method: nothing is trained, but size and threshold are tuned."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedseg_large.clustering.classical import SPLITS, watershed
from embedseg_large.comparison.contender import Fitted, Say
from embedseg_large.comparison.division import Division
from embedseg_large.comparison.networks import normalised
from embedseg_large.geometry import Box
from embedseg_large.segmentation.request.classical import CLASSICAL, halo_of
from embedseg_large.segmentation.segmenters.tile_segmenter import TileSegmenter
from embedseg_large.stitching.middle import numbered
from embedseg_large.training.data.properties import Properties, measure
from embedseg_large.training.data.sources import Pair
from embedseg_large.training.tuning.thresholds import IOUS, ap_of, counts_of
from embedseg_large.volumes.intensity import otsu_ranges

SIZES = (0.6, 0.8, 1.0, 1.25)
"""Diameters to try, in units of the mean extent of the training objects."""
THRESHOLDS = (0.5, 0.75, 1.0, 1.25)
"""Thresholds to try, as fractions of the way from the darkest voxel to Otsu's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicalContender:
    """Threshold, distance to the background, seeded watershed."""

    name: str = CLASSICAL
    is_random: bool = False

    def fit(self, division: Division, seed: int, folder: Path, say: Say) -> Fitted:  # noqa: ARG002
        """Try all sizes and thresholds on the tuning images."""
        say(f"{self.name}: tuning")
        began = time.perf_counter()
        properties = measure(division.train)
        measured = time.perf_counter()
        tried = [
            (size, threshold, segmenter_of(properties, size, threshold, split))
            for split, size, threshold in product(SPLITS, SIZES, THRESHOLDS)
        ]
        counts = [np.zeros((len(IOUS), 3), np.int64) for _ in tried]
        for pair in division.validation:
            for total, found in zip(counts, _counts(pair, [t[2] for t in tried]), strict=True):
                total += found
        size, threshold, best = tried[int(np.argmax([ap_of(total).mean() for total in counts]))]
        return Fitted(
            engine=best,
            find=partial(labels_of, best),
            steps=None,
            seconds=measured - began,
            tuning=time.perf_counter() - measured,
            knobs={"size": size, "threshold": threshold},
            predicts=False,
            bytes_per_voxel=best.bytes_per_voxel,
            settings={
                "diameter": [round(d, 1) for d in best.parameters["diameter"]],
                "split": best.parameters["split"],
            },
        )


def segmenter_of(
    properties: Properties, size: float, threshold: float, split: str
) -> TileSegmenter:
    """Create the method for objects with a multiple of the mean extent."""
    diameter = [size * extent for extent in properties.extent_mean]
    return TileSegmenter(
        watershed,
        name=CLASSICAL,
        parameters={"diameter": diameter, "threshold": threshold, "split": split},
        halo=halo_of(diameter, "none"),
        ndim=properties.ndim,
        channels=properties.channels,
        intensity="otsu",
        min_object_size=properties.min_object_size,
    )


def labels_of(segmenter: TileSegmenter, pair: Pair) -> NDArray[np.integer]:
    """Segment an image in memory."""
    return _labels(segmenter, normalised(pair, otsu_ranges))


def _labels(segmenter: TileSegmenter, image: NDArray[np.float32]) -> NDArray[np.integer]:
    shape = image.shape[1:]
    found = segmenter.label_tile(image, Box.whole(shape))
    return numbered(found, segmenter.min_object_size, ((False, False),) * len(shape))[0]


def _counts(pair: Pair, tried: list[TileSegmenter]) -> Iterator[NDArray[np.int64]]:
    """True positives, false positives and false negatives of each segmenter."""
    image, truth = normalised(pair, otsu_ranges), pair.layers()
    for segmenter in tried:
        yield counts_of(_labels(segmenter, image), truth)
