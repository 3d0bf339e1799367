"""Brightness of an image's background, estimated from its darkest pieces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from embedseg_large.geometry import Box
from embedseg_large.volumes.look import voxels_at
from embedseg_large.volumes.volume import Volume

_EDGE = {2: 64, 3: 16}
"""Width of a piece, by the number of spatial axes."""
_PLACES = {2: 9, 3: 5}
"""Number of pieces along each axis."""
_DARKEST = 0.1
"""Share of the pieces that count as background."""
_DEVIATIONS = 6.0
"""Noise exceeds this many deviations in one of a billion voxels."""


def background_ceiling(volume: Volume) -> float:
    """Return the brightness that background noise does not exceed.

    This is the median of the darkest tenth of some pieces of the first timepoint, plus six standard
    deviations of their noise. The noise is estimated from differences of neighbours along x, whose
    median absolute value is 0.954 deviations for Gaussian noise. Constant pieces were probably
    never imaged; they count only if there are no others.

    Parameters
    ----------
    volume
        One channel, at any level.
    """
    pieces = [voxels_at(volume, box).astype(np.float64) for box in _pieces(volume)]
    imaged = [piece for piece in pieces if piece.min() < piece.max()] or pieces
    imaged.sort(key=lambda piece: float(np.median(piece)))
    darkest = imaged[: max(1, int(_DARKEST * len(imaged)))]
    steps = np.concatenate([np.abs(np.diff(piece, axis=-1)).ravel() for piece in darkest])
    noise = float(np.median(steps)) / 0.954 if steps.size else 0.0
    level = float(np.median(np.concatenate([piece.ravel() for piece in darkest])))
    return level + _DEVIATIONS * noise


def _pieces(volume: Volume) -> Iterator[Box]:
    """Yield evenly distributed pieces."""
    edge, count = _EDGE[volume.ndim], _PLACES[volume.ndim]
    starts = (
        sorted({int(at) for at in np.linspace(0, max(0, n - edge), count)})
        for n in volume.spatial_shape
    )
    for start in product(*starts):
        yield Box(start, tuple(a + edge for a in start)).clip(volume.spatial_shape)
