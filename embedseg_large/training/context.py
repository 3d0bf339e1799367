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
from embedseg_large.fields import channel_count
from embedseg_large.geometry import Box
from embedseg_large.network.model import Model
from embedseg_large.tiling.axis import STRIDE
from embedseg_large.tiling.grid import Grid
from embedseg_large.training.decoding import MethodDecoder

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
        Normalised, ``(channels, *spatial)``, with objects.

    Returns
    -------
    int
        Voxels on each side: the smallest of `CONTEXTS` beyond which labels hardly change. None if
        the image is a single tile, or nothing is found.
    """
    part = middle(image, LARGEST[model.ndim])
    shape = part.shape[1:]
    core = tuple(min(c, n) for c, n in zip(CORE[model.ndim], shape, strict=True))
    wanted = _labels(model, model.predict_raw(part))
    if shape == core or not wanted.any():
        return None
    agreed: dict[int, float] = {}
    for context in CONTEXTS:
        raw = tiled_raw(model, part, Grid(shape, core, (context,) * model.ndim))
        agreed[context] = agreement(_labels(model, raw), wanted)
        if agreed[context] >= 1 - TOLERANCE:
            break
    best = max(agreed.values())
    return min(context for context, ap in agreed.items() if ap >= best - TOLERANCE)


def middle(image: NDArray[np.float32], largest: Sequence[int]) -> NDArray[np.float32]:
    """Crop an image to its centre; its edges are multiples of the network's stride."""
    edges = [
        max(min(n, e) // STRIDE * STRIDE, 1) for n, e in zip(image.shape[1:], largest, strict=True)
    ]
    starts = [(n - e) // 2 for n, e in zip(image.shape[1:], edges, strict=True)]
    box = Box(tuple(starts), tuple(a + e for a, e in zip(starts, edges, strict=True)))
    return np.ascontiguousarray(image[(slice(None), *box.slices)])


def tiled_raw(model: Model, image: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Raw channels of an image, each core predicted from itself and its context."""
    raw = np.empty((channel_count(model.settings.channel_fields), *grid.shape), np.float32)
    for index in grid:
        tile = grid.tile(index)
        region = model.predict_raw(np.ascontiguousarray(image[(slice(None), *tile.region.slices)]))
        raw[(slice(None), *tile.core.slices)] = region[
            (slice(None), *tile.core.slices_in(tile.region))
        ]
    return raw


def agreement(found: NDArray[np.integer], wanted: NDArray[np.integer]) -> float:
    """AP of labels against others at IoU 0.9."""
    return scores(Contingency.of(found, wanted), (0.9,))[0].ap


def _labels(model: Model, raw: NDArray[np.float32]) -> NDArray[np.uint32]:
    decoder = MethodDecoder.of(model)
    return decoder.labels(decoder.of_raw(raw))
