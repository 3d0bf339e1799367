"""Predictions of whole images: at once, or tile by tile where that would take too much memory.

Tiles are those of a segmentation: the model's core and context. Their predictions equal those of
the whole as far as the context of the model reaches.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from embedseg_large.embedding import quantise
from embedseg_large.fields import channel_count
from embedseg_large.network.model import Model
from embedseg_large.tiling.grid import Grid

MOST_VOXELS = 2**25
"""Maximum size of an image that is predicted at once: with erfnet, 8 GB."""

Tta = bool | int | str
"""A test-time augmentation, see `Model.tta_mode`."""


def whole_raw(model: Model, image: NDArray[np.float32], tta: Tta = False) -> NDArray[np.float32]:
    """Compute the raw channels of an image ``(channels, *spatial)``; see `Model.predict_raw`."""
    shape = image.shape[1:]
    if prod(shape) <= MOST_VOXELS:
        return model.predict_raw(image, tta=tta)
    return tiled_raw(model, image, Grid(shape, model.tile, model.context), tta)


def whole_stored(model: Model, image: NDArray[np.float32], tta: Tta = True) -> NDArray[np.float16]:
    """Predict an image in the stored form; see `Model.predict_stored`."""
    if prod(image.shape[1:]) <= MOST_VOXELS:
        return model.predict_stored(image, tta)
    return quantise(whole_raw(model, image, tta), model.pitch)


def tiled_raw(
    model: Model, image: NDArray[np.float32], grid: Grid, tta: Tta = False
) -> NDArray[np.float32]:
    """Raw channels of an image, each core predicted from itself and its context."""
    raw = np.empty((channel_count(model.settings.channel_fields), *grid.shape), np.float32)
    for index in grid:
        tile = grid.tile(index)
        seen = np.ascontiguousarray(image[(slice(None), *tile.region.slices)])
        region = model.predict_raw(seen, tta=tta)
        raw[(slice(None), *tile.core.slices)] = region[
            (slice(None), *tile.core.slices_in(tile.region))
        ]
    return raw
