"""How much context a trained network uses.

Formally it sees hundreds of voxels, but a trained network relies on nearby ones. The context of a
prediction tile is the smallest with which an image that is predicted in tiles gets the labels of
one that is predicted at once::

    whole image ───────────────────────► clustered ─► labels
    cores, each with context ─► put together ─► clustered ─► the same labels?
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedseg_large.evaluation.contingency import Contingency
from embedseg_large.evaluation.scores import scores
from embedseg_large.geometry import Box
from embedseg_large.network.model import Model
from embedseg_large.tiling.axis import STRIDE
from embedseg_large.tiling.grid import Grid
from embedseg_large.training.decoding import MethodDecoder
from embedseg_large.training.validation import Example
from embedseg_large.training.whole import tiled_raw

CONTEXTS = (8, 16, 24, 32)
"""Contexts that are tried, in voxels."""

TOLERANCE = 0.01
"""Loss of AP at IoU 0.9, of labels from tiles against the others, accepted for a smaller
context."""

CORE = {2: (96, 96), 3: (24, 40, 40)}
"""Cores of the tiles: small, so that an image has many seams."""

LARGEST = {2: (384, 384), 3: (72, 160, 160)}
"""Maximum edge of the image; a larger one is cropped to its centre."""


def measure_context(model: Model, image: NDArray[np.float32]) -> int | None:
    """Find the context that a model needs.

    Parameters
    ----------
    model
        The trained model.
    image
        Normalised, ``(channels, *spatial)``, with objects; see `middle_of`.

    Returns
    -------
    int
        Voxels on each side: the smallest of `CONTEXTS` beyond which labels hardly change. None if
        the image is a single tile, or nothing is found.
    """
    shape = image.shape[1:]
    core = tuple(min(c, n) for c, n in zip(CORE[model.ndim], shape, strict=True))
    wanted = _labels(model, model.predict_raw(image))
    if shape == core or not wanted.any():
        return None
    agreed: dict[int, float] = {}
    for context in CONTEXTS:
        raw = tiled_raw(model, image, Grid(shape, core, (context,) * model.ndim))
        agreed[context] = agreement(_labels(model, raw), wanted)
        if agreed[context] >= 1 - TOLERANCE:
            break
    best = max(agreed.values())
    return min(context for context, ap in agreed.items() if ap >= best - TOLERANCE)


def middle_of(model: Model, example: Example) -> NDArray[np.float32]:
    """Read the middle of an image on the model's grid: ``(channels, *spatial)``."""
    grid = example.resampling(model)
    box = middle(grid.target)
    return grid.image(example.image(grid.needed(box)), box)


def middle(shape: Sequence[int]) -> Box:
    """Return the centre of a shape, at most `LARGEST`; edges are multiples of the stride.

    An axis shorter than the stride is kept: every tile covers it, so all are padded alike.
    """
    edges = [
        min(n, e) // STRIDE * STRIDE or n for n, e in zip(shape, LARGEST[len(shape)], strict=True)
    ]
    starts = [(n - e) // 2 for n, e in zip(shape, edges, strict=True)]
    return Box(tuple(starts), tuple(a + e for a, e in zip(starts, edges, strict=True)))


def agreement(found: NDArray[np.integer], wanted: NDArray[np.integer]) -> float:
    """AP of labels against others at IoU 0.9."""
    return scores(Contingency.of(found, wanted), (0.9,))[0].ap


def _labels(model: Model, raw: NDArray[np.float32]) -> NDArray[np.uint32]:
    decoder = MethodDecoder.of(model)
    return decoder.labels(decoder.of_raw(raw))
